// A section of backends, live: progress without a request, and the section again when something changed.
import { $, $$ } from "./dom.js";
import { monitor } from "./live.js";
import { afterMorph, refresh } from "./parts.js";
import { progressed } from "./progress.js";

const MOST = 100; // groups that the socket follows

// Returns the function that loads the section again soon: at most once a second, and less often where that takes long.
export function follow(id) {
  let [timer, began, ended, took, mark, stale] = [0, 0, -Infinity, 0, "", false];
  let watched = new Set();
  const groups = () =>
    [...new Set($$("[data-group]", $(id)).map((one) => one.dataset.group))].slice(0, MOST);

  function soon() {
    if (document.hidden) {
      stale = true;
      return;
    }
    if (timer) return;
    const rest = ended + Math.max(1000, 3 * took) - performance.now();
    timer = setTimeout(
      () => {
        timer = 0;
        if (document.querySelector(".renaming")) {
          setTimeout(soon, 500);
          return;
        }
        began = performance.now();
        refresh($(id));
      },
      Math.max(rest, 0),
    );
  }
  function seen({ backends }) {
    if (backends !== mark) soon();
    mark = backends;
  }

  const line = monitor(
    () => {
      watched = new Set(groups());
      return [...watched];
    },
    {
      open: (again) => {
        if (again) soon();
      },
      snapshot: seen,
      pulse: seen,
      event: soon,
      progress: progressed,
    },
  );
  afterMorph((one) => {
    if (one !== id) return;
    ended = performance.now();
    took = ended - began;
    if (groups().some((group) => !watched.has(group))) line.again();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && stale) {
      stale = false;
      soon();
    }
  });
  // Ages, memory, and jobs of groups that the socket does not follow.
  setInterval(soon, 10_000);
  return soon;
}
