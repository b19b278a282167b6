// The dialog that asks at which backend jobs are rendered: for a retry and for a move.
import { $, call, confirmed } from "./dom.js";

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

// Asks; resolves to {where} or {backend_id}, as the API takes it, or to null.
// own: the backend of the jobs, as {id, name}; it is offered as the same one.
// chosen: "same", "other" or "auto" (a job of the pool: any of its backends), which is preselected; nothing: only named
// backends are offered (a move).
export async function askPlace({ title, text, yes, own, chosen }) {
  const { backends } = await call("GET", "/api/backends");
  const others = backends.filter((one) => one.backend_id !== own.id).map(named);
  const general = [];
  if (chosen === "auto")
    general.push(new Option("Any backend of the group that is free", "where:auto"));
  if (chosen && own.id) general.push(new Option(`The same backend (${own.name})`, "where:same"));
  if (chosen) general.push(new Option("Another backend that works", "where:other"));
  const select = $("place-where");
  select.replaceChildren(...general, ...others);
  if (chosen) select.value = `where:${chosen}`;
  $("place-title").textContent = title;
  $("place-text").textContent = text;
  $("place-yes").textContent = yes;
  $("place-yes").disabled = !select.value;
  if (!(await confirmed($("place")))) return null;
  const at = select.value.indexOf(":");
  return {
    [select.value.slice(0, at) === "where" ? "where" : "backend_id"]: select.value.slice(at + 1),
  };
}
