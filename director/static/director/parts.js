// Fragments: an element with data-part is requested again from that address and morphed in place.
// However often something changes meanwhile, one request for an element is under way and one waits.
import { $, localTimes, signIn } from "./dom.js";

// What a person has unfolded stays so, and so does what is said of a picture that did not come.
htmx.config.morphIgnore.push("open", "data-broken");

const WIDE = 4; // requests side by side
const waiting = new Map();
const busy = new Set();
const listeners = [];

export const afterMorph = (listener) => listeners.push(listener);

export function refresh(element) {
  if (!element?.id || !element.dataset.part) return;
  waiting.set(element.id, element.dataset.part);
  next();
}

function next() {
  for (const [id, path] of waiting) {
    if (busy.size >= WIDE) return;
    if (busy.has(id)) continue;
    waiting.delete(id);
    busy.add(id);
    load(id, path).finally(() => {
      busy.delete(id);
      next();
    });
  }
}

async function load(id, path) {
  try {
    const response = await fetch(path, { headers: { "HX-Request": "true" } });
    const element = $(id);
    if (!element) return;
    if (response.status === 401 || response.redirected) {
      signIn();
      return;
    }
    if (response.status === 404) {
      element.remove();
      return;
    }
    if (!response.ok) throw new Error(String(response.status));
    const text = (await response.text()).trim();
    await htmx.swap({ text, target: element, sourceElement: element, swap: "outerMorph" });
    if ($(id)) localTimes($(id));
    for (const listener of listeners) listener(id);
  } catch (error) {
    // The Director is away, or its database is: requested again, not at once.
    console.debug("fragment", path, error);
    setTimeout(() => {
      if ($(id)) {
        waiting.set(id, path);
        next();
      }
    }, 2000);
  }
}
