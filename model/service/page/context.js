// Earlier measurements from text: the format of `model/context_file.py`. Rows remember their line.

const FIELDS = ["src", "dst", "rtt_ms", "failed", "time"];

export class ContextError extends Error {}

export function parseContext(text) {
  const lines = text.split(/\r?\n/).map((line, at) => ({ line: line.trim(), number: at + 1 }));
  const filled = lines.filter(({ line }) => line);
  if (!filled.length) return [];
  return filled[0].line.startsWith("{") ? filled.map(fromJson) : fromCsv(filled);
}

function fromJson({ line, number }) {
  let row;
  try {
    row = JSON.parse(line);
  } catch {
    throw new ContextError(`line ${number}: expected a JSON object`);
  }
  return measurement(row, number);
}

function fromCsv([header, ...rest]) {
  const names = header.line.split(",").map((name) => name.trim());
  if (!names.includes("src") || !names.includes("dst")) {
    throw new ContextError(`line ${header.number}: expected the header src,dst,rtt_ms,time, or JSON lines`);
  }
  return rest.map(({ line, number }) => {
    const values = line.split(",").map((value) => value.trim());
    if (values.length > names.length) throw new ContextError(`line ${number}: more values than the header has`);
    return measurement(Object.fromEntries(names.map((name, at) => [name, values[at] || null])), number);
  });
}

function measurement(row, line) {
  const unknown = Object.keys(row).find((name) => !FIELDS.includes(name));
  if (unknown) throw new ContextError(`line ${line}: unknown field ${unknown}: expected ${FIELDS.join(", ")}`);
  for (const name of ["src", "dst"]) {
    if (typeof row[name] !== "string") throw new ContextError(`line ${line}: ${name} is missing`);
  }
  const failed = row.rtt_ms === "failed" || [true, "true", "yes", "1"].includes(row.failed);
  const rtt = failed ? null : number(row.rtt_ms, "rtt_ms", line);
  if (!failed && rtt === null) throw new ContextError(`line ${line}: rtt_ms: expected ms, or failed`);
  return { line, query: { src: row.src, dst: row.dst, rtt_ms: rtt, time: number(row.time, "time", line) } };
}

function number(value, name, line) {
  if (value === null || value === undefined || value === "") return null;
  const parsed = Number(value);
  if (!Number.isFinite(parsed)) throw new ContextError(`line ${line}: ${name} ${value}: expected a number`);
  return parsed;
}
