// Which backends can run the workflow of the form. Asked while a person fills it in, so nothing here is an error.
import { $, counted, make, post } from "./dom.js";

const REST_MS = 500;
const LINES = 12; // of backends that have the same reasons
const NAMES = 8; // in a line
const REASONS = 3; // shown of each
let timer;
let sent = "";
let refused = null; // what a submission has shown the reasons of

// The text is sent as it was brought: it may have numbers that JavaScript cannot hold.
// Of a batch it gives the choices alone, as the plan shows which backends can run its jobs.
export function check(text, rest, isBatch, onAnswer) {
  $("can-run").classList.toggle("planned", isBatch);
  const body = text.trim() && `{"workflow_json":${text},${JSON.stringify(rest).slice(1)}`;
  if (body === sent) return;
  // The place of the answer: Submit must not move away from a pointer.
  if (!sent) showText("Checking which backends can run it …");
  sent = body;
  refused = null;
  clearTimeout(timer);
  if (!body) {
    show(null);
    return;
  }
  timer = setTimeout(async () => {
    let answer = null;
    try {
      const response = await post("/api/workflows/check", body);
      if (response.ok) answer = await response.json();
    } catch {
      /* then nothing is shown */
    }
    if (body !== sent) return;
    if (answer) onAnswer(answer);
    if (body !== refused) show(answer);
  }, REST_MS);
}
// Hides the answer, also one that comes later, until the workflow or the backends change.
export function hide() {
  refused = sent;
  $("can-run").hidden = true;
}

function show(answer) {
  const all = answer?.backends ?? [];
  const able = answer?.can_run;
  // What the form has taken out of the reasons is said at its field.
  const isSaid = answer?.lacks && !all.some((one) => one.reasons.length);
  if (!all.length || isSaid) {
    $("can-run").hidden = true;
    return;
  }
  // What has not described its nodes is among those that can.
  const unknown = all.filter((one) => one.can_run && !one.known).length;
  const sure = able - unknown;
  const can =
    sure === all.length
      ? sure > 1
        ? `All ${sure} backends can run it.`
        : "The backend can run it."
      : `${sure} of ${counted(all.length, "backend")} can run it.`;
  const may = `${counted(unknown, "backend has", "backends have")} not described all nodes of the workflow yet, and may be able to run it.`;
  const parts = able ? [sure && can, unknown && may] : ["No backend can run it."];
  showText(parts.filter(Boolean).join(" "), whyLines(all));
}

function showText(sentence, why = []) {
  $("can-run").hidden = false;
  $("can-run-said").textContent = sentence;
  $("can-run-why").replaceChildren(...why.map((line) => make("li", {}, line)));
}

// Returns the name of a backend as the form lists it; an entry that is none, as a tag, stays as it is.
const nameOf = (id) =>
  document
    .querySelector(`input[name="backend"][value="${CSS.escape(id)}"]`)
    ?.closest("label")
    .querySelector(".machine").textContent || id;

// Returns a line for the backends that have the same reasons. In a plan, `total` is its number of jobs.
export function whyLines(all, total = null) {
  const why = new Map(); // the backends of each reason
  for (const one of all.filter((one) => one.reasons.length)) {
    const part =
      total && one.jobs && one.jobs < total
        ? `, ${one.jobs} of ${counted(total, "job")}`
        : one.can_run
          ? ", in part"
          : "";
    const said = `${part}: ${sentences(one.reasons)}`;
    // A backend that several jobs name is listed once.
    why.set(said, (why.get(said) || new Set()).add(nameOf(one.backend_id)));
  }
  const lines = [...why].slice(0, LINES).map(([said, named]) => {
    const more = named.size - NAMES;
    const names = [...named].slice(0, NAMES).join(", ");
    return `${names}${more > 0 ? ` and ${counted(more, "more backend")}` : ""}${said}`;
  });
  if (why.size > LINES) lines.push(`And ${counted(why.size - LINES, "more reason")}.`);
  return lines;
}

function sentences(reasons) {
  const shown = reasons
    .slice(0, REASONS)
    .map(
      (one) =>
        `${one.node_id === null ? "" : `node ${one.node_id} (${one.class_type}): `}${message(one)}`,
    );
  return (
    shown.join("; ") + (reasons.length > REASONS ? `; and ${reasons.length - REASONS} more` : "")
  );
}

// Instead of a long list of choices, those that are most like the value.
function message(reason) {
  if (!reason.nearest.length) return reason.message;
  return `${reason.message.replace(/ not in (\[.*|\(list of length \d+\))$/s, "")} (nearest: ${reason.nearest.join(", ")})`;
}
