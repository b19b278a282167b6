// Filters of a list apply as a person types. The URL says what is shown: each change is an entry of the history, and
// further typing in the same field changes that entry.
import { $, remembered, SUBMITTER } from "./dom.js";

const PAUSE = 250; // milliseconds after a key
const form = $("filters");
const { since, until, submitter } = form.elements;
const fields = () => [...form.elements].filter((field) => field.name);
const isTyped = (field) => field?.matches("[type=search], input:not([type])");

// Calls show(query) when a person has changed the filters, or has gone back to others.
export function onFilters(show) {
  let timer = 0;
  let typed = null; // the field whose text is the newest entry of the history

  function changed() {
    mark();
    show(location.search.slice(1));
  }
  function apply(field = null) {
    clearTimeout(timer);
    if (!form.checkValidity()) return;
    const given = [...new FormData(form)].filter(([, value]) => value);
    const query = new URLSearchParams(given).toString();
    if (query === location.search.slice(1)) return;
    const isSame = field && field === typed;
    const address = query ? `?${query}` : location.pathname;
    history[isSame ? "replaceState" : "pushState"](null, "", address);
    typed = isTyped(field) ? field : null;
    changed();
  }

  form.oninput = ({ target }) => {
    if (!isTyped(target)) return;
    clearTimeout(timer);
    timer = setTimeout(apply, PAUSE, target);
  };
  form.onchange = ({ target }) => {
    if (!isTyped(target)) apply(target);
  };
  form.onsubmit = (event) => {
    event.preventDefault();
    apply(document.activeElement);
  };
  addEventListener("popstate", () => {
    clearTimeout(timer);
    const query = new URLSearchParams(location.search);
    for (const field of fields()) {
      const value = query.get(field.name) ?? "";
      if (field.type === "checkbox") field.checked = value === field.value;
      else field.value = value;
    }
    typed = null;
    changed();
  });
  $("week").onclick = () => {
    since.value = isWeek() ? "" : $("week").value;
    until.value = "";
    apply();
  };
  $("mine").onchange = ({ target }) => {
    if (![...submitter.options].some((option) => option.value === me))
      submitter.add(new Option(me));
    submitter.value = target.checked ? me : "";
  };
}

// A person's own groups: of the account, else of the name that the browser keeps from the submissions.
const me = $("mine").value || remembered(SUBMITTER).trim();
const isWeek = () => since.value === $("week").value && !until.value;
function mark() {
  $("week").ariaPressed = isWeek();
  $("mine").checked = Boolean(me) && submitter?.value === me;
  $("clear").hidden = fields().every((field) =>
    field.type === "checkbox" ? !field.checked : !field.value,
  );
}
$("mine").parentElement.hidden = !me || !submitter;
mark();
