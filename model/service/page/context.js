// Earlier measurements from pasted text, by the rules of `stores/measurements/text_rows.py`. Both are
// tested with `tests/data/context_cases.json`. Addresses and ranges are left to the server to check.
// Each row keeps its line number, so that the server's errors can be shown with it.

const FIELDS = ["src", "dst", "rtt_ms", "failed", "time"];
const TABLE_FIELDS = ["src_addr", "dst_addr", "rtt", "event_time"]; // of the measurement table, and what it also has:
const IGNORED = ["msm_id", "ip_version", "size", "packet_error_count", "prb_id", "source_file", "source_row"];
const DATE = /^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?)\s*(Z|[+-]\d\d:?\d\d)?$/;
const LINE_END = /\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]/; // as str.splitlines() in Python
const NUMBER = /^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i;

export class ContextError extends Error {}

// Whether a text is none of these, but what the server reads: RIPE Atlas results, Parquet, compressed files.
export function forServer(text) {
  const start = text.replace(/^[\uFEFF\x1e\s]+/, "");
  if (/[\0\uFFFD]/.test(start.slice(0, 4096)) || start.startsWith("PAR1") || start.startsWith("[")) return true;
  return start.startsWith("{") && /"timestamp"\s*:/.test(start) && /"(prb|msm)_id"\s*:/.test(start);
}

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
  if (!["src", "dst"].every((name) => names.includes(name) || names.includes(`${name}_addr`))) {
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

function measurement(given, line) {
  const ofTable = "src_addr" in given;
  const known = ofTable ? [...TABLE_FIELDS, ...IGNORED] : FIELDS;
  const unknown = Object.keys(given).find((name) => !known.includes(name));
  if (unknown !== undefined) {
    throw new ContextError(`line ${line}: unknown field ${unknown}: expected ${known.join(", ")}`);
  }
  const row = ofTable ? renamed(given) : given;
  for (const name of ["src", "dst"]) {
    if (typeof row[name] !== "string") throw new ContextError(`line ${line}: ${name} is missing`);
  }
  let rtt = row.rtt_ms ?? null, failed = row.failed ?? false;
  if (typeof rtt === "string" && rtt.toLowerCase() === "failed") [rtt, failed] = [null, true];
  if (typeof failed === "string") failed = ["true", "yes", "1"].includes(failed.toLowerCase());
  if (Boolean(failed) === (rtt !== null)) {
    throw new ContextError(`line ${line}: rtt_ms: expected a number of ms, or \`failed\` for a ping without answer, and not both`);
  }
  const checked = { src: row.src, dst: row.dst, rtt_ms: number(rtt, "rtt_ms", line), time: number(seconds(row.time), "time", line) };
  return { line, measurement: checked };
}

// A row of the measurement table, whose rtt is negative where the ping failed.
function renamed({ src_addr, dst_addr, rtt, event_time }) {
  const failed = typeof rtt !== "boolean" && Number(rtt) < 0;
  return { src: src_addr, dst: dst_addr, rtt_ms: failed ? null : rtt, failed, time: event_time };
}

// Unix seconds of a time in ISO 8601, in UTC where it names no zone; anything else as it is.
function seconds(time) {
  const parts = typeof time === "string" && time.trim().match(DATE);
  if (!parts) return time;
  const zone = (parts[3] ?? "Z").replace(/(\d\d)(\d\d)$/, "$1:$2");
  const moment = Date.parse(`${parts[1]}T${parts[2].replace(",", ".")}${zone}`) / 1000;
  return Number.isNaN(moment) ? time : moment;
}

function number(value, name, line) {
  if (value === null || value === undefined) return null;
  const text = typeof value === "string" ? value.trim() : value;
  const parsed = typeof text === "number" || (typeof text === "string" && NUMBER.test(text)) ? Number(text) : NaN;
  if (!Number.isFinite(parsed)) throw new ContextError(`line ${line}: ${name} ${value}: expected a number`);
  return parsed;
}
