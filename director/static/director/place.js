// The dialog that asks at which backend jobs are rendered: for a retry and for a move.
import { $, call, confirmed, counted, make } from "./dom.js";

const GIB = 2 ** 30;
const WORKS = ["online", "busy"];
const CLOSED = ["disabled", "draining", "quarantined", "removed"];
const rank = ({ status }) => (WORKS.includes(status) ? 0 : CLOSED.includes(status) ? 2 : 1);

function optionOf(text, value, status) {
  const option = new Option(text, value);
  option.disabled = CLOSED.includes(status);
  return option;
}
function named(backend) {
  const vram = Math.max(0, ...(backend.devices || []).map((one) => one.vram_total || 0));
  const size = vram ? `, ${Math.round(vram / GIB)} GB` : "";
  const text = `${backend.name || backend.backend_id} (${backend.status}${size})`;
  return optionOf(text, `backend:${backend.backend_id}`, backend.status);
}

export const ANY = "Any backend of the group that is free";
const NUMBERS = 12; // of jobs that a line lists

// Returns the lines that say which jobs go where, for a place as the dialog has it.
// jobs: {number, backend_id, failure_class} each; of their group, placement and retry_elsewhere, as the API has them.
export function planOf(
  jobs,
  { placement, retry_elsewhere: elsewhere },
  place,
  { nameOf, statusOf },
) {
  const better = $("place").dataset.elsewhere.split(" ");
  const [kind, value] = [place.slice(0, place.indexOf(":")), place.slice(place.indexOf(":") + 1)];
  const works = (id) => WORKS.includes(statusOf(id));
  const stated = (id) => (works(id) ? nameOf(id) : `${nameOf(id)} (${statusOf(id)})`);
  const where = ({ backend_id: id, failure_class: failure }) => {
    if (kind === "backend") return stated(value);
    if (value === "other") return id ? `another backend than ${nameOf(id)}` : "any other backend";
    if (!id || (value === "auto" && placement === "pool"))
      return "any backend of the group that is free";
    if (value === "auto" && better.includes(failure))
      return `a backend that suits them better than ${nameOf(id)}, or ${stated(id)}`;
    if (value === "auto" && elsewhere && (failure || !works(id)))
      return `another backend${elsewhere === "group" ? " of the group" : ""} that works, or ${stated(id)}`;
    return stated(id);
  };
  const lines = new Map();
  for (const job of jobs)
    lines.set(where(job), [...(lines.get(where(job)) || []), `#${job.number}`]);
  return [...lines].map(([target, numbers]) => {
    const more = numbers.length - NUMBERS;
    const listed = numbers.slice(0, NUMBERS).join(", ");
    return `${listed}${more > 0 ? ` and ${counted(more, "more job")}` : ""}: ${target}`;
  });
}

// Resolves to the backends, and to functions from an id to the name and the status; a backend that was removed has only
// its id.
export async function knownBackends() {
  const { backends } = await call("GET", "/api/backends");
  const rows = new Map(backends.map((one) => [one.backend_id, one]));
  return {
    backends,
    nameOf: (id) => rows.get(id)?.name || id,
    statusOf: (id) => rows.get(id)?.status || "removed",
  };
}

// Asks; resolves to {where} or {backend_id}, as the API takes it, or to null.
// own: the backend of the jobs, as {id, name}; it is offered as the same one, without an id for jobs of several.
// chosen: "same", "other" or "auto" (a job of the pool: any of its backends), which is preselected; nothing: only named
// backends are offered (a move). auto: what "auto" is called. plan: returns the lines that say which jobs go where, of a place.
export async function askPlace({ title, text, yes, own, chosen, auto = ANY, plan }) {
  const known = await knownBackends();
  const others = known.backends.filter((one) => one.backend_id !== own.id);
  others.sort((one, other) => rank(one) - rank(other));
  const status = own.id ? known.statusOf(own.id) : "online";
  const state = WORKS.includes(status) ? "" : `, ${status}`;
  const general = [];
  if (chosen === "auto") general.push(new Option(auto, "where:auto"));
  if (chosen && (own.id || plan))
    general.push(optionOf(`The same backend (${own.name}${state})`, "where:same", status));
  if (chosen) general.push(new Option("Another backend that works", "where:other"));
  const select = $("place-where");
  select.replaceChildren(...general, ...others.map(named));
  if (chosen) select.value = `where:${chosen}`;
  if (select.selectedOptions[0]?.disabled) select.value = "where:other";
  $("place-title").textContent = title;
  $("place-text").textContent = text;
  $("place-yes").textContent = yes;
  $("place-yes").disabled = !select.value;
  $("place-plan").hidden = !plan;
  select.onchange = () => {
    const lines = plan?.(select.value, known) || [];
    $("place-plan").replaceChildren(...lines.map((line) => make("li", {}, line)));
  };
  select.onchange();
  if (!(await confirmed($("place")))) return null;
  const at = select.value.indexOf(":");
  return {
    [select.value.slice(0, at) === "where" ? "where" : "backend_id"]: select.value.slice(at + 1),
  };
}
