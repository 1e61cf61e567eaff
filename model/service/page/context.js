// Earlier measurements from pasted text, by the rules of `model/inference/context_file.py`. Both are
// tested with `tests/data/context_cases.json`. Addresses and ranges are left to the server to check.
// Each row keeps its line number, so that the server's errors can be shown with it.

const FIELDS = ["src", "dst", "rtt_ms", "failed", "time"];
const LINE_END = /\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]/; // as str.splitlines() in Python
const NUMBER = /^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i;

export class ContextError extends Error {}

export function parseContext(text) {
  const lines = text.replace(/^\uFEFF/, "").split(LINE_END).map((line, at) => ({ line: line.trim(), number: at + 1 }));
  if (!lines.at(-1).line) lines.pop(); // behind the last line end there is no line
  const first = lines.findIndex(({ line }) => line);
  if (first < 0) return []; // an empty box is an empty context
  const rows = lines[first].line.startsWith("{") ? jsonRows(lines) : csvRows(lines.slice(first));
  return rows.map(({ row, number }) => measurement(row, number));
}

function jsonRows(lines) {
  return lines.filter(({ line }) => line).map(({ line, number }) => {
    let row = null;
    try {
      row = JSON.parse(line);
    } catch {
      // reported below
    }
    if (row === null || typeof row !== "object" || Array.isArray(row)) {
      throw new ContextError(`line ${number}: expected a JSON object`);
    }
    return { row, number };
  });
}

function csvRows(lines) {
  const [header, ...records] = csvRecords(lines);
  const names = header.values;
  if (!names.includes("src") || !names.includes("dst")) {
    throw new ContextError(`line ${header.number}: expected the header src,dst,rtt_ms,time, or JSON lines`);
  }
  return records.map(({ values, number }) => {
    if (values.length > names.length) throw new ContextError(`line ${number}: has more values than the header`);
    return { row: Object.fromEntries(names.map((name, at) => [name, values[at] || null])), number };
  });
}

// Records as Python's csv module reads them: a field that begins with a quote ends at the next single
// one, "" in it is a quote, and while it is open the record goes on in the next line.
function csvRecords(lines) {
  const records = [];
  let values = [], field = "", state = "start"; // of a field: start, plain, quoted
  for (const { line, number } of lines) {
    if (!line && state !== "quoted") continue;
    for (let at = 0; at < line.length; at++) {
      const char = line[at];
      if (state === "quoted") {
        if (char !== '"') field += char;
        else if (line[at + 1] === '"') field += line[++at];
        else state = "plain";
      } else if (char === ",") {
        values.push(field.trim());
        field = "";
        state = "start";
      } else if (state === "start" && char === '"') {
        state = "quoted";
      } else if (state === "plain" || char !== " ") {
        field += char;
        state = "plain";
      }
    }
    if (state === "quoted" && number !== lines.at(-1).number) continue;
    records.push({ values: [...values, field.trim()], number });
    values = [];
    field = "";
    state = "start";
  }
  return records;
}

function measurement(row, line) {
  const unknown = Object.keys(row).find((name) => !FIELDS.includes(name));
  if (unknown !== undefined) {
    throw new ContextError(`line ${line}: unknown field ${unknown}: expected ${FIELDS.join(", ")}`);
  }
  for (const name of ["src", "dst"]) {
    if (typeof row[name] !== "string") throw new ContextError(`line ${line}: ${name} is missing`);
  }
  let rtt = row.rtt_ms ?? null, failed = row.failed ?? false;
  if (typeof rtt === "string" && rtt.toLowerCase() === "failed") [rtt, failed] = [null, true];
  if (typeof failed === "string") failed = ["true", "yes", "1"].includes(failed.toLowerCase());
  if (Boolean(failed) === (rtt !== null)) {
    throw new ContextError(`line ${line}: rtt_ms: expected a number of ms, or failed, and not both`);
  }
  const checked = { src: row.src, dst: row.dst, rtt_ms: number(rtt, "rtt_ms", line), time: number(row.time, "time", line) };
  return { line, measurement: checked };
}

function number(value, name, line) {
  if (value === null || value === undefined) return null;
  const text = typeof value === "string" ? value.trim() : value;
  const parsed = typeof text === "number" || (typeof text === "string" && NUMBER.test(text)) ? Number(text) : NaN;
  if (!Number.isFinite(parsed)) throw new ContextError(`line ${line}: ${name} ${value}: expected a number`);
  return parsed;
}
