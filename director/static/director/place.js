// The dialog that asks at which backend jobs are rendered: for a retry and for a move.
import { $, call, confirmed, counted, make } from "./dom.js";

const GIB = 2 ** 30;
const CLOSED = ["disabled", "draining", "quarantined"];

function named(backend) {
  const vram = Math.max(0, ...(backend.devices || []).map((one) => one.vram_total || 0));
  const size = vram ? `, ${Math.round(vram / GIB)} GB` : "";
  const option = new Option(
    `${backend.name || backend.backend_id} (${backend.status}${size})`,
    `backend:${backend.backend_id}`,
  );
  option.disabled = CLOSED.includes(backend.status);
  return option;
}

export const ANY = "Any backend of the group that is free";
const NUMBERS = 12; // of jobs that a line lists

// Returns the lines that say which jobs go where, for a place as the dialog has it.
// jobs: {number, backend_id, failure_class} each; isPool: any backend of the group takes them.
export function planOf(jobs, isPool, place, nameOf) {
  const better = $("place").dataset.elsewhere.split(" ");
  const [kind, value] = [place.slice(0, place.indexOf(":")), place.slice(place.indexOf(":") + 1)];
  const where = ({ backend_id: id, failure_class: failure }) => {
    if (kind === "backend") return nameOf(value);
    if (value === "other") return id ? `another backend than ${nameOf(id)}` : "any other backend";
    if (!id || (value === "auto" && isPool)) return "any backend of the group that is free";
    if (value === "auto" && better.includes(failure))
      return `a backend that suits them better than ${nameOf(id)}, or ${nameOf(id)}`;
    return nameOf(id);
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

// Resolves to the backends, and to a function from an id to the name; a backend that was removed has only its id.
export async function knownBackends() {
  const { backends } = await call("GET", "/api/backends");
  const names = new Map(backends.map((one) => [one.backend_id, one.name]));
  return { backends, nameOf: (id) => names.get(id) || id };
}

// Asks; resolves to {where} or {backend_id}, as the API takes it, or to null.
// own: the backend of the jobs, as {id, name}; it is offered as the same one, without an id for jobs of several.
// chosen: "same", "other" or "auto" (a job of the pool: any of its backends), which is preselected; nothing: only named
// backends are offered (a move). auto: what "auto" is called. plan: returns the lines that say which jobs go where, of a place.
export async function askPlace({ title, text, yes, own, chosen, auto = ANY, plan }) {
  const { backends, nameOf } = await knownBackends();
  const others = backends.filter((one) => one.backend_id !== own.id).map(named);
  const general = [];
  if (chosen === "auto") general.push(new Option(auto, "where:auto"));
  if (chosen && (own.id || plan))
    general.push(new Option(`The same backend (${own.name})`, "where:same"));
  if (chosen) general.push(new Option("Another backend that works", "where:other"));
  const select = $("place-where");
  select.replaceChildren(...general, ...others);
  if (chosen) select.value = `where:${chosen}`;
  $("place-title").textContent = title;
  $("place-text").textContent = text;
  $("place-yes").textContent = yes;
  $("place-yes").disabled = !select.value;
  $("place-plan").hidden = !plan;
  select.onchange = () => {
    const lines = plan?.(select.value, nameOf) || [];
    $("place-plan").replaceChildren(...lines.map((line) => make("li", {}, line)));
  };
  select.onchange();
  if (!(await confirmed($("place")))) return null;
  const at = select.value.indexOf(":");
  return {
    [select.value.slice(0, at) === "where" ? "where" : "backend_id"]: select.value.slice(at + 1),
  };
}
