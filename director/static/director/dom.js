// Small things every page needs. Nothing here knows what a group is.
export const $ = (id) => document.getElementById(id);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

// Makes an element with properties and children: texts, or elements.
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Calls act(element, event) for each click on an element that a selector matches, also on one that comes later.
export function onClick(selector, act) {
  document.addEventListener("click", (event) => {
    const element = event.target.closest?.(selector);
    if (element) act(element, event);
  });
}
// No button of a form: Enter in a field says yes.
onClick("dialog [data-close]", (button) => button.closest("dialog").close());

// Calls bring(files) for files that are dropped on a target; while they are over it, `marked` has a class.
export function onFiles(target, bring, marked = null) {
  for (const kind of ["dragover", "dragleave", "drop"]) {
    target.addEventListener(kind, (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      event.stopPropagation();
      marked?.classList.toggle("over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) bring([...event.dataTransfer.files]);
    });
  }
}

// What the browser keeps for the next time; an empty text is not kept. Storage may be forbidden: then it is forgotten.
export function remembered(name) {
  try {
    return localStorage.getItem(name) || "";
  } catch {
    return "";
  }
}
export function remember(name, text) {
  try {
    if (text) localStorage.setItem(name, text);
    else localStorage.removeItem(name);
  } catch {
    /* forgotten */
  }
}
export const SUBMITTER = "director.submitter"; // the name that is given when submitting
// The person's name as the API takes it, nothing where the browser does not know it.
export function actor() {
  const by = remembered(SUBMITTER).trim();
  return by ? { by } : {};
}

// "1 job", "3 jobs"; also of whole clauses: "1 job waits", "3 jobs wait".
export const counted = (number, one, many = `${one}s`) => `${number} ${number === 1 ? one : many}`;

// What a cancel ends: the jobs that are left, with those that run among them.
export function unfinished(left, running, jobs = counted(left, "job")) {
  const some = `${running} of them ${running === 1 ? "runs" : "run"}`;
  const all = left === 1 ? "it runs" : "all of them run";
  const now = running ? `; ${running === left ? all : some} now` : "";
  return `${jobs} will not be finished${now}.`;
}

export function toast(text) {
  const box = $("toast");
  box.textContent = text;
  box.hidden = false;
  // An open dialog, or what fills the screen, would be before it.
  (document.fullscreenElement || $$("dialog[open]").at(-1) || document.body).append(box);
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => {
    box.hidden = true;
  }, 6000);
}

// Sends a request for each of several groups; says how many failed and why the first, else what was done. Resolves to the
// number that failed.
export async function sendAll(requests, failed, done) {
  const refused = (await Promise.allSettled(requests)).filter((one) => one.status === "rejected");
  toast(refused.length ? `${failed(refused.length)}: ${refused[0].reason.message}` : done);
  return refused.length;
}

const waiting = new WeakMap(); // by dialog, what resolves its question

// Opens a dialog; resolves to whether it was closed with yes. The event of its last closing may come after it was opened
// again: that is no answer to the new question, and the old one was answered by no.
export function confirmed(dialog) {
  waiting.get(dialog)?.(false);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    waiting.set(dialog, resolve);
    dialog.onclose = () => {
      if (!dialog.open) resolve(dialog.returnValue === "yes");
    };
  });
}

// Asks with a dialog; resolves to whether the person said yes.
// tone: "danger" where yes takes something away.
export function ask(title, text, yes, no = "Cancel", tone = "danger") {
  $("ask-title").textContent = title;
  $("ask-text").textContent = text;
  $("ask-yes").textContent = yes;
  $("ask-yes").className = `button ${tone}`;
  $("ask-no").textContent = no;
  return confirmed($("ask"));
}

// Fetches. A Director that is overloaded has begun nothing: the request is sent again, at most three times.
export async function send(path, options) {
  for (let left = 3; ; left -= 1) {
    const response = await fetch(path, options);
    const seconds = Number(response.headers.get("Retry-After"));
    if (
      response.status !== 503 ||
      !seconds ||
      !left ||
      !(await response.clone().text()).includes('"overloaded"')
    )
      return response;
    toast(`The Director is too busy. The request is sent again in ${seconds} s.`);
    await new Promise((done) => setTimeout(done, 1000 * seconds));
  }
}

// Posts a body as it is, by default a text in JSON: numbers that JavaScript cannot hold stay as they are.
export const post = (path, body, { headers, ...options } = {}) =>
  fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers },
    body,
    ...options,
  });

// Calls the API. Resolves to its answer; rejects with an Error whose message is its sentence and
// whose `errors` are the fields that are wrong.
export async function call(method, path, body) {
  let response;
  try {
    response = await send(path, {
      method,
      headers:
        body === undefined || body instanceof FormData
          ? {}
          : { "Content-Type": "application/json" },
      body: body instanceof FormData ? body : JSON.stringify(body),
    });
  } catch {
    throw new Error(
      method === "GET"
        ? "The Director does not answer. Try again."
        : "The Director does not answer. It may have made the change. Check the page before you repeat it.",
    );
  }
  const text = await response.text();
  let answer = {};
  try {
    answer = text ? JSON.parse(text) : {};
  } catch {
    answer = {};
  }
  if (response.ok) return answer;
  if (response.status === 401) signIn();
  const error = new Error(answer.detail || `The Director answered ${response.status}.`);
  error.errors = answer.errors || [];
  error.answer = answer;
  throw error;
}

// Somebody set a token, or another one, since this page came: to the form, and back.
export function signIn() {
  location.href = `/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`;
}

// Copies also where the clipboard's own API is missing: on plain http, from another machine.
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const focused = document.activeElement;
    const area = make("textarea", { value: text, className: "sr" });
    (document.querySelector("dialog[open]") || document.body).append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    focused.focus(); // the keys of an open dialog end with its focus
    return done;
  }
}

onClick("[data-copy]", async ({ dataset: { copy: text } }) => {
  toast(
    (await copy(text))
      ? `Copied ${text.length > 80 ? `${text.slice(0, 80)} …` : text}`
      : "Copying is not allowed here.",
  );
});

// The server says times of day in UTC, as it does not know where the person is; the browser knows.
const CLOCK = /(?:(\d{4}-\d\d-\d\d) )?(\d\d:\d\d:\d\d) UTC/g;
export function localTimes(root) {
  for (const one of $$("[data-clock]", root)) {
    const texts = document.createTreeWalker(one, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const said = texts.currentNode.data.replace(CLOCK, localTime);
      if (texts.currentNode.data !== said) texts.currentNode.data = said;
    }
  }
}
function localTime(_, day, time) {
  const moment = new Date(`${day || new Date().toISOString().slice(0, 10)}T${time}Z`);
  const options = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
  const clock = moment.toLocaleTimeString("en-GB", options);
  const date =
    day && moment.toDateString() !== new Date().toDateString()
      ? `${moment.toLocaleDateString("sv")} `
      : "";
  return `${date}${clock}`;
}
localTimes(document);

const UNITS = [
  [86400, "d"],
  [3600, "h"],
  [60, "min"],
  [1, "s"],
];
export function ago(seconds) {
  return seconds < 5 ? "just now" : `${lasted(seconds)} ago`;
}
function lasted(seconds) {
  const [size, word] = UNITS.find(([unit]) => seconds >= unit) || [1, "s"];
  return `${Math.max(Math.round(seconds / size), 1)} ${word}`;
}
setInterval(() => {
  for (const time of $$("time[datetime]")) {
    const seconds = (Date.now() - Date.parse(time.dateTime)) / 1000;
    const said = "for" in time.dataset ? lasted(seconds) : ago(seconds);
    if (time.textContent !== said) time.textContent = said;
  }
}, 10_000);

const SIZES = ["bytes", "KB", "MB", "GB", "TB"];
export function sizeText(bytes) {
  const unit = Math.max(
    SIZES.findIndex((_, at) => bytes < 1024 ** (at + 1)),
    0,
  );
  return `${(bytes / 1024 ** unit).toFixed(unit ? 1 : 0)} ${SIZES[unit]}`;
}
