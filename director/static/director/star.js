// The star of a job, wherever a page shows a button for it.
import { $$, call } from "./dom.js";

// Sets or removes the star; `changed` is called when the buttons show it, and again if it is refused, which rejects.
export async function star(button, on = button.ariaPressed !== "true", changed = () => {}) {
  const { job } = button.closest("[data-job]").dataset;
  const mark = (value) => {
    for (const one of $$(`[data-job="${job}"] .star`)) one.ariaPressed = String(value);
    changed();
  };
  mark(on);
  try {
    const { group } = button.closest("[data-group]").dataset;
    await call(on ? "PUT" : "DELETE", `/api/job-groups/${group}/jobs/${job}/star`);
  } catch (error) {
    mark(!on);
    throw error;
  }
}
