// The backends: the whole list is asked for again when something about any of them changed.
import { $, call, toast } from "./dom.js";
import { act } from "./holds.js";
import { afterMorph, refresh } from "./parts.js";
import { monitor } from "./live.js";

monitor(() => [], {
  open: (again) => { if (again) refresh($("backends")); },
  snapshot: () => refresh($("backends")),
  pulse: () => refresh($("backends")),
});
// What runs moves on without anything changing in kind.
setInterval(() => { if (!document.hidden && document.querySelector(".work.runs")) refresh($("backends")); }, 2000);

// --- pause, drain, disable … ----------------------------------------------------------------------

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-act]");
  if (!button) return;
  const menu = button.closest("details");
  if (menu) menu.open = false;
  try {
    if (await act(button)) refresh($("backends"));
  } catch (error) { toast(error.message); }
});

// --- found on this machine ------------------------------------------------------------------------

const DECIDED = { add: "is added.", ignore: "is ignored.", unignore: "is no longer ignored." };
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-found]");
  if (!button) return;
  const { found: decision, url } = button.dataset;
  button.disabled = true;
  try {
    await call("POST", `/api/backends/found/${decision}`, { url });
    toast(`${url.split("://")[1]} ${DECIDED[decision]}`);
  } catch (error) { toast(error.message); } finally {
    button.disabled = false;
    refresh($("backends"));
  }
});

// --- add -----------------------------------------------------------------------------------------

const form = $("add-form");
function said() {
  const data = Object.fromEntries(new FormData(form));
  const tags = data.tags.split(",").map((tag) => tag.trim()).filter(Boolean);
  return { url: data.url.trim(), ...(data.name.trim() && { name: data.name.trim() }), ...(tags.length && { tags }) };
}
function complain(errors) {
  for (const place of form.querySelectorAll("[data-error]")) {
    const error = errors.find((one) => one.field.split(".")[0].split("[")[0] === place.dataset.error);
    place.textContent = error ? error.message : "";
    form.elements[place.dataset.error].setAttribute("aria-invalid", String(Boolean(error)));
  }
}
function tell(text, kind) {
  $("tested").textContent = text;
  $("tested").className = `tested ${kind}`;
}
$("add-open").addEventListener("click", () => { form.reset(); complain([]); tell("", ""); $("add").showModal(); });
$("add-close").addEventListener("click", () => $("add").close());

$("test").addEventListener("click", async () => {
  complain([]);
  if (!said().url) { complain([{ field: "url", message: "Enter an address." }]); return; }
  tell("Testing …", "");
  try {
    const answer = await call("POST", "/api/backends/test", { url: said().url });
    if (answer.ok) tell(`Online: ComfyUI ${answer.comfyui_version || ""}${answer.devices?.[0] ? `, ${answer.devices[0].name}` : ""}.`, "good");
    else tell(answer.reason || "It does not answer.", "wrong");
  } catch (error) {
    complain(error.errors || []);
    tell(error.errors?.length ? "" : error.message, "wrong");
  }
});
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  complain([]);
  if (!said().url) { complain([{ field: "url", message: "Enter an address." }]); return; }
  tell("Adding …", "");
  try {
    const made = await call("POST", "/api/backends", said());
    refresh($("backends"));
    if (made.status === "offline") tell(`Added as ${made.backend_id}, but it is offline: ${made.status_reason || "no answer"}`, "wrong");
    else { $("add").close(); toast(`${made.name || made.backend_id} is added.`); }
  } catch (error) {
    complain(error.errors || []);
    tell(error.errors?.length ? "" : error.message, "wrong");
  }
});

// --- find ----------------------------------------------------------------------------------------

$("find").addEventListener("click", async () => {
  $("find").disabled = true;
  try {
    const answer = await call("POST", "/api/backends/find", {});
    const list = $("found-list");
    list.replaceChildren();
    const found = answer.found;
    if (!found.length) list.textContent = "No new ComfyUI was found on ports 8188 to 8199 of this machine.";
    for (const one of found) {
      const line = document.createElement("div");
      line.className = "actions";
      const url = document.createElement("code");
      url.textContent = one.url;
      const add = document.createElement("button");
      add.className = "button small";
      add.textContent = one.backend_id ? "Known" : "Add";
      add.disabled = Boolean(one.backend_id);
      add.addEventListener("click", async () => {
        add.disabled = true;
        try { await call("POST", "/api/backends", { url: one.url }); add.textContent = "Added"; refresh($("backends")); } catch (error) { toast(error.message); }
      });
      line.append(url, add);
      list.append(line);
    }
    $("found").showModal();
  } catch (error) { toast(error.message); } finally { $("find").disabled = false; }
});
$("found-close").addEventListener("click", () => $("found").close());

// --- the table -----------------------------------------------------------------------------------

let sorted = null;
function sort() {
  const table = $("machines");
  if (!table || !sorted) return;
  const [column, way] = sorted;
  const rows = [...table.tBodies[0].rows];
  const value = (row) => row.cells[column].dataset.value;
  rows.sort((a, b) => way * value(a).localeCompare(value(b), undefined, { numeric: true }));
  table.tBodies[0].append(...rows);
  for (const [index, head] of [...table.tHead.rows[0].cells].entries()) {
    head.setAttribute("aria-sort", index === column ? (way > 0 ? "ascending" : "descending") : "none");
  }
}
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-sort]");
  if (!button) return;
  const column = Number(button.dataset.sort);
  sorted = [column, sorted?.[0] === column ? -sorted[1] : 1];
  sort();
});
afterMorph(sort);
