// Rendering again what failed. What is said first is what it will hit.
import { ask, call, counted, toast } from "./dom.js";
import { knownBackends } from "./place.js";

// Retries what failed in a group that has ended, or one job of any. The run is the one the page shows: a
// second click, or another person's, is refused. place: {where} or {backend_id}, and {by}, as the API
// takes them. Resolves to whether it is tried again.
export async function retry(group, run, job, place = { where: "auto" }) {
  const path = `/api/job-groups/${group}${job ? `/jobs/${job}` : ""}/retry`;
  try {
    said(await call("POST", path, { run: Number(run), ...place }));
    return true;
  } catch (error) {
    error.message = refusal(error);
    if (error.answer?.code !== "backend_unavailable" || place.backend_id) throw error;
    if (!(await elsewhere(group, job, error))) return false;
    said(
      await call("POST", path, {
        run: Number(run),
        retry_elsewhere: "any",
        ...(place.by && { by: place.by }),
      }),
    );
    return true;
  }
}

// Returns why a retry was refused, in the words of the dialog; the API's own name ids and fields.
export function refusal(error) {
  return error.answer?.code === "no_other_backend"
    ? "No other backend works now and has what the jobs require. Choose the same backend, or one by its name."
    : error.message;
}

// A job of the pool goes to no backend but those of its group.
async function elsewhere(group, job, error) {
  const [{ nameOf }, { placement }] = await Promise.all([
    knownBackends(),
    call("GET", `/api/job-groups/${group}?children=0`),
  ]);
  if (placement === "pool") throw error;
  const backends = error.answer.unavailable_backends;
  const reasons = backends.map(
    (one) => `${nameOf(one.backend_id)}: ${one.reason.replace(/\.?$/, ".")}`,
  );
  const these = backends.length === 1 ? "a backend that takes" : "backends that take";
  const [jobs, may] = job
    ? ["The job belongs", "it, with its seed."]
    : [
        "Failed jobs belong",
        "them, with their seeds. Failed jobs of other backends may change their backend, too.",
      ];
  return ask(
    job ? "Run it on another backend?" : "Run them on other backends?",
    `${jobs} to ${these} no jobs now.\n\n${reasons.join("\n")}\n\nAny other backend that works and has what the group requires can run ${may}`,
    job ? "Use another backend" : "Use other backends",
    "Cancel",
    "",
  );
}

function said(done) {
  const adopted = done.adopted_job_ids.length;
  const had = `${counted(adopted, "job was", "jobs were")} completed after all`;
  const moved = Object.keys(done.moved).length;
  const where = moved ? `, ${moved} on ${moved === 1 ? "another backend" : "other backends"}` : "";
  const again = `${counted(done.job_ids.length, "job is", "jobs are")} queued again${where}`;
  toast(`${[done.job_ids.length ? again : "", adopted ? had : ""].filter(Boolean).join("; ")}.`);
}

export function againText(jobs, groups, done) {
  const stays = !done
    ? ""
    : done === 1
      ? " The completed job stays."
      : ` The ${done} completed jobs stay.`;
  const where = groups === 1 ? "in this group" : "in their groups";
  return `${jobs === 1 ? "The job runs" : "The jobs run"} again ${where}, with the same seeds and inputs.${stays}\n\nTo change something, submit a new group instead.`;
}

export function asks(jobs, groups, done) {
  return ask(
    `Retry ${counted(jobs, "job")}?`,
    againText(jobs, groups, done),
    `Retry ${counted(jobs, "job")}`,
    "Cancel",
    "",
  );
}
