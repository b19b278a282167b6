// Looking at pictures: arrow keys, zoom, Escape. The picture itself comes through the Director.
import { $ } from "./dom.js";

const dialog = $("viewer");
let at = 0;
const pictures = () => [...document.querySelectorAll("[data-view]")];

function show(index) {
  const all = pictures();
  if (!all.length) { dialog.close(); return; }
  at = (index + all.length) % all.length;
  const button = all[at];
  zoom(false);
  $("viewer-image").onerror = () => {
    // Too big to be sent through, or gone: the small one is better than nothing.
    $("viewer-image").onerror = null;
    $("viewer-image").src = button.querySelector("img").src;
  };
  $("viewer-image").src = button.dataset.view;
  $("viewer-image").alt = button.dataset.title;
  $("viewer-title").textContent = `${at + 1}/${all.length} · ${button.dataset.title}`;
  $("viewer-save").href = button.dataset.view;
  if (!dialog.open) dialog.showModal();
  $("viewer-stage").focus();
}

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
