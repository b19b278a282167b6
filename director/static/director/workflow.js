// A workflow as a person brings it: what it is, and its literal inputs. Pure but for reading a file.

export class NotAWorkflow extends Error {}

// Checks the text of a workflow; returns its nodes. What is wrong is said in words.
export function nodesOf(text) {
  let graph;
  try { graph = JSON.parse(text); } catch { throw new NotAWorkflow("This is not JSON. Export the workflow in API format and choose that file."); }
  if (graph === null || typeof graph !== "object" || Array.isArray(graph)) throw new NotAWorkflow("This is JSON, but no workflow: it must be an object of nodes.");
  if (Array.isArray(graph.nodes) && "links" in graph) throw new NotAWorkflow('This is the editor\'s format. In ComfyUI choose Workflow, "Export (API)", and choose that file.');
  const nodes = Object.entries(graph);
  if (!nodes.length) throw new NotAWorkflow("This workflow has no nodes.");
  for (const [id, node] of nodes) {
    if (!node || typeof node.class_type !== "string" || !node.inputs || typeof node.inputs !== "object") {
      throw new NotAWorkflow(`This is JSON, but no workflow in API format: "${id.slice(0, 60)}" is not a node.`);
    }
  }
  return nodes;
}

const USUAL = ["text", "steps", "cfg", "guidance", "denoise", "sampler_name", "scheduler", "width", "height", "batch_size", "length", "ckpt_name", "unet_name", "lora_name", "filename_prefix"];
const SEEDS = ["seed", "noise_seed"];

// A reference to an uploaded file, where the name of a file may stand.
export const isReference = (value) => value?.__type === "core/ASSET";

// Returns the literal inputs: {id, title, name, value, usual, file}. Links and seeds are none.
export function literalsOf(nodes, fileInputs) {
  const found = [];
  for (const [id, node] of nodes) {
    const title = String(node._meta?.title || node.class_type);
    for (const [name, value] of Object.entries(node.inputs)) {
      const file = isReference(value) || (typeof value === "string" && fileInputs.includes(name));
      if (SEEDS.includes(name) || (!file && !["string", "number", "boolean"].includes(typeof value))) continue;
      found.push({ id, title, name, value, usual: USUAL.indexOf(name), file });
    }
  }
  return found;
}

// Returns a file's workflow as text: a JSON file's own, or what ComfyUI wrote into a PNG.
export async function textOf(file, most) {
  if (file.size > most) throw new NotAWorkflow(`This file has ${Math.ceil(file.size / 2 ** 20)} MB; the Director takes up to ${Math.floor(most / 2 ** 20)} MB.`);
  const head = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  if (String.fromCharCode(...head.slice(1)) !== "PNG") return file.text();
  let response;
  try { response = await fetch("/api/workflow-from-png", { method: "POST", headers: { "Content-Type": "image/png" }, body: file }); } catch { throw new NotAWorkflow("The Director does not answer."); }
  const answer = await response.text();
  if (response.ok) return workflowText(answer);
  let detail = "";
  try { detail = JSON.parse(answer).detail; } catch { /* no sentence came */ }
  throw new NotAWorkflow(detail || "This image contains no workflow.");
}

function workflowText(answer) {
  // {"workflow_json": …}: its text as it came, not read and written anew (numbers above 2^53).
  return answer.slice(answer.indexOf(":") + 1, answer.lastIndexOf("}"));
}
