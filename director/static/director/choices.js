// The choices of an input, as the backends list them: a select, or a field with a list to search where there are many.
import { make } from "./dom.js";

const SHORT = 30; // choices of a select
const SHOWN = 100; // of a list that is searched
const ROOM = 340; // pixels that an open list needs

// Returns {value, note} of each choice. `some` has the number of backends with a choice that others lack.
export const choicesOf = (values, some = {}, all = 0) =>
  values.map((value) => ({
    value: String(value),
    note: String(value) in some ? `${some[value]} of ${all} backends` : "",
  }));

const words = ({ value, note }) => (note ? `${value} · ${note}` : value);
// A search finds the choices that have all its words, in any order.
export function found(choices, text) {
  const parts = text.toLowerCase().split(/\s+/).filter(Boolean);
  return choices.filter((one) => parts.every((part) => one.value.toLowerCase().includes(part)));
}

// Returns the field of an input with choices: the same one, or a select in its place.
export function offered(input, choices, original) {
  if (choices.length > SHORT) {
    searched(input, choices);
    return input;
  }
  const now = input.value;
  const missing = [...new Set([original, now])].filter(
    (value) => !choices.some((one) => one.value === value),
  );
  const options = [...missing.map((value) => ({ value, note: "no backend lists it" })), ...choices];
  const select = input.tagName === "SELECT" ? input : make("select");
  // The list of an open select must not change without need.
  if ([...select.options].map((one) => one.text).join("\n") !== options.map(words).join("\n")) {
    select.replaceChildren(...options.map((one) => new Option(words(one), one.value)));
    select.value = now;
  }
  if (select === input) return input;
  const focused = input === document.activeElement;
  input.replaceWith(select);
  if (focused) select.focus();
  return select;
}

// --- the list that is searched: one for the page ---------------------------------------------------

const lists = new WeakMap(); // choices of a field
const list = make("ul", { id: "choices", className: "choices", hidden: true, role: "listbox" });
let field = null; // whose list is open
let at = -1;

export function searched(input, choices) {
  if (!lists.has(input)) {
    input.role = "combobox";
    input.ariaExpanded = "false";
    input.ariaAutoComplete = "list";
    input.onclick = () => open(input, "");
    input.oninput = (event) => {
      if (event.isTrusted) open(input, input.value);
    };
    input.onblur = close;
    input.onkeydown = (event) => key(event, input);
  }
  lists.set(input, choices);
}

function open(input, text) {
  const all = found(lists.get(input), text);
  const shown = all.slice(0, SHOWN);
  if (field !== input) close();
  field = input;
  list.ariaLabel = "Choices";
  list.replaceChildren(
    ...shown.map((one, number) => {
      const item = make("li", { id: `choice-${number}`, role: "option" }, one.value, " ");
      item.dataset.value = one.value;
      if (one.note) item.append(make("i", {}, one.note));
      return item;
    }),
  );
  list.dataset.more =
    all.length > shown.length
      ? `${(all.length - shown.length).toLocaleString("en")} more: enter a part of the name`
      : "";
  input.closest(".vary, .field").append(list);
  list.hidden = !shown.length;
  const { top, bottom } = input.getBoundingClientRect();
  list.classList.toggle(
    "above",
    window.innerHeight - bottom < ROOM && top > window.innerHeight - bottom,
  );
  input.ariaExpanded = !list.hidden;
  if (list.hidden) input.removeAttribute("aria-controls");
  else input.setAttribute("aria-controls", list.id);
  mark(text ? -1 : shown.findIndex((one) => one.value === input.value));
}

function close() {
  list.hidden = true;
  at = -1;
  field?.setAttribute("aria-expanded", "false");
  for (const name of ["aria-controls", "aria-activedescendant"]) field?.removeAttribute(name);
  field = null;
}

function mark(number) {
  at = number;
  for (const [index, item] of [...list.children].entries()) item.ariaSelected = index === at;
  const item = list.children[at];
  if (item) {
    field.setAttribute("aria-activedescendant", item.id);
    item.scrollIntoView({ block: "nearest" });
  } else field.removeAttribute("aria-activedescendant");
}

function choose(item) {
  const input = field;
  input.value = item.dataset.value;
  close();
  input.dispatchEvent(new Event("input", { bubbles: true }));
}

function key(event, input) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (step) {
    event.preventDefault();
    if (list.hidden) open(input, "");
    else mark((at + step + list.children.length) % list.children.length);
  } else if (!list.hidden && event.key === "Escape") {
    event.preventDefault();
    close();
  } else if (!list.hidden && event.key === "Enter" && list.children[at]) {
    event.preventDefault();
    choose(list.children[at]);
  }
}
// The field keeps the focus.
list.onmousedown = (event) => event.preventDefault();
list.onclick = (event) => {
  const item = event.target.closest("[data-value]");
  if (!item) return;
  event.preventDefault();
  choose(item);
};
