// Looking at pictures: arrow keys, zoom, Escape. The picture itself comes through the Director.
import { $ } from "./dom.js";

const dialog = $("viewer");
let at = 0;
let shown = 0; // counts, so that an answer about an earlier picture is not taken for this one's
const pictures = () => [...document.querySelectorAll("[data-view]")];

function show(index) {
  const all = pictures();
  if (!all.length) { dialog.close(); return; }
  at = (index + all.length) % all.length;
  const button = all[at];
  zoom(false);
  say("");
  $("viewer-save").hidden = false;
  $("viewer-original").hidden = true;
  const mine = ++shown;
  $("viewer-image").onerror = () => instead(button, mine);
  $("viewer-image").src = `${button.dataset.view}?redirect=no`;
  $("viewer-image").alt = button.dataset.title;
  $("viewer-title").textContent = `${at + 1}/${all.length} · ${button.dataset.title}`;
  $("viewer-save").href = button.dataset.view;
  if (!dialog.open) dialog.showModal();
  $("viewer-stage").focus();
}

function say(text) {
  $("viewer-note").textContent = text;
  $("viewer-note").hidden = !text;
}

// The original does not come: shows the largest copy that does, and says why.
async function instead(button, mine) {
  const image = $("viewer-image");
  let reason = "", copy = " This is a smaller copy.";
  const explain = () => { if (reason && mine === shown) say(reason + copy); };
  const noCopy = () => { image.onerror = null; copy = ""; explain(); };
  image.onerror = () => { image.onerror = noCopy; image.src = button.querySelector("img").src; };
  image.src = `${button.dataset.view}?w=2560`;
  let answer;
  try {
    const response = await fetch(`${button.dataset.view}?redirect=no`);
    if (response.ok) { response.body?.cancel(); return; }
    answer = await response.json();
  } catch { return; /* the Director is away, and the page says so */ }
  if (mine !== shown) return;
  $("viewer-save").hidden = answer.code === "output_gone";
  if (answer.code === "output_too_large") tooLarge(answer);
  else { reason = answer.detail || "The image cannot be loaded."; explain(); }
}

// A page may not show what stands elsewhere; a person may open it there.
function tooLarge({ bytes, backend_id: backend, url }) {
  const size = `${Math.max(bytes / 2 ** 20, 0.1).toFixed(bytes < 10 * 2 ** 20 ? 1 : 0)} MB`;
  $("viewer-save").hidden = true;
  if (isLoopback(new URL(url).hostname) && !isLoopback(location.hostname)) {
    say(`This is a smaller copy. The original (${size}) is at ${backend}, which only the Director's own machine reaches: ${url}`);
    return;
  }
  const link = $("viewer-original");
  link.href = url;
  link.textContent = `Original at ${backend} (${size})`;
  link.hidden = false;
  say("This is a smaller copy.");
}
const isLoopback = (host) => host === "localhost" || host === "[::1]" || /^127(\.\d+){3}$/.test(host);

function zoom(on) {
  dialog.classList.toggle("zoomed", on);
  $("viewer-zoom").setAttribute("aria-pressed", String(on));
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-view]");
  if (button) show(pictures().indexOf(button));
});
$("viewer-close").addEventListener("click", () => dialog.close());
$("viewer-zoom").addEventListener("click", () => zoom(!dialog.classList.contains("zoomed")));
$("viewer-image").addEventListener("click", () => zoom(!dialog.classList.contains("zoomed")));
$("viewer-back").addEventListener("click", () => show(at - 1));
$("viewer-on").addEventListener("click", () => show(at + 1));
dialog.addEventListener("close", () => pictures()[at]?.focus());
dialog.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const zoomed = dialog.classList.contains("zoomed");
  if (event.key === "ArrowLeft" && !zoomed) show(at - 1);
  else if (event.key === "ArrowRight" && !zoomed) show(at + 1);
  else if (event.key === "z") zoom(!zoomed);
  else return;
  event.preventDefault();
});
