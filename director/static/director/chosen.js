// Outputs that were chosen in the gallery, as "?input=" names them: they become inputs of the workflow.
import { $$ } from "./dom.js";

const OUTPUT = /^\/api\/job-groups\/\w+\/jobs\/\w+\/outputs\/\d+$/;
const TAKE = { image: ["image"], video: ["video", "file"] }; // names of inputs

const paths = new URLSearchParams(location.search)
  .getAll("input")
  .filter((one) => OUTPUT.test(one));
export const howMany = paths.length;

// The way through an earlier workflow keeps them.
const query = new URLSearchParams(paths.map((path) => ["input", path]));
if (howMany) for (const link of $$(".recent a")) link.href += `&${query}`;

async function read(path) {
  try {
    const response = await fetch(path);
    if (!response.ok) return null;
    const [, name] = /filename="([^"]+)"/.exec(response.headers.get("Content-Disposition")) || [];
    const content = await response.blob();
    return new File([content], name || "output", { type: content.type });
  } catch {
    return null; // the Director is away, or the backend with the file
  }
}

// Gives each file to an input of its kind: send(literal, file), or varies the only such input: vary(literal, files).
// Resolves to the number of files without an input, and to that of files that could not be read.
export async function fill(literals, send, vary) {
  const files = await Promise.all(paths.map(read));
  let left = 0;
  for (const [kind, names] of Object.entries(TAKE)) {
    const some = files.filter((file) => file?.type.startsWith(`${kind}/`));
    const takers = literals().filter((one) => one.file && names.includes(one.name));
    if (some.length > 1 && takers.length === 1) vary(takers[0], some);
    else {
      for (const [index, literal] of takers.entries()) if (some[index]) send(literal, some[index]);
      left += Math.max(some.length - takers.length, 0);
    }
  }
  return { left, lost: files.filter((file) => !file).length };
}
