// Pause, drain, quarantine, resume, release, disable: asked with what each of them will hit.
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
  const there = [runs && counted(runs, "picture renders", "pictures render"), stands && counted(stands, "stands in its queue", "stand in its queue")].filter(Boolean).join(" and ");
  if (!there) return "Nothing of ours stands there.";
  if (!now) return `${there}: finished first.`;
  return `${there}: stopped and begun anew, later or, where the group lets it, elsewhere. No try is counted.`;
}
const others = ({ foreign }, now) => (foreign && now ? `${counted(foreign, "prompt that is not ours goes", "prompts that are not ours go")} on.` : "");

// What waits for it and was not sent.
function waits({ waiting, movable }, stays) {
  const left = waiting - movable;
  if (!waiting) return "Nothing waits for it.";
  const go = movable && `${counted(movable, "that waits for it goes", "that wait for it go")} elsewhere.`;
  return [go, left && `${counted(left, "that waits for it", "that wait for it")} ${stays(left)}`].filter(Boolean).join(" ");
}

// No submit button: Enter in a field says yes, as what is asked can be taken back.
$("hold-no").addEventListener("click", () => $("hold").close("no"));

const WORDS = {
  pause: { title: "Pause", yes: "Pause", text: (hit, now) => lines(ours(hit, now), others(hit, now), hit.waiting ? `${counted(hit.waiting, "that waits for it waits", "that wait for it wait")} until you resume it.` : "Nothing waits for it.") },
  drain: { title: "Drain", yes: "Drain", text: (hit, now) => lines("It takes nothing more, and is disabled when it is empty.", ours(hit, now), others(hit, now), waits(hit, (left) => `may go nowhere else: ${left === 1 ? "it keeps" : "they keep"} it from being empty until you resume it or cancel ${left === 1 ? "it" : "them"}.`)) },
  quarantine: { title: "Quarantine", yes: "Quarantine", text: (hit) => lines("Nothing is sent there; then one prompt at a time until one succeeds.", ours(hit, false), waits(hit, (left) => `${left === 1 ? "waits" : "wait"} until then.`)) },
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
  if (word === "resume") await call("POST", `${path}/resume`, by);
  if (word === "release") {
    if (!await ask(`Release ${name}?`, "Its failures so far are forgiven. It gets one prompt at a time until one succeeds; one more failure sends it straight back.", "Release", "Leave it", "primary")) return false;
    await call("POST", `${path}/release`, by);
  }
  if (word === "enable") await call("PATCH", path, { enabled: true });
  if (word === "disable") {
    const text = lines(ours(hit, false), waits(hit, (left) => (left === 1 ? "fails." : "fail.")));
    if (!await ask(`Disable ${name}?`, text, "Disable", "Leave it")) return false;
    await call("PATCH", path, { enabled: false });
  }
  if (word === "remove") {
    if (!await ask(`Remove ${name}?`, "The Director forgets its address. What was done there stays in the history.", "Remove", "Leave it")) return false;
    await call("DELETE", path);
  }
  return true;
}
