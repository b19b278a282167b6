// Sockets that come back by themselves, and the line at the bottom that says how it stands.
import { $, make, remember, remembered, signIn } from "./dom.js";

// open(): the address, read again for each attempt. on.frame(frame), on.open(again), on.gone(code). With on.stays the page
// is not left when the session has ended: a form would be lost.
export class Live {
  constructor(address, on) {
    this.address = address;
    this.on = on;
    this.pause = 500;
    this.opened = 0;
    this.connect();
    addEventListener("online", () => this.soon());
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.soon();
    });
  }

  connect() {
    clearTimeout(this.timer);
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}${this.address()}`);
    this.socket = socket;
    socket.onopen = () => {
      this.pause = 500;
      this.opened += 1;
      this.on.open?.(this.opened > 1);
    };
    socket.onmessage = (event) => this.on.frame(JSON.parse(event.data));
    socket.onclose = (event) => {
      if (this.socket !== socket) return;
      if (event.code === 4401 && !this.on.stays) {
        signIn();
        return;
      }
      this.on.gone?.(event.code);
      if ([4029, 4401].includes(event.code)) this.pause = 5000; // It was opened to be refused.
      if (event.code === 4404 || this.ended) return;
      this.timer = setTimeout(() => this.connect(), this.pause * (0.75 + Math.random() / 2));
      this.pause = Math.min(this.pause * 1.7, 5000);
    };
  }

  // Tries now where it waits for its next try.
  soon() {
    if (!this.ended && this.socket.readyState === WebSocket.CLOSED) this.connect();
  }

  // Closes and opens again, with an address that has changed.
  again() {
    const old = this.socket;
    this.connect();
    old.close();
  }
}

// The number of failed jobs in the navigation, written as director.pages.failures.tally writes it.
function tally(failed) {
  const mark = document.querySelector(".tally");
  // A web of the release before does not send it.
  if (failed === undefined || !mark) return;
  mark.hidden = !failed;
  mark.replaceChildren(failed > 99 ? "99+" : String(failed), mark.lastElementChild);
}

let halt = "";
let full = false;
let reached = true;
let isSignedOut = false;
let goneTimer = 0;

function draw(version) {
  const state = !reached ? "away" : halt ? "halt" : "live";
  $("line-dot").dataset.state = state;
  $("line-live").textContent = reached ? "live" : "offline";
  $("line-runner").textContent = reached ? (halt ? "halted" : "runner ok") : "";
  if (version) $("line-version").textContent = `version ${version}`;
  const box = $("away");
  box.classList.toggle("soft", reached);
  box.hidden = reached && !halt && !full;
  if (isSignedOut && !reached) {
    const link = make("a", { href: "/sign-in", target: "_blank" }, "Sign in in another tab");
    box.replaceChildren("You are signed out. ", link, ": what is filled in here stays.");
    return;
  }
  box.textContent = !reached
    ? "The Director does not answer. Submitted jobs are stored; this page reconnects by itself."
    : halt
      ? `${halt} Running jobs continue.`
      : "The disk of the Director is almost full: outputs are not copied, and uploads are refused. Jobs continue.";
}

// The page's line to the Director. handlers: snapshot, event, progress, preview, star, replaced, pulse, each
// optional. stars: groups of which only changed stars and replaced files are reported. previews(): those of the groups
// whose live previews are.
export function monitor(groups, handlers = {}, stars = [], previews = () => []) {
  const address = () =>
    `/ws/monitor?groups=${groups().join(",")}&stars=${stars.join(",")}&previews=${previews().join(",")}`;
  return new Live(address, {
    open: (again) => {
      clearTimeout(goneTimer);
      goneTimer = 0;
      reached = !isSignedOut;
      handlers.open?.(again);
    },
    stays: handlers.stays,
    gone: (code) => {
      isSignedOut = code === 4401;
      if (isSignedOut) {
        reached = false;
        draw();
      }
      // A moment between two sockets is no absence; tries that fail do not put it off.
      goneTimer ||= setTimeout(() => {
        reached = false;
        draw();
      }, 1200);
    },
    frame: (frame) => {
      if (frame.type === "snapshot" || frame.type === "pulse") {
        halt = frame.halt;
        full = frame.disk_full;
        isSignedOut = false;
        reached = true;
        draw(frame.version);
        tally(frame.failed);
      }
      handlers[frame.type]?.(frame);
    },
  });
}

export function favicon(state) {
  const known = ["running", "completed", "failed", "partial_complete"].includes(state);
  const href = `${document.body.dataset.static}favicon${known ? `-${state}` : ""}.svg`;
  if (!$("favicon").href.endsWith(href)) $("favicon").href = href;
}

// A short tone, made here; browsers allow it after the first click on the page.
const box = $("sound");
let audio;
box.checked = remembered("sound") === "on";
box.onchange = () => {
  remember("sound", box.checked ? "on" : "off");
  if (box.checked) chime();
};
export function chime(failed = false) {
  if (!box.checked) return;
  audio ||= new AudioContext();
  for (const [index, pitch] of (failed ? [392, 294] : [523, 784]).entries()) {
    const at = audio.currentTime + index * 0.15;
    const tone = audio.createOscillator();
    const volume = audio.createGain();
    tone.frequency.value = pitch;
    volume.gain.setValueAtTime(0.0001, at);
    volume.gain.exponentialRampToValueAtTime(0.15, at + 0.02);
    volume.gain.exponentialRampToValueAtTime(0.0001, at + 0.3);
    tone.connect(volume).connect(audio.destination);
    tone.start(at);
    tone.stop(at + 0.35);
  }
}
