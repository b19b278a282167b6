// The progress of jobs that a socket brings: it is drawn without a request.
import { $$ } from "./dom.js";
import { afterMorph } from "./parts.js";

const percents = new Map(); // job → percent: what a fragment shows may be older
const bars = () => $$("progress[data-job]");

// Takes a frame of the monitor's socket.
export function progressed(frame) {
  for (const [, job, percent] of frame.children) percents.set(job, percent);
  draw();
}

function draw() {
  for (const bar of bars()) {
    const percent = percents.get(bar.dataset.job);
    if (percent === undefined || bar.value >= percent) continue;
    bar.value = percent;
    const text = bar.parentElement.querySelector("[data-percent]");
    if (text) text.textContent = Math.round(percent);
  }
}

// Jobs without a bar have ended, or start again from 0.
afterMorph(() => {
  const shown = new Set(bars().map((bar) => bar.dataset.job));
  for (const job of percents.keys()) if (!shown.has(job)) percents.delete(job);
  draw();
});
