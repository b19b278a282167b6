// A workflow as a person brings it: what it is, and its literal inputs. Pure but for reading a file.

import { counted, post } from "./dom.js";

// isOther: it is something else than a workflow, and not a workflow that cannot be taken.
export class NotAWorkflow extends Error {
  constructor(message, isOther = false) {
    super(message);
    this.isOther = isOther;
  }
}
export const CONVERTED = "Converted from the editor's format.";
const NODES = 10; // that are named where a file cannot be converted

// Returns {text, notes}: the workflow in API format, and what happened on the way. A file of the editor is converted: it is `drawn`.
export async function inApiFormat(text) {
  let graph;
  try {
    graph = JSON.parse(text);
  } catch {
    return { text, notes: [] };
  } // nodesOf says so
  if (!Array.isArray(graph?.nodes) || !("links" in graph)) return { text, notes: [] };
  let response;
  try {
    response = await post("/api/workflows/convert", `{"workflow_json":${text}}`);
  } catch {
    throw new NotAWorkflow("The Director does not answer.");
  }
  const answer = await response.text();
  let read = {};
  try {
    read = JSON.parse(answer);
  } catch {
    /* of a proxy */
  }
  if (!response.ok || !read.workflow)
    throw new NotAWorkflow(unconverted(read, `The Director answered ${response.status}.`));
  // The text as it came, as in workflowText.
  const whole = /^\{"workflow":([\s\S]*),"warnings":\[[\s\S]*$/.exec(answer);
  let own = JSON.stringify(read.workflow);
  try {
    if (JSON.stringify(JSON.parse(whole[1])) === own) own = whole[1];
  } catch {
    /* another order of the fields */
  }
  return {
    text: own,
    drawn: text,
    notes: [CONVERTED, ...(read.warnings || []).map((one) => one.message || String(one))],
  };
}

// Checks the text of a workflow; returns its nodes. What is wrong is said in words.
export function nodesOf(text) {
  let graph;
  try {
    graph = JSON.parse(text);
  } catch {
    throw new NotAWorkflow(
      "This is not JSON. Export the workflow in API format and choose that file.",
      true,
    );
  }
  if (graph === null || typeof graph !== "object" || Array.isArray(graph))
    throw new NotAWorkflow("This is JSON, but no workflow: it must be an object of nodes.", true);
  const nodes = Object.entries(graph);
  if (!nodes.length) throw new NotAWorkflow("This workflow has no nodes.");
  for (const [id, node] of nodes) {
    if (
      !node ||
      typeof node.class_type !== "string" ||
      !node.inputs ||
      typeof node.inputs !== "object"
    ) {
      throw new NotAWorkflow(
        `This is JSON, but no workflow in API format: "${id.slice(0, 60)}" is not a node.`,
        true,
      );
    }
  }
  return nodes;
}

const TEXTS = ["text", "prompt", "text_g", "text_l", "clip_l", "t5xxl", "string", "value"];
const isText = (value) => typeof value === "string" && value.trim() !== "";

// Returns the nodes with the prompts ("positive") and the negative prompts, by id, as jobgroups/workflow/summary.py.
function rolesOf(nodes) {
  const graph = new Map(nodes);
  const roles = new Map();
  for (const [role, names] of [
    ["positive", ["positive", "conditioning", "prompt"]],
    ["negative", ["negative"]],
  ]) {
    for (const name of names) {
      const waiting = nodes
        .filter(([, node]) => Array.isArray(node.inputs[name]))
        .map(([, node]) => node.inputs[name][0]);
      const seen = new Set();
      while (waiting.length) {
        const id = String(waiting.shift());
        const inputs = graph.get(id)?.inputs;
        if (!inputs || seen.has(id)) continue;
        seen.add(id);
        if (TEXTS.some((one) => isText(inputs[one]))) {
          if (!roles.has(id)) roles.set(id, role);
          continue;
        }
        // A node with both passes each on: ControlNet, a sampler.
        waiting.push(
          ...Object.entries(inputs)
            .filter(([key, value]) => Array.isArray(value) && (!(name in inputs) || key === name))
            .map(([, value]) => value[0]),
        );
      }
      if ([...roles.values()].includes(role)) break;
    }
  }
  return roles;
}

// Returns the nodes that cannot be converted, one on a line.
function unconverted({ errors = [], detail }, otherwise) {
  const nodes = errors.map(
    (one) =>
      `${one.field.includes(".") ? `Node ${one.field.replace(/^workflow_json\./, "")}: ` : ""}${one.message}`,
  );
  if (!nodes.length) return detail || otherwise;
  const more = nodes.length > NODES ? [`And ${counted(nodes.length - NODES, "more node")}.`] : [];
  return ["The editor's format cannot be converted.", ...nodes.slice(0, NODES), ...more].join("\n");
}

const USUAL = [
  "text",
  "steps",
  "cfg",
  "guidance",
  "denoise",
  "sampler_name",
  "scheduler",
  "width",
  "height",
  "batch_size",
  "length",
  "ckpt_name",
  "unet_name",
  "lora_name",
  "filename_prefix",
];
const SEEDS = ["seed", "noise_seed"];

// A reference to an uploaded file, where the name of a file may stand.
export const isReference = (value) => value?.__type === "core/ASSET";

// Returns the literal inputs: {id, title, name, slot, value, usual, file, role}. Links and seeds are none. `slot` is the name
// that the API gives an input, `role` that of a prompt.
export function literalsOf(nodes, fileInputs) {
  const found = [];
  const roles = rolesOf(nodes);
  for (const [id, node] of nodes) {
    const title = String(node._meta?.title || node.class_type);
    for (const [name, value] of Object.entries(node.inputs)) {
      const file = isReference(value) || (typeof value === "string" && fileInputs.includes(name));
      if (
        SEEDS.includes(name) ||
        (!file && !["string", "number", "boolean"].includes(typeof value))
      )
        continue;
      found.push({
        id,
        title,
        name,
        slot: `${id}.${name}`,
        value,
        usual: USUAL.indexOf(name),
        file,
        role: typeof value === "string" && TEXTS.includes(name) ? roles.get(id) || "" : "",
      });
    }
  }
  return found;
}

// Returns a file's workflow as text: a JSON file's own, or what ComfyUI wrote into a PNG.
export async function textOf(file, most) {
  if (file.size > most)
    throw new NotAWorkflow(
      `This file has ${Math.ceil(file.size / 2 ** 20)} MB; the Director takes up to ${Math.floor(most / 2 ** 20)} MB.`,
    );
  const head = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  if (String.fromCharCode(...head.slice(1)) !== "PNG") return file.text();
  let response;
  try {
    response = await post("/api/workflow-from-png", file, {
      headers: { "Content-Type": "image/png" },
    });
  } catch {
    throw new NotAWorkflow("The Director does not answer.");
  }
  const answer = await response.text();
  if (response.ok) return workflowText(answer);
  let wrong = {};
  try {
    wrong = JSON.parse(answer);
  } catch {
    /* no sentence came */
  }
  throw new NotAWorkflow(
    unconverted(wrong, "This image contains no workflow."),
    !wrong.errors?.length,
  );
}

// Returns whether a PNG has its workflow in the editor's format alone: the Director converts that.
export async function isConverted(file) {
  const content = new TextDecoder("latin1").decode(await file.arrayBuffer());
  return content.startsWith("PNG", 1) && !/(?:tEXt|iTXt|zTXt)prompt\0/.test(content);
}

function workflowText(answer) {
  // {"workflow_json": …}: its text as it came, not read and written anew (numbers above 2^53).
  return answer.slice(answer.indexOf(":") + 1, answer.lastIndexOf("}"));
}
