// The gallery: older outputs come as a person scrolls, and pictures that are far away leave the memory.
import { $, $$, counted, onClick, sendAll, signIn, toast } from "./dom.js";
import { onFilters } from "./filters.js";
import "./images.js";
import { monitor } from "./live.js";
import { chosen, onPicked, picked, selectNone } from "./selection.js";
import { star } from "./star.js";
import "./viewer.js";

const NEAR = "1500px 0px"; // from the window: older outputs are loaded
const FAR = "4000px 0px"; // pictures behind it are dropped
const MOST = 200; // files of a zip
const MOST_INPUTS = 50; // files of a new group
const FEW = 20; // files before the last one that the viewer shows: older ones are loaded

monitor(() => []);

const pictures = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries)
      for (const image of $$("img", target)) {
        if (isIntersecting === image.hasAttribute("src")) continue;
        const [from, to] = isIntersecting ? ["data-", ""] : ["", "data-"];
        for (const name of ["srcset", "src"]) {
          const text = image.getAttribute(`${from}${name}`);
          image.removeAttribute(`${from}${name}`);
          if (text) image.setAttribute(`${to}${name}`, text);
        }
      }
  },
  { rootMargin: FAR },
);
const end = new IntersectionObserver(
  (entries) => {
    if (entries.some((entry) => entry.isIntersecting)) more();
  },
  { rootMargin: NEAR },
);

let isLoading = false;
async function more() {
  const link = document.querySelector(".pager a[data-part]");
  if (!link || isLoading) return;
  isLoading = true;
  const part = document.createElement("template");
  const html = await load(link.dataset.part);
  if (html !== null) {
    part.innerHTML = html;
    link.parentElement.replaceWith(part.content);
    watch();
  }
  isLoading = false;
}

// Resolves to null if the Director is away: what is shown stays, and a link opens the page of the older ones.
async function load(path) {
  try {
    const response = await fetch(path);
    if (response.status === 401 || response.redirected) signIn();
    if (response.ok) return await response.text();
  } catch (error) {
    console.debug("gallery", error);
  }
  return null;
}

function watch() {
  for (const tile of $$(".tile:not([data-watched])")) {
    tile.dataset.watched = "";
    pictures.observe(tile);
  }
  const pager = document.querySelector(".pager");
  if (pager) end.observe(pager);
}
watch();
$("viewer").addEventListener("shown", ({ detail: left }) => {
  if (left < FEW) more();
});

let requests = 0;
onFilters(async (query) => {
  const number = ++requests;
  const html = await load(`/parts/gallery?${query}`);
  if (number !== requests || html === null) return;
  $("gallery").innerHTML = html;
  watch();
  picked();
});

// --- select many, act once ---------------------------------------------------------------------------------------

onClick(".tile [data-act=star]", (button) => star(button).catch((error) => toast(error.message)));

// One button for each chosen job: a job may have several files.
const buttons = () => [
  ...new Map(
    chosen()
      .map((tile) => [tile.dataset.job, tile.querySelector("[data-act=star]")])
      .filter(([, button]) => button),
  ).values(),
];
const areStarred = () => buttons().every((button) => button.ariaPressed === "true");
onPicked(() => {
  $("selection-star").disabled = !buttons().length;
  $("selection-star").textContent = areStarred() && buttons().length ? "Remove star" : "Star";
});
$("selection-star").onclick = async () => {
  const [some, on] = [buttons(), !areStarred()];
  await sendAll(
    some.map((button) => star(button, on)),
    (failed) => `${counted(failed, "job")} could not be changed`,
    `${counted(some.length, "job")} ${on ? "starred" : "without a star"}.`,
  );
  selectNone();
};
$("selection-input").onclick = () => {
  const paths = chosen().map((tile) => ["input", $$(".picture", tile)[0].dataset.view]);
  if (paths.length > MOST_INPUTS) toast(`A new group takes at most ${MOST_INPUTS} files.`);
  else location.href = `/submit?${new URLSearchParams(paths)}`;
};
$("selection-zip").onclick = () => {
  if (chosen().length > MOST) toast(`A zip has at most ${MOST} files.`);
  else location.href = `/api/outputs.zip?files=${chosen().map((tile) => tile.id)}`;
};
picked();
