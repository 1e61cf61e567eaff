// The predicted distribution as SVG: bars on a logarithmic axis, 90 % band, median, and the truth where known.

const WIDTH = 640, HEIGHT = 240, LEFT = 8, RIGHT = 8, TOP = 34, BOTTOM = 26;
const MOST_TICKS = 6; // with more, labels run into each other: powers of ten only, or every other one

export function drawChart(answer, truth) {
  const { edges_ms: edges, probabilities } = answer.histogram;
  const shown = truth ? [...edges, truth * 0.97, truth * 1.03] : edges;
  const low = Math.min(...shown), high = Math.max(...shown);
  const x = (ms) => LEFT + ((WIDTH - LEFT - RIGHT) * Math.log(ms / low)) / Math.log(high / low);
  const base = HEIGHT - BOTTOM, tallest = Math.max(...probabilities, 1e-12);
  const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  const quantile = answer.quantiles_ms;
  svg.append(make("title", {}, `RTT distribution: median ${ms(answer.median_ms)}, 90 % between ${ms(quantile["0.05"])} and ${ms(quantile["0.95"])}`));
  const inside = (value) => x(Math.min(Math.max(value, low), high));
  const from = inside(quantile["0.05"]);
  svg.append(make("rect", { class: "band", x: from, y: TOP, width: inside(quantile["0.95"]) - from, height: base - TOP }));
  probabilities.forEach((share, at) => {
    const height = ((base - TOP) * share) / tallest;
    const bar = make("rect", { class: "bar", x: x(edges[at]), y: base - height, width: Math.max(x(edges[at + 1]) - x(edges[at]) - 0.5, 0.5), height });
    bar.append(make("title", {}, `${ms(edges[at])} to ${ms(edges[at + 1])}: ${(100 * share).toFixed(1)} %`));
    svg.append(bar);
  });
  svg.append(make("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: base, y2: base }));
  for (const tick of ticks(low, high)) {
    svg.append(make("line", { class: "axis", x1: x(tick), x2: x(tick), y1: base, y2: base + 4 }));
    svg.append(make("text", { x: x(tick), y: base + 18, "text-anchor": anchor(x(tick)) }, ms(tick)));
  }
  mark(svg, "median", inside(answer.median_ms), `median ${ms(answer.median_ms)}`, 13, base);
  if (truth) mark(svg, "truth", x(truth), `simulated truth ${ms(truth)}`, 28, base);
  return svg;
}

export function ms(value) {
  return `${value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toPrecision(2)} ms`;
}

function mark(svg, name, at, text, y, base) {
  svg.append(make("line", { class: name, x1: at, x2: at, y1: y + 3, y2: base }));
  svg.append(make("text", { class: `${name}-text`, x: at, y, "text-anchor": anchor(at) }, text));
}

function anchor(at) {
  return at < 70 ? "start" : at > WIDTH - 70 ? "end" : "middle";
}

function ticks(low, high) {
  for (const digits of [[1, 2, 5], [1]]) {
    const all = [-3, -2, -1, 0, 1, 2, 3, 4, 5].flatMap((power) => digits.map((digit) => digit * 10 ** power));
    const inside = all.filter((tick) => tick >= low && tick <= high);
    if (inside.length < 2) return [low, Math.sqrt(low * high), high];
    if (inside.length <= MOST_TICKS) return inside;
    if (digits.length === 1) return inside.filter((_, at) => at % Math.ceil(inside.length / MOST_TICKS) === 0);
  }
}

function make(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = text;
  return element;
}
