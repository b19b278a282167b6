// The sweep of a submission: the inputs that are varied, their values, and the plan of its jobs.
// Numbers and texts are parsed as by `director submit --sweep`.

import { whyLines } from "./check.js";
import { found } from "./choices.js";
import { $, $$, counted, make, post } from "./dom.js";
import { fileField } from "./files.js";
import * as list from "./jobs.js";
import { isReference } from "./workflow.js";

const MOST = Number(document.body.dataset.maxPool);
const PLAN_MS = 500;
const SHOWN = 40; // characters of a value in a sentence
const FEW = 12; // choices without a search
const NUMBER = "[-+]?\\d+(?:\\.\\d+)?";
const RANGE = new RegExp(`^(${NUMBER})\\s*\\.\\.\\s*(${NUMBER})(?:\\s*:\\s*(${NUMBER}))?$`);
const HINTS = {
  number: "Commas separate values; 5..9 and 0.2..0.8:0.2 are ranges.",
  boolean: "true, false",
  text: "One value per line.",
  file: "Choose or drop several files, or add names that the backends have.",
};

// --- values --------------------------------------------------------------------------------------

// Returns the numbers of "start..end:step": both ends belong to it, and decimals stay exact. Throws an Error.
function range(start, end, step = "1") {
  const digits = Math.max(...[start, end, step].map((one) => (one.split(".")[1] || "").length));
  const [from, to, by] = [start, end, step].map((one) => Math.round(Number(one) * 10 ** digits));
  if (by <= 0) throw new Error("The step of a range must be above 0.");
  const length = Math.floor(Math.abs(to - from) / by) + 1;
  if (!(length <= MOST))
    throw new Error(`A range has at most ${MOST.toLocaleString("en")} values.`);
  return Array.from({ length }, (_, at) =>
    Number(((from + Math.sign(to - from) * at * by) / 10 ** digits).toFixed(digits)),
  );
}

const items = (text) =>
  text
    .split(",")
    .map((one) => one.trim())
    .filter((one) => one);
const PARSE = {
  number: (text) =>
    items(text).flatMap((one) => {
      const found = RANGE.exec(one);
      if (found) return range(...found.slice(1));
      if (!Number.isFinite(Number(one))) throw new Error(`"${short(one)}" is no number.`);
      return [Number(one)];
    }),
  boolean: (text) =>
    items(text).map((one) => {
      if (!["true", "false"].includes(one))
        throw new Error(`"${short(one)}" is neither true nor false.`);
      return one === "true";
    }),
  text: (text) =>
    text
      .split(/\r?\n/)
      .filter((one) => one.trim())
      .map(lineValue),
};

// A text with line breaks is a line in JSON.
function lineValue(line) {
  if (!/^\s*".*"\s*$/.test(line)) return line;
  try {
    return JSON.parse(line);
  } catch {
    return line;
  }
}
const valueLine = (value) =>
  /[\r\n]|^\s*$|^\s*".*"\s*$/.test(value) ? JSON.stringify(value) : value;
const asText = (kind, values) =>
  kind === "text" ? values.map(valueLine).join("\n") : values.join(", ");
const kindOf = (values) =>
  values.some(isReference)
    ? "file"
    : ["number", "boolean"].find((kind) => values.every((one) => typeof one === kind)) || "text";
const short = (value) => {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > SHOWN ? `${text.slice(0, SHOWN)}…` : text;
};

// --- axes ----------------------------------------------------------------------------------------

let numbered = 0;
let changed = () => {}; // calls the form
const axes = []; // as they were added: the first changes slowest

// An axis: `input` as the API names it, `element` for the form, `read()` → {values, problem}.
function axisOf(input, name, title, kind, values) {
  const id = `axis-${++numbered}`;
  const element = make("div", {
    className: `field axis${["text", "file"].includes(kind) ? " wide-field" : ""}`,
  });
  element.innerHTML =
    '<label><b></b></label><span class="sub"></span><span class="field-error"></span>';
  const [label, words, hint, error] = ["label", "b", ".sub", ".field-error"].map((one) =>
    element.querySelector(one),
  );
  words.textContent = title;
  hint.id = `${id}-hint`;
  error.id = error.dataset.error = id;
  const axis = { id, input, name, element, error, literal: null, abort: () => {} };
  const counts = (number) => {
    hint.textContent = number > 1 ? `${counted(number, "value")}. ${HINTS[kind]}` : HINTS[kind];
  };
  if (kind === "file") {
    const files = [];
    const list = make("div", { className: "axis-files" });
    const add = (value) => {
      const one = fileField(name, `${title}, value ${files.length + 1}`, changed, (more) => {
        for (const file of more) add("").send(file);
      });
      one.value = value;
      one.element.classList.remove("field");
      files.push(one);
      list.append(one.element);
      return one;
    };
    Object.assign(element, { role: "group", ariaLabel: `Values of ${title}` });
    label.replaceWith(words, list);
    const more = make("button", { type: "button", className: "button small" }, "Add a value");
    more.onclick = () => {
      add("").element.querySelector("input").focus();
      changed();
    };
    hint.before(more);
    values.forEach(add);
    axis.bring = (some) => {
      for (const file of some) add("").send(file);
    };
    axis.focus = () => list.querySelector(".button input")?.focus();
    axis.abort = () => {
      for (const one of files) one.abort();
    };
    axis.read = () => {
      const filled = files.filter((one) => one.value !== "" || one.problem);
      counts(filled.length);
      return {
        values: filled.map((one) => one.value),
        problem: filled.find((one) => one.problem)?.problem || "",
      };
    };
  } else {
    const box = make(kind === "text" ? "textarea" : "input", {
      autocomplete: "off",
      spellcheck: false,
      ariaLabel: `Values of ${title}`,
    });
    if (kind === "text") box.rows = 4;
    box.value = asText(kind, values);
    box.setAttribute("aria-describedby", `${hint.id} ${error.id}`);
    label.append(box);
    if (kind === "text") axis.offer = (choices) => picks(axis, box, title, choices);
    axis.focus = () => {
      box.focus();
      box.select();
    };
    axis.read = () => {
      try {
        const read = PARSE[kind](box.value);
        counts(read.length);
        return { values: read, problem: "" };
      } catch (wrong) {
        counts(0);
        return { values: [], problem: wrong.message };
      }
    };
  }
  axes.push(axis);
  return axis;
}

// Shows the choices of a text's values. A choice that is ticked is a line of the text.
function picks(axis, box, title, choices) {
  if (axis.choices === choices.map((one) => one.value).join("\n")) return;
  axis.choices = choices.map((one) => one.value).join("\n");
  axis.element.querySelector(".picks")?.remove();
  const all = make("fieldset", { className: "picks" });
  all.innerHTML =
    '<legend class="sr"></legend><input type="search" autocomplete="off"><div class="pick-list"></div>';
  const [legend, search, rows] = all.children;
  legend.textContent = `Choices of ${title}`;
  search.hidden = choices.length <= FEW;
  search.placeholder = `Search ${counted(choices.length, "choice")}`;
  search.ariaLabel = `Search the choices of ${title}`;
  rows.append(
    ...choices.map(({ value, note }) => {
      const tick = make("input", { type: "checkbox", value });
      return make("label", { className: "check" }, tick, ` ${value}${note ? ` · ${note}` : ""}`);
    }),
  );
  const ticks = $$("input", rows);
  const show = () => {
    const values = new Set(PARSE.text(box.value));
    for (const tick of ticks) tick.checked = values.has(tick.value);
  };
  all.oninput = (event) => {
    const { target } = event;
    if (target === search) {
      event.stopPropagation();
      const fit = new Set(found(choices, search.value).map((one) => one.value));
      for (const tick of ticks) tick.parentElement.hidden = !fit.has(tick.value);
    } else {
      const values = PARSE.text(box.value).filter((one) => one !== target.value);
      box.value = asText("text", target.checked ? [...values, target.value] : values);
    }
  };
  search.onkeydown = (event) => {
    if (event.key === "Enter") event.preventDefault();
  };
  box.oninput = show;
  show();
  axis.element.insertBefore(all, axis.element.querySelector(":scope > .sub"));
}
export function offer(literal) {
  axes.find((one) => one.literal === literal)?.offer?.(literal.choices);
}

function drop(axis) {
  axis.abort();
  axes.splice(axes.indexOf(axis), 1);
  axis.element.remove();
}

// Returns the element of a literal's field with the button that varies it.
export function varied(literal, title) {
  const whole = make("div", {
    className: literal.label.classList.contains("wide-field") ? "vary wide-field" : "vary",
  });
  const ariaLabel = `Vary ${literal.name} of node ${literal.id}`;
  const button = make(
    "button",
    { type: "button", className: "button small plain", ariaLabel, ariaPressed: "false" },
    "Vary",
  );
  button.onclick = () => {
    const axis = axes.find((one) => one.literal === literal);
    if (axis) {
      drop(axis);
      whole.prepend(literal.label);
      literal.set(false);
    } else vary(literal).focus();
    changed();
  };
  literal.title_ = title;
  literal.set = (is) => {
    button.ariaPressed = is;
    whole.classList.toggle("on", is);
  };
  whole.append(literal.label, button);
  return whole;
}
// Varies an input by files: one job for each.
export function varyFiles(literal, files) {
  vary(literal, []);
  axes.find((one) => one.literal === literal).bring(files);
  changed();
}
export const isVaried = (literal) => axes.some((one) => one.literal === literal);

function vary(literal, values = null) {
  const kind = literal.file
    ? "file"
    : { number: "number", boolean: "boolean" }[typeof literal.value] || "text";
  const { input } = literal;
  const now =
    input.type === "checkbox"
      ? [input.checked, !input.checked]
      : input.value === ""
        ? []
        : [input.value];
  const axis = axisOf(literal.slot, literal.name, literal.title_, kind, values || now);
  place(axis, literal);
  if (literal.choices) axis.offer?.(literal.choices);
  return axis;
}
function place(axis, literal) {
  axis.literal = literal;
  literal.label.replaceWith(axis.element);
  literal.set(true);
}

// After another workflow came: keeps the axes of the inputs that it has, too.
export function replaced(literals, same) {
  for (const axis of axes.filter((one) => one.literal)) {
    const literal = literals.find((one) => same(one, axis.literal));
    if (literal) place(axis, literal);
    else drop(axis);
  }
}

// Shows the sweep of an earlier group. An axis that no single field shows gets a field of its own.
export function restore(sweep, literals) {
  document.querySelector(`input[name="mode"][value="${sweep.mode}"]`).checked = true;
  for (const { input, values } of sweep.axes) {
    if (input === "seed") {
      if (sweep.mode === "zip") $("own-seeds").checked = true;
      else $("seed-count").value = values.length;
      continue;
    }
    const exact = literals.filter((one) => [one.slot, `${one.title}.${one.name}`].includes(input));
    const found = exact.length ? exact : literals.filter((one) => one.name === input);
    if (found.length === 1) {
      vary(found[0], values);
      continue;
    }
    const axis = axisOf(input, input, input, kindOf(values), values);
    const remove = make(
      "button",
      { type: "button", className: "button small" },
      `Remove ${short(input)}`,
    );
    remove.onclick = () => {
      drop(axis);
      changed();
    };
    axis.element.append(remove);
    $("other-axes").append(axis.element);
  }
}

// --- what they make ------------------------------------------------------------------------------

const isZip = () => document.querySelector('input[name="mode"]:checked').value === "zip";
const seedCount = () => (isZip() || $("own-seeds").checked ? 1 : Number($("seed-count").value));

// Returns null without a sweep, else {sweep, total, seeds, hasStrategy, errors}. `seeds`: how many different ones.
export function read() {
  if (!axes.length) return null;
  const errors = [];
  const made = axes.map((axis) => {
    const { values, problem } = axis.read();
    if (problem || !values.length)
      errors.push({ field: axis.id, message: problem || "Enter at least one value." });
    return { input: axis.input, values };
  });
  const lengths = made.map((one) => one.values.length);
  const [own, count] = [$("own-seeds").checked, seedCount()];
  if (!(Number.isInteger(count) && count >= 1 && count <= MOST))
    errors.push({ field: "seed_count", message: `Must be a whole number from 1 to ${MOST}.` });
  const names = axes.map((one) => one.name);
  if (count > 1) {
    made.push({ input: "seed", count });
    lengths.push(count);
    names.push("seeds");
  }
  const total = isZip() ? lengths[0] : lengths.reduce((one, other) => one * other, 1);
  const product = `${lengths.map((one) => one.toLocaleString("en")).join(" × ")} = `;
  const jobs = `${total.toLocaleString("en")} job${total === 1 ? "" : "s"}`;
  if (!errors.length) {
    if (isZip() && new Set(lengths).size > 1)
      errors.push({
        field: "sweep",
        message: `In pairs, all inputs need equally many values; they have ${lengths.join(", ")}.`,
      });
    else if (total > MOST)
      errors.push({
        field: "sweep",
        message: `${lengths.length > 1 && !isZip() ? product : ""}${jobs}; at most ${MOST.toLocaleString("en")}.`,
      });
  }
  const words = isZip()
    ? `${names.join(", ")} in pairs: ${jobs}`
    : `${names.join(" × ")}: ${lengths.length > 1 ? product : ""}${jobs}`;
  return {
    sweep: { mode: isZip() ? "zip" : "product", axes: made },
    total,
    seeds: own ? total : count,
    hasStrategy: own || count > 1,
    words,
    errors,
  };
}

// Maps the fields of the server's errors to those of the form.
export function located(errors) {
  return errors.map((one) => {
    const [, number, place, value] =
      /^sweep\.axes\.(\d+)\.?(values|input|count)?\.?(\d+)?/.exec(one.field) || [];
    if (number === undefined)
      return list.located(one) || (/^sweep\b/.test(one.field) ? { ...one, field: "sweep" } : one);
    const axis = axes[number];
    if (!axis) return { ...one, field: "seed_count" };
    const said =
      place === "values" && value !== undefined
        ? `Value ${Number(value) + 1} (${short(axis.read().values[value])}): `
        : "";
    return { field: axis.id, message: said + one.message };
  });
}

// Shows what is wrong while the values are edited, and shows the sweep in the other parts of the form.
export function show(made) {
  $("sweep").hidden = !made;
  $("sweep-seeds").hidden = !made?.sweep;
  $("remove-list").hidden = !made?.jobs;
  for (const button of $$("[data-quick]")) button.hidden = Boolean(made);
  for (const [control, why] of [
    [$("count"), "count-why"],
    [document.querySelector('input[name="where"][value="turn"]'), "turn-why"],
  ]) {
    control.disabled = Boolean(made);
    $(why).hidden = !made;
    if (made) control.setAttribute("aria-describedby", why);
    else control.removeAttribute("aria-describedby");
  }
  if (!made) return;
  $("mode-choice").hidden = axes.length < 2;
  $("seed-count-field").hidden = isZip();
  $("seed-count").disabled = $("own-seeds").checked;
  complain(made.errors);
  $("sweep-said").textContent = made.errors.some((one) => one.field !== "sweep") ? "" : made.words;
}
function complain(errors) {
  for (const place of [
    ...axes.map((one) => one.error),
    ...$$('[data-error="sweep"], [data-error="seed_count"]'),
  ]) {
    place.textContent = errors
      .filter((one) => one.field === place.dataset.error)
      .map((one) => one.message)
      .join(" ");
    place
      .closest(".field")
      ?.querySelector("input, textarea")
      ?.setAttribute("aria-invalid", String(place.textContent !== ""));
  }
}

// --- the plan ------------------------------------------------------------------------------------

let planned = "";
let refused = []; // the errors of its plan
let request = null;
let timer;

// Loads the plan of a request's body; null: there is none. Until it is there, the plan before is shown muted.
// Without a batch only the time of it is shown: the check shows the backends.
export function plan(body, isBatch, onTime) {
  if (body === planned) {
    if (refused.length) complain(refused); // show() has shown the form's own errors alone
    return;
  }
  planned = body;
  refused = [];
  clearTimeout(timer);
  request?.abort();
  for (const id of ["plan", "ends"]) $(id).classList.toggle("pending", body !== null);
  if (body === null || !isBatch) showPlan([]);
  if (body === null) {
    onTime("");
    return;
  }
  if (isBatch && !$("plan-said").textContent) showPlan(["Planning …"]);
  timer = setTimeout(async () => {
    const mine = (request = new AbortController());
    let time = "";
    try {
      const response = await post("/api/job-groups/plan", body, { signal: mine.signal });
      const answer = await response.json();
      if (mine !== request || body !== planned) return;
      const { eta_seconds: eta, eta_reason: reason } = answer;
      if (response.ok)
        time =
          eta === null
            ? reason || (isBatch ? "How long it takes is not known yet." : "")
            : `${answer.total_count === 1 ? "It" : "The last job"} ends in about ${lasting(eta)}.`;
      if (isBatch && !response.ok) {
        refused = located(answer.errors || []);
        complain(refused);
        showPlan(
          refused.length ? [] : [answer.detail || `The Director answered ${response.status}.`],
        );
      } else if (isBatch) showPlan(able(answer), whyLines(answer.backends, answer.total_count));
    } catch {
      if (mine === request && isBatch) showPlan([]);
    } // the form shows what fails when it is submitted
    if (mine !== request || body !== planned) return;
    onTime(time);
    for (const id of ["plan", "ends"]) $(id).classList.remove("pending");
  }, PLAN_MS);
}
function able({ backends, total_count: total }) {
  const all = backends.filter((one) => one.jobs === total).length;
  const some = backends.filter((one) => one.jobs && one.jobs < total).length;
  if (all && all === backends.length)
    return [all === 1 ? "The backend can run all jobs." : `All ${all} backends can run all jobs.`];
  if (!all && !some) return ["No backend can run these jobs."];
  return [
    `${all} of ${counted(backends.length, "backend")} can run all jobs${some ? `, ${some} a part of them` : ""}.`,
  ];
}
const lasting = (seconds) =>
  seconds < 90
    ? `${Math.max(Math.round(seconds), 1)} s`
    : seconds < 5400
      ? `${Math.round(seconds / 60)} min`
      : `${(seconds / 3600).toFixed(1)} h`;
function showPlan(sentences, why = []) {
  $("plan-said").textContent = sentences.join(" ");
  $("plan-why").replaceChildren(...why.map((line) => make("li", {}, line)));
}

export function start(onChange) {
  changed = onChange;
}
