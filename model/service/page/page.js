// The page: tabs, queries from forms, answers as tables and a chart.
import { drawChart, ms } from "./chart.js";
import { ContextError, forServer, parseContext } from "./context.js";

const POLL_MS = 2000;
const byId = (id) => document.getElementById(id);
const context = byId("context");
let example = null; // from the model's card
const running = new Map(); // form -> AbortController of its latest query

// --- Tabs ---

const tabs = [...document.querySelectorAll("[role=tab]")];

function show(tab, focus = false) {
  for (const other of tabs) {
    other.setAttribute("aria-selected", other === tab);
    other.tabIndex = other === tab ? 0 : -1;
    byId(other.getAttribute("aria-controls")).hidden = other !== tab;
  }
  if (focus) tab.focus();
}

for (const [at, tab] of tabs.entries()) {
  tab.addEventListener("click", () => show(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) show(tabs[(at + step + tabs.length) % tabs.length], true);
  });
}

// --- Queries ---

const QUERIES = {
  "/predict_rtt": (form) => ({
    src: form.src.value.trim(),
    dst: form.dst.value.trim(),
    time: form.time.value ? Date.parse(`${form.time.value}Z`) / 1000 : null,
  }),
  "/sample_ips": (form) => ({
    src: form.src.value.trim(),
    target_rtt_ms: asNumber(form.target_rtt_ms.value),
    tolerance: asNumber(form.tolerance.value) / 100,
    n: asNumber(form.n.value),
  }),
  "/complete_ip": (form) => ({ prefix: form.prefix.value.trim(), field: form.field.value, k: asNumber(form.k.value) }),
};
const ANSWERS = { "/predict_rtt": rttAnswer, "/sample_ips": sampleAnswer, "/complete_ip": completionAnswer };

function asNumber(text) {
  return text.trim() === "" ? NaN : Number(text); // NaN is sent as null, which the server rejects by field name
}

for (const form of document.forms) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask(form);
  });
}

async function ask(form) {
  running.get(form)?.abort();
  const controller = new AbortController();
  running.set(form, controller);
  clearErrors(form);
  const button = form.querySelector(".ask"), answer = form.parentElement.querySelector(".answer");
  button.dataset.label ??= button.textContent;
  button.textContent = "Asking …";
  answer.classList.add("old");
  try {
    const earlier = parseContext(context.value);
    const path = form.dataset.path;
    const query = QUERIES[path](form);
    const response = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ...query, context: earlier.map((row) => row.measurement) }),
      signal: controller.signal,
    });
    const body = await response.json();
    if (running.get(form) !== controller) return;
    say("");
    if (response.ok) {
      answer.replaceChildren(...ANSWERS[path](body, query, earlier));
      answer.classList.remove("old");
      contextNote(earlier.length, body.context_used);
    } else {
      answer.replaceChildren();
      showErrors(form, body.detail, earlier);
    }
  } catch (error) {
    if (running.get(form) !== controller || error.name === "AbortError") return;
    answer.replaceChildren();
    if (error instanceof ContextError) return contextError(error.message);
    form.querySelector(".general").textContent = "No answer: the server is unreachable.";
    watch();
  } finally {
    if (running.get(form) === controller) button.textContent = button.dataset.label;
  }
}

// --- Errors ---

function clearErrors(form) {
  for (const element of form.querySelectorAll(".error")) element.textContent = "";
  for (const element of form.querySelectorAll("[aria-invalid]")) element.removeAttribute("aria-invalid");
  contextError("", false);
}

function contextError(message, focus = true) {
  byId("context-error").textContent = message;
  if (message) context.setAttribute("aria-invalid", "true");
  else context.removeAttribute("aria-invalid");
  if (message && focus) context.focus();
}

function showErrors(form, detail, earlier) {
  let first = null;
  for (const { loc, msg } of detail) {
    const [, name, row, field] = loc;
    const input = name && form.elements[name];
    if (name === "context") {
      const line = earlier[row]?.line;
      contextError(line ? `line ${line}: ${field ?? ""} ${msg}` : msg, !first);
      first ??= context;
    } else if (input) {
      const note = input.parentElement.querySelector(".error");
      note.id = `${input.id}-error`;
      note.textContent = msg;
      input.setAttribute("aria-invalid", "true");
      input.setAttribute("aria-describedby", note.id);
      first ??= input;
    } else {
      form.querySelector(".general").textContent = msg;
    }
  }
  first?.focus();
}

// --- Answers ---

function rttAnswer(answer, query, earlier) {
  const asExample = example && example.src === query.src && example.dst === query.dst;
  const truth = asExample && earlier.length === example.context.length ? example.true_median_ms : null;
  const q = answer.quantiles_ms;
  const facts = [
    ["half of all pings", `${ms(q["0.25"])} to ${ms(q["0.75"])}`],
    ["90 % of all pings", `${ms(q["0.05"])} to ${ms(q["0.95"])}`],
    ["mean", ms(answer.mean_ms)],
    ["no answer", percent(answer.p_failed)],
  ];
  if (truth) facts.push(["truth (median)", ms(truth)]);
  const list = make("dl");
  for (const [name, value] of facts) list.append(make("dt", name), make("dd", value));
  const big = make("p", ms(answer.median_ms));
  big.className = "big";
  return [big, list, drawChart(answer, truth)];
}

function sampleAnswer(answer, query) {
  const rows = answer.samples.map((sample) => {
    const link = make("button", sample.address);
    link.className = "link";
    link.type = "button";
    link.addEventListener("click", () => {
      const form = byId("predict").querySelector("form");
      form.src.value = query.src;
      form.dst.value = sample.address;
      show(byId("tab-predict"), true);
      ask(form);
    });
    return [link, number(sample.log_probability.toFixed(2)), number(percent(sample.p_within))];
  });
  const fewer = rows.length < query.n ? `${rows.length} of ${query.n}: further draws found no new ones. ` : "";
  return [table(`${fewer}Choose one to predict its RTT.`, ["Address", "log-probability", "within tolerance"], rows)];
}

function completionAnswer(answer) {
  const rows = answer.completions.map((completion) => {
    const meter = make("meter");
    meter.value = completion.probability;
    const cell = make("span", completion.address);
    cell.append(make("small", `each byte: ${completion.byte_probabilities.map(percent).join(", ")}`));
    return [cell, number(percent(completion.probability)), meter];
  });
  const total = answer.completions.reduce((sum, { probability }) => sum + probability, 0);
  return [table(`Together ${percent(total)} of all addresses with this prefix.`, ["Address", "probability", ""], rows)];
}

function table(caption, heads, rows) {
  const element = make("table"), head = make("tr"), body = make("tbody");
  for (const [at, name] of heads.entries()) {
    const cell = make("th", name);
    if (at) cell.className = "number";
    head.append(cell);
  }
  for (const cells of rows) {
    const row = make("tr");
    for (const content of cells) {
      const cell = make("td");
      if (content.dataset?.number) cell.className = "number";
      cell.append(content);
      row.append(cell);
    }
    body.append(row);
  }
  const top = make("thead");
  top.append(head);
  element.append(make("caption", caption), top, body);
  return element;
}

function number(text) {
  const element = make("span", text);
  element.dataset.number = "1";
  return element;
}

function make(name, text = "") {
  const element = document.createElement(name);
  element.textContent = text;
  return element;
}

function percent(share) {
  return `${(100 * share).toFixed(share < 0.1 ? 2 : 1)} %`;
}

// --- Context ---

function contextNote(rows, used) {
  byId("context-note").textContent = rows
    ? `${rows} measurement${rows === 1 ? "" : "s"}; ${used === rows ? "all" : `the last ${used}`} fit into the window.`
    : "Empty: the model sees only the query.";
}

context.addEventListener("dragover", (event) => {
  event.preventDefault();
  context.classList.add("drop");
});
context.addEventListener("dragleave", () => context.classList.remove("drop"));
context.addEventListener("drop", async (event) => {
  event.preventDefault();
  context.classList.remove("drop");
  const file = event.dataTransfer.files[0];
  const text = file ? await file.text() : event.dataTransfer.getData("text");
  if (file && forServer(text)) return readByServer(file);
  context.value = text;
  context.dispatchEvent(new Event("input"));
});

// Results and tables become CSV in the box, so that what the model is given can be seen and changed.
async function readByServer(content) {
  byId("context-note").textContent = "Reading …";
  const headers = { "Content-Type": "application/octet-stream" };
  const response = await fetch("/context", { method: "POST", headers, body: content }).catch(() => null);
  const body = await response?.json();
  if (!response?.ok) {
    byId("context-note").textContent = "";
    return contextError(body ? body.detail[0].msg : "No answer: the server is unreachable.", false);
  }
  context.value = asCsv(body.measurements);
  context.dispatchEvent(new Event("input"));
  const last = body.measurements.length < body.count ? `the last ${body.measurements.length} of ` : "";
  byId("context-note").textContent = `${last}${body.count} measurements. ${body.note}`;
}

function asCsv(rows) {
  const lines = rows.map(({ src, dst, rtt_ms, time }) => [src, dst, rtt_ms ?? "failed", time ?? ""].join(","));
  return ["src,dst,rtt_ms,time", ...lines].join("\n");
}

context.addEventListener("input", () => {
  if (forServer(context.value)) return readByServer(new Blob([context.value]));
  try {
    const rows = parseContext(context.value).length;
    contextError("", false);
    byId("context-note").textContent = rows ? `${rows} measurements` : "Empty: the model sees only the query.";
  } catch (error) {
    contextError(error.message, false);
  }
});

// --- State of the server ---

function say(text) {
  byId("state").textContent = text;
}

let watching = false;

async function watch() {
  if (watching) return;
  watching = true;
  for (;;) {
    const health = await fetch("/health").catch(() => null);
    if (health?.ok) break;
    const body = await health?.json().catch(() => null);
    say(body ? `The model is not ready: ${body.status} …` : "The server is unreachable. Trying again …");
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  watching = false;
  say("");
  for (const note of document.querySelectorAll(".general")) note.textContent = "";
}

function fillExample() {
  const predict = byId("predict").querySelector("form"), sample = byId("sample").querySelector("form");
  predict.src.value = sample.src.value = example.src;
  predict.dst.value = example.dst;
  predict.time.value = example.time ? new Date(1000 * example.time).toISOString().slice(0, 19) : "";
  byId("complete").querySelector("form").prefix.value = example.dst.includes(":")
    ? example.dst.split(":").slice(0, 2).join(":") + ":"
    : example.dst.split(".").slice(0, 2).join(".");
  context.value = asCsv(example.context);
  context.dispatchEvent(new Event("input"));
  show(byId("tab-predict"));
  ask(predict);
}

byId("example").addEventListener("click", fillExample);

async function start() {
  await watch();
  const model = await (await fetch("/model")).json();
  const steps = model.origin?.step ? `, ${model.origin.step.toLocaleString("en")} steps` : "";
  byId("about").textContent = `${model.name}: ${model.parameters.toLocaleString("en")} weights${steps}`;
  example = model.card?.example ?? null;
  byId("example").hidden = !example;
  if (example) fillExample();
}

start();
