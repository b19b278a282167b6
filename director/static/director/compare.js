// Comparing two to four pictures of a group: side by side with one zoom, or alternating in one place. The choice lasts
// over pages and selectors of the group, in this tab.
import { $, $$, call, counted, onClick, toast } from "./dom.js";
import { afterMorph } from "./parts.js";
import { star } from "./star.js";
import { pinch, wheelFactor } from "./zoom.js";

const MOST = 4;
const KEY = `director.compared.${document.body.dataset.group ?? ""}`;
const dialog = $("compare");
const stage = $("compare-stage");
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const panes = () => $$(".pane", stage);

let chosen = []; // {view, group, job, title, label, small}
try {
  chosen = JSON.parse(sessionStorage.getItem(KEY)) || [];
} catch {
  /* storage is forbidden, or has another format */
}
let scale = 1,
  x = 0,
  y = 0; // of all pictures: x and y in parts of a pane
let flickers = false,
  plays = false,
  front = 0,
  timer = 0;

export const isChosen = (view) => chosen.some((one) => one.view === view);

// Chooses a tile's picture, or no longer. Returns why not, empty if it did.
export function toggle(tile) {
  const { view, title } = tile.dataset;
  const { job, label } = tile.closest("[data-job]").dataset;
  const { group } = tile.closest("[data-group]").dataset;
  if (isChosen(view)) chosen = chosen.filter((one) => one.view !== view);
  else if (chosen.length === MOST) return `At most ${MOST} pictures can be compared.`;
  else
    chosen.push({
      view,
      group,
      job,
      title,
      label,
      small: `${view}?w=320`,
    });
  keep();
  return "";
}

function keep() {
  try {
    sessionStorage.setItem(KEY, JSON.stringify(chosen));
  } catch {
    /* lasts until the page is left, then */
  }
  draw();
}

function draw() {
  for (const button of $$("[data-compare]")) {
    button.ariaPressed = isChosen(button.dataset.compare);
  }
  $("compare-bar").hidden = !chosen.length;
  $("compare-count").textContent = `${counted(chosen.length, "picture")} chosen`;
  $("compare-open").disabled = chosen.length < 2;
}

function open() {
  stage.replaceChildren(...chosen.map(paneOf));
  stage.dataset.count = chosen.length;
  flicker(false);
  front = 0;
  move(1, 0, 0);
  dialog.showModal();
  stage.focus();
}

function paneOf(one) {
  const pane = $("compare-pane").content.firstElementChild.cloneNode(true);
  const [image, button] = [".pane-view img", ".star"].map((name) => pane.querySelector(name));
  const label = pane.querySelector(".pane-label");
  label.textContent = label.title = one.label || one.title;
  pane.ariaLabel = one.label || one.title;
  pane.querySelector("a").href = `/submit?from=${one.group}&job=${one.job}`;
  image.alt = one.title;
  // The thumbnail is shown while the original loads.
  const sources = [`${one.view}?redirect=no`, `${one.view}?w=2560`, one.small].filter(Boolean);
  const loading = new Image();
  const next = () => {
    if (sources.length) {
      loading.src = sources.shift();
      return;
    }
    image.hidden = true;
    pane.dataset.broken = "yes";
    explain(one, pane);
  };
  let isCopy = false;
  loading.onerror = () => {
    isCopy = true;
    next();
  };
  image.onload = image.onerror = (event) => {
    image.style.visibility = event.type === "load" ? "" : "hidden";
  };
  loading.onload = () => {
    image.src = loading.src;
    if (isCopy) note(pane, "This is a smaller copy.");
  };
  if (one.small) image.src = one.small;
  next();
  pane.dataset.job = one.job;
  pane.dataset.group = one.group;
  call("GET", `/api/job-groups/${one.group}/jobs/${one.job}`)
    .then((job) => {
      button.ariaPressed = job.starred;
      button.disabled = false;
    })
    .catch((error) => note(pane, error.message));
  return pane;
}

function note(pane, text) {
  const line = pane.querySelector(".pane-note");
  line.textContent = text;
  line.hidden = false;
}

// The image's own error has no reason; the API has.
async function explain({ view }, pane) {
  note(pane, "This picture cannot be loaded.");
  try {
    const response = await fetch(`${view}?redirect=no`);
    if (!response.ok)
      note(pane, `This picture cannot be loaded. ${(await response.json()).detail || ""}`);
    else response.body?.cancel();
  } catch {
    /* the Director is away, and the page says so */
  }
}

// --- one zoom for all ----------------------------------------------------------------------------

function move(toScale, toX, toY) {
  scale = Math.min(Math.max(toScale, 1), 32);
  // The picture's edge stays at the pane's edge at most.
  const most = (scale - 1) / 2;
  x = Math.min(Math.max(toX, -most), most);
  y = Math.min(Math.max(toY, -most), most);
  stage.classList.toggle("zoomed", scale > 1);
  for (const image of $$(".pane-view img", stage)) {
    image.style.transform = `translate(${x * 100}%, ${y * 100}%) scale(${scale})`;
  }
  $("compare-scale").textContent = `${Math.round(scale * 100)} %`;
}

// Zooms about a point of a pane, given in parts of the pane from its centre.
function zoom(factor, atX = 0, atY = 0) {
  const next = Math.min(Math.max(scale * factor, 1), 32);
  const real = next / scale;
  move(next, atX - (atX - x) * real, atY - (atY - y) * real);
}

function pointOf(view, one) {
  const box = view.getBoundingClientRect();
  return [(one.clientX - box.left) / box.width - 0.5, (one.clientY - box.top) / box.height - 0.5];
}

stage.addEventListener(
  "wheel",
  (event) => {
    const view = event.target.closest(".pane-view");
    if (!view) return;
    event.preventDefault();
    zoom(wheelFactor(event), ...pointOf(view, event));
  },
  { passive: false },
);

const fingers = new Map(); // pointer → its last event
stage.onpointerdown = (event) => {
  const view = event.target.closest(".pane-view");
  if (!view || event.button) return;
  event.preventDefault();
  stage.focus();
  view.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, event);
};
stage.onpointermove = (event) => {
  const before = fingers.get(event.pointerId);
  const view = event.target.closest(".pane-view");
  if (!before || !view) return;
  const box = view.getBoundingClientRect();
  fingers.set(event.pointerId, event);
  const parts = fingers.size;
  move(
    scale,
    x + (event.clientX - before.clientX) / box.width / parts,
    y + (event.clientY - before.clientY) / box.height / parts,
  );
  const { factor, middle } = pinch(fingers, before, event);
  if (factor) zoom(factor, ...pointOf(view, middle));
};
for (const type of ["pointerup", "pointercancel"])
  stage.addEventListener(type, (event) => fingers.delete(event.pointerId));

// --- alternating in one place --------------------------------------------------------------------

function flicker(on) {
  flickers = on;
  stage.classList.toggle("flickers", on);
  $("compare-flicker").ariaPressed = on;
  for (const id of ["compare-next", "compare-play", "compare-pace"])
    $(id).hidden = !on || (calm.matches && id !== "compare-next");
  play(on && !calm.matches);
  show(0);
}

function play(on) {
  plays = on;
  clearInterval(timer);
  if (on) timer = setInterval(() => show(front + 1), Number($("compare-seconds").value) * 1000);
  $("compare-play").textContent = on ? "Pause (p)" : "Play (p)";
}

function show(index) {
  const all = panes();
  front = all.length ? (index + all.length) % all.length : 0;
  for (const [at, pane] of all.entries()) pane.classList.toggle("behind", flickers && at !== front);
}

function step() {
  play(false);
  show(front + 1);
}

// --- what a person can do ------------------------------------------------------------------------

onClick("[data-compare]", (button) => {
  const tile = button
    .closest("[data-job]")
    .querySelector(`[data-view="${button.dataset.compare}"]`);
  const refused = tile && toggle(tile);
  if (refused) toast(refused);
});
onClick(".pane .star", (button) =>
  star(button).catch((error) => note(button.closest(".pane"), error.message)),
);
$("compare-open").onclick = open;
$("compare-clear").onclick = () => {
  chosen = [];
  keep();
};
$("compare-close").onclick = () => dialog.close();
$("compare-in").onclick = () => zoom(1.5);
$("compare-out").onclick = () => zoom(1 / 1.5);
$("compare-fit").onclick = () => move(1, 0, 0);
$("compare-flicker").onclick = () => flicker(!flickers);
$("compare-next").onclick = step;
$("compare-play").onclick = () => play(!plays);
$("compare-seconds").oninput = () => play(true);
calm.addEventListener("change", () => {
  if (flickers) flicker(true);
});
dialog.onclose = () => {
  flicker(false);
  stage.replaceChildren();
  fingers.clear();
};

const KEYS = {
  "+": () => zoom(1.5),
  "=": () => zoom(1.5),
  "-": () => zoom(1 / 1.5),
  0: () => move(1, 0, 0),
  ArrowLeft: () => move(scale, x + 0.1, y),
  ArrowRight: () => move(scale, x - 0.1, y),
  ArrowUp: () => move(scale, x, y + 0.1),
  ArrowDown: () => move(scale, x, y - 0.1),
  f: () => flicker(!flickers),
  p: () => flickers && !calm.matches && play(!plays),
  " ": () => (flickers ? step() : flicker(true)),
};
dialog.onkeydown = (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
  if (event.key === " " && event.target.closest("button, a")) return;
  const act = Object.hasOwn(KEYS, event.key) && KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
};

afterMorph(draw);
draw();
