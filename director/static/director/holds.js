// Pause, drain, quarantine, resume, release, lift, disable: asked with what each of them will hit.
import { $, ask, call, counted } from "./dom.js";

const REMEMBERED = "director.submitter"; // the name that is given when submitting
function remembered() {
  try { return localStorage.getItem(REMEMBERED) || ""; } catch { return ""; }
}
function remember(name) {
  try { if (name) localStorage.setItem(REMEMBERED, name); } catch { /* then it is asked again */ }
}

const lines = (...parts) => parts.filter(Boolean).join("\n");

// What stands there and goes on, or is given back.
function ours({ runs, stands }, now) {
  const there = [runs && `${counted(runs, "job")} running`, stands && `${counted(stands, "job")} pending`].filter(Boolean).join(" and ");
  if (!there) return "It has no jobs.";
  if (!now) return `${there}: finished first.`;
  return `${there}: stopped and queued again, for this backend or, if the group allows it, for another. No attempt is counted.`;
}
const others = ({ foreign }, now) => (foreign && now ? `${counted(foreign, "prompt of another client continues", "prompts of other clients continue")}.` : "");

// What waits for it and was not sent.
function waits({ waiting, movable }, stays) {
  const left = waiting - movable;
  if (!waiting) return "No job is queued for it.";
  const go = movable && `${counted(movable, "queued job moves", "queued jobs move")} to another backend.`;
  return [go, left && `${counted(left, "queued job")} ${stays(left)}`].filter(Boolean).join(" ");
}

// No submit button: Enter in a field says yes, as what is asked can be taken back.
$("hold-no").addEventListener("click", () => $("hold").close("no"));

const WORDS = {
  pause: { title: "Pause", yes: "Pause", text: (hit, now) => lines(ours(hit, now), others(hit, now), hit.waiting ? `${counted(hit.waiting, "queued job waits", "queued jobs wait")} until you resume it.` : "No job is queued for it.") },
  drain: { title: "Drain", yes: "Drain", text: (hit, now) => lines("It gets no more jobs, and is disabled when it is empty.", ours(hit, now), others(hit, now), waits(hit, (left) => `may not move to another backend: the backend is not empty until you resume it or cancel ${left === 1 ? "the job" : "the jobs"}.`)) },
  quarantine: { title: "Quarantine", yes: "Quarantine", text: (hit) => lines("It gets no jobs; after that one prompt at a time until one succeeds.", ours(hit, false), waits(hit, (left) => `${left === 1 ? "waits" : "wait"} until then.`)) },
};

function numbers(data) {
  return Object.fromEntries(["runs", "stands", "waiting", "movable", "foreign"].map((name) => [name, Number(data[name] || 0)]));
}

// Asks with the dialog; resolves to what is to be sent, or to null.
function askHold(act, name, hit) {
  const words = WORDS[act];
  const dialog = $("hold");
  const isNow = () => act !== "quarantine" && $("hold-form").elements.when.value === "now";
  const say = () => { $("hold-text").textContent = words.text(hit, isNow()); };
  $("hold-form").reset();
  $("hold-title").textContent = `${words.title} ${name}?`;
  $("hold-yes").textContent = words.yes;
  $("hold-when").hidden = act === "quarantine";
  $("hold-minutes-field").hidden = act !== "quarantine";
  $("hold-by").value = remembered();
  $("hold-when").onchange = say;
  say();
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      if (dialog.returnValue !== "yes") { resolve(null); return; }
      const [reason, by, minutes] = ["hold-reason", "hold-by", "hold-minutes"].map((id) => $(id).value.trim());
      remember(by);
      resolve({
        ...(isNow() && { now: true }),
        ...(reason && { reason }),
        ...(by && { by }),
        ...(act === "quarantine" && minutes && { minutes: Number(minutes) }),
      });
    }, { once: true });
  });
}

// Does what a button says; resolves to whether anything was sent.
export async function act(button) {
  const { act: word, backend, name } = button.dataset;
  const path = `/api/backends/${encodeURIComponent(backend)}`;
  const hit = numbers(button.dataset);
  if (word in WORDS) {
    const said = await askHold(word, name, hit);
    if (said === null) return false;
    await call("POST", `${path}/${word}`, said);
    return true;
  }
  const by = remembered() ? { by: remembered() } : {};
  if (word === "lift") await call("DELETE", `${path}/exclusions/${button.dataset.exclusion}`);
  if (word === "resume") await call("POST", `${path}/resume`, by);
  if (word === "release") {
    if (!await ask(`Release ${name}?`, "Its failures are reset. It gets one prompt at a time until one succeeds; one more failure quarantines it again.", "Release", "Cancel", "primary")) return false;
    await call("POST", `${path}/release`, by);
  }
  if (word === "allow") {
    if (!await ask(`Allow partner nodes on ${name}?`, "It gets the Director's API key of Comfy.org with each workflow that has partner nodes. Users who can change this ComfyUI can read the key.", "Allow", "Cancel", "primary")) return false;
    await call("PATCH", path, { partner_nodes_allowed: true });
  }
  if (word === "forbid") await call("PATCH", path, { partner_nodes_allowed: false });
  if (word === "enable") await call("PATCH", path, { enabled: true });
  if (word === "disable") {
    const text = lines(ours(hit, false), waits(hit, (left) => (left === 1 ? "fails." : "fail.")));
    if (!await ask(`Disable ${name}?`, text, "Disable", "Cancel")) return false;
    await call("PATCH", path, { enabled: false });
  }
  if (word === "remove") {
    if (!await ask(`Remove ${name}?`, "The Director deletes its address. Its jobs stay in the history.", "Remove", "Cancel")) return false;
    await call("DELETE", path);
  }
  return true;
}
