// Fragments: an element with data-part is requested again from that address, which may be that of a page, and morphed in
// place.
// However often something changes meanwhile, one request for an element is under way and one waits.
import { $, $$, localTimes, signIn } from "./dom.js";

// What a person has unfolded stays so, and so does what is said of a picture that did not come.
htmx.config.morphIgnore.push("open", "data-broken");
// It would put a body without handlers in the place of this one when a person goes back.
htmx.config.history = false;

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

// Of a table whose rows have marks only the changed ones are sent, and nothing if it is as it was. The marks are a header:
// a table of more rows than one holds comes whole.
const MARKS = 6000; // characters
const tags = new Map(); // of the last answer, by id
function known(id, path) {
  const marks = $$("[data-mark]", $(id)).map((row) => row.dataset.mark);
  if (!marks.length || marks.join("").length > MARKS) return {};
  const last = tags.get(id);
  return {
    "X-Rows": marks.join(""),
    ...(last?.path === path && last.tag && { "If-None-Match": last.tag }),
  };
}
const whole = (text) =>
  text.replace(/<tr data-same="([^"]+)"><\/tr>/g, (_, id) => $(id)?.outerHTML || "");

// Of a whole page the element.
const partOf = (text, id) =>
  text.startsWith("<!doctype")
    ? new DOMParser().parseFromString(text, "text/html").getElementById(id).outerHTML
    : text;

async function load(id, path) {
  try {
    const headers = { "HX-Request": "true", ...known(id, path) };
    const response = await fetch(path, { headers });
    const element = $(id);
    // Another address is waiting, as a filter was changed meanwhile: this answer would bring the old one back.
    if (!element || (waiting.get(id) ?? path) !== path) return;
    if (response.status === 304) {
      for (const listener of listeners) listener(id);
      return;
    }
    if (response.status === 401 || response.redirected) {
      signIn();
      return;
    }
    if (response.status === 404) {
      element.remove();
      return;
    }
    if (response.status === 403) {
      location.reload(); // The role has changed: the page says what it does not permit.
      return;
    }
    if (!response.ok) throw new Error(String(response.status));
    const text = whole(partOf((await response.text()).trim(), id));
    tags.set(id, { path, tag: response.headers.get("ETag") });
    const focused = document.activeElement;
    const hadFocus = element.contains(focused);
    await htmx.swap({ text, target: element, sourceElement: element, swap: "outerMorph" });
    // A browser without moveBefore takes the focus from what moves. What had it may be gone, as the button of a retry: the
    // next key begins in the content, not above it.
    for (const one of hadFocus ? [focused, $("main")] : [])
      if (document.activeElement === document.body) one.focus({ preventScroll: true });
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
