// The backends: a table that is searched and filtered here, and sorted by the server.
import { $, $$, call, confirmed, counted, make, onClick, toast } from "./dom.js";
import { act, each } from "./holds.js";
import { afterMorph } from "./parts.js";
import { chosen, onPicked, picked } from "./selection.js";
import { follow } from "./working.js";
import "./rename.js";

// What the user has set stays when a fragment comes.
htmx.config.morphIgnore.push("data-out", "aria-pressed");
const again = follow("backends");
const rows = () => $$("#farm tbody tr");

// --- search and chips: the hash of the URL keeps them ---------------------------------------------

const said = new URLSearchParams(location.hash.slice(1));
const chosenStatus = new Set(said.getAll("status"));
const chosenTags = new Set(said.getAll("tag"));
$("search").value = said.get("text") || "";

function isShown(row, words) {
  if (
    chosenStatus.size &&
    ![...chosenStatus].some((status) => row.classList.contains(`s-${status}`))
  )
    return false;
  if (chosenTags.size) {
    const tags = $$("[data-tag]", row).map((one) => one.dataset.tag);
    if (![...chosenTags].every((tag) => tags.includes(tag))) return false;
  }
  if (!words.length) return true;
  const text = `${row.dataset.find} ${row.textContent}`.toLowerCase();
  return words.every((word) => text.includes(word));
}
function filter() {
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const isNarrow = words.length + chosenStatus.size + chosenTags.size > 0;
  let count = 0;
  for (const row of rows()) {
    const shown = isShown(row, words);
    row.toggleAttribute("data-out", !shown);
    // No action concerns a backend that is not shown.
    if (shown) count++;
    else row.querySelector("[name=pick]").checked = false;
  }
  for (const chip of $$("#backends .chip")) {
    chip.ariaPressed = chosenStatus.has(chip.dataset.status) || chosenTags.has(chip.dataset.tag);
  }
  $("shown-count").textContent = isNarrow
    ? `${count} of ${counted(rows().length, "backend")}`
    : counted(count, "backend");
  $("show-all").hidden = !isNarrow;
  if ($("fits-none")) $("fits-none").hidden = count > 0;
  picked();
}
function keep() {
  const parts = new URLSearchParams();
  if ($("search").value.trim()) parts.set("text", $("search").value.trim());
  for (const status of chosenStatus) parts.append("status", status);
  for (const tag of chosenTags) parts.append("tag", tag);
  const hash = parts.size ? `#${parts}` : "";
  history.replaceState(null, "", `${location.pathname}${location.search}${hash}`);
  filter();
}
$("search").oninput = keep;
$("show-all").onclick = () => {
  $("search").value = "";
  chosenStatus.clear();
  chosenTags.clear();
  keep();
  $("search").focus();
};
onClick("#backends .chip", (chip) => {
  const [of, value] = chip.dataset.status
    ? [chosenStatus, chip.dataset.status]
    : [chosenTags, chip.dataset.tag];
  if (!of.delete(value)) of.add(value);
  keep();
});

// The server sorts: a fragment that comes later has the same order.
onClick("[data-sort]", (link, event) => {
  if (event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  const query = `?sort=${link.dataset.sort}`;
  history.replaceState(null, "", `${location.pathname}${query}${location.hash}`);
  $("backends").dataset.part = `/parts/backends${query}`;
  again();
});

// --- select several ------------------------------------------------------------------------------

const fitting = (word) =>
  chosen()
    .map((row) => row.dataset)
    .filter((one) => !(word in LABELS) || one.acts.split(" ").includes(word));
const LABELS = {
  pause: "paused",
  drain: "being drained",
  resume: "resumed",
  enable: "enabled",
  disable: "disabled",
};
onPicked(() => {
  for (const button of $$("[data-many]", $("selection")))
    button.disabled = !fitting(button.dataset.many).length;
});

$("selection").onclick = async (event) => {
  const word = event.target.closest("[data-many]")?.dataset.many;
  if (!word) return;
  const targets = fitting(word);
  const result =
    word === "tag" || word === "untag" ? await changeTags(word, targets) : await act(word, targets);
  if (result) report(result, LABELS[word] || "changed");
};

function report({ done, failed }, what) {
  again();
  if (done) toast(`${counted(done, "backend is", "backends are")} ${what}.`);
  $("report").hidden = !failed.length;
  if (!failed.length) return;
  $("report-title").textContent = `${counted(failed.length, "backend")} could not be changed:`;
  $("report-list").replaceChildren(
    ...failed.map((one) => make("li", {}, `${one.name}: ${one.message}`)),
  );
}
$("report-close").onclick = () => {
  $("report").hidden = true;
};

const tagsOf = (targets) =>
  [
    ...new Set(
      targets.flatMap((one) =>
        $$("[data-tag]", $(`b-${one.backend}`)).map((tag) => tag.dataset.tag),
      ),
    ),
  ].sort();
async function changeTags(word, targets) {
  const isNew = word === "tag";
  $("tag-title").textContent =
    `${isNew ? "Add a tag to" : "Remove a tag from"} ${counted(targets.length, "backend")}`;
  $("tag-yes").textContent = isNew ? "Add" : "Remove";
  $("tag-name").value = "";
  $("tag-known").replaceChildren(
    ...tagsOf(isNew ? rows().map((row) => row.dataset) : targets).map((tag) => new Option(tag)),
  );
  if (!(await confirmed($("tag")))) return null;
  const tag = $("tag-name").value.trim();
  if (!tag) return null;
  return each(targets, async (path) => {
    const { tags } = await call("GET", path);
    const others = tags.filter((one) => one !== tag);
    await call("PATCH", path, { tags: isNew ? [...others, tag] : others });
  });
}

// --- the menu of a row ---------------------------------------------------------------------------

let target = null; // the data of its row
const menu = $("row-menu");
onClick("[data-menu]", (button) => {
  target = button.closest("tr").dataset;
  for (const one of menu.children) one.hidden = !target.acts.split(" ").includes(one.dataset.act);
  menu.showPopover();
  const place = button.getBoundingClientRect();
  const above = place.bottom + menu.offsetHeight > innerHeight;
  menu.style.top = `${above ? Math.max(0, place.top - menu.offsetHeight) : place.bottom}px`;
  menu.style.left = `${Math.max(0, place.right - menu.offsetWidth)}px`;
  menu.querySelector("button:not([hidden])")?.focus();
});
addEventListener("scroll", () => menu.hidePopover(), { passive: true });
menu.onclick = async (event) => {
  const word = event.target.closest("[data-act]")?.dataset.act;
  if (!word) return;
  menu.hidePopover();
  const result = await act(word, [target]);
  if (!result) return;
  if (result.failed.length) toast(result.failed[0].message);
  again();
};

filter();
afterMorph((id) => {
  if (id === "backends") filter();
});

// --- found on this machine ------------------------------------------------------------------------

const DECIDED = { add: "is added.", ignore: "is ignored.", unignore: "is no longer ignored." };
onClick("[data-found]", async (button) => {
  const { found: decision, url } = button.dataset;
  button.disabled = true;
  try {
    await call("POST", `/api/backends/found/${decision}`, { url });
    toast(`${url.split("://")[1]} ${DECIDED[decision]}`);
  } catch (error) {
    toast(error.message);
  } finally {
    button.disabled = false;
    again();
  }
});

// --- add -----------------------------------------------------------------------------------------

const form = $("add-form");
function values() {
  const data = Object.fromEntries(new FormData(form));
  const tags = data.tags
    .split(",")
    .map((tag) => tag.trim())
    .filter(Boolean);
  return {
    url: data.url.trim(),
    ...(data.name.trim() && { name: data.name.trim() }),
    ...(tags.length && { tags }),
  };
}
function complain(errors) {
  for (const place of $$("[data-error]", form)) {
    const error = errors.find(
      (one) => one.field.split(".")[0].split("[")[0] === place.dataset.error,
    );
    place.textContent = error ? error.message : "";
    form.elements[place.dataset.error].ariaInvalid = Boolean(error);
  }
}
function tell(text, kind) {
  $("tested").textContent = text;
  $("tested").className = `tested ${kind}`;
}
$("add-open").onclick = () => {
  form.reset();
  complain([]);
  tell("", "");
  $("add").showModal();
};

// Sends the form by a request; shows what is done meanwhile, and what is wrong with the form.
async function send(what, request) {
  complain([]);
  if (!values().url) {
    complain([{ field: "url", message: "Enter an address." }]);
    return;
  }
  tell(what, "");
  try {
    await request();
  } catch (error) {
    complain(error.errors || []);
    tell(error.errors?.length ? "" : error.message, "wrong");
  }
}
$("test").onclick = () =>
  send("Testing …", async () => {
    const answer = await call("POST", "/api/backends/test", { url: values().url });
    if (answer.ok)
      tell(
        `Online: ComfyUI ${answer.comfyui_version || ""}${answer.devices?.[0] ? `, ${answer.devices[0].name}` : ""}.`,
        "good",
      );
    else tell(answer.reason || "It does not answer.", "wrong");
  });
form.onsubmit = (event) => {
  event.preventDefault();
  send("Adding …", async () => {
    const added = await call("POST", "/api/backends", values());
    again();
    if (added.status === "offline")
      tell(
        `Added as ${added.name || added.backend_id}, but it is offline: ${added.status_reason || "no answer"}`,
        "wrong",
      );
    else {
      $("add").close();
      toast(`${added.name || added.backend_id} is added.`);
    }
  });
};

// --- find ----------------------------------------------------------------------------------------

$("find").onclick = async () => {
  $("find").disabled = true;
  try {
    const answer = await call("POST", "/api/backends/find", {});
    const list = $("found-list");
    list.replaceChildren();
    const found = answer.found;
    if (!found.length)
      list.textContent = "No new ComfyUI was found on ports 8188 to 8199 of this machine.";
    for (const one of found) {
      const add = make(
        "button",
        { className: "button small", disabled: Boolean(one.backend_id) },
        one.backend_id ? "Known" : "Add",
      );
      add.onclick = async () => {
        add.disabled = true;
        try {
          await call("POST", "/api/backends", { url: one.url });
          add.textContent = "Added";
          again();
        } catch (error) {
          toast(error.message);
        }
      };
      list.append(make("div", { className: "actions" }, make("code", {}, one.url), add));
    }
    $("found").showModal();
  } catch (error) {
    toast(error.message);
  } finally {
    $("find").disabled = false;
  }
};
