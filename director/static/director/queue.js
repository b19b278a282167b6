// The queue: loaded again when something changed. A person orders groups by dragging them, or by buttons.
import { $, $$, actor, call, confirmed, onClick, toast } from "./dom.js";
import { refresh } from "./parts.js";
import { follow } from "./working.js";
import "./menus.js";

follow("queue");

async function change(method, path, body, text) {
  try {
    await call(method, path, body);
    toast(text);
  } catch (error) {
    toast(error.errors?.[0]?.message || error.message);
  }
  refresh($("queue"));
}
const pathOf = (row) => (row ? `/api/job-groups/${row.dataset.group}` : "/api/queue");
const place = (row, before) =>
  change("POST", `${pathOf(row)}/next`, { before: before.dataset.group }, "The order is changed.");
// The rows that follow each other as their submitter orders them.
const turn = (row) =>
  $$("[draggable=true]", $("queue")).filter((one) => one.dataset.turn === row.dataset.turn);

// Each acts on a row; of the whole farm there is none.
const ACTS = {
  next: (row) => change("POST", `${pathOf(row)}/next`, {}, "The group is next."),
  up: (row) => {
    const above = turn(row)[turn(row).indexOf(row) - 1];
    if (above) place(row, above);
    else toast("No group of this submitter and level is above it.");
  },
  down: (row) => {
    const below = turn(row)[turn(row).indexOf(row) + 1];
    if (below) place(below, row);
    else toast("No group of this submitter and level is below it on this page.");
  },
  pause: async (row) => {
    $("pause-form").reset();
    $("pause-title").textContent = row
      ? `Pause ${row.querySelector(".name").textContent}?`
      : "Pause the whole queue?";
    if (!(await confirmed($("pause")))) return;
    const [until, reason] = [$("pause-until").value, $("pause-reason").value.trim()];
    const body = {
      ...actor(),
      ...(until && { until: new Date(until).toISOString() }),
      ...(reason && { reason }),
    };
    change("POST", `${pathOf(row)}/pause`, body, `The ${row ? "group" : "queue"} is paused.`);
  },
  resume: (row) =>
    change("POST", `${pathOf(row)}/resume`, actor(), `The ${row ? "group" : "queue"} is resumed.`),
};
onClick("#queue button[data-act]", (button) => {
  ACTS[button.dataset.act](button.closest("[data-group]"));
});
$("queue").parentElement.addEventListener("change", ({ target }) => {
  if (target.form?.id === "filters") target.form.requestSubmit();
  if (target.name !== "priority" || !target.value || !target.reportValidity()) return;
  const body = { priority: target.valueAsNumber };
  const text = `The group has the priority ${target.value}.`;
  change("PATCH", pathOf(target.closest("[data-group]")), body, text);
});

// --- drag ----------------------------------------------------------------------------------------

let dragged = null;
const mark = (over) => {
  for (const one of $$(".queued", $("queue"))) one.classList.toggle("over", one === over);
};
function targetOf(event) {
  const row = event.target.closest?.("[draggable=true]");
  return dragged && row && row !== dragged && turn(dragged).includes(row) ? row : null;
}
document.addEventListener("dragstart", (event) => {
  dragged = event.target.closest?.("#queue [draggable=true]");
  // Firefox drags only what has data.
  if (dragged) event.dataTransfer.setData("text/plain", dragged.dataset.group);
});
document.addEventListener("dragover", (event) => {
  const over = targetOf(event);
  mark(over);
  if (over) event.preventDefault();
});
document.addEventListener("drop", (event) => {
  const before = targetOf(event);
  if (!before) return;
  event.preventDefault();
  place(dragged, before);
});
document.addEventListener("dragend", () => {
  mark(null);
  dragged = null;
});
