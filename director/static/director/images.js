// A picture that does not come: its place says why, in the API's words, and it is tried again.
import { $$, make } from "./dom.js";

const broken = (image) => image.complete && image.naturalWidth === 0 && image.getAttribute("src");

async function say(image) {
  const place = image.parentElement;
  if (!place || place.dataset.broken) return;
  // The small copy may be in the cache although its backend is offline.
  if (image.srcset) {
    place.dataset.broken = "";
    image.removeAttribute("srcset");
    return;
  }
  place.dataset.broken = "The image cannot be loaded.";
  if (!place.matches(".picture")) return; // of a list: no place for the reason
  try {
    const response = await fetch(image.src);
    if (response.ok) {
      delete place.dataset.broken;
      reload(image);
      return;
    }
    const answer = await response.json();
    if (answer.code === "no_thumbnail" && place.dataset.kind === "video") firstFrame(place, image);
    else place.dataset.broken = answer.detail || place.dataset.broken;
  } catch {
    /* the Director is away, and the page says so */
  }
}

// The same address again makes the browser request the image again.
function reload(image) {
  image.setAttribute("src", image.src);
}

// Without a poster, as without ffmpeg, the browser shows a video's first frame itself.
function firstFrame(place, image) {
  delete place.dataset.broken;
  image.replaceWith(
    make("video", {
      muted: true,
      preload: "metadata",
      tabIndex: -1,
      ariaHidden: "true",
      src: `${place.dataset.view}?redirect=no`,
    }),
  );
}

document.addEventListener(
  "error",
  (event) => {
    if (event.target.matches?.("img.thumb, .picture img")) say(event.target);
  },
  true,
);
document.addEventListener(
  "load",
  (event) => {
    if (event.target.matches?.("img.thumb, .picture img"))
      delete event.target.parentElement.dataset.broken;
  },
  true,
);

// Shows a live preview in the place of the one before.
export function preview(image, { mime, image: bytes }) {
  image.src = `data:${mime};base64,${bytes}`;
  image.alt = "Live preview";
  image.hidden = false;
}

export function tryAgain() {
  for (const place of $$("[data-broken]")) {
    const image = place.querySelector("img");
    delete place.dataset.broken;
    if (image) reload(image);
  }
}
// Those that did not come before this script ran.
for (const image of $$("img.thumb, .picture img")) if (broken(image)) say(image);
