// Answers as elements: a chart or a table, with the notes of what they rest on.
import { drawChart, ms } from "./chart.js";

export function notes(texts) {
  if (!texts.length) return [];
  const list = make("ul");
  list.className = "notes";
  for (const text of texts) list.append(make("li", text));
  return [list];
}

export function rttAnswer(answer, { query, earlier, example }) {
  const asExample = example && example.src === query.src && example.dst === query.dst;
  const truth = asExample && earlier.length === example.context.length ? example.true_median_ms : null;
  const q = answer.quantiles_ms;
  const facts = [
    ["half of all pings", `${ms(q["0.25"])} to ${ms(q["0.75"])}`],
    ["90 % of all pings", `${ms(q["0.05"])} to ${ms(q["0.95"])}`],
    ["mean", ms(answer.mean_ms)],
    ["no answer", percent(answer.p_failed)],
  ];
  if (truth) facts.push(["truth in the simulation", ms(truth)]);
  const list = make("dl");
  for (const [name, value] of facts) list.append(make("dt", name), make("dd", value));
  const big = make("p", ms(answer.median_ms));
  big.className = "big";
  return [big, list, drawChart(answer, truth)];
}

export function sampleAnswer(answer, { query, predict }) {
  const rows = answer.samples.map((sample) => {
    const cell = make("span");
    cell.append(linkButton(sample.address, () => predict(query.src, sample.address)), ...unmet(sample));
    return [cell, number(sample.log_probability.toFixed(2)), number(percent(sample.p_within))];
  });
  const best = percent(answer.samples[0].p_within);
  const found = answer.convincing ? `The best is within the tolerance with a probability of ${best}. `
    : `Nothing convincing found: the best is within the tolerance with a probability of ${best}. `;
  const fewer = rows.length < query.n ? `${rows.length} of ${query.n}: further draws found no new ones. ` : "";
  return [table(`${found}${fewer}Choose one to predict its RTT.`, ["Address", "log-probability", "within tolerance"], rows)];
}

export function completionAnswer(answer) {
  const rows = answer.completions.map((completion) => {
    const meter = make("meter");
    meter.value = completion.probability;
    const cell = make("span", completion.address);
    cell.append(make("small", `each byte: ${completion.byte_probabilities.map(percent).join(", ")}`), ...unmet(completion));
    return [cell, number(percent(completion.probability)), meter];
  });
  const total = answer.completions.reduce((sum, { probability }) => sum + probability, 0);
  return [table(`Together ${percent(total)} of the probability.`, ["Address", "probability", ""], rows)];
}

// One row for each destination, nearest first, with what the context last says from the same source.
export function destinationsAnswer({ answers }, { query, earlier, predict }) {
  const { src, dsts } = query;
  const measured = new Map(earlier.filter(({ measurement }) => same(measurement.src, src)).map(({ measurement }) => [measurement.dst.toLowerCase(), measurement.rtt_ms]));
  const order = [...answers.keys()].sort((one, other) => answers[one].median_ms - answers[other].median_ms);
  const rows = order.map((at) => {
    const { dst, median_ms, quantiles_ms: q, p_failed } = answers[at], last = measured.get(dsts[at].toLowerCase());
    const median = make("span", ms(median_ms));
    median.append(make("small", `${plain(q["0.05"])} to ${ms(q["0.95"])}`));
    median.dataset.number = "1";
    return [
      linkButton(dst, () => predict(src, dst)),
      median,
      number(percent(p_failed)),
      number(last === undefined ? "–" : last === null ? "failed" : ms(last)),
    ];
  });
  const note = make("p", `${rows.length} destination${rows.length === 1 ? "" : "s"} from ${src}, nearest first: median, and the range of 90 % of all pings. Choose one to see its distribution.`);
  note.className = "note";
  return [note, wide(table("", ["Address", "predicted", "no answer", "last measured"], rows))];
}

// The mark of an address of a network that the training data do not have.
function unmet({ unmet_prefix: prefix }) {
  return prefix ? [make("small", `the training data have none in ${prefix}`)] : [];
}

function plain(value) {
  return ms(value).replace(" ms", "");
}

function same(one, other) {
  return one.toLowerCase() === other.toLowerCase();
}

// A table that scrolls in itself where the window is too narrow for it.
function wide(element) {
  const box = make("div");
  box.className = "wide";
  box.tabIndex = 0;
  box.append(element);
  return box;
}

function linkButton(text, act) {
  const element = make("button", text);
  element.className = "link";
  element.type = "button";
  element.addEventListener("click", act);
  return element;
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
  if (caption) element.append(make("caption", caption));
  element.append(top, body);
  return element;
}

function number(text) {
  const element = make("span", text);
  element.dataset.number = "1";
  return element;
}

export function make(name, text = "") {
  const element = document.createElement(name);
  element.textContent = text;
  return element;
}

function percent(share) {
  return `${(100 * share).toFixed(share < 0.1 ? 2 : 1)} %`;
}
