// The form of a new group. What is sent is the workflow's own text, untouched: numbers that JavaScript
// cannot hold stay as they are, and what a person changes goes along as parameters.

import { check, hide, whyLines } from "./check.js";
import { choicesOf, offered, searched } from "./choices.js";
import * as outputs from "./chosen.js";
import {
  $,
  $$,
  call,
  copy,
  counted,
  make,
  onFiles,
  remember,
  remembered,
  SUBMITTER,
  send,
  toast,
} from "./dom.js";
import { fileField } from "./files.js";
import * as list from "./jobs.js";
import { monitor } from "./live.js";
import * as sweep from "./sweep.js";
import {
  CONVERTED,
  inApiFormat,
  isConverted,
  literalsOf,
  NotAWorkflow,
  nodesOf,
  textOf,
} from "./workflow.js";

monitor(() => [], { stays: true });

const again = JSON.parse($("again").textContent);
const MOST = Number(document.body.dataset.maxBody);
const CHILDREN = Number(document.body.dataset.maxChildren);
const POOL = Number(document.body.dataset.maxPool);
const FILE_INPUTS = document.body.dataset.fileInputs.split(" ");
const DEFAULT_LIMIT = Number($("timeout").placeholder); // seconds
let text = ""; // the workflow as it was brought, in API format
let drawn = ""; // the same in the editor's format, which pictures get, if it was brought so
let literals = [];
let kept = {}; // parameters of the repeated group that no input shows
let capabilities = [];

// --- the workflow -------------------------------------------------------------------------------

let brings = 0; // the newest wins
async function show(brought, from) {
  const mine = ++brings;
  complain([]);
  try {
    const made = await read(brought);
    if (mine === brings) accept(made, from);
  } catch (error) {
    if (!(error instanceof NotAWorkflow)) throw error;
    if (mine !== brings) return;
    // What is typed into the inputs stays for when the text is a workflow again.
    text = "";
    $("workflow-said").textContent = "";
    $("inputs-panel").hidden = true;
    complain([{ field: "workflow_json", message: error.message }]);
  }
  update();
}
async function read(brought) {
  if (brought.length > MOST)
    throw new NotAWorkflow(
      `This has ${Math.ceil(brought.length / 2 ** 20)} MB; the Director takes up to ${Math.floor(MOST / 2 ** 20)} MB.`,
    );
  const { text: own, drawn: editors = "", notes } = await inApiFormat(brought);
  return { own, editors, notes, nodes: nodesOf(own) };
}
const DROPPABLE =
  "Drop a workflow as JSON, a PNG that ComfyUI made, or a CSV file with a line for each job.";
function accept({ own, editors, notes, nodes }, from, picture = null) {
  const before = literals;
  text = own;
  drawn = editors;
  literals = literalsOf(nodes, FILE_INPUTS);
  $("workflow-said").textContent = [
    `${counted(nodes.length, "node")}${from ? ` from ${from}` : ""}.`,
    ...notes,
  ].join(" ");
  $("drop").classList.add("small");
  if ($("recent")) $("recent").hidden = true;
  const image = $("brought");
  if (image.src) URL.revokeObjectURL(image.src);
  image.hidden = !picture;
  if (picture) image.src = URL.createObjectURL(picture);
  else image.removeAttribute("src");
  fields(before);
  if (outputs.howMany) useOutputs();
}

const chosenFiles = (number) => counted(number, "chosen file");
async function useOutputs() {
  const mine = brings;
  const { left, lost } = await outputs.fill(
    () => (mine === brings ? literals : []),
    (literal, file) => literal.input.send(file),
    sweep.varyFiles,
  );
  if (mine !== brings) return;
  toPool();
  const said = $("workflow-said");
  if (left) said.textContent += ` It has no input for ${chosenFiles(left)}.`;
  if (lost) said.textContent += ` ${chosenFiles(lost)} could not be read; choose again.`;
}
if (outputs.howMany)
  $("workflow-said").textContent =
    `Bring a workflow, or choose a recent one: ${chosenFiles(outputs.howMany)} of the gallery will be its input.`;

// A file that is none leaves what was brought before, and what was changed in it, as it is.
async function bring(file) {
  if (/\.csv$/i.test(file.name)) {
    await bringList(file);
    return;
  }
  const mine = ++brings;
  const said = $("workflow-said").textContent;
  $("workflow-said").textContent = "Reading …";
  try {
    const made = await read(await textOf(file, MOST));
    if (await isConverted(file)) made.notes.unshift(CONVERTED);
    if (mine !== brings) return;
    complain([]);
    accept(made, file.name, file.type.startsWith("image/") ? file : null);
    update();
    // The next step is the prompt.
    $("prompts").querySelector("textarea")?.focus();
  } catch (error) {
    if (!(error instanceof NotAWorkflow)) throw error;
    if (mine !== brings) return;
    $("workflow-said").textContent = said;
    complain([
      {
        field: "workflow_json",
        message: [
          `${file.name}: ${error.message}`,
          ...(error.isOther ? [DROPPABLE] : []),
          ...(text ? ["The workflow from before is kept."] : []),
        ].join(" "),
      },
    ]);
  }
}
async function bringList(file) {
  let problem = "";
  try {
    await list.bring(file);
  } catch (error) {
    problem = `${file.name}: ${error.message}`;
  }
  complain(problem ? [{ field: "workflow_json", message: problem }] : []);
  toPool();
}
function toPool() {
  // The jobs of a batch go to the pool: backends that were chosen in turn are its candidates.
  if ((list.read(literals) || sweep.read()) && !inPool()) setWhere("some");
  update();
}
sweep.start(toPool);
$("remove-list").onclick = () => {
  list.remove();
  update();
  $("file").focus();
};
$("file").onchange = () => {
  if ($("file").files[0]) bring($("file").files[0]);
};
$("paste").oninput = () => {
  clearTimeout(show.timer);
  show.timer = setTimeout(() => {
    if ($("paste").value.trim()) show($("paste").value, "");
  }, 300);
};
document.addEventListener("paste", (event) => {
  if (event.target.closest?.("input, textarea")) return;
  const [file] = event.clipboardData.files;
  if (file) bring(file);
  else if (event.clipboardData.getData("text/plain").trim())
    show(event.clipboardData.getData("text/plain"), "");
});
onFiles(document, ([file]) => bring(file), $("drop"));

// --- inputs -------------------------------------------------------------------------------------

function fields(before) {
  const typed = new Map(
    before
      .filter((one) => one.input && raw(one.input) !== shown(one.value))
      .map((one) => [place(one), raw(one.input)]),
  );
  for (const one of before) one.input?.abort?.();
  const others = literals.filter((one) => !one.file && !one.role);
  const usual = others.filter((one) => one.usual >= 0).sort((a, b) => a.usual - b.usual);
  const rest = others.filter((one) => one.usual < 0);
  $("prompts").replaceChildren(
    ...["positive", "negative"]
      .flatMap((role) => literals.filter((one) => one.role === role))
      .map((one) => field(one, true, typed)),
  );
  $("files").replaceChildren(
    ...literals.filter((one) => one.file).map((one) => field(one, true, typed)),
  );
  $("usual").replaceChildren(...usual.map((one) => field(one, true, typed)));
  $("rest").replaceChildren();
  let title = null;
  for (const one of rest) {
    const heading = `${one.title} (${one.id})`;
    if (heading !== title) $("rest").append(make("h3", {}, (title = heading)));
    $("rest").append(field(one, false, typed));
  }
  sweep.replaced(literals, (one, other) => place(one) === place(other));
  if (offers.text === text) offer(offers.answer);
  $("others").hidden = !rest.length;
  $("inputs-panel").hidden = !literals.length;
}

const raw = (input) => (input.type === "checkbox" ? String(input.checked) : input.value);
const shown = (value) => (typeof value === "object" ? value : String(value));
const same = (one, other) => one === other || JSON.stringify(one) === JSON.stringify(other);
// The same input of the same node, as far as that is known: what was typed there stays typed.
const place = (one) => JSON.stringify([one.id, one.title, one.name, one.value]);

function field(literal, titled, typed) {
  const title = titled ? `${literal.name} · ${literal.title}` : literal.name;
  const words = make("b", {}, literal.name);
  const isLong =
    typeof literal.value === "string" &&
    (literal.role || literal.name === "text" || /\n|.{80}/.test(literal.value));
  const input = literal.file
    ? fileField(literal.name, title, update)
    : make(isLong ? "textarea" : "input");
  const label = input.element || make("label");
  if (titled) words.append(make("i", {}, ` · ${literal.title}`));
  if (literal.role)
    words.prepend(make("strong", {}, literal.role === "positive" ? "Prompt " : "Negative prompt "));
  label.classList.add("field");
  if (literal.role) label.classList.add(literal.role);
  if (input.tagName === "TEXTAREA") {
    input.rows = literal.role === "positive" ? 6 : 3;
    label.classList.add("wide-field");
  }
  if (typeof literal.value === "boolean") input.type = "checkbox";
  if (typeof literal.value === "number") input.inputMode = "decimal";
  const error = make("span", { className: "field-error" });
  error.dataset.error = `parameters.${literal.slot}`;
  // One after the other: the name that a file field has first comes back when its upload is removed.
  for (const now of [literal.value, kept[literal.slot], typed.get(place(literal))]) {
    if (now === undefined) continue;
    if (input.type === "checkbox") input.checked = String(now) === "true";
    else input.value = shown(now);
  }
  delete kept[literal.slot];
  literal.input = input;
  literal.label = label;
  if (literal.file) {
    label.prepend(words);
    label.append(error);
  } else label.append(words, input, error);
  return sweep.varied(literal, title);
}

const isBatch = () => Boolean(list.read(literals) || sweep.read());
const KINDS = { image: "a picture", mask: "a picture", audio: "an audio file", video: "a video" };
// Returns what is wrong with an input that needs a file: it is empty, or no backend has this one.
function lacking({ file, input, lacked, name, title, slot }) {
  if (!file || (input.value !== "" && input.value !== lacked)) return [];
  const message = `Choose ${KINDS[name] || "a file"} for ${title}.`;
  return [{ field: `parameters.${slot}`, message }];
}
// Notes the files that no backend has. The form asks for them at their fields, so they are no reasons any more.
function noteLacked(answer) {
  const known = answer.backends.filter((one) => one.known);
  const names = (one, { id, name }) => one.node_id === id && one.input === name;
  for (const literal of literals.filter((one) => one.file)) {
    const isLacked =
      known.length > 0 &&
      known.every((one) => one.reasons.some((reason) => names(reason, literal)));
    // Of a batch the check judges what the workflow has.
    literal.lacked = isLacked ? (isBatch() ? literal.value : literal.input.value) : undefined;
    if (!lacking(literal).length) continue;
    answer.lacks = true;
    for (const one of known) one.reasons = one.reasons.filter((reason) => !names(reason, literal));
  }
}

// Shows the choices that a check has found.
let offers = {}; // the last answer, and its workflow
function offer(answer) {
  offers = { answer, text };
  const { backends: all, choices, choice_backends: some } = answer;
  for (const literal of literals) {
    const { slot } = literal;
    if (!choices[slot] || literal.input.type === "checkbox") continue;
    literal.choices = choicesOf(choices[slot], some[slot], all.length);
    if (literal.file) searched(literal.input.text, literal.choices);
    else if (literal.input.tagName !== "TEXTAREA")
      literal.input = offered(literal.input, literal.choices, String(literal.value));
    sweep.offer(literal);
  }
}
function answered(answer) {
  offer(answer);
  noteLacked(answer);
  // The time of the jobs is known now, and which files there are.
  update();
}

// Returns what a person changed, by "node.input", what of it is no number where one is needed, and
// which files are lacking.
function changed() {
  const parameters = { ...kept };
  const errors = [];
  const lacks = [];
  for (const literal of literals) {
    if (sweep.isVaried(literal)) continue;
    const { input, value, slot } = literal;
    const field = `parameters.${slot}`;
    let now = input.type === "checkbox" ? input.checked : input.value;
    if (typeof value === "number") {
      now = input.value.trim() === "" ? NaN : Number(input.value);
      if (!Number.isFinite(now)) {
        errors.push({ field, message: "Must be a number." });
        continue;
      }
    }
    if (input.problem) errors.push({ field, message: input.problem });
    else lacks.push(...lacking(literal));
    literal.label.classList.toggle("changed", !same(now, value));
    if (!same(now, value)) parameters[slot] = now;
  }
  return { parameters, errors, lacks };
}

// --- where, and seeds ---------------------------------------------------------------------------

const boxes = () => $$('input[name="backend"]');
const tags = () => $$('input[name="tag"]');
const ticked = (some) => some.filter((box) => box.checked && !box.disabled);
// "any" and "some": a free backend takes each job (the pool); "turn": each job is sent to its own backend.
const where = () => document.querySelector('input[name="where"]:checked').value;
const inPool = () => where() !== "turn";
const count = () => Math.min(Math.max(Math.trunc(Number($("count").value)) || 0, 0), POOL);

// Returns the entries of backend_ids: the candidates of the pool, or the backend of each job.
function backends() {
  if (where() === "any") return ["*"];
  const named = ticked(boxes()).map((box) => box.value);
  if (inPool()) return [...ticked(tags()).map((box) => `tag:${box.value}`), ...named];
  return named.length
    ? Array.from({ length: count() }, (_, index) => named[index % named.length])
    : [];
}
// Returns the boxes of the backends that may take a job of the pool.
function candidates() {
  const enabled = boxes().filter((box) => box.dataset.enabled === "yes");
  if (where() === "any") return enabled;
  const tagged = new Set(ticked(tags()).flatMap((box) => box.dataset.backends.split(" ")));
  return enabled.filter((box) => box.checked || tagged.has(box.value));
}
for (const button of $$("[data-quick]")) {
  button.onclick = () => {
    $("count").value = button.dataset.quick;
    update();
  };
}
function showWhere() {
  $("chosen").hidden = where() === "any";
  for (const box of tags()) box.closest("label").hidden = !inPool();
  // A backend of the pool may be away now and take jobs later.
  for (const box of boxes())
    box.disabled = (inPool() ? box.dataset.enabled : box.dataset.takes) !== "yes";
  if (!inPool() && !ticked(boxes()).length)
    for (const box of boxes()) box.checked = box.dataset.online === "yes";
  showPolicy();
}
function setWhere(value) {
  document.querySelector(`input[name="where"][value="${value}"]`).checked = true;
  showWhere();
}
for (const radio of $$('input[name="where"]')) radio.oninput = showWhere;

let newestRequest = 0;
function seeds(number, isShared) {
  clearTimeout(seeds.timer);
  const base = $("base").value.trim();
  if (!/^\d+$/.test(base) || !number) {
    $("seeds").textContent = base
      ? ""
      : `The base seed is chosen at random on submit.${isShared ? " All jobs have this seed." : ""}`;
    return;
  }
  if (isShared) {
    $("seeds").textContent = `${base} in all jobs`;
    return;
  }
  seeds.timer = setTimeout(async () => {
    const mine = ++newestRequest;
    const few = Math.min(number, 24);
    try {
      const answer = await call(
        "GET",
        `/api/seeds?strategy=${$("strategy").value}&base_seed=${base}&count=${few}`,
      );
      if (mine === newestRequest)
        $("seeds").textContent =
          answer.seeds.join(", ") + (number > few ? ` … ${number - few} more` : "");
    } catch {
      if (mine === newestRequest) $("seeds").textContent = "";
    }
  }, 200);
}

// --- who submits, and what is done when one fails: chosen once in a browser ---------------------

const ON_FAILURE = { bound: "director.on-failure", pool: "director.on-failure.pool" };
$("submitter").value = remembered(SUBMITTER);
// What a repeated group brought along is its own: only what a person says is kept for the next time.
let ofGroup = {};
const said = () => ({
  [SUBMITTER]: $("submitter").value.trim(),
  [ON_FAILURE[policyOf]]: `${$("elsewhere").value} ${$("tries").value.trim()}`,
});
function rememberSaid() {
  for (const [name, value] of Object.entries(said()))
    if (value !== ofGroup[name]) remember(name, value);
}

function onFailure(elsewhere, tries) {
  if (![...$("elsewhere").options].some((one) => one.value === elsewhere && !one.disabled)) return;
  $("elsewhere").value = elsewhere;
  if (/^([1-9]|10)$/.test(tries)) $("tries").value = tries;
}
// In the pool a job is retried on any candidate, so jobs in turn have a policy of their own. The last valid entry counts.
const policy = () => [$("elsewhere").value, $("tries").value];
const policies = {
  bound: [policy(), remembered(ON_FAILURE.bound).split(" ")],
  pool: [["group", document.body.dataset.poolAttempts], remembered(ON_FAILURE.pool).split(" ")],
};
let policyOf = "bound";
function showPolicy() {
  const now = inPool() ? "pool" : "bound";
  if (now === policyOf) return;
  policies[policyOf].push(policy());
  policyOf = now;
  for (const one of $("elsewhere").options)
    one.hidden = one.disabled = inPool() && ["never", "any"].includes(one.value);
  for (const one of policies[now]) onFailure(...one);
}
for (const one of policies.bound) onFailure(...one);
showWhere();
const classes = () => $$('input[name="retry_on"]');
const retryOn = () =>
  classes()
    .filter((box) => box.checked)
    .map((box) => box.value);

// --- what is sent -------------------------------------------------------------------------------

function metadata() {
  const given = $("metadata").value.trim();
  let said = {};
  if (given) {
    try {
      said = JSON.parse(given);
    } catch {
      said = null;
    }
    if (said === null || typeof said !== "object" || Array.isArray(said))
      return {
        errors: [
          { field: "metadata", message: 'Must be a JSON object, such as {"scene": "shot_001"}.' },
        ],
      };
  }
  return { metadata: said, errors: [] };
}

const number = (id) => ($(id).value.trim() === "" ? undefined : Number($(id).value));

// Returns the request's body as text and what is wrong already.
function body() {
  const errors = [];
  const ids = backends();
  const { parameters, errors: wrong, lacks } = changed();
  const meta = metadata();
  const [listed, swept] = [list.read(literals), sweep.read()];
  // A list may have a file in each of its lines.
  errors.push(...(text ? wrong : []), ...(text && !listed ? lacks : []), ...meta.errors);
  if (!text) errors.push({ field: "workflow_json", message: "Choose a workflow first." });
  const batch = listed || swept;
  if (listed && swept)
    listed.errors.push({
      field: "sweep",
      message: "Inputs cannot vary and come from a list. Remove the list, or vary no input.",
    });
  const jobs = batch ? "1" : $("count").value.trim();
  const most = inPool() ? POOL : CHILDREN;
  if (batch) errors.push(...batch.errors);
  if (!/^\d+$/.test(jobs) || Number(jobs) < 1 || Number(jobs) > most)
    errors.push({ field: "count", message: `Must be a whole number from 1 to ${most}.` });
  else if (!ids.length)
    errors.push({
      field: "backend_ids",
      message: `Choose at least one backend${inPool() && tags().length ? " or tag" : ""}.`,
    });
  // What a browser cannot read as a number it gives as nothing.
  for (const [id, field] of [
    ["timeout", "timeout_seconds"],
    ["stall", "stall_seconds"],
    ["retention", "retention_days"],
    ["priority", "priority"],
    ["at-once", "max_running"],
    ["start-after", "start_after"],
    ["stop-completed", "stop_when"],
    ["stop-failed", "stop_when"],
  ])
    if ($(id).validity.badInput)
      errors.push({ field, message: `Must be a whole number from ${$(id).min} to ${$(id).max}.` });
  const rest = {
    backend_ids: ids,
    count: inPool() && !batch ? count() : undefined,
    sweep: batch?.sweep,
    jobs: batch?.jobs,
    seed_strategy: batch && !batch.hasStrategy ? undefined : $("strategy").value,
    timeout_seconds: number("timeout"),
    stall_seconds: number("stall"),
    retention_days: number("retention"),
    priority: number("priority"),
    max_running: number("at-once"),
    start_after: $("start-after").value
      ? new Date($("start-after").value).toISOString()
      : undefined,
  };
  if (Object.keys(parameters).length) rest.parameters = parameters;
  if (Object.keys(meta.metadata || {}).length) rest.metadata = meta.metadata;
  if (capabilities.length) rest.required_capabilities = capabilities;
  const elsewhere = $("elsewhere").value;
  const tries = $("tries").value.trim();
  if (elsewhere !== "no" && !/^([1-9]|10)$/.test(tries))
    errors.push({ field: "max_attempts", message: "Must be a whole number from 1 to 10." });
  rest.max_attempts = elsewhere === "no" ? 1 : Number(tries);
  if (!inPool())
    rest.retry_elsewhere = elsewhere === "no" || elsewhere === "never" ? false : elsewhere;
  if (retryOn().length && elsewhere !== "no") rest.retry_on = retryOn();
  if ($("partial-outputs").value !== "accept") rest.partial_outputs = $("partial-outputs").value;
  const stop = { completed: number("stop-completed"), failed: number("stop-failed") };
  if (stop.completed !== undefined || stop.failed !== undefined) rest.stop_when = stop;
  if ($("name").value.trim()) rest.name = $("name").value.trim();
  if ($("shared")?.checked) rest.visibility = "shared";
  const submitter = $("submitter");
  // It is disabled if the account counts.
  if (!submitter.disabled && submitter.value.trim()) rest.submitter = submitter.value.trim();
  const base = $("base").value.trim();
  if (base && !/^\d{1,16}$/.test(base))
    errors.push({
      field: "base_seed",
      message: "Must be a whole number from 0 to 9007199254740991.",
    });
  else if (base) rest.base_seed = Number(base);
  return {
    text: `{"workflow_json":${(text && drawn) || text.trim() || "{}"},${JSON.stringify(rest).slice(1)}`,
    errors,
    lacks: listed ? [] : lacks,
    ids,
    batch,
  };
}

function complain(errors) {
  const left = sweep.located(errors);
  for (const place of $$("[data-error]")) {
    const name = place.dataset.error;
    const mine = name
      ? left.filter((one) => one.field === name || one.field.startsWith(`${name}.`))
      : [];
    for (const one of mine) left.splice(left.indexOf(one), 1);
    place.textContent = mine
      .map((one) =>
        one.field === name || name.startsWith("parameters.")
          ? one.message
          : `${one.field}: ${one.message}`,
      )
      .join(" ");
    place
      .closest(".field")
      ?.querySelector("input, select, textarea")
      ?.setAttribute("aria-invalid", String(mine.length > 0));
  }
  // Fields inside a folded part must be seen.
  for (const place of $$(".field-error"))
    if (place.textContent)
      for (let at = place; (at = at.parentElement.closest("details")); ) at.open = true;
  $("other-error").textContent = left
    .map((one) => (one.field ? `${one.field}: ${one.message}` : one.message))
    .join(" ");
}

function update() {
  const made = body();
  const { batch } = made;
  sweep.show(batch);
  for (const output of $$("[data-share]")) {
    const share = inPool() ? 0 : made.ids.filter((id) => id === output.dataset.share).length;
    output.textContent = share ? `× ${share}` : "";
  }
  $("tries-field").hidden = $("retry-on-box").hidden = $("elsewhere").value === "no";
  $("retry-on-said").textContent = retryOn().length
    ? `: ${retryOn().length} chosen`
    : ": any, with partner nodes none";
  const total = batch ? (batch.errors.length ? 0 : batch.total) : count();
  const sends = made.ids.length && total ? `${counted(total, "job")} on ${places(made.ids)}` : "";
  $("sends").textContent = sends;
  limit();
  $("more-said").textContent = [
    "name",
    "timeout",
    "stall",
    "retention",
    "priority",
    "at-once",
    "start-after",
    "stop-completed",
    "stop-failed",
    "metadata",
  ]
    .filter((id) => $(id).value.trim() && !(id === "timeout" && number(id) === DEFAULT_LIMIT))
    .map(
      (id) =>
        $(id)
          .closest("label")
          .firstChild.textContent.trim()
          .split(/,| as JSON/)[0],
    )
    .join(" · ");
  seeds(made.ids.length ? (batch ? batch.seeds : total) : 0, batch?.seeds === 1);
  if ($("curl-box").open) curl(made);
  // The plan judges the values of the sweep, in the place of those that the workflow has.
  const isPlanned = !made.errors.length && (batch || usual() !== null);
  sweep.plan(isPlanned ? made.text : null, Boolean(batch), (time) => {
    $("ends").textContent = time;
  });
  const { parameters, errors } = changed();
  for (const { label } of literals.filter((one) => one.file)) {
    const place = label.querySelector("[data-error]");
    const lack = made.lacks.find((one) => one.field === place.dataset.error);
    place.textContent = lack?.message || "";
    label.querySelector("input").setAttribute("aria-invalid", String(Boolean(lack)));
  }
  if (batch || !errors.length)
    check(
      text,
      {
        ...(!batch && { parameters }),
        required_capabilities: capabilities,
        backend_ids: made.ids.length ? [...new Set(made.ids)] : ["*"],
      },
      Boolean(batch),
      answered,
    );
}
// The time that a job usually takes, in seconds; null: not known.
const usual = () => (offers.text === text && offers.answer?.usual_seconds) || null;
function limit() {
  const seconds = usual();
  const most = number("timeout") ?? (number("stall") === undefined ? DEFAULT_LIMIT : Infinity);
  const shown = seconds && Number(seconds.toPrecision(2));
  $("timeout").placeholder = `${DEFAULT_LIMIT}${shown ? `; usually ${shown}` : ""}`;
  const short =
    seconds !== null && most < seconds
      ? `The time limit of ${most} s is too short: a job of this workflow usually takes ${shown} s.`
      : "";
  const hint = short || (shown && number("timeout") !== undefined ? `Usually ${shown} s.` : "");
  for (const [id, words] of [
    ["limit-warns", short],
    ["limit-hint", hint],
  ])
    if ($(id).textContent !== words) $(id).textContent = words;
  $("limit-hint").className = short ? "warns" : "sub";
}
function places(ids) {
  if (!inPool()) return `${counted(new Set(ids).size, "backend")} in turn`;
  const all = candidates();
  const online = all.filter((box) => box.dataset.online === "yes").length;
  const these = all.length === 1 ? "1 backend" : `any of ${all.length} backends`;
  return online === all.length ? these : `${these}, ${online} online now`;
}
function curl(made) {
  const quoted = made.text.replaceAll("'", "'\\''");
  $("curl").textContent =
    `curl -X POST ${location.origin}/api/job-group \\\n  -H 'Content-Type: application/json' \\\n  -d '${quoted}'`;
}
$("curl-box").ontoggle = () => curl(body());
$("copy-curl").onclick = async () => {
  curl(body());
  toast((await copy($("curl").textContent)) ? "Copied." : "Copying is not allowed here.");
};
document.addEventListener("keydown", (event) => {
  if (
    event.key !== "Enter" ||
    !(event.ctrlKey || event.metaKey) ||
    document.querySelector("dialog[open]")
  )
    return;
  event.preventDefault();
  if (!$("send").disabled) $("submit").requestSubmit();
});
$("submit").oninput = (event) => {
  if (event.target.id !== "paste") update();
};

// A press that is repeated, by hand or by the network, must make one group: one key a form's content.
let key = null;
let keyed = "";
const newKey = () =>
  [...crypto.getRandomValues(new Uint8Array(16))]
    .map((byte) => byte.toString(16).padStart(2, "0"))
    .join("");

const showError = () =>
  document.querySelector(".field-error:not(:empty)")?.scrollIntoView({ block: "center" });
$("submit").onsubmit = async (event) => {
  event.preventDefault();
  const made = body();
  complain(made.errors);
  if (made.errors.length) {
    showError();
    return;
  }
  if (made.text !== keyed) {
    keyed = made.text;
    key = newKey();
  }
  $("send").disabled = true;
  try {
    const response = await send("/api/job-group", {
      method: "POST",
      headers: { "Content-Type": "application/json", "Idempotency-Key": key },
      body: made.text,
    });
    const answer = await response.json();
    if (response.ok) {
      rememberSaid();
      location.href = `/groups/${answer.job_group_id}`;
      return;
    }
    const reasons = ({ reason: message }) => [{ node_id: null, message, nearest: [] }];
    const skipped = whyLines(
      (answer.skipped_backends || []).map((one) => ({ ...one, reasons: reasons(one) })),
    ).map((message) => ({ field: "backend_ids", message }));
    if (skipped.length) hide();
    complain(
      answer.errors?.length
        ? answer.errors
        : skipped.length
          ? skipped
          : [{ field: "", message: answer.detail || `The Director answered ${response.status}.` }],
    );
    showError();
  } catch {
    complain([
      {
        field: "",
        message: "The Director does not answer. Press Submit again: it is submitted once.",
      },
    ]);
  } finally {
    $("send").disabled = false;
  }
};

// --- again --------------------------------------------------------------------------------------

async function repeat() {
  const { name, ...rest } = again.metadata || {};
  // Groups had their name in the metadata before they had a field for it.
  const isName = typeof name === "string" && !again.name;
  $("name").value = isName ? name.slice(0, 200) : again.name;
  if (name !== undefined && !isName) rest.name = name;
  if (Object.keys(rest).length) {
    $("metadata").value = JSON.stringify(rest, null, 2);
    $("metadata-box").open = true;
  }
  $("strategy").value = again.seed_strategy;
  $("timeout").value = again.timeout_seconds ?? "";
  $("stall").value = again.stall_seconds ?? "";
  $("retention").value = again.retention_days ?? "";
  if (again.priority !== 50) $("priority").value = Math.min(again.priority, $("priority").max);
  $("at-once").value = again.max_running ?? "";
  for (const kind of ["completed", "failed"])
    $(`stop-${kind}`).value = again.stop_when?.[kind] ?? "";
  if (again.base_seed !== null) $("base").value = again.base_seed;
  kept = { ...again.parameters };
  capabilities = again.required_capabilities || [];
  for (const box of classes()) box.checked = (again.retry_on || []).includes(box.value);
  $("partial-outputs").value = again.partial_outputs;
  // The name of the person at this browser counts; that of the group where none is known.
  $("submitter").value ||= again.submitter;
  setWhere(!again.candidates ? "turn" : again.candidates.includes("*") ? "any" : "some");
  $("count").value = again.count;
  const chosen = again.candidates || again.backend_ids;
  for (const box of tags()) box.checked = chosen.includes(`tag:${box.value}`);
  for (const box of boxes()) box.checked = !box.disabled && chosen.includes(box.value);
  onFailure(
    again.max_attempts === 1 && (again.candidates || !again.retry_elsewhere)
      ? "no"
      : again.retry_elsewhere || "never",
    String(again.max_attempts),
  );
  ofGroup = said();
  try {
    const response = await fetch(`/api/job-groups/${again.job_group_id}/workflow`);
    if (!response.ok) throw new Error();
    await show(await response.text(), again.title);
    if (again.sweep && text) sweep.restore(again.sweep, literals);
    if (again.jobs) list.keep(again.job_group_id, again.jobs);
    update();
  } catch {
    complain([
      { field: "workflow_json", message: "The earlier workflow could not be read; try again." },
    ]);
  }
}
// Also what an unexpected value stopped is shown: the form could not be used otherwise.
if (again) repeat().finally(() => $("submit").classList.remove("filling"));
update();
