// The page: tabs, queries from forms, context, state of the server.
import { completionAnswer, destinationsAnswer, make, notes, rttAnswer, sampleAnswer } from "./answers.js";
import { ContextError, forServer, parseContext } from "./context.js";
import { CSVS, download } from "./csv.js";
import { fillFrom, linkOf } from "./link.js";

const POLL_MS = 2000;
const MOST_AT_ONCE = 64, BODY_BYTES = 1_000_000; // of a batch: the service takes no more
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
  "/predict_rtt": (form) => ({ src: form.src.value.trim(), dst: form.dst.value.trim(), time: asTime(form.time.value) }),
  "/predict_rtt/batch": (form, earlier) => {
    const src = form.src.value.trim() || (earlier.at(-1)?.measurement.src ?? "");
    const all = earlier.map(({ measurement }) => measurement.dst).filter((dst) => dst.includes(":") === src.includes(":"));
    const dsts = [...new Map(all.map((dst) => [dst.toLowerCase(), dst])).values()];
    return { src, dsts, time: asTime(form.time.value) };
  },
  "/sample_ips": (form) => ({
    src: form.src.value.trim(),
    target_rtt_ms: asNumber(form.target_rtt_ms.value),
    tolerance: asNumber(form.tolerance.value) / 100,
    n: asNumber(form.n.value),
  }),
  "/complete_ip": (form) => ({ prefix: form.prefix.value.trim(), field: form.field.value, k: asNumber(form.k.value) }),
};
const ANSWERS = {
  "/predict_rtt": rttAnswer,
  "/predict_rtt/batch": destinationsAnswer,
  "/sample_ips": sampleAnswer,
  "/complete_ip": completionAnswer,
};

function asTime(text) {
  return text ? Date.parse(`${text}Z`) / 1000 : null;
}

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
    const link = linkOf(form, context.value); // of what is asked now, whatever is typed until the answer comes
    const earlier = parseContext(context.value);
    const path = form.dataset.path;
    const query = QUERIES[path](form, earlier);
    const measurements = earlier.map((row) => row.measurement);
    const post = path.endsWith("/batch") ? askEach : send;
    const { ok, body } = await post(path, { ...query, context: measurements }, controller.signal, (done) => {
      if (running.get(form) === controller) button.textContent = `Asking … ${done} of ${query.dsts.length}`;
    });
    if (running.get(form) !== controller) return;
    say("");
    if (ok) {
      const about = body.answers ?? [body];
      const shown = ANSWERS[path](body, { query, earlier, example, predict });
      answer.replaceChildren(...notes([...new Set(about.flatMap((one) => one.notes))]), ...shown, takeAway(path, body, link));
      answer.classList.remove("old");
      contextNote(earlier.length, Math.min(...about.map((one) => one.context_used)));
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

async function send(path, body, signal) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  return { ok: response.ok, body: await response.json() };
}

// One query for each destination, as many at once as a body may hold. They were measured: private ones are meant.
async function askEach(path, { src, dsts, time, context: earlier }, signal, progress) {
  if (!dsts.length) throw new ContextError(src ? `no destination of the family of ${src}` : "no measurements: their destinations are asked about");
  const queries = dsts.map((dst) => ({ src, dst, time, context: earlier, allow_private: true }));
  const most = Math.floor(BODY_BYTES / JSON.stringify(queries[0]).length);
  const size = Math.min(MOST_AT_ONCE, Math.max(most, 1));
  const answers = [];
  for (let at = 0; at < queries.length; at += size) {
    const { ok, body } = await send(path, { queries: queries.slice(at, at + size) }, signal);
    if (!ok) return { ok, body };
    answers.push(...body.answers);
    progress(answers.length);
  }
  return { ok: true, body: { answers } };
}

function predict(src, dst) {
  const form = byId("predict").querySelector("form");
  form.src.value = src;
  form.dst.value = dst;
  show(byId("tab-predict"), true);
  ask(form);
}

function takeAway(path, body, link) {
  const line = make("p"), csv = make("button", "Download as CSV"), anchor = make("a", "Link to this question");
  line.className = "take-away";
  csv.type = "button";
  csv.className = "link";
  csv.addEventListener("click", () => download(`${path.slice(1).replace("/", "_")}.csv`, CSVS[path](body)));
  anchor.href = link;
  line.append(anchor, csv);
  return line;
}

function askFromLink() {
  const form = fillFrom(location.hash, context);
  if (!form) return false;
  context.dispatchEvent(new Event("input"));
  show(byId(`tab-${form.parentElement.id}`));
  ask(form);
  return true;
}

window.addEventListener("hashchange", askFromLink);

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
    const [name, row, field] = loc[1] === "queries" ? loc.slice(3) : loc.slice(1);
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

// --- Context ---

function fitting(rows, used) {
  if (rows === used) return rows === 1 ? "it fits" : "all fit";
  return used === 1 ? "one fits" : `${used} fit`;
}

function contextNote(rows, used) {
  byId("context-note").textContent = rows
    ? `${rows} measurement${rows === 1 ? "" : "s"}; ${fitting(rows, used)} into the window.`
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
  const whole = (rtt) => (rtt === null || rtt === undefined ? "failed" : Number(rtt.toFixed(3)));  // microseconds
  const lines = rows.map(({ src, dst, rtt_ms, time }) => [src, dst, whole(rtt_ms), time ?? ""].join(","));
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

function trainedOn(provenance) {
  if (!provenance) return "trained on unknown data";
  const what =
    { simulated: "pings of a simulated Internet", mixed: "pings, in part of a simulated Internet" }[provenance.data] ??
    "pings";
  return `trained on ${provenance.rows.toLocaleString("en")} ${what}`;
}

async function start() {
  await watch();
  const model = await (await fetch("/model")).json();
  const steps = model.origin?.step ? `, ${model.origin.step.toLocaleString("en")} steps` : "";
  byId("about").textContent = `${model.name}: ${model.parameters.toLocaleString("en")} weights${steps}, ${trainedOn(model.provenance)}`;
  example = model.card?.example ?? null;
  byId("example").hidden = !example;
  if (!askFromLink() && example) fillExample();
}

start();
