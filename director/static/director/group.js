// One group: its events ask for the one card that moved, its progress and previews are drawn here.

import { deleteGroups } from "./deletion.js";
import { $, $$, actor, ask, call, counted, onClick, remember, toast, unfinished } from "./dom.js";
import { preview, tryAgain } from "./images.js";
import { chime, favicon, Live, monitor } from "./live.js";
import { afterMorph, refresh } from "./parts.js";
import { ANY, askPlace, knownBackends, planOf } from "./place.js";
import { againText, retry } from "./retry.js";
import { star } from "./star.js";
import "./viewer.js";
import "./grid.js";
import "./menus.js";

const group = document.body.dataset.group;
let seq = Number(document.body.dataset.seq);
const seen = new Map(); // job → newest progress frame
const previews = new Map(); // job → newest frame that is not drawn yet
let drawing = false;
const FEW = 10; // more cards than this are requested together
const moved = new Set();
let asking = 0;
let looking = 0;

// A backend changed: so may the reasons why one waits, whether one that runs is heard of, and the
// pictures that did not come.
monitor(
  () => [],
  {
    pulse: () => {
      clearTimeout(looking);
      looking = setTimeout(lookAtOpen, 1500);
      tryAgain();
    },
    // A user has starred one, perhaps in another browser, or a later job has replaced a file of one.
    star: noted,
    replaced: noted,
    changed: () => refresh($("head")),
  },
  [group],
);
// A filter shows other jobs after each change: its cards are read together.
const isFiltered = () => Boolean($("head")?.dataset.show);
function noted(frame) {
  if ($(frame.job)) moved.add(frame.job);
  askSoon(60);
}
function lookAtOpen() {
  for (const card of $$("[data-label]:is(.s-queued, .s-running)")) moved.add(card.id);
  if (moved.size) askSoon(0);
}
// The stop of a prompt goes on after its job's last event.
setInterval(() => {
  if (!document.hidden) for (const card of $$("[data-stopping]")) refresh(card);
}, 5000);
// The time that is left changes without an event. The head takes ten times as long as this answer from memory: it is read
// again only if it would show another number of seconds or minutes.
let left = 0;
setInterval(async () => {
  if (document.hidden || $("head")?.dataset.open !== "yes") return;
  const { eta_seconds: eta } = await call("GET", `/api/job-groups/${group}?children=0`).catch(
    () => ({}),
  );
  const now = Math.round(eta < 60 ? eta : eta / 60);
  if (eta === undefined || now === left) return;
  left = now;
  refresh($("head"));
}, 5000);

const live = new Live(() => `/ws/job-groups/${group}?since=${seq}&previews=1`, {
  // What a restart changed besides events (why one waits) is requested as well.
  open: (again) => {
    if (again) everything();
  },
  // The group was deleted: its address has another page now.
  gone: (code) => {
    if (code === 4404 && !live.ended) location.reload();
  },
  frame: (frame) => {
    if (frame.seq) seq = Math.max(seq, frame.seq);
    const shown = frame.job_id && $(frame.job_id); // the cards of other pages are not here
    if (frame.type === "child_progress") {
      if (shown) {
        seen.set(frame.job_id, frame);
        drawSoon();
      }
      return;
    }
    if (frame.type === "child_preview") {
      if (shown) {
        previews.set(frame.job_id, frame);
        drawSoon();
      }
      return;
    }
    if (frame.type === "initial_state") {
      everything();
      return;
    }
    if (frame.type === "error" || frame.type === "pong") return;
    if (["child_started", "child_retrying"].includes(frame.type)) seen.delete(frame.job_id);
    if (shown) moved.add(frame.job_id);
    if (frame.type === "group_reopened") reopened(frame);
    if (frame.type === "group_complete") {
      chime(frame.failed > 0);
      uncompleted();
    }
    askSoon(60);
  },
});

// The next run: what was shown of the one before is of no attempt that counts now, and only a card that
// failed can be retried while this one lasts.
function reopened(frame) {
  for (const job of frame.job_ids || []) {
    seen.delete(job);
    previews.delete(job);
  }
  uncompleted();
}
function uncompleted() {
  for (const card of $$("[data-label]:not(.s-completed)")) moved.add(card.id);
}

function everything() {
  refresh($("head"));
  refresh($("cards"));
}

function askSoon(pause) {
  if (asking) return;
  asking = setTimeout(() => {
    asking = 0;
    refresh($("head"));
    if (isFiltered() || moved.size > FEW) refresh($("cards"));
    else for (const job of moved) refresh($(job));
    moved.clear();
  }, pause);
}

function drawSoon() {
  if (drawing) return;
  drawing = true;
  // Four times a second: more is not seen, and with fifty that run it is what the page costs.
  setTimeout(() => requestAnimationFrame(draw), 250);
}

function draw() {
  drawing = false;
  for (const bar of $$("progress[data-job]")) {
    const frame = seen.get(bar.dataset.job);
    if (frame && bar.value < frame.progress) bar.value = frame.progress;
  }
  for (const step of $$("[data-step]")) {
    const frame = seen.get(step.dataset.step);
    if (!frame) continue;
    const steps = frame.steps_total > 1 ? ` ${frame.steps_completed}/${frame.steps_total}` : "";
    const said = `${Math.round(frame.progress)} % · ${frame.current_step || ""}${steps}`;
    if (step.textContent !== said) step.textContent = said;
  }
  for (const [job, frame] of previews) if ($(`p-${job}`)) preview($(`p-${job}`), frame);
  previews.clear();
  title();
}

function title() {
  const head = $("head")?.dataset;
  if (!head) return; // the group was deleted
  const total = Number(head.total);
  let percent = Number(head.percent);
  const running = $$("[data-label] progress[data-job]");
  if (head.open === "yes" && running.length && $$("[data-label]").length === total) {
    const ended = $$("[data-label]:not(.s-running, .s-queued)").length;
    percent = Math.round((ended * 100 + running.reduce((sum, bar) => sum + bar.value, 0)) / total);
  }
  const rest = head.open === "yes" ? ` · ${percent} %` : "";
  const said = `${head.completed}/${total}${rest} · ${head.name}`;
  if (document.title !== said) document.title = said;
  favicon(head.open === "yes" ? "running" : head.status);
}

afterMorph(draw);
title();
if (location.hash.startsWith("#j_")) $(location.hash.slice(1))?.focus({ preventScroll: true });

// --- what a person can do ------------------------------------------------------------------------

onClick("[data-act]", async (button) => {
  const { act, run } = button.dataset;
  const job = button.closest("[data-job]")?.dataset.job;
  try {
    if (act === "cancel-job") {
      button.disabled = true;
      await call("DELETE", `/api/job-groups/${group}/jobs/${job}`);
      refresh($(job));
    }
    if (act === "retry-job") {
      button.disabled = true;
      await retry(group, run, job, { where: "auto", ...actor() });
      button.disabled = false;
    }
    if (act === "retry-job-at") await retryAt({ ...button.dataset, job });
    if (act === "move-job") await moveJob({ ...button.dataset, job });
    if (act === "retry-group") await retryGroup(button.dataset);
    if (act === "star") {
      try {
        await star(button);
      } finally {
        refresh(isFiltered() ? $("cards") : $(job));
        refresh($("head"));
      }
    }
    if (act === "rename") rename(true);
    if (act === "rename-end") rename(false);
    if (act === "share") {
      const visibility = button.dataset.shared === "yes" ? "private" : "shared";
      await call("PATCH", `/api/job-groups/${group}`, { visibility });
      refresh($("head"));
      toast(visibility === "shared" ? "Every account sees the group." : "The group is private.");
    }
    if (act === "archive") {
      const archived = button.dataset.archived !== "yes";
      await call("PATCH", `/api/job-groups/${group}`, { archived });
      refresh($("head"));
      toast(
        archived
          ? "The group is archived: lists leave it out."
          : "The group is in the lists again.",
      );
    }
    if (act === "next") {
      await call("POST", `/api/job-groups/${group}/next`);
      toast("The jobs of this group start next.");
    }
    if (act === "pause-group" || act === "resume-group") {
      const change = act.replace("-group", "");
      await call("POST", `/api/job-groups/${group}/${change}`, actor());
      refresh($("head"));
      toast(
        change === "pause"
          ? "The group is paused: what waits is not sent, what runs ends."
          : "The group is resumed.",
      );
    }
    if (act === "delete-group") await deleteGroup();
    if (act === "cancel-group") {
      const { left, running } = $("head").dataset;
      const yes = await ask(
        "Cancel this group?",
        `${unfinished(Number(left), Number(running))} Completed jobs stay.`,
        "Cancel the group",
        "Keep it",
      );
      if (!yes) return;
      const done = await call("DELETE", `/api/job-groups/${group}`);
      toast(`${done.interrupted} cancelled.`);
    }
  } catch (error) {
    button.disabled = false;
    toast(error.message);
    // Somebody was quicker: show what they did.
    if (
      ["run_passed", "group_not_finished", "job_not_failed", "job_not_waiting"].includes(
        error.answer?.code,
      )
    )
      everything();
  }
});

// The title is edited in its place. An empty name gives the group the title of its metadata or prompt.
function rename(open) {
  const { own, name } = $("head").dataset;
  $("rename").hidden = !open;
  if (!open) {
    document.querySelector(".title [data-act=rename]").focus();
    return;
  }
  const input = $("rename").elements.name;
  input.value = own;
  input.placeholder = name;
  input.select();
  input.focus();
}
addEventListener("change", async ({ target }) => {
  if (target.id === "priority") await prioritize(target);
});

$("rename").onsubmit = async (event) => {
  event.preventDefault();
  try {
    await call("PATCH", `/api/job-groups/${group}`, {
      name: event.target.elements.name.value.trim(),
    });
    rename(false);
    refresh($("head"));
  } catch (error) {
    toast(error.errors?.[0]?.message || error.message);
  }
};
$("rename").onkeydown = (event) => {
  if (event.key === "Escape") rename(false);
};

async function prioritize(input) {
  if (!input.value || !input.reportValidity()) return;
  await call("PATCH", `/api/job-groups/${group}`, { priority: input.valueAsNumber });
  toast(`The group has the priority ${input.value}.`);
}

async function deleteGroup() {
  live.ended = true; // The end of its stream is expected.
  if (await deleteGroups([group])) {
    location.assign("/");
    return;
  }
  live.ended = false;
  live.soon();
}

async function retryAt({ job, run, backend, name, chosen }) {
  const place = await askPlace({
    title: "Retry this job?",
    text: "The job runs again in its group, with the same seed and inputs.",
    yes: "Retry the job",
    own: { id: backend, name },
    chosen,
  });
  if (place) await retry(group, run, job, { ...place, ...actor() });
}

async function retryGroup({ run, count, done }) {
  const now = await call("GET", `/api/job-groups/${group}`);
  const ends = ["failed", "timeout", ...(now.status === "cancelled" ? ["cancelled"] : [])];
  const jobs = now.child_jobs
    .map((one, at) => ({ ...one, number: at + 1 }))
    .filter((one) => ends.includes(one.status) && !one.stopped_by);
  const place = await askPlace({
    title: `Retry ${counted(Number(count), "job")}?`,
    text: againText(Number(count), 1, Number(done)),
    yes: `Retry ${counted(Number(count), "job")}`,
    own: { id: "", name: "that of each job" },
    chosen: "auto",
    auto: now.placement === "pool" ? ANY : "As suits each job",
    plan: (value, known) => planOf(jobs, now, value, known),
  });
  if (place) await retry(group, run, undefined, { ...place, ...actor() });
}

async function moveJob({ job, backend, name }) {
  const place = await askPlace({
    title: "Move this job?",
    text: backend
      ? `The job is queued for ${name}. A pending prompt there is removed first; if it starts before that, the job stays.`
      : "The job waits for any backend that is free. After the move it waits for the chosen backend alone.",
    yes: "Move the job",
    own: { id: backend, name },
  });
  if (!place) return;
  const done = await call("POST", `/api/job-groups/${group}/jobs/${job}/move`, {
    ...place,
    ...actor(),
  });
  const { nameOf } = await knownBackends();
  const first = done.removing_from
    ? `, after it was removed from the queue of ${nameOf(done.removing_from)}`
    : "";
  toast(`The job is queued for ${nameOf(done.backend_id)} now${first}.`);
}

addEventListener("pagehide", () => {
  live.ended = true;
  live.socket.close();
});
addEventListener("pageshow", (event) => {
  if (event.persisted) {
    live.ended = false;
    live.connect();
  }
});

// The size of the pictures is of the person, not of the group: size.js reads it on each page.
const SIZES = ["s", "m", "l", "xl"];
function showSize() {
  const at = SIZES.indexOf(document.documentElement.dataset.size);
  $("size").value = at;
  $("size").ariaValueText = $("size-said").textContent = SIZES[at].toUpperCase();
}
$("size").oninput = ({ target }) => {
  document.documentElement.dataset.size = SIZES[target.value];
  remember("director.size", SIZES[target.value]);
  showSize();
};
showSize();
