// Pause, drain, quarantine, resume, release, lift, disable, for one backend or several: the question names what each concerns.
import { $, actor, ask, call, confirmed, counted, remember, remembered, SUBMITTER } from "./dom.js";

const lines = (...parts) => parts.filter(Boolean).join("\n");

// The running and pending jobs, which go on or are requeued.
function ours({ runs, stands }, now) {
  const there = [
    runs && `${counted(runs, "job")} running`,
    stands && `${counted(stands, "job")} pending`,
  ]
    .filter(Boolean)
    .join(" and ");
  if (!there) return "No job is there.";
  if (!now) return `${there}: finished first.`;
  return `${there}: stopped and queued again, for the same backend or, if the group allows it, for another. No attempt is counted.`;
}
const others = ({ foreign }, now) =>
  foreign && now
    ? `${counted(foreign, "prompt of another client continues", "prompts of other clients continue")}.`
    : "";

// The queued jobs that were not sent.
function waits({ waiting, movable }, stays) {
  const left = waiting - movable;
  if (!waiting) return "No job is queued there.";
  const go =
    movable && `${counted(movable, "queued job moves", "queued jobs move")} to another backend.`;
  return [go, left && `${counted(left, "queued job")} ${stays(left)}`].filter(Boolean).join(" ");
}

const WORDS = {
  pause: {
    title: "Pause",
    text: (hit, now) =>
      lines(
        ours(hit, now),
        others(hit, now),
        hit.waiting
          ? `${counted(hit.waiting, "queued job waits", "queued jobs wait")} until you resume.`
          : "No job is queued there.",
      ),
  },
  drain: {
    title: "Drain",
    text: (hit, now) =>
      lines(
        "No more jobs are sent there. Each backend is disabled when it is empty.",
        ours(hit, now),
        others(hit, now),
        waits(
          hit,
          (left) =>
            `may not move to another backend: the backend is not empty until you resume it or cancel ${left === 1 ? "the job" : "the jobs"}.`,
        ),
      ),
  },
  quarantine: {
    title: "Quarantine",
    text: (hit) =>
      lines(
        "No jobs are sent there; after that one prompt at a time until one succeeds.",
        ours(hit, false),
        waits(hit, (left) => `${left === 1 ? "waits" : "wait"} until then.`),
      ),
  },
};

// The sums of what the change concerns, over all backends.
function sums(targets) {
  const sum = (name) => targets.reduce((total, one) => total + Number(one[name] || 0), 0);
  return Object.fromEntries(
    ["runs", "stands", "waiting", "movable", "foreign"].map((name) => [name, sum(name)]),
  );
}

// Asks with the dialog; resolves to the body of the request, or to null.
async function askHold(act, subject, hit) {
  const words = WORDS[act];
  const isNow = () => act !== "quarantine" && $("hold-form").elements.when.value === "now";
  const say = () => {
    $("hold-text").textContent = words.text(hit, isNow());
  };
  $("hold-form").reset();
  $("hold-title").textContent = `${words.title} ${subject}?`;
  $("hold-yes").textContent = words.title;
  $("hold-when").hidden = act === "quarantine";
  $("hold-minutes-field").hidden = act !== "quarantine";
  $("hold-by").value = remembered(SUBMITTER);
  $("hold-when").onchange = say;
  say();
  if (!(await confirmed($("hold")))) return null;
  const [reason, by, minutes] = ["hold-reason", "hold-by", "hold-minutes"].map((id) =>
    $(id).value.trim(),
  );
  if (by) remember(SUBMITTER, by);
  return {
    ...(isNow() && { now: true }),
    ...(reason && { reason }),
    ...(by && { by }),
    ...(act === "quarantine" && minutes && { minutes: Number(minutes) }),
  };
}

const QUESTIONS = {
  release: [
    "Release",
    "primary",
    () =>
      "Its failures are reset. One prompt at a time is sent until one succeeds; one more failure quarantines it again.",
  ],
  allow: [
    "Allow partner nodes on",
    "primary",
    () =>
      "It gets the Director's API key of Comfy.org with each workflow that has partner nodes. Users who can change this ComfyUI can read the key.",
  ],
  allow_extensions: [
    "Allow editor extensions of",
    "primary",
    () =>
      "Scripts of its custom nodes run in ComfyUI's editor at the ComfyUI listener and act as everyone who opens it. Users who can change this ComfyUI can change the scripts.",
  ],
  disable: [
    "Disable",
    "danger",
    (hit) =>
      lines(
        ours(hit, false),
        waits(hit, (left) => (left === 1 ? "fails." : "fail.")),
      ),
  ],
  remove: [
    "Remove",
    "danger",
    () =>
      "The Director deletes its address. Its jobs stay in the history. Outputs not copied yet can no longer be loaded.",
  ],
};
const REQUESTS = {
  resume: (path) => call("POST", `${path}/resume`, actor()),
  release: (path) => call("POST", `${path}/release`, actor()),
  enable: (path) => call("PATCH", path, { enabled: true }),
  disable: (path) => call("PATCH", path, { enabled: false }),
  allow: (path) => call("PATCH", path, { partner_nodes_allowed: true }),
  allow_extensions: (path) => call("PATCH", path, { extensions_allowed: true }),
  forbid_extensions: (path) => call("PATCH", path, { extensions_allowed: false }),
  forbid: (path) => call("PATCH", path, { partner_nodes_allowed: false }),
  remove: (path) => call("DELETE", path),
};
const pathOf = (id) => `/api/backends/${encodeURIComponent(id)}`;

// Sends one request after the other; resolves to the number that succeeded, and to what failed with its reason.
export async function each(targets, send) {
  const failed = [];
  for (const { backend, name } of targets) {
    try {
      await send(pathOf(backend));
    } catch (error) {
      failed.push({ name, message: error.message });
    }
  }
  return { done: targets.length - failed.length, failed };
}

// Asks where that is needed, and changes one backend or several. `targets` are the data of their rows. Resolves to the
// result of each(), or to null if the user said no.
export async function act(word, targets, extra = {}) {
  const subject = targets.length === 1 ? targets[0].name : counted(targets.length, "backend");
  const hit = sums(targets);
  if (word in WORDS) {
    const body = await askHold(word, subject, hit);
    return body && each(targets, (path) => call("POST", `${path}/${word}`, body));
  }
  if (word === "lift")
    return each(targets, (path) => call("DELETE", `${path}/exclusions/${extra.exclusion}`));
  if (word in QUESTIONS) {
    const [title, tone, text] = QUESTIONS[word];
    if (!(await ask(`${title} ${subject}?`, text(hit), title.split(" ")[0], "Cancel", tone)))
      return null;
  }
  return each(targets, REQUESTS[word]);
}
