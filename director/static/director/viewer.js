// Looking at results: pictures, videos, sounds and texts, one after the other, with a strip of all files of the page, and
// what the job was made from. They come through the Director, and no script of theirs runs: a text is shown as text.
import { isChosen, toggle } from "./compare.js";
import { $, $$, onClick, remember, remembered } from "./dom.js";
import { afterMorph } from "./parts.js";
import { star as starJob } from "./star.js";
import { Strip } from "./strip.js";
import { Zoom } from "./zoom.js";

const dialog = $("viewer");
const KINDS = ["image", "video", "audio", "text"];
const SHORT = 10; // seconds: a shorter video is repeated without sound
const LONGEST_TEXT = 200_000; // characters
const BRIEF = 80; // milliseconds: details of a file that is shown shorter are not loaded
const WITH_INFO = "director.viewer.info"; // whether the panel is open: the browser keeps it
let at = 0;
let current = null; // the tile whose file is shown
let shown = 0; // counts, so that an answer about an earlier file is not taken for this one's
const ahead = new Image(); // loads the next picture
const details = new Map(); // job → what its panel shows
const tiles = () => $$("[data-view]");
const through = (button) => `${button.dataset.view}?redirect=no`;
const jobOf = (tile) => tile.closest("[data-job]");
const groupOf = (tile) => tile.closest("[data-group]").dataset.group;
const starOf = (tile) => jobOf(tile)?.querySelector("[data-act=star]");
const image = $("viewer-image"),
  soft = $("viewer-soft");
const zoom = new Zoom($("viewer-stage"), [image, soft], { changed: zoomed, swiped: step });
const strip = new Strip($("viewer-strip"), (view) =>
  show(tiles().findIndex((one) => one.dataset.view === view)),
);

function show(index) {
  const all = tiles();
  if (!all.length) {
    dialog.close();
    return;
  }
  const on = index >= at ? 1 : -1; // the direction, as the next file is likely to be there
  at = (index + all.length) % all.length;
  const button = (current = all[at]);
  const { view, kind } = button.dataset;
  const mine = ++shown;
  say("");
  empty();
  for (const one of KINDS) $(`viewer-${one}`).hidden = one !== kind;
  for (const id of ["out", "zoom", "in", "real", "fit"])
    $(`viewer-${id}`).hidden = kind !== "image";
  $("viewer-stage").dataset.kind = kind;
  $("viewer-compare").hidden = kind !== "image" || button.classList.contains("old");
  $("viewer-save").hidden = false;
  $("viewer-original").hidden = true;
  $("viewer-save").href = view;
  if (!dialog.open) dialog.showModal(); // before the picture is placed: without a stage it has no size
  if (kind !== "image") zoom.none();
  if (kind === "text") read(button, mine);
  else if (kind === "image") picture(button, mine, all[(at + on + all.length) % all.length]);
  else load($(`viewer-${kind}`), button, mine);
  $("viewer-stage").focus();
  around(all);
  inform();
  dialog.dispatchEvent(new CustomEvent("shown", { detail: all.length - at }));
}

// After the last file of a page comes the first one of the next page.
function step(by) {
  const other = tiles()[at + by]
    ? null
    : document.querySelector(`.pager a[rel=${by > 0 ? "next" : "prev"}]`);
  // Where a page loads more of them by itself, they come here.
  if (other?.dataset.part) return;
  if (other) location.assign(`${other.href}#${by > 0 ? "first" : "last"}-file`);
  else show(at + by);
}

// What the page knows of the file: it may change while the file is shown.
function around(all) {
  const title = `${at + 1}/${all.length} · ${current.dataset.title}`;
  if ($("viewer-title").textContent !== title) $("viewer-title").textContent = title;
  strip.draw(all);
  for (const tile of all) strip.star(tile.dataset.view, starOf(tile)?.ariaPressed === "true");
  strip.mark(current.dataset.view);
  pressed();
}

function pressed() {
  $("viewer-compare").ariaPressed = isChosen(current.dataset.view);
  const star = starOf(current);
  $("viewer-star").hidden = !star;
  $("viewer-star").ariaPressed = star?.ariaPressed ?? "false";
}

// The thumbnail is there at once, and the picture itself in its place when it has come.
function picture(button, mine, next) {
  const small = button.querySelector("img");
  image.removeAttribute("src");
  image.classList.remove("broken");
  soft.hidden = !(small?.complete && small.naturalWidth);
  if (!soft.hidden) {
    soft.src = small.currentSrc;
    zoom.size(small.naturalWidth, small.naturalHeight);
  }
  $("viewer-scale").textContent = "…";
  image.onload = () => {
    soft.hidden = true;
    zoom.size(image.naturalWidth, image.naturalHeight);
    if (next.dataset.kind === "image" && next !== button) ahead.src = through(next);
  };
  image.onerror = () => instead(button, mine);
  image.alt = button.dataset.title;
  image.src = through(button);
}

function zoomed() {
  $("viewer-stage").classList.toggle("zoomed", !zoom.fitted);
  $("viewer-zoom").ariaPressed = !zoom.fitted;
  if (soft.hidden) $("viewer-scale").textContent = `${zoom.percent} %`;
}

function load(element, button, mine) {
  element.onerror = () => explain(button, mine);
  element.ariaLabel = button.dataset.title;
  if (element.tagName === "VIDEO" && button.querySelector("img")?.naturalWidth)
    element.poster = `${button.dataset.view}?w=1280`;
  element.src = through(button);
}

// What was shown before neither plays on nor is loaded any further.
function empty() {
  $("viewer-text").textContent = "";
  image.onload = image.onerror = null;
  for (const one of [$("viewer-video"), $("viewer-audio")]) {
    one.onerror = null;
    one.removeAttribute("poster");
    if (!one.hasAttribute("src")) continue;
    one.removeAttribute("src");
    one.load();
  }
}

$("viewer-video").onloadedmetadata = ({ target: video }) => {
  video.loop = video.muted = video.duration <= SHORT;
  if (video.loop && !matchMedia("(prefers-reduced-motion: reduce)").matches)
    video.play().catch(() => {});
};

async function read(button, mine) {
  try {
    const response = await fetch(through(button));
    if (!response.ok) {
      explain(button, mine);
      return;
    }
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (let part; text.length <= LONGEST_TEXT && !(part = await reader.read()).done; )
      text += part.value;
    reader.cancel();
    if (mine !== shown) return;
    $("viewer-text").textContent = text.slice(0, LONGEST_TEXT);
    if (text.length > LONGEST_TEXT) say("This is the beginning of the text.");
  } catch {
    explain(button, mine);
  }
}

function say(text) {
  $("viewer-note").textContent = text;
  $("viewer-note").hidden = !text;
}

// Says why a file is not shown. Resolves to the reason, empty if the Director is away, as the page says that.
async function explain(button, mine, copy = () => "") {
  let answer = {
    detail: "This browser cannot show the file. Download it to open it in another program.",
  };
  try {
    const response = await fetch(through(button));
    if (response.ok) response.body?.cancel();
    else answer = await response.json();
  } catch {
    return "";
  }
  if (mine !== shown) return "";
  $("viewer-save").hidden = answer.code === "output_gone";
  if (answer.code === "output_too_large") {
    tooLarge(answer, copy());
    return "";
  }
  const reason = answer.detail || "The file cannot be loaded.";
  say(reason + copy());
  return reason;
}

// The original does not come: shows the largest copy that does.
async function instead(button, mine) {
  const small = button.querySelector("img");
  let reason = "",
    copy = " This is a smaller copy.";
  const noCopy = () => {
    image.onerror = null;
    image.classList.add("broken");
    copy = "";
    if (reason && mine === shown) say(reason);
  };
  image.onerror = () => {
    image.onerror = noCopy;
    image.src = small?.currentSrc || small?.src || `${button.dataset.view}?w=320`;
  };
  image.src = `${button.dataset.view}?w=2560`;
  reason = await explain(button, mine, () => copy);
}

// A page may not show what stands elsewhere; a person may open it there.
function tooLarge({ bytes, backend_id: backend, url }, copy) {
  const size = `${Math.max(bytes / 2 ** 20, 0.1).toFixed(bytes < 10 * 2 ** 20 ? 1 : 0)} MB`;
  $("viewer-save").hidden = true;
  if (isLoopback(new URL(url).hostname) && !isLoopback(location.hostname)) {
    say(
      `${copy} The original (${size}) is at ${backend}, which only the Director's own machine reaches: ${url}`.trim(),
    );
    return;
  }
  const link = $("viewer-original");
  link.href = url;
  link.textContent = `Original at ${backend} (${size})`;
  link.hidden = false;
  say(copy.trim() || "The file is too large to come through the Director.");
}
const isLoopback = (host) =>
  host === "localhost" || host === "[::1]" || /^127(\.\d+){3}$/.test(host);

async function star() {
  const own = starOf(current);
  if (!own) return;
  const mine = shown;
  try {
    await starJob(own, undefined, () => around(tiles()));
  } catch (error) {
    if (mine === shown) say(error.message);
  }
}

function compare() {
  say(toggle(current));
  pressed();
}

// --- what the job was made from -------------------------------------------------------------------

const panel = $("viewer-info");

async function inform() {
  const { job } = jobOf(current).dataset,
    mine = shown;
  if (panel.hidden) return;
  panel.ariaBusy = String(panel.dataset.job !== job);
  if (panel.dataset.job === job) return;
  let found = details.get(job);
  if (!found) {
    await new Promise((done) => {
      setTimeout(done, BRIEF);
    });
    if (mine !== shown) return;
    found = await loaded(groupOf(current), job);
    if (mine !== shown) return;
  }
  panel.innerHTML = found;
  panel.dataset.job = job;
  panel.scrollTop = 0;
  panel.ariaBusy = "false";
}

async function loaded(group, job) {
  try {
    const response = await fetch(`/groups/${group}/parts/info/${job}`);
    if (response.ok && !response.redirected) {
      const found = await response.text();
      details.set(job, found);
      return found;
    }
    if (response.status === 404) return "<p>This job does not exist any more.</p>";
  } catch {
    /* said below */
  }
  return "<p>The details of this job cannot be loaded. Close this panel and open it again.</p>";
}

function about(open) {
  panel.hidden = !open;
  $("viewer-about").ariaExpanded = open;
  forget();
  if (dialog.open) inform();
}

function forget() {
  delete panel.dataset.job;
  panel.replaceChildren();
  details.clear();
}

// --- what a person can do -------------------------------------------------------------------------

function full() {
  if (document.fullscreenElement) document.exitFullscreen();
  else
    $("viewer-frame")
      .requestFullscreen()
      .catch(() => say("This browser does not allow full screen here."));
}

// The space bar plays while the stage has the focus, as it does after the viewer has opened.
function play() {
  const player = [$("viewer-video"), $("viewer-audio")].find((one) => !one.hidden);
  if (player?.paused) player.play().catch(() => {});
  else player?.pause();
}

const isShown = (id) => $(id) && !$(id).hidden;
const ACTS = {
  back: () => step(-1),
  on: () => step(1),
  close: () => dialog.close(),
  star,
  compare,
  full,
  zoom: () => zoom.toggle(),
  in: () => zoom.by(1.5),
  out: () => zoom.by(1 / 1.5),
  real: () => zoom.real(),
  fit: () => zoom.fit(),
  about: () => {
    about(panel.hidden);
    remember(WITH_INFO, panel.hidden ? "no" : "yes");
  },
  help: () => $("viewer-keys").showModal(),
};
const KEYS = {
  ArrowLeft: "back",
  ArrowRight: "on",
  z: "zoom",
  "+": "in",
  "=": "in",
  "-": "out",
  1: "real",
  0: "fit",
  s: "star",
  c: "compare",
  i: "about",
  f: "full",
  "?": "help",
};
const PAN = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
for (const [name, act] of Object.entries(ACTS)) $(`viewer-${name}`).onclick = act;

onClick("[data-view]", (button) => show(tiles().indexOf(button)));
document.addEventListener("fullscreenchange", () => {
  $("viewer-full").ariaPressed = Boolean(document.fullscreenElement);
});
dialog.onclose = () => {
  if (document.fullscreenElement) document.exitFullscreen();
  shown += 1;
  empty();
  forget();
  strip.empty();
  for (const one of [image, soft, ahead]) one.removeAttribute("src");
  const tile = current?.isConnected ? current : tiles()[Math.min(at, tiles().length - 1)];
  (tile?.hidden ? jobOf(tile).querySelector(".picture") : tile)?.focus();
  current = null;
};
dialog.onkeydown = (event) => {
  const { key, target } = event;
  // The controls of a player have keys of their own: arrows seek.
  if (
    event.ctrlKey ||
    event.metaKey ||
    event.altKey ||
    (target.matches("video, audio") && /^(Arrow|Home|End|Escape| )/.test(key))
  )
    return;
  if (event.shiftKey && Object.hasOwn(PAN, key)) zoom.pan(...PAN[key].map((one) => one * 80));
  else if (!zoom.fitted && /^Arrow(Up|Down)$/.test(key))
    zoom.pan(...PAN[key].map((one) => one * 80));
  else if (Object.hasOwn(KEYS, key) && isShown(`viewer-${KEYS[key]}`)) ACTS[KEYS[key]]();
  else if (/^(Home|End)$/.test(key) && !event.shiftKey && current.dataset.kind !== "text")
    show(key === "Home" ? 0 : tiles().length - 1);
  else if (key === " " && target === $("viewer-stage")) play();
  else return;
  event.preventDefault();
};

// The page goes on while a file is shown: another user stars it, a job completes and brings files.
let waiting = 0;
afterMorph(() => {
  if (!dialog.open || waiting) return;
  waiting = requestAnimationFrame(() => {
    waiting = 0;
    const all = tiles();
    if (!dialog.open || !all.length) return;
    const same = all.findIndex((one) => one.dataset.view === current.dataset.view);
    if (same < 0) return; // it is shown on, and its neighbours are where it was
    at = same;
    current = all[at];
    around(all);
  });
});

if (!document.fullscreenEnabled) $("viewer-full").remove();
about(remembered(WITH_INFO) === "yes");
const fileInAddress = /^#(first|last)-file$/.exec(location.hash)?.[1];
if (fileInAddress) {
  history.replaceState(null, "", location.pathname + location.search);
  show(fileInAddress === "first" ? 0 : -1);
}
