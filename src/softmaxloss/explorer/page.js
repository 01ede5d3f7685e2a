// The page: one state, and one function that draws all of it anew after each change.
"use strict";

const START = { labels: ["cat", "dog", "bird"], logits: [0.3, 2.9, 4.0], target: [0, 0, 1] };
const NAMES = ["cat", "dog", "bird", "fish", "frog", "horse", "ship", "truck", "plane", "car"];
const LOWEST = -8, HIGHEST = 8;

const state = {};
const element = (id) => document.getElementById(id);

function begin() {
  Object.assign(state, structuredClone(START), { temperature: 1, smoothing: 0, rate: 1, offset: 0, scale: 1, second: null, history: [] });
  for (const name of ["temperature", "smoothing", "rate", "offset", "scale"]) element(name).value = state[name];
  listClasses();
  state.progress = steps();
  draw();
}

const steps = () => 2 * (SoftmaxLoss.graph(state.logits, target(), state.temperature).length - state.logits.length);
const target = () => SoftmaxLoss.smoothed(state.target, state.smoothing);

const overT = () => (state.temperature === 1 ? "" : " / T");

// ---- numbers and text ----

function written(value, digits = 3) {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  const text = size >= 1e5 || (size > 0 && size < 0.5 * 10 ** -digits) ? value.toExponential(1).replace("e+", "e") : value.toFixed(size < 100 ? digits : 1);
  return (Number(text) === 0 ? text.replace("-", "") : text).replaceAll("-", "−");
}

const escaped = (text) => text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
const short = (text, limit = 9) => (text.length > limit ? `${text.slice(0, limit - 1)}…` : text);
const text = (x, y, words, kind = "") => `<text x="${x}" y="${y}" class="${kind}">${escaped(words)}</text>`;
const cell = (value, digits) => `<td data-value="${value}">${written(value, digits)}</td>`;
const picture = (width, height, label, content) =>
  `<svg width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img" aria-label="${escaped(label)}">${content}</svg>`;

// Put HTML in a place, by changing only what differs from what is there: so it is quick, and focus stays where it is.
function show(place, content) {
  const template = document.createElement("template");
  template.innerHTML = content;
  adapt(place, template.content);
}

function adapt(old, fresh) {
  let [node, other] = [old.firstChild, fresh.firstChild];
  for (let next; node && other && node.nodeName === other.nodeName; [node, other] = next) {
    next = [node.nextSibling, other.nextSibling];
    if (node.isEqualNode(other)) continue;
    if (node.nodeType === Node.TEXT_NODE) {
      node.data = other.data;
      continue;
    }
    for (const { name, value } of other.attributes) if (node.getAttribute(name) !== value) node.setAttribute(name, value);
    if (node.attributes.length > other.attributes.length) for (const { name } of [...node.attributes]) if (!other.hasAttribute(name)) node.removeAttribute(name);
    adapt(node, other);
  }
  for (let next; node; node = next) {
    next = node.nextSibling;
    node.remove();
  }
  for (let next; other; other = next) {
    next = other.nextSibling;
    old.append(other);
  }
}

// A button that can do nothing keeps the focus, so that a keyboard does not lose its place.
const able = (id, can) => element(id).setAttribute("aria-disabled", String(!can));
const press = (id, action) => element(id).addEventListener("click", ({ currentTarget: button }) => button.getAttribute("aria-disabled") === "true" || action());

// ---- the table of classes ----

function listClasses() {
  element("classes").tBodies[0].innerHTML = state.labels
    .map((label, j) => `<tr><th scope="row"><input type="text" maxlength="20" data-kind="label" data-class="${j}" aria-label="name of class ${j + 1}"></th>
<td><input type="range" min="${LOWEST}" max="${HIGHEST}" step="0.1" data-kind="slider" data-class="${j}"></td>
<td><input type="number" step="0.1" data-kind="logit" data-class="${j}"></td>
<td><input type="radio" name="truth" data-kind="truth" data-class="${j}"></td>
<td><input type="range" min="0" max="1" step="0.01" data-kind="share" data-class="${j}"> <output></output></td></tr>`)
    .join("");
}

function showClasses() {
  for (const input of element("classes").tBodies[0].querySelectorAll("input")) {
    const { kind, class: place } = input.dataset, j = Number(place), label = state.labels[j];
    if (kind === "label") { if (document.activeElement !== input) input.value = label; continue; }
    input.setAttribute("aria-label", { slider: "logit of ", logit: "logit of ", truth: "the truth is ", share: "share of the truth: " }[kind] + label + (kind === "logit" ? ", as a number" : ""));
    if (kind === "slider") input.value = state.logits[j];
    if (kind === "logit" && document.activeElement !== input) input.value = Number(state.logits[j].toFixed(4));
    if (kind === "truth") input.checked = state.target[j] === 1;
    if (kind === "share") { input.value = state.target[j]; input.nextElementSibling.value = written(state.target[j], 2); }
  }
  able("add", state.labels.length < NAMES.length);
  able("remove", state.labels.length > 2);
}

element("classes").addEventListener("input", ({ target: input }) => {
  const { kind, class: place } = input.dataset, j = Number(place);
  if (kind === "label") state.labels[j] = input.value.trim() || `class ${j + 1}`;
  if (kind === "slider") state.logits[j] = Number(input.value);
  if (kind === "logit" && Number.isFinite(input.valueAsNumber)) state.logits[j] = Math.max(-1e6, Math.min(1e6, input.valueAsNumber));
  if (kind === "truth") state.target = state.target.map((_, k) => Number(k === j));
  if (kind === "share") state.target = SoftmaxLoss.redistributed(state.target, j, Number(input.value));
  if (kind !== "label") state.history = [];
  draw();
});
element("classes").addEventListener("focusout", showClasses);

function resize(change) {
  change();
  state.second = null;
  state.history = [];
  listClasses();
  state.progress = steps();
  draw();
}

press("add", () => resize(() => {
  state.labels.push(NAMES.find((name) => !state.labels.includes(name)) ?? `class ${state.labels.length + 1}`);
  state.logits.push(0);
  state.target.push(0);
}));
press("remove", () => resize(() => {
  for (const list of [state.labels, state.logits]) list.pop();
  const share = state.target.pop(), left = 1 - share;
  state.target = left > 0 ? state.target.map((p) => p / left) : state.target.map((_, j) => Number(j === 0));
}));
element("reset").addEventListener("click", begin);
for (const name of ["temperature", "smoothing", "rate", "offset", "scale", "progress"]) {
  element(name).addEventListener("input", ({ target: input }) => {
    const before = steps();
    state[name] = Number(input.value);
    if (steps() !== before) state.progress = steps(); // the graph has other circles now
    if (name === "temperature" || name === "smoothing") state.history = [];
    draw();
  });
}
element("keep").addEventListener("click", () => { state.second = state.second ? null : [...state.logits]; draw(); });
const move = (progress) => { state.progress = Math.max(0, Math.min(steps(), progress)); draw(); };
press("back", () => move(state.progress - 1));
element("on").addEventListener("click", () => move(state.progress === steps() ? 1 : state.progress + 1));
element("all").addEventListener("click", () => move(steps()));
const descend = (count) => {
  if (!state.history.length) state.history = [SoftmaxLoss.explain(state.logits, target(), state.temperature).loss];
  for (let k = 0; k < count; k++) {
    state.logits = SoftmaxLoss.step(state.logits, SoftmaxLoss.explain(state.logits, target(), state.temperature).dx, state.rate);
    state.history.push(SoftmaxLoss.explain(state.logits, target(), state.temperature).loss);
  }
  draw();
};
element("step").addEventListener("click", () => descend(1));
element("ten").addEventListener("click", () => descend(10));

// ---- the pictures ----

const widthOf = (id) => Math.max(240, Math.floor(element(id).clientWidth));

function drawBars(now, t) {
  const width = widthOf("bars"), n = state.labels.length, height = 270, base = 220, top = 26, across = (width - 8) / n;
  const at = (p) => base - p * (base - top), bar = Math.min(46, across * 0.3);
  const parts = [`<line class="axis" x1="0" x2="${width}" y1="${base}" y2="${base}"/>`];
  const signed = (value) => written(value).replace(/^(?=[\d.]*[1-9])/, "+");
  const longest = Math.max(...now.y.flatMap((y, j) => [written(y, 2).length + 2, signed(y - t[j]).length]));
  state.labels.forEach((label, j) => {
    const middle = 4 + across * (j + 0.5), left = middle - bar * 1.15, x = left + 2 * bar + 10, y = now.y[j], from = at(t[j]), to = at(y);
    parts.push(`<rect class="y" x="${left}" y="${to}" width="${bar}" height="${base - to}"/>`);
    parts.push(`<rect class="t" x="${left + bar}" y="${from}" width="${bar}" height="${base - from}"/>`);
    if (Math.abs(from - to) > 3) {
      const tip = to + (to < from ? 7 : -7);
      parts.push(`<line class="arrow" x1="${x}" x2="${x}" y1="${from}" y2="${tip}"/><path class="head" d="M${x - 5} ${tip} L${x + 5} ${tip} L${x} ${to} Z"/>`);
    }
    parts.push(text(middle, base + 18, short(label, Math.max(2, Math.floor(across / 11))), "middle bold"));
    if (across < 8.5 * longest) return; // no room for numbers: the table below has them
    parts.push(text(middle, base + 35, `y ${written(y, 2)}`, "middle value"));
    parts.push(text(middle, Math.min(from, to) - 6, signed(y - t[j]), "middle gradient"));
  });
  const label = state.labels.map((name, j) => `${name}: y ${written(now.y[j])}, t ${written(t[j], 2)}`).join("; ");
  show(element("bars"), picture(width, height, `Bars of y beside t. ${label}`, parts.join("")));
}

function drawCurve(now, t) {
  const width = widthOf("curve"), height = 248, left = 34, base = 205, top = 12, deepest = 6;
  const x = (p) => left + p * (width - left - 14), y = (loss) => base - (Math.min(loss, deepest) / deepest) * (base - top);
  const points = Array.from({ length: 200 }, (_, k) => (k + 0.5) / 200).map((p) => `${x(p).toFixed(1)},${y(-Math.log(p)).toFixed(1)}`);
  const parts = [`<line class="axis" x1="${left}" x2="${width}" y1="${base}" y2="${base}"/><line class="axis" x1="${left}" x2="${left}" y1="${top}" y2="${base}"/>`];
  for (const loss of [0, 2, 4, 6]) parts.push(text(left - 6, y(loss) + 4, String(loss), "left faint"));
  for (const p of [0, 0.5, 1]) parts.push(text(x(p) - (p === 1 ? 8 : 0), base + 18, String(p), "middle faint"));
  parts.push(text(x(0.5), base + 33, "probability y of the truth", "middle faint"), text(x(0.2), top + 14, "−log y", "value"));
  parts.push(`<polyline class="curve" points="${points.join(" ")}"/>`);
  const hard = t.indexOf(1), likely = (row) => (hard >= 0 ? row.y[hard] : Math.exp(-row.loss));
  const second = state.second && SoftmaxLoss.explain(state.second, t, state.temperature);
  if (second) parts.push(`<circle class="second" cx="${x(likely(second))}" cy="${y(second.loss)}" r="7"/>`);
  parts.push(`<circle class="dot" cx="${x(likely(now))}" cy="${y(now.loss)}" r="7"/>`);
  const what = hard >= 0 ? `The truth is ${state.labels[hard]}, which has y = ${written(now.y[hard])}: −log y = ${written(now.loss)}.` : `The truth is spread: −∑ t log y = ${written(now.loss)}; its least, with y = t, is ${written(SoftmaxLoss.explain(t.map((p) => Math.log(Math.max(p, 1e-300))), t).loss)}.`;
  const better = second ? ` The model kept (ring) has ${written(second.loss)}: ${Math.abs(second.loss - now.loss) < 5e-4 ? "as good" : second.loss < now.loss ? "it is better" : "it is worse"}.` : "";
  element("curve-text").textContent = what + better;
  element("keep").textContent = second ? "Forget the model kept" : "Keep this model to compare with";
  element("loss").textContent = `${written(now.loss)} nats`;
  element("loss").dataset.value = now.loss;
  show(element("curve"), picture(width, height, `The curve of minus log y. ${what}${better}`, parts.join("")));
}

function showNumbers(now, t) {
  const columns = [state.logits, state.logits.map((z) => z - Math.max(...state.logits)), now.exponentials, now.y, t, now.terms, now.y.map((y, j) => y - t[j])];
  const sums = columns.slice(2).map((column) => column.reduce((a, b) => a + b, 0));
  show(element("numbers").tBodies[0], state.labels
    .map((label, j) => `<tr><th scope="row">${escaped(short(label, 12))}</th>${columns.map((column) => cell(column[j])).join("")}</tr>`).join(""));
  show(element("numbers").tFoot, `<tr><th scope="row">sum</th><td></td><td></td>${sums.map((value) => cell(Math.abs(value) < 1e-12 ? 0 : value)).join("")}</tr>`);
}

const SYMBOLS = { shift: "−max", divide: "/T", exp: "exp", sum: "+", reciprocal: "1/x", times: "×", log: "log", minus: "−1×" };
const COLUMN = 108, ROW = 86, RADIUS = 20;

function places(nodes) {
  const n = state.labels.length, aside = Math.max(0.72, 0.27 * n), middle = ((n - 1) * ROW) / 2;
  let column = 0, stage = "logits", x = 92;
  return nodes.map((node) => {
    if (node.stage !== stage) {
      stage = node.stage;
      column += 1 + ({ sum: aside - 1, reciprocal: -0.15, softmax: aside - 1, "sum of all": Math.max(0, aside - 1) / 2 }[stage] ?? 0);
    }
    const y = node.index !== undefined ? node.index * ROW : stage === "sum" || stage === "reciprocal" ? n * ROW - 6 : middle;
    return [x + column * COLUMN, y + 40];
  });
}

function drawGraph(t) {
  const nodes = SoftmaxLoss.graph(state.logits, t, state.temperature), at = places(nodes), n = state.labels.length;
  const inner = nodes.length - n, last = nodes.length - 1;
  const forward = Math.min(state.progress, inner), backward = Math.max(0, state.progress - inner);
  const known = (i) => i < n + forward, sent = (i) => i > last - backward;
  const width = Math.ceil(at[last][0] + 96), height = n * ROW + 70;
  const edges = [], circles = [], numbers = [];
  const numbersAt = (x, y, value, gradient, align = "middle", apart = 0) => {
    if (value !== null) numbers.push(text(x, y - 5 - apart, written(value), `value ${align}`));
    if (gradient !== null) numbers.push(text(x, y + 15 + apart, written(gradient), `gradient ${align}`));
  };
  nodes.forEach((node, i) => node.inputs.forEach((input, k) => {
    const [x0, y0] = at[input], [x1, y1] = at[i], across = x1 - x0, down = y1 - y0, length = Math.hypot(across, down);
    const start = input < n ? 0 : RADIUS, [ux, uy] = [across / length, down / length];
    edges.push(`<line class="edge" x1="${(x0 + ux * start).toFixed(1)}" y1="${(y0 + uy * start).toFixed(1)}" x2="${(x1 - ux * (RADIUS + 5)).toFixed(1)}" y2="${(y1 - uy * (RADIUS + 5)).toFixed(1)}" marker-end="url(#tip)"/>`);
    const value = known(input) ? nodes[input].value : null, gradient = sent(i) ? node.passed[k] : null;
    if (Math.abs(down) < 0.8 * ROW) return numbersAt((x0 + x1) / 2, (y0 + y1) / 2, value, gradient, "middle", 14 * Math.abs(down / across));
    const right = nodes[input].kind === "reciprocal", [fx, fy, tx, ty] = right ? [x1, y1, x0, y0] : [x0, y0, x1, y1];
    const share = Math.min(0.5, (0.5 * ROW) / Math.abs(ty - fy)), beside = 4 + 15 * Math.abs(across / down);
    numbersAt(fx + share * (tx - fx) + (right ? beside : -beside), fy + share * (ty - fy), value, gradient, right ? "" : "left");
  }));
  const current = backward > 0 ? last - backward + 1 : n + forward - 1;
  nodes.forEach((node, i) => {
    if (i < n) return;
    const [x, y] = at[i], symbol = node.kind === "wanted" ? `×${Number(node.constant.toFixed(2))}` : SYMBOLS[node.kind];
    const owner = node.index === undefined ? "all classes" : state.labels[node.index];
    const says = `${symbol} of ${owner}${known(i) ? `, value ${written(node.value)}` : ""}${sent(i) ? `, gradient ${written(node.gradient)}` : ""}`;
    circles.push(`<g class="node${i === current && state.progress < steps() ? " now" : ""}${known(i) ? "" : " later"}" tabindex="0" role="img" aria-label="${escaped(says)}" data-node="${i}" data-value="${node.value}" data-gradient="${node.gradient}"><circle cx="${x}" cy="${y}" r="${RADIUS}"/><text x="${x}" y="${y + 4}">${symbol}</text></g>`);
  });
  nodes.slice(0, n).forEach((node, j) => {
    const [x, y] = at[j];
    numbers.push(text(x - 6, y - 12, short(state.labels[j], 10), "left bold"), text(x - 6, y + 4, `z ${written(node.value)}`, "left value"));
    if (backward === inner) numbers.push(`<text x="${x - 6}" y="${y + 20}" class="left gradient" data-gradient="${node.gradient}">${written(node.gradient)}</text>`);
  });
  const [x, y] = at[last];
  edges.push(`<line class="edge" x1="${x + RADIUS}" y1="${y}" x2="${x + 62}" y2="${y}" marker-end="url(#tip)"/>`);
  numbers.push(text(x + 68, y + 4, "loss", "bold"));
  numbersAt(x + 44, y, known(last) ? nodes[last].value : null, backward > 0 ? 1 : null);
  const marker = '<defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path class="tip" d="M0 0 L8 4 L0 8 Z"/></marker></defs>';
  show(element("graph"), `<svg width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="group" aria-label="The computational graph, ${state.progress} of ${steps()} steps">${marker}${edges.join("")}${circles.join("")}${numbers.join("")}</svg>`);
  Object.assign(element("progress"), { max: steps(), value: state.progress });
  element("progress").setAttribute("aria-valuetext", `${state.progress} of ${steps()}`);
  able("back", state.progress > 0);
  if (state.progress === 0) say("Nothing is computed yet: the logits are given.");
  else if (nodes.some((node) => !Number.isFinite(node.gradient))) say("Step by step it cannot be done here: a probability is so small that 1 / y is no number. The layer computes y − t at once.");
  else if (state.progress === steps()) say(`Done: at the logits arrives ${state.temperature === 1 ? "y − t" : "(y − t) / T"}. Point at a circle to read its rule.`);
  else tell(nodes, current, backward > 0);
}

const sentence = (words) => `${words[0].toUpperCase()}${words.slice(1)}.`;
const say = (words) => { element("rule").textContent = words; };
function tell(nodes, i, back) {
  const node = nodes[i], owner = node.index === undefined ? "" : ` of ${state.labels[node.index]}`;
  const name = `${node.kind === "wanted" ? "×t" : SYMBOLS[node.kind]}${owner}`;
  const inputs = node.inputs.map((k) => written(nodes[k].value)).join(node.kind === "sum" ? " + " : " and ");
  say(back ? `Back through ${name}: ${written(node.gradient)} arrives, ${node.passed.map((g) => written(g)).join(" and ")} goes on. ${sentence(node.words)}`
    : `Forward, ${name}: from ${inputs} comes ${written(node.value)}. On the way back: ${node.words}.`);
}
const explainNode = ({ target: place }) => {
  const circle = place.closest?.("[data-node]");
  if (!circle) return;
  const nodes = SoftmaxLoss.graph(state.logits, target(), state.temperature), i = Number(circle.dataset.node);
  if (circle.classList.contains("later")) say(`${circle.getAttribute("aria-label")} comes later. On the way back: ${nodes[i].words}.`);
  else tell(nodes, i, state.progress === steps());
};
for (const event of ["pointerover", "focusin"]) element("graph").addEventListener(event, explainNode);
for (const event of ["pointerleave", "focusout"]) element("graph").addEventListener(event, () => drawGraph(target()));

function drawDescent(now) {
  const width = widthOf("descent"), height = 200, left = 56, base = 165, top = 14, losses = state.history.length ? state.history : [now.loss];
  const highest = Math.max(...losses, 0.1), most = Math.max(10, losses.length - 1);
  const x = (k) => left + (k / most) * (width - left - 16), y = (loss) => base - (loss / highest) * (base - top);
  const parts = [`<line class="axis" x1="${left}" x2="${width}" y1="${base}" y2="${base}"/><line class="axis" x1="${left}" x2="${left}" y1="${top}" y2="${base}"/>`];
  parts.push(text(left - 6, y(highest) + 5, written(highest, highest < 100 ? 2 : 0), "left faint"), text(left - 6, base + 4, "0", "left faint"));
  parts.push(text(x(most), base + 18, String(most), "left faint"), text((left + width) / 2, base + 32, "steps", "middle faint"));
  parts.push(`<polyline class="curve" points="${losses.map((loss, k) => `${x(k).toFixed(1)},${y(loss).toFixed(1)}`).join(" ")}"/>`);
  parts.push(`<circle class="dot" cx="${x(losses.length - 1)}" cy="${y(losses.at(-1))}" r="6"/>`);
  show(element("descent"), picture(width, height, `The loss after ${losses.length - 1} steps: ${written(losses.at(-1))}, ${written(losses[0])} before`, parts.join("")));
}

function showOverflow() {
  const moved = state.logits.map((z) => (state.scale * z) / state.temperature + state.offset), naive = SoftmaxLoss.naive(moved), ours = SoftmaxLoss.explain(moved, target());
  const mark = (value) => `<td data-value="${value}" class="${Number.isFinite(value) ? "" : "wrong"}">${written(value)}</td>`;
  show(element("overflow").tBodies[0], state.labels
    .map((label, j) => `<tr><th scope="row">${escaped(short(label, 12))}</th>${cell(moved[j], 1)}${mark(naive.exponentials[j])}${mark(naive.y[j])}${mark(ours.y[j])}</tr>`).join(""));
  const broken = naive.y.some((y) => !Number.isFinite(y));
  element("overflow-text").textContent = !broken ? "Both are right here. Move the sliders."
    : naive.total === 0 ? "Without the shift, all exponentials are 0, and 0/0 is no number." : "Without the shift, an exponential is infinite, and ∞/∞ is no number.";
}

function draw() {
  const t = target(), now = SoftmaxLoss.explain(state.logits, t, state.temperature);
  state.progress = Math.min(state.progress, steps());
  for (const place of document.querySelectorAll(".over-t")) place.textContent = overT();
  for (const [name, digits] of [["temperature", 1], ["smoothing", 2], ["rate", 1], ["offset", 0], ["scale", 0]]) element(`${name}-value`).value = written(state[name], digits);
  showClasses();
  drawBars(now, t);
  drawCurve(now, t);
  showNumbers(now, t);
  drawGraph(t);
  drawDescent(now);
  showOverflow();
}

new ResizeObserver(() => draw()).observe(document.body);
begin();
