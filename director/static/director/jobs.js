// The list of jobs of a submission: the rows of a CSV file, or the jobs of an earlier group.
import { counted } from "./dom.js";

const MOST = Number(document.body.dataset.maxPool);
let list = null; // {name, columns, rows: [{line, cells}]} or {name, jobs}

// Returns the rows of a CSV; a cell in quotes may have line breaks. Throws an Error.
function rowsOf(text, delimiter) {
  const rows = [];
  let [cells, cell, quoted, line, start] = [[], "", false, 1, 1];
  for (let at = 0; at <= text.length; at++) {
    const sign = text[at];
    if (sign === "\n") line++;
    if (quoted) {
      if (sign === undefined) throw new Error(`Line ${start}: a quote is not closed.`);
      if (sign !== '"') cell += sign;
      else if (text[at + 1] === '"') {
        cell += sign;
        at++;
      } else quoted = false;
    } else if (sign === '"' && !cell) quoted = true;
    else if (sign === "\n" || sign === undefined || sign === delimiter) {
      cells.push(cell.replace(/\r$/, ""));
      cell = "";
      if (sign === delimiter) continue;
      if (cells.length > 1 || cells[0]) rows.push({ line: start, cells });
      [cells, start] = [[], line];
    } else cell += sign;
  }
  return rows;
}

// Takes a CSV file as the list in place of an earlier one; throws an Error whose message says what is wrong.
export async function bring(file) {
  let text;
  list = null;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    throw new Error("This is no text in UTF-8. Save the file as CSV in UTF-8.");
  }
  const header = text.split("\n", 1)[0];
  const delimiter = [",", ";", "\t"].reduce((one, other) =>
    header.split(other).length > header.split(one).length ? other : one,
  );
  const [head, ...rows] = rowsOf(text, delimiter);
  const columns = head?.cells.map((one) => one.trim()) || [];
  if (!rows.length) throw new Error("The file needs a line of inputs, and a line for each job.");
  if (rows.length > MOST)
    throw new Error(
      `The file has ${rows.length.toLocaleString("en")} jobs; at most ${MOST.toLocaleString("en")}.`,
    );
  const wrong = columns.find((one, at) => !one || columns.indexOf(one) !== at);
  if (wrong !== undefined)
    throw new Error(
      wrong ? `Line 1: the column "${wrong}" is there twice.` : "Line 1: a column has no name.",
    );
  const ragged = rows.find((one) => one.cells.length !== columns.length);
  if (ragged)
    throw new Error(
      `Line ${ragged.line} has ${counted(ragged.cells.length, "value")}; the first line has ${columns.length}.`,
    );
  list = { name: file.name, columns, rows };
}
export const keep = (name, jobs) => {
  list = { name, jobs };
};
export const remove = () => {
  list = null;
};

// Returns null without a list, else what sweep.js returns of a sweep, with `jobs`.
export function read(literals) {
  if (!list) return null;
  const errors = [];
  const jobs = list.jobs || list.rows.map((row) => jobOf(row, literals, errors));
  const inputs = list.columns || [
    ...new Set(jobs.flatMap((one) => Object.keys(one.parameters || {}))),
  ];
  return {
    jobs,
    total: jobs.length,
    seeds: jobs.length,
    hasStrategy: true,
    words: `${counted(jobs.length, "job")} from ${list.name}: ${inputs.join(", ")}`,
    errors: errors.slice(0, 5),
  };
}
function jobOf({ line, cells }, literals, errors) {
  const [job, wrong] = [
    {},
    (column, what) =>
      errors.push({ field: "sweep", message: `Line ${line}, ${column}: must be ${what}.` }),
  ];
  cells.forEach((cell, at) => {
    const column = list.columns[at];
    if (cell === "") return; // the input stays as it is
    const note = /^(?:metadata\.|meta:)(.+)$/.exec(column);
    const literal = literals.find((one) =>
      [one.slot, `${one.title}.${one.name}`, one.name].includes(column),
    );
    const kind = column === "seed" ? "number" : typeof literal?.value;
    const value =
      kind === "number"
        ? Number(cell)
        : kind === "boolean"
          ? cell.trim().toLowerCase() === "true"
          : cell;
    if (kind === "number" && !Number.isFinite(value)) wrong(column, "a number");
    if (kind === "boolean" && !/^\s*(true|false)\s*$/i.test(cell)) wrong(column, "true or false");
    if (column === "seed") job.seed = value;
    else if (note) (job.metadata ??= {})[note[1]] = value;
    else (job.parameters ??= {})[column] = value;
  });
  return job;
}
// Names the job, and in a CSV its line, in an error of the server; null if the error is of no job.
export function located({ field, message }) {
  const [, number, place] = /^jobs\.(\d+)\.?(.*)$/.exec(field) || [];
  if (number === undefined || !list) return null;
  const shown = list.rows?.[number]
    ? `Line ${list.rows[number].line}`
    : `Job ${Number(number) + 1}`;
  return { field: "sweep", message: `${shown}, ${place.replace(/^parameters\./, "")}: ${message}` };
}
