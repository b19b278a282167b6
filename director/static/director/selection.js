// Rows that are selected by their boxes: one alone, with Shift a range, and all that are shown by the box "pick-all".
import { $, $$, onClick } from "./dom.js";

const boxes = () => $$("[name=pick]:enabled").filter((box) => !box.closest("[data-out]"));
const rowOf = (box) => box.closest("[id]");
let last = ""; // the id of the row that was clicked last
let listener = () => {};

export const chosen = () =>
  boxes()
    .filter((box) => box.checked)
    .map(rowOf);
export const onPicked = (act) => {
  listener = act;
};

// Shows how many are selected; called again after rows came or went.
export function picked() {
  const [all, count] = [boxes().length, chosen().length];
  $("selection").hidden = count === 0;
  $("selection-count").textContent = `${count} selected`;
  if ($("pick-all"))
    Object.assign($("pick-all"), {
      checked: count > 0 && count === all,
      indeterminate: count > 0 && count < all,
    });
  listener();
}
export function selectNone() {
  for (const box of boxes()) box.checked = false;
  picked();
}

onClick("#pick-all", ({ checked }) => {
  for (const box of boxes()) box.checked = checked;
  picked();
});
onClick("[name=pick]", (box, { shiftKey }) => {
  const all = boxes();
  const ends = [all.findIndex((one) => rowOf(one).id === last), all.indexOf(box)].sort(
    (a, b) => a - b,
  );
  if (shiftKey && ends[0] >= 0)
    for (const one of all.slice(ends[0], ends[1] + 1)) one.checked = box.checked;
  last = rowOf(box).id;
  picked();
});
$("selection-none").onclick = selectNone;
