// What failed: requested again when the line says that something changed, and every half minute.
import { $, actor, ask, call, counted, onClick, toast } from "./dom.js";
import { monitor } from "./live.js";
import { refresh } from "./parts.js";
import { ANY, askPlace } from "./place.js";
import { refusal } from "./retry.js";

const again = () => refresh($("failures"));
// A farm at work changes each second, and what failed in a day takes the database a while: at most
// once in five seconds, the last change always.
let requestedAt = 0;
let soon = 0;
function changed() {
  if (document.hidden || soon) return;
  soon = setTimeout(
    () => {
      soon = 0;
      requestedAt = Date.now();
      again();
    },
    Math.max(0, requestedAt + 5_000 - Date.now()),
  );
}
monitor(() => [], {
  open: (back) => {
    if (back) again();
  },
  pulse: changed,
});
setInterval(() => {
  if (!document.hidden) again();
}, 30_000);

onClick("[data-act]", async (button) => {
  button.disabled = true;
  try {
    if (button.dataset.act === "retry") await retry(button.dataset);
    if (button.dataset.act === "quarantine") await quarantine(button.dataset);
  } catch (error) {
    toast(error.message);
  } finally {
    button.disabled = false;
    // The dialog could not give the focus back to a button that was disabled.
    button.focus();
    again();
  }
});

// --- try again -----------------------------------------------------------------------------------

async function retry({ class: failureClass, backend, name, workflow, takes, chosen }) {
  const query = new URLSearchParams({
    window: $("failures").dataset.window,
    failure_class: failureClass,
    backend_id: backend,
    workflow,
  });
  const { groups: all } = await call("GET", `/api/failures/jobs?${query}`);
  const groups = all.filter((group) => group.may_retry);
  if (!groups.length) {
    toast(
      all.length
        ? "These jobs are in groups of other accounts: their owners or an operator may retry them."
        : "No job of this cause is failed any more.",
    );
    return;
  }
  const countOf = (some) => some.reduce((sum, group) => sum + group.job_ids.length, 0);
  const jobs = countOf(groups);
  const left = countOf(all) - jobs;
  const others = left
    ? ` ${counted(left, "job is", "jobs are")} left out: their groups are of other accounts.`
    : "";
  const closed = takes !== "yes" && backend;
  const shut = closed ? ` ${name} takes no jobs now, so these jobs move to other backends.` : "";
  const pooled = groups.filter(({ placement }) => placement === "pool").length;
  const place = await askPlace({
    title: `Retry ${counted(jobs, "job")}?`,
    text: `${counted(jobs, "job")} in ${counted(groups.length, "group")}, with the same seeds.${shut}${others}`,
    yes: `Retry ${counted(jobs, "job")}`,
    own: { id: backend, name },
    chosen: pooled ? "auto" : closed ? "other" : chosen,
    auto: pooled < groups.length ? "As suits each job" : ANY,
  });
  // A bound job whose backend takes none is refused if its group keeps it there.
  const how = ({ placement }) =>
    closed && place.where === "auto" && placement !== "pool" ? { where: "other" } : place;
  if (place) toast(await retryAll(groups, (group) => ({ ...how(group), ...actor() })));
}

// One group after the other, and in one that still runs one job after the other; what is refused keeps
// nothing else from it.
async function retryAll(groups, howOf) {
  let done = 0;
  const refused = [];
  const post = async (name, path, body, count) => {
    try {
      await call("POST", path, body);
      done += count;
    } catch (error) {
      refused.push(`${name}: ${refusal(error)}`);
    }
  };
  for (const group of groups) {
    const { job_group_id: id, name, job_ids: jobs, finished } = group;
    const [path, how] = [`/api/job-groups/${id}`, howOf(group)];
    if (finished) await post(name, `${path}/retry`, { job_ids: jobs, ...how }, jobs.length);
    else for (const job of jobs) await post(name, `${path}/jobs/${job}/retry`, how, 1);
  }
  const said = done ? `${counted(done, "job is", "jobs are")} retried.` : "No job is retried.";
  const more = refused.length > 1 ? ` (and ${refused.length - 1} more refused)` : "";
  return refused.length ? `${said} ${refused[0]}${more}` : said;
}

// --- set aside -----------------------------------------------------------------------------------

async function quarantine({ backend, name, reason }) {
  const yes = await ask(
    `Quarantine ${name}?`,
    "It gets no more jobs until a user releases it. Running jobs finish. Queued jobs move to another backend if their group allows it; other queued jobs wait.",
    "Quarantine",
    "Cancel",
  );
  if (!yes) return;
  await call("POST", `/api/backends/${encodeURIComponent(backend)}/quarantine`, {
    reason,
    ...actor(),
  });
  toast(`${name} is quarantined.`);
}
