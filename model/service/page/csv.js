// Answers as CSV (RFC 4180). A text that a spreadsheet would take for a formula begins with an apostrophe, which shows that it is text.

const FORMULA = /^\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|^[\t\r\n]/; // also the full-width signs

export function csvText(names, rows) {
  return [names, ...rows].map((row) => row.map(cell).join(",") + "\r\n").join("");
}

function cell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const text = FORMULA.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function download(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const rttNames = (answer) => ["src", "dst", "time", "context_used", "median_ms", "mean_ms", "p_failed", ...Object.keys(answer.quantiles_ms).map((share) => `q${share}_ms`), "data", "notes"];
const rttRow = (answer) => [answer.src, answer.dst, answer.time, answer.context_used, answer.median_ms, answer.mean_ms, answer.p_failed, ...Object.values(answer.quantiles_ms), answer.data, answer.notes.join("; ")];

// By the path of the question: the CSV of its answer.
export const CSVS = {
  "/predict_rtt": (answer) => csvText(rttNames(answer), [rttRow(answer)]),
  "/predict_rtt/batch": ({ answers }) => csvText(rttNames(answers[0]), answers.map(rttRow)),
  "/sample_ips": (answer) => csvText(
    ["src", "target_rtt_ms", "tolerance", "context_used", "address", "log_probability", "p_within", "unmet_prefix", "data", "notes"],
    answer.samples.map((sample) => [answer.src, answer.target_rtt_ms, answer.tolerance, answer.context_used, sample.address, sample.log_probability, sample.p_within, sample.unmet_prefix, answer.data, answer.notes.join("; ")]),
  ),
  "/complete_ip": (answer) => csvText(
    ["prefix", "field", "context_used", "address", "probability", "unmet_prefix", "data", "notes"],
    answer.completions.map((one) => [answer.prefix, answer.field, answer.context_used, one.address, one.probability, one.unmet_prefix, answer.data, answer.notes.join("; ")]),
  ),
};
