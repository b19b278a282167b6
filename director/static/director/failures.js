// What failed: asked for again when the line says that something changed, and every half minute.
import { $, ask, call, counted, toast } from "./dom.js";
import { refresh } from "./parts.js";
import { monitor } from "./live.js";

const again = () => refresh($("failures"));
// A farm at work changes each second, and what failed in a day takes the database a while: at most
// once in five seconds, the last change always.
let asked = 0;
let soon = 0;
function changed() {
  if (document.hidden || soon) return;
  soon = setTimeout(() => { soon = 0; asked = Date.now(); again(); }, Math.max(0, asked + 5_000 - Date.now()));
}
monitor(() => [], { open: (back) => { if (back) again(); }, pulse: changed });
setInterval(() => { if (!document.hidden) again(); }, 30_000);

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-act]");
  if (!button) return;
  button.disabled = true;
  try {
    if (button.dataset.act === "retry") await retry(button.dataset);
    if (button.dataset.act === "quarantine") await quarantine(button.dataset);
  } catch (error) { toast(error.message); } finally {
    button.disabled = false;
    again();
  }
});

// --- try again -----------------------------------------------------------------------------------

async function retry({ class: failureClass, backend, name, workflow, takes }) {
  const query = new URLSearchParams({ window: $("failures").dataset.window, failure_class: failureClass, backend_id: backend, workflow });
  const { groups } = await call("GET", `/api/failures/jobs?${query}`);
  const ended = groups.filter((group) => group.finished);
  const jobs = ended.reduce((sum, group) => sum + group.job_ids.length, 0);
  const open = groups.length - ended.length;
  if (!ended.length) {
    toast(groups.length ? "Their groups still run. Try again when they have ended." : "Nothing of this is failed any more.");
    return;
  }
  const where = takes === "yes"
    ? `They wait for ${name} again, with their seeds.`
    : `${name} takes no jobs now, so they go to other backends, with their seeds.`;
  const rest = open ? ` ${counted(open, "group")} with failed jobs still ${open === 1 ? "runs" : "run"}, and can be tried again later.` : "";
  const yes = await ask(
    `Try ${counted(jobs, "job")} again?`,
    `${counted(jobs, "job")} in ${ended.length} of ${counted(groups.length, "group")}. ${where}${rest}`,
    `Retry ${counted(jobs, "job")}`,
    "Not now",
  );
  if (yes) toast(await retryAll(ended, takes === "yes" ? {} : { retry_elsewhere: "any" }));
}

// One group after the other; what one refuses keeps no other from it.
async function retryAll(groups, how) {
  let done = 0;
  const refused = [];
  for (const group of groups) {
    try {
      await call("POST", `/api/job-groups/${group.job_group_id}/retry`, { job_ids: group.job_ids, ...how });
      done += group.job_ids.length;
    } catch (error) { refused.push(`${group.name}: ${error.message}`); }
  }
  const said = done ? `${counted(done, "job is", "jobs are")} tried again.` : "Nothing is tried again.";
  const more = refused.length > 1 ? ` (and ${counted(refused.length - 1, "more group")})` : "";
  return refused.length ? `${said} ${refused[0]}${more}` : said;
}

// --- set aside -----------------------------------------------------------------------------------

async function quarantine({ backend, name, reason }) {
  const yes = await ask(
    `Quarantine ${name}?`,
    "It gets no more jobs until somebody releases it. What runs there is finished; what waits for it goes elsewhere where its group allows that, and waits else.",
    "Quarantine it",
    "Leave it",
  );
  if (!yes) return;
  await call("POST", `/api/backends/${encodeURIComponent(backend)}/quarantine`, { reason });
  toast(`${name} is quarantined.`);
}
