// The field of an input that takes a file: the name of a file at the backends, or a file that is uploaded here.
import { $, call, onFiles, signIn, sizeText } from "./dom.js";
import { isReference } from "./workflow.js";

const MOST = Number(document.body.dataset.maxAsset);
const SHOWN = 32 * 2 ** 20; // of a larger image there is no thumbnail
const STALL_MS = 60_000; // without progress
const STORE_MS = 600_000; // for the answer after the last byte
const WAIT = "Wait until the file is uploaded.";
const KINDS = { image: "image/*", mask: "image/*", audio: "audio/*", video: "video/*" };

// A browser has few connections to a host: the uploads of many files leave some for other requests.
const UPLOADS = 3;
const line = [];
let active = 0;
function next() {
  while (active < UPLOADS && line.length) {
    active++;
    line.shift()();
  }
}

// Uploads a file. `done` resolves to the asset, and rejects with an Error whose message is a sentence.
function upload(file, onProgress) {
  const request = new XMLHttpRequest();
  let timer;
  const within = (ms) => {
    clearTimeout(timer);
    timer = setTimeout(() => request.abort(), ms);
  };
  const done = new Promise((resolve, reject) => {
    const lost = () =>
      reject(new Error("The connection to the Director was lost, or the file has changed."));
    request.upload.onprogress = (event) => {
      within(STALL_MS);
      onProgress(event.loaded / event.total);
    };
    request.upload.onload = () => within(STORE_MS);
    request.onerror = lost;
    request.onabort = lost;
    request.onload = () => {
      let answer = {};
      try {
        answer = JSON.parse(request.responseText);
      } catch {
        /* of a proxy */
      }
      if (request.status === 401) signIn();
      if (answer.id) resolve(answer);
      else
        reject(
          new Error(
            answer.detail ||
              `The server answered ${request.status}${request.status === 413 ? ": the file is too large" : ""}.`,
          ),
        );
    };
  }).finally(() => {
    clearTimeout(timer);
    active--;
    next();
  });
  const start = () => {
    const form = new FormData();
    form.append("file", file);
    request.open("POST", "/api/assets");
    request.send(form);
    within(STALL_MS);
  };
  line.push(start);
  next();
  const abort = () => {
    if (line.includes(start)) line.splice(line.indexOf(start), 1);
    else request.abort();
  };
  return { done, abort };
}

// Returns what submit.js uses as an input: `value` is a name or a reference, `problem` why there is none yet.
// `onMore`, if it is there, gets the other files where several were chosen or dropped.
export function fileField(name, label, onChange, onMore = null) {
  const element = $("file-template").content.firstElementChild.cloneNode(true);
  const find = (selector) => element.querySelector(selector);
  const [drop, image, text, picked, chooser, bar, said] = [
    ".file",
    ".thumb",
    "input",
    ".file-name",
    "[type=file]",
    "progress",
    "[role=status]",
  ].map(find);
  const [again, remove] = ["retry", "remove"].map((one) => find(`[data-file=${one}]`));
  let reference = null;
  let original = "";
  let running = null;
  let chosen = null; // the file that is uploaded, or could not be
  let problem = "";
  element.ariaLabel = label;
  text.ariaLabel = `${label}: name of a file at the backends`;
  chooser.ariaLabel = `Choose a file for ${label}`;
  chooser.accept = KINDS[name] || "";
  chooser.multiple = onMore !== null;
  const bring = ([first, ...more]) => {
    if (first) {
      send(first);
      onMore?.(more);
    }
  };

  function show(title, kind = "", size = 0, source = "") {
    const isFile = reference !== null || chosen !== null;
    text.hidden = isFile;
    remove.hidden = picked.hidden = !isFile;
    picked.textContent = title + (size ? `, ${sizeText(size)}` : "");
    if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
    image.hidden = !source || !/^image\/(png|jpeg|webp|gif|avif|bmp)$/.test(kind) || size > SHOWN;
    if (image.hidden) image.removeAttribute("src");
    else image.src = source;
  }
  function state(message, { failed = false, busy = false } = {}) {
    problem = busy ? WAIT : failed ? message : "";
    said.textContent = message;
    said.classList.toggle("bad", failed);
    again.hidden = !failed || !chosen || chosen.size > MOST;
    bar.hidden = !busy;
  }

  async function send(file) {
    running?.abort();
    running = null;
    chosen = file;
    reference = null;
    bar.value = 0;
    state("Uploading …", { busy: true });
    show(file.name, file.type, file.size, URL.createObjectURL(file));
    if (file.size > MOST)
      state(`The file is too large: the Director takes up to ${sizeText(MOST)}.`, { failed: true });
    onChange();
    if (problem !== WAIT) return;
    const mine = (running = upload(file, (part) => {
      bar.value = part;
      if (mine === running)
        picked.textContent = `${file.name}, ${Math.floor(part * 100)} % of ${sizeText(file.size)}`;
    }));
    try {
      const asset = await mine.done;
      if (mine !== running) return;
      chosen = null;
      reference = { __type: "core/ASSET", info: { id: asset.id } };
      picked.textContent = `${file.name}, ${sizeText(file.size)}`;
      state("Uploaded. Each backend gets the file before its first job.");
    } catch (error) {
      if (mine !== running) return;
      state(`The file was not uploaded. ${error.message}`, { failed: true });
    }
    onChange();
  }

  async function showStored() {
    const { id } = reference.info;
    const mine = reference;
    show("…");
    try {
      const asset = await call("GET", `/api/assets/${id}`);
      if (mine === reference)
        show(asset.name, asset.content_type, asset.size_bytes, `/api/assets/${id}/content`);
    } catch (error) {
      if (mine !== reference) return;
      show("An uploaded file");
      if (error.answer?.code === "asset_not_found")
        state("This file was deleted. Choose it again.", { failed: true });
      onChange();
    }
  }

  function put(value) {
    running?.abort();
    running = chosen = null;
    reference = isReference(value) ? value : null;
    state(reference ? "" : "Drop a file here, or enter the name of a file that the backends have.");
    if (reference) {
      showStored();
      return;
    }
    text.value = original = String(value);
    show("");
  }

  chooser.onchange = () => {
    bring(chooser.files);
    chooser.value = "";
  };
  again.onclick = () => send(chosen);
  remove.onclick = () => {
    put(original);
    onChange();
    text.focus();
  };
  onFiles(drop, bring, drop);
  return {
    element,
    text,
    type: "file",
    get value() {
      return reference || text.value;
    },
    set value(value) {
      put(value);
    },
    get problem() {
      return problem;
    },
    send,
    abort: () => {
      running?.abort();
      running = null;
    },
  };
}
