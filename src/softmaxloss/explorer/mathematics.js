// Softmax with loss in plain JavaScript: what the page computes, and the graph by whose local rules it is computed.
"use strict";

const SoftmaxLoss = (() => {
  const sum = (values) => values.reduce((total, value) => total + value, 0);

  // The target with a share spread evenly over all classes.
  const smoothed = (target, share) => target.map((p) => (1 - share) * p + share / target.length);

  // Change one entry of a distribution; the others share what is left as they did before.
  function redistributed(target, index, value) {
    const rest = 1 - target[index];
    return target.map((p, j) =>
      j === index ? value : rest > 0 ? (p / rest) * (1 - value) : (1 - value) / (target.length - 1));
  }

  // All steps of one row.
  function explain(logits, t, temperature = 1) {
    const peak = Math.max(...logits);
    const shifted = logits.map((z) => (z - peak) / temperature);
    const exponentials = shifted.map(Math.exp);
    const total = sum(exponentials);
    const y = exponentials.map((e) => e / total);
    const logTotal = Math.log(total);
    const terms = shifted.map((s, j) => (t[j] > 0 ? t[j] * (logTotal - s) : 0));
    const dx = y.map((p, j) => (p - t[j]) / temperature);
    return { shifted, exponentials, total, y, terms, loss: sum(terms), dx };
  }

  // The same without the shift by the maximum, as a first try would have it.
  function naive(logits, temperature = 1) {
    const exponentials = logits.map((z) => Math.exp(z / temperature));
    const total = sum(exponentials);
    return { exponentials, total, y: exponentials.map((e) => e / total) };
  }

  const step = (logits, dx, rate) => logits.map((z, j) => z - rate * dx[j]);

  const over = (g, x) => (g === 0 ? 0 : g / x);

  // What a kind of node does, given its constant c and its inputs: its value, what it passes back, and that in words.
  const RULES = {
    shift: [(c, x) => x - c, (g) => [g], "subtracts a constant: passes on what arrives"],
    divide: [(c, x) => x / c, (g, y, c) => [g / c], "divides by the temperature: so is what arrives"],
    exp: [(c, x) => Math.exp(x), (g, y) => [g * y], "exp is its own derivative: passes back what arrives times its value"],
    sum: [(c, ...x) => sum(x), (g, y, c, ...x) => x.map(() => g), "a sum passes on what arrives to each of its inputs"],
    reciprocal: [(c, x) => 1 / x, (g, y) => [-g * y * y], "1/x: passes back what arrives times minus its value squared"],
    times: [(c, a, b) => a * b, (g, y, c, a, b) => [g * b, g * a], "a product passes back what arrives times the other input"],
    log: [(c, x) => Math.log(x), (g, y, c, x) => [over(g, x)], "log: passes back what arrives divided by its input"],
    wanted: [(c, x) => (c === 0 ? 0 : c * x), (g, y, c) => [g * c], "times t: passes back what arrives times t"],
    minus: [(c, x) => -x, (g) => [-g], "changes the sign of what arrives"],
  };

  // The nodes in the order of the forward pass, the logits first; inputs are places in the list.
  function graph(logits, t, temperature = 1) {
    const nodes = logits.map((value, index) => ({ kind: "logit", stage: "logits", index, inputs: [], value, words: "a logit: what arrives here is the gradient" }));
    const add = (stage, kind, inputs, index, constant) =>
      nodes.push({ stage, kind, inputs, index, constant, words: RULES[kind][2] }) - 1;
    let row = logits.map((_, j) => j);
    const each = (stage, kind, constants = []) => (row = row.map((node, j) => add(stage, kind, [node], j, constants[j])));
    each("shift", "shift", logits.map(() => Math.max(...logits)));
    if (temperature !== 1) each("divide", "divide", logits.map(() => temperature));
    const exponentials = each("exp", "exp");
    const total = add("sum", "sum", exponentials);
    const reciprocal = add("reciprocal", "reciprocal", [total]);
    row = exponentials.map((node, j) => add("softmax", "times", [node, reciprocal], j));
    each("log", "log");
    each("wanted", "wanted", t);
    const score = add("sum of all", "sum", row);
    add("loss", "minus", [score]);
    for (const node of nodes) {
      node.gradient = 0;
      if (node.inputs.length) node.value = RULES[node.kind][0](node.constant, ...node.inputs.map((i) => nodes[i].value));
    }
    nodes.at(-1).gradient = 1;
    for (const node of [...nodes].reverse()) {
      if (!node.inputs.length) continue;
      node.passed = RULES[node.kind][1](node.gradient, node.value, node.constant, ...node.inputs.map((i) => nodes[i].value));
      node.inputs.forEach((i, k) => (nodes[i].gradient += node.passed[k]));
    }
    return nodes;
  }

  return { explain, graph, naive, redistributed, smoothed, step };
})();

if (typeof module !== "undefined") module.exports = SoftmaxLoss;
