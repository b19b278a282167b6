// The list of groups: rows morph when their group moves, new ones come in at the top.

import { deleteGroups } from "./deletion.js";
import {
  $,
  $$,
  actor,
  ask,
  call,
  confirmed,
  counted,
  onClick,
  onFiles,
  remember,
  sendAll,
  toast,
  unfinished,
} from "./dom.js";
import { onFilters } from "./filters.js";
import { preview, tryAgain } from "./images.js";
import { chime, favicon, monitor } from "./live.js";
import { afterMorph, refresh } from "./parts.js";
import { progressed } from "./progress.js";
import { asks, retry } from "./retry.js";
import { chosen, picked, selectNone } from "./selection.js";
import "./menus.js";

const rows = () => $$(".row");
const shown = () =>
  rows()
    .slice(0, 100)
    .map((row) => row.id);
// Live previews are sent for the first that run; they cost the GPUs some time.
const PREVIEWED = 10;
const previewed = () =>
  rows()
    .filter((row) => row.dataset.open === "yes")
    .slice(0, PREVIEWED)
    .map((row) => row.id);
let watched = [];
let live = [];

const line = monitor(
  () => {
    watched = shown();
    return watched;
  },
  {
    open: (again) => {
      if (again) refresh($("rows"));
    },
    snapshot: (frame) => {
      for (const [id, seq] of Object.entries(frame.seqs)) {
        const row = $(id);
        if (row && Number(row.dataset.seq) < seq) refresh(row);
      }
      pulse(frame);
    },
    event: (frame) => {
      refresh($(frame.group));
      if (frame.event === "group_complete") chime();
    },
    progress: progressed,
    preview: (frame) => {
      if ($(`p-${frame.group}`)) preview($(`p-${frame.group}`), frame.preview);
    },
    pulse: (frame) => {
      pulse(frame);
      tryAgain();
    },
    // A group was renamed, archived or deleted: the filters decide whether it is still in the list.
    changed: () => refresh($("rows")),
  },
  [],
  () => {
    live = previewed();
    return live;
  },
);

function pulse(frame) {
  // A newest group that stands in no row is new, unless an older page or filters hide it.
  const list = $("rows");
  if (
    frame.newest &&
    frame.newest !== list.dataset.newest &&
    list.dataset.first === "yes" &&
    !$(frame.newest)
  )
    refresh(list);
  list.dataset.newest = frame.newest;
}

function title() {
  const running = rows().filter((row) => row.dataset.open === "yes");
  document.title = running.length ? `${running.length} running · Director` : "Groups · Director";
  favicon(running.length ? "running" : "");
  $("cancel-all").hidden = !running.length;
}

afterMorph((id) => {
  title();
  picked();
  const isOther = id === "rows" && shown().join() !== watched.join();
  if (isOther || previewed().some((one) => !live.includes(one))) line.again();
});
title();

// --- filters, and the size of the rows ----------------------------------------------------------

onFilters((query) => {
  $("rows").dataset.part = `/parts/groups?${query}`;
  refresh($("rows"));
  $("selection-archive").textContent = $("filters").elements.archived.checked
    ? "Take out of the archive"
    : "Archive";
});
$("large").checked = document.documentElement.dataset.rows === "large";
$("large").onchange = ({ target }) => {
  document.documentElement.dataset.rows = target.checked ? "large" : "dense";
  remember("director.rows", target.checked ? "large" : "");
};

// --- a dropped picture opens the job that made it -----------------------------------------------

onFiles(document, async ([file]) => {
  const form = new FormData();
  form.append("file", file);
  try {
    const found = await call("POST", "/api/provenance", form);
    location.href = `/groups/${found.job_group_id}?job=${found.job_id}#${found.job_id}`;
  } catch (error) {
    toast(error.message);
  }
});

// --- select many, act once -----------------------------------------------------------------------

$("selection-retry").onclick = async () => {
  const failed = chosen().filter((row) => Number(row.dataset.retry));
  if (!failed.length) {
    toast("No selected group that has ended has failed jobs.");
    return;
  }
  const jobs = failed.reduce((sum, row) => sum + Number(row.dataset.retry), 0);
  if (!(await asks(jobs, failed.length, 0))) return;
  const refused = [];
  let done = 0;
  // One after the other: each may ask whether other backends may be used.
  for (const row of failed) {
    try {
      done += await retry(row.id, row.dataset.run, undefined, { where: "auto", ...actor() });
    } catch (error) {
      refused.push(error.message);
    }
  }
  if (refused.length)
    toast(`${counted(refused.length, "group")} could not be retried: ${refused[0]}`);
  else if (failed.length > 1) toast(`${counted(done, "group")} retried.`);
  selectNone();
};
$("selection-cancel").onclick = async () => {
  const open = chosen().filter((row) => row.dataset.open === "yes");
  if (!open.length) {
    toast("All selected groups have ended.");
    return;
  }
  const left = open.reduce((sum, row) => sum + Number(row.dataset.left), 0);
  const running = open.reduce((sum, row) => sum + Number(row.dataset.running), 0);
  const rest = chosen().length - open.length;
  const names = open
    .slice(0, 5)
    .map((row) => row.dataset.name.slice(0, 80))
    .join("\n");
  const more = open.length > 5 ? `\nand ${open.length - 5} more` : "";
  const yes = await ask(
    `Cancel ${open.length} group${open.length > 1 ? "s" : ""}?`,
    `${unfinished(left, running)}${rest ? ` ${rest} selected ${rest > 1 ? "have" : "has"} finished and stay${rest > 1 ? "" : "s"} as ${rest > 1 ? "they are" : "it is"}.` : ""}\n\n${names}${more}`,
    "Cancel groups",
    "Keep them",
  );
  if (!yes) return;
  const requests = open.map((row) => call("DELETE", `/api/job-groups/${row.id}`));
  await sendAll(
    requests,
    (failed) => `${failed} could not be cancelled`,
    `${open.length} cancelled.`,
  );
  selectNone();
};

$("cancel-all").onclick = async () => {
  const path = "/api/job-groups/cancel";
  try {
    const open = await call("GET", path);
    const jobs = `${counted(open.jobs, "job")} of ${counted(open.groups, "group")}`;
    const text = unfinished(open.jobs, open.running, jobs);
    const which = "Groups on other pages, and those that filters hide, are among them.";
    if (!(await ask("Stop everything?", `${text} ${which}`, "Stop all", "Keep them"))) return;
    let done = 0;
    for (let left = 1; left; ) {
      const part = await call("POST", path);
      done += part.jobs;
      left = part.remaining;
    }
    toast(`${counted(done, "job")} cancelled.`);
  } catch (error) {
    toast(error.message);
  }
};

// --- rename, archive, delete ---------------------------------------------------------------------

// Archives groups, or takes them out of the archive; says how many, and why not the others.
async function archive(some) {
  const archived = some[0].dataset.archived !== "yes";
  const requests = some.map((row) => call("PATCH", `/api/job-groups/${row.id}`, { archived }));
  const what = archived ? "archived: the lists leave them out" : "in the lists again";
  await sendAll(
    requests,
    (failed) => `${counted(failed, "group")} could not be changed`,
    `${counted(some.length, "group is", "groups are")} ${what}.`,
  );
}

async function rename(row) {
  $("rename-name").value = row.dataset.own;
  $("rename-name").placeholder = row.dataset.name;
  if (!(await confirmed($("rename")))) return;
  try {
    await call("PATCH", `/api/job-groups/${row.id}`, { name: $("rename-name").value.trim() });
  } catch (error) {
    toast(error.message);
  }
}

async function act(what, some) {
  if (what === "rename") rename(some[0]);
  if (what === "archive") await archive(some);
  if (what === "delete" && !(await deleteGroups(some.map((row) => row.id)))) return;
  if (what === "rename") return;
  selectNone();
  refresh($("rows"));
}
onClick(".row [data-act]", (button) => act(button.dataset.act, [button.closest(".row")]));
$("selection-archive").onclick = () => act("archive", chosen());
$("selection-delete").onclick = () => {
  const ended = chosen().filter((row) => row.dataset.open !== "yes");
  if (ended.length) act("delete", ended);
  else toast("No selected group has ended: cancel them first.");
};
