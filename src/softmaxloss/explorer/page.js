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

// ---- numbers and text ----

function written(value, digits = 3) {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  const text = size >= 1e4 || (size > 0 && size < 0.5 * 10 ** -digits) ? value.toExponential(1).replace("e+", "e") : value.toFixed(size < 100 ? digits : 1);
  return (Number(text) === 0 ? text.replace("-", "") : text).replaceAll("-", "−");
}

const escaped = (text) => text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
const pen = document.createElement("canvas").getContext("2d");
pen.font = "bold 13px system-ui, sans-serif"; // that of names in pictures

// The name, or as much of it as fits.
function fitted(name, width) {
  let shown = name;
  for (let end = name.length - 1; end > 0 && pen.measureText(shown).width > width; end--) shown = `${name.slice(0, end)}…`;
  return shown;
}

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
    .map((label, j) => `<tr><th scope="row"><input type="text" maxlength="12" data-kind="label" data-class="${j}" aria-label="name of class ${j + 1}"></th>
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
    if (kind === "logit" && document.activeElement !== input) input.value = Number(Number(state.logits[j].toPrecision(6)).toFixed(4)); // at most nine characters
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
const move = (progress) => {
  state.progress = Math.max(0, Math.min(steps(), progress));
  draw();
  const now = element("graph").querySelector(".now"), region = element("graph").parentNode;
  if (now) region.scrollLeft += now.getBoundingClientRect().left - region.getBoundingClientRect().left - region.clientWidth / 2;
};
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
  const width = widthOf("bars"), row = 50, base = state.labels.length * row + 4, left = Math.min(110, 0.28 * width), right = 76;
  const at = (p) => left + p * (width - left - right), bar = 13;
  const parts = [`<line class="axis" x1="${left}" x2="${left}" y1="0" y2="${base}"/>`];
  for (const p of [0, 0.5, 1]) parts.push(text(at(p), base + 15, String(p), "middle faint"));
  parts.push(text(at(0.5), base + 31, "probability", "middle faint"));
  state.labels.forEach((label, j) => {
    const top = j * row + 4, x = top + 2 * bar + 6, from = at(t[j]), to = at(now.y[j]), gradient = written(now.dx[j]);
    parts.push(`<rect class="y" x="${left}" y="${top}" width="${to - left}" height="${bar}"/>`);
    parts.push(`<rect class="t" x="${left}" y="${top + bar}" width="${from - left}" height="${bar}"/>`);
    if (Math.abs(from - to) > 8) {
      const tip = to + (to < from ? 7 : -7);
      parts.push(`<line class="arrow" x1="${from}" x2="${tip}" y1="${x}" y2="${x}"/><path class="head" d="M${tip} ${x - 5} L${tip} ${x + 5} L${to} ${x} Z"/>`);
    }
    parts.push(text(left - 8, top + 12, fitted(label, left - 8), "left bold"), text(left - 8, top + 28, `y ${written(now.y[j])}`, "left value"), text(left - 8, top + 43, `t ${written(t[j])}`, "left faint"));
    parts.push(text(width - 4, top + 17, now.dx[j] > 0 && Number(gradient) !== 0 ? `+${gradient}` : gradient, "left gradient"));
  });
  const label = state.labels.map((name, j) => `${name}: y ${written(now.y[j])}, t ${written(t[j])}, gradient ${written(now.dx[j])}`).join("; ");
  show(element("bars"), picture(width, base + 36, `Bars of y beside t. ${label}`, parts.join("")));
}

// The smallest of 2, 5, 10, 20, 50, ... that reaches the loss in three steps.
function tickFor(loss) {
  let power = 1;
  for (;; power *= 10) for (const digit of [2, 5, 10]) if (3 * digit * power >= loss) return digit * power;
}

function drawCurve(now, t) {
  const second = state.second && SoftmaxLoss.explain(state.second, t, state.temperature);
  const tick = tickFor(Math.max(now.loss, second?.loss ?? 0)), deepest = 3 * tick;
  const width = widthOf("curve"), height = 248, left = 64, base = 205, top = 12;
  const x = (p) => left + p * (width - left - 14), y = (loss) => base - (loss / deepest) * (base - top);
  const points = Array.from({ length: 301 }, (_, k) => (k / 300) * deepest).map((loss) => `${x(Math.exp(-loss)).toFixed(1)},${y(loss).toFixed(1)}`);
  const parts = [`<line class="axis" x1="${left}" x2="${width}" y1="${base}" y2="${base}"/><line class="axis" x1="${left}" x2="${left}" y1="${top}" y2="${base}"/>`];
  for (const k of [0, 1, 2, 3]) parts.push(text(left - 12, y(k * tick) + 4, written(k * tick, 0), "left faint")); // the dot may lie on the axis
  for (const p of [0, 0.5, 1]) parts.push(text(x(p) - (p === 1 ? 8 : 0), base + 18, String(p), "middle faint"));
  // A truth that is spread has no one y; the curve shows the mean whose logarithm is that of the logarithms.
  const hard = t.indexOf(1), likely = (row) => Math.exp(-row.loss);
  parts.push(text((left + width) / 2, base + 33, hard >= 0 ? "probability y of the truth" : "weighted geometric mean of y", "middle faint"), text(x(0.08), top + 14, "loss = −log y, in nats", "value"));
  parts.push(`<polyline class="curve" points="${points.join(" ")}"/>`);
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
  const columns = [state.logits, now.shifted, now.exponentials, now.y, t, now.terms, now.dx];
  const sums = columns.slice(2).map((column) => column.reduce((a, b) => a + b, 0));
  show(element("numbers").tBodies[0], state.labels
    .map((label, j) => `<tr><th scope="row">${escaped(label)}</th>${columns.map((column) => cell(column[j])).join("")}</tr>`).join(""));
  show(element("numbers").tFoot, `<tr><th scope="row">sum</th><td></td><td></td>${sums.map((value) => cell(Math.abs(value) < 1e-12 ? 0 : value)).join("")}</tr>`);
}

const SYMBOLS = { shift: "−max", divide: "/T", exp: "exp", sum: "+", reciprocal: "1/x", times: "×", log: "log", minus: "−1×" };
const COLUMN = 108, ROW = 86, RADIUS = 20;

function places(nodes) {
  const n = state.labels.length, aside = Math.max(0.72, 0.27 * n), middle = Math.floor((n - 1) / 2) * ROW; // on a row: an edge that leans a little has no room for its numbers
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

// A part of 1, in few enough characters for a circle.
const share = (t) => (t === 0 || t === 1 ? String(t) : t < 0.005 ? t.toExponential(0).replace("-", "−") : t.toFixed(2));

function drawGraph(t) {
  const nodes = SoftmaxLoss.graph(state.logits, t, state.temperature), at = places(nodes), n = state.labels.length;
  const inner = nodes.length - n, last = nodes.length - 1;
  const forward = Math.min(state.progress, inner), backward = Math.max(0, state.progress - inner);
  const known = (i) => i < n + forward, sent = (i) => i > last - backward;
  const width = Math.ceil(at[last][0] + 112), height = n * ROW + 70;
  const fits = widthOf("graph") / width, scale = fits < 0.7 ? 1 : Math.min(1, fits); // smaller, it could not be read: then it scrolls
  const edges = [], circles = [], numbers = [];
  const numbersAt = (x, y, value, gradient, align = "middle") => {
    if (value !== null) numbers.push(text(x, y - 5, written(value), `value ${align}`));
    if (gradient !== null) numbers.push(text(x, y + 15, written(gradient), `gradient ${align}`));
  };
  nodes.forEach((node, i) => node.inputs.forEach((input, k) => {
    const [x0, y0] = at[input], [x1, y1] = at[i], across = x1 - x0, down = y1 - y0, length = Math.hypot(across, down);
    const start = input < n ? 0 : RADIUS, [ux, uy] = [across / length, down / length];
    edges.push(`<line class="edge" x1="${(x0 + ux * start).toFixed(1)}" y1="${(y0 + uy * start).toFixed(1)}" x2="${(x1 - ux * (RADIUS + 5)).toFixed(1)}" y2="${(y1 - uy * (RADIUS + 5)).toFixed(1)}" marker-end="url(#tip)"/>`);
    const value = known(input) ? nodes[input].value : null, gradient = sent(i) ? node.passed[k] : null;
    if (down === 0) return numbersAt((x0 + x1) / 2, y0, value, gradient);
    const right = nodes[input].kind === "reciprocal", [fx, fy, tx, ty] = right ? [x1, y1, x0, y0] : [x0, y0, x1, y1];
    const share = Math.min(0.5, (0.5 * ROW) / Math.abs(ty - fy)), beside = 4 + 15 * Math.abs(across / down);
    numbersAt(fx + share * (tx - fx) + (right ? beside : -beside), fy + share * (ty - fy), value, gradient, right ? "" : "left");
  }));
  const current = backward > 0 ? last - backward + 1 : n + forward - 1;
  nodes.forEach((node, i) => {
    if (i < n) return;
    const [x, y] = at[i], symbol = node.kind === "wanted" ? `×${share(node.constant)}` : SYMBOLS[node.kind];
    const owner = node.index === undefined ? "all classes" : state.labels[node.index];
    const says = `${symbol} of ${owner}${known(i) ? `, value ${written(node.value)}` : ""}${sent(i) ? `, gradient ${written(node.gradient)}` : ""}`;
    circles.push(`<g class="node${i === current && state.progress < steps() ? " now" : ""}${known(i) ? "" : " later"}" tabindex="0" role="img" aria-label="${escaped(says)}" data-node="${i}" data-value="${node.value}" data-gradient="${node.gradient}"><circle cx="${x}" cy="${y}" r="${RADIUS}"/><text x="${x}" y="${y + 4}">${symbol}</text></g>`);
  });
  nodes.slice(0, n).forEach((node, j) => {
    const [x, y] = at[j];
    numbers.push(text(x - 6, y - 12, fitted(state.labels[j], x - 6), "left bold"), text(x - 6, y + 4, `z ${written(node.value)}`, "left value"));
    if (backward === inner) numbers.push(`<text x="${x - 6}" y="${y + 20}" class="left gradient" data-gradient="${node.gradient}">${written(node.gradient)}</text>`);
  });
  const [x, y] = at[last];
  edges.push(`<line class="edge" x1="${x + RADIUS}" y1="${y}" x2="${x + 62}" y2="${y}" marker-end="url(#tip)"/>`);
  numbers.push(text(x + 68, y + 4, "loss", "bold"));
  numbersAt(x + 44, y, known(last) ? nodes[last].value : null, backward > 0 ? 1 : null);
  const marker = '<defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path class="tip" d="M0 0 L8 4 L0 8 Z"/></marker></defs>';
  show(element("graph"), `<svg width="${width * scale}" height="${height * scale}" viewBox="0 0 ${width} ${height}" role="group" aria-label="The computational graph, ${state.progress} of ${steps()} steps">${marker}${edges.join("")}${circles.join("")}${numbers.join("")}</svg>`);
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
  const width = widthOf("descent"), height = 200, left = 64, base = 165, top = 14, losses = state.history.length ? state.history : [now.loss];
  const highest = Math.max(...losses, 0.1), most = Math.max(10, losses.length - 1);
  const x = (k) => left + (k / most) * (width - left - 16), y = (loss) => base - (loss / highest) * (base - top);
  const parts = [`<line class="axis" x1="${left}" x2="${width}" y1="${base}" y2="${base}"/><line class="axis" x1="${left}" x2="${left}" y1="${top}" y2="${base}"/>`];
  parts.push(text(left - 12, y(highest) + 5, written(highest, highest < 100 ? 2 : 0), "left faint"), text(left - 12, base + 4, "0", "left faint"));
  parts.push(text(x(most), base + 18, String(most), "left faint"), text((left + width) / 2, base + 32, "steps", "middle faint"), text(width - 16, top + 14, "loss in nats", "left value"));
  parts.push(`<polyline class="curve" points="${losses.map((loss, k) => `${x(k).toFixed(1)},${y(loss).toFixed(1)}`).join(" ")}"/>`);
  parts.push(`<circle class="dot" cx="${x(losses.length - 1)}" cy="${y(losses.at(-1))}" r="6"/>`);
  show(element("descent"), picture(width, height, `The loss after ${losses.length - 1} steps: ${written(losses.at(-1))}, ${written(losses[0])} before`, parts.join("")));
}

function showOverflow() {
  const moved = state.logits.map((z) => state.scale * z + state.offset);
  const naive = SoftmaxLoss.naive(moved, state.temperature), ours = SoftmaxLoss.explain(moved, target(), state.temperature);
  const mark = (value) => `<td data-value="${value}" class="${Number.isFinite(value) ? "" : "wrong"}">${written(value)}</td>`;
  show(element("overflow").tBodies[0], state.labels
    .map((label, j) => `<tr><th scope="row">${escaped(label)}</th>${cell(moved[j], 1)}${mark(naive.exponentials[j])}${mark(naive.y[j])}${mark(ours.y[j])}</tr>`).join(""));
  const broken = naive.y.some((y) => !Number.isFinite(y));
  element("overflow-text").textContent = !broken ? "Both are right here. Move the sliders."
    : naive.total === 0 ? "Without the shift, all exponentials are 0, and 0/0 is no number." : "Without the shift, an exponential is infinite, and ∞/∞ is no number.";
}

function draw() {
  const t = target(), now = SoftmaxLoss.explain(state.logits, t, state.temperature);
  state.progress = Math.min(state.progress, steps());
  document.body.classList.toggle("tempered", state.temperature !== 1);
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
