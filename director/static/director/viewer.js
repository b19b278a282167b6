// Looking at results: pictures, videos, sounds and texts. Arrow keys, zoom, Escape; the space bar plays.
// They come through the Director, and no script of theirs runs: a text is shown as text.
import { $ } from "./dom.js";

const dialog = $("viewer");
const KINDS = ["image", "video", "audio", "text"];
const SHORT = 10; // seconds: a shorter video is repeated without sound
const LONGEST_TEXT = 200_000; // characters
let at = 0;
let shown = 0; // counts, so that an answer about an earlier file is not taken for this one's
const tiles = () => [...document.querySelectorAll("[data-view]")];
const through = (button) => `${button.dataset.view}?redirect=no`;

function show(index) {
  const all = tiles();
  if (!all.length) { dialog.close(); return; }
  at = (index + all.length) % all.length;
  const button = all[at];
  const { view, kind, title } = button.dataset;
  const mine = ++shown;
  zoom(false);
  say("");
  empty();
  for (const one of KINDS) $(`viewer-${one}`).hidden = one !== kind;
  $("viewer-zoom").hidden = kind !== "image";
  $("viewer-save").hidden = false;
  $("viewer-original").hidden = true;
  $("viewer-title").textContent = `${at + 1}/${all.length} · ${title}`;
  $("viewer-save").href = view;
  if (kind === "text") read(button, mine);
  else load($(`viewer-${kind}`), button, mine);
  if (!dialog.open) dialog.showModal();
  $("viewer-stage").focus();
}

function load(element, button, mine) {
  const isImage = element.tagName === "IMG";
  element.onerror = () => (isImage ? instead(button, mine) : explain(button, mine));
  element[isImage ? "alt" : "ariaLabel"] = button.dataset.title;
  if (element.tagName === "VIDEO" && button.querySelector("img")?.naturalWidth) element.poster = `${button.dataset.view}?w=1280`;
  element.src = through(button);
}

// What was shown before neither plays on nor is loaded any further.
function empty() {
  $("viewer-text").textContent = "";
  for (const one of [$("viewer-video"), $("viewer-audio")]) {
    one.onerror = null;
    one.removeAttribute("poster");
    if (!one.hasAttribute("src")) continue;
    one.removeAttribute("src");
    one.load();
  }
}

$("viewer-video").addEventListener("loadedmetadata", ({ target: video }) => {
  video.loop = video.muted = video.duration <= SHORT;
  if (video.loop && !matchMedia("(prefers-reduced-motion: reduce)").matches) video.play().catch(() => {});
});

async function read(button, mine) {
  try {
    const response = await fetch(through(button));
    if (!response.ok) { explain(button, mine); return; }
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (let part; text.length <= LONGEST_TEXT && !(part = await reader.read()).done;) text += part.value;
    reader.cancel();
    if (mine !== shown) return;
    $("viewer-text").textContent = text.slice(0, LONGEST_TEXT);
    if (text.length > LONGEST_TEXT) say("This is the beginning of the text.");
  } catch { explain(button, mine); }
}

function say(text) {
  $("viewer-note").textContent = text;
  $("viewer-note").hidden = !text;
}

// Says why a file is not shown. Resolves to the reason, empty if the Director is away, as the page says that.
async function explain(button, mine, copy = () => "") {
  let answer = { detail: "This browser cannot show the file. Download it to open it in another program." };
  try {
    const response = await fetch(through(button));
    if (response.ok) response.body?.cancel();
    else answer = await response.json();
  } catch { return ""; }
  if (mine !== shown) return "";
  $("viewer-save").hidden = answer.code === "output_gone";
  if (answer.code === "output_too_large") { tooLarge(answer, copy()); return ""; }
  const reason = answer.detail || "The file cannot be loaded.";
  say(reason + copy());
  return reason;
}

// The original does not come: shows the largest copy that does.
async function instead(button, mine) {
  const image = $("viewer-image");
  let reason = "", copy = " This is a smaller copy.";
  const noCopy = () => { image.onerror = null; copy = ""; if (reason && mine === shown) say(reason); };
  image.onerror = () => { image.onerror = noCopy; image.src = button.querySelector("img").src; };
  image.src = `${button.dataset.view}?w=2560`;
  reason = await explain(button, mine, () => copy);
}

// A page may not show what stands elsewhere; a person may open it there.
function tooLarge({ bytes, backend_id: backend, url }, copy) {
  const size = `${Math.max(bytes / 2 ** 20, 0.1).toFixed(bytes < 10 * 2 ** 20 ? 1 : 0)} MB`;
  $("viewer-save").hidden = true;
  if (isLoopback(new URL(url).hostname) && !isLoopback(location.hostname)) {
    say(`${copy} The original (${size}) is at ${backend}, which only the Director's own machine reaches: ${url}`.trim());
    return;
  }
  const link = $("viewer-original");
  link.href = url;
  link.textContent = `Original at ${backend} (${size})`;
  link.hidden = false;
  say(copy.trim() || "The file is too large to come through the Director.");
}
const isLoopback = (host) => host === "localhost" || host === "[::1]" || /^127(\.\d+){3}$/.test(host);

function zoom(on) {
  dialog.classList.toggle("zoomed", on);
  $("viewer-zoom").setAttribute("aria-pressed", String(on));
}

// The space bar plays while the stage has the focus, as it does after the viewer has opened.
function play() {
  const player = [$("viewer-video"), $("viewer-audio")].find((one) => !one.hidden);
  if (player?.paused) player.play().catch(() => {});
  else player?.pause();
  return Boolean(player);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-view]");
  if (button) show(tiles().indexOf(button));
});
$("viewer-close").addEventListener("click", () => dialog.close());
$("viewer-zoom").addEventListener("click", () => zoom(!dialog.classList.contains("zoomed")));
$("viewer-image").addEventListener("click", () => zoom(!dialog.classList.contains("zoomed")));
$("viewer-back").addEventListener("click", () => show(at - 1));
$("viewer-on").addEventListener("click", () => show(at + 1));
dialog.addEventListener("close", () => { shown += 1; empty(); tiles()[at]?.focus(); });
dialog.addEventListener("keydown", (event) => {
  // The controls of a player have keys of their own: arrows seek.
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("video, audio")) return;
  const zoomed = dialog.classList.contains("zoomed");
  if (event.key === "ArrowLeft" && !zoomed) show(at - 1);
  else if (event.key === "ArrowRight" && !zoomed) show(at + 1);
  else if (event.key === "z" && !$("viewer-image").hidden) zoom(!zoomed);
  else if (event.key !== " " || event.target !== $("viewer-stage") || !play()) return;
  event.preventDefault();
});
