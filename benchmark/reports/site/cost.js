"use strict";
// Accuracy against cost: views seen in training, or distinct images of the training dataset.

const COSTS = { views: "Views seen in training", images: "Distinct images of the training dataset" };
const MAX_LABELED = 60; // with more points, only those on the Pareto front are labeled
const MARKS = { synthetic: "synthetic images", real: "real images", "not trained": "not trained", "not known": "not known" };

function scorings() {
  return page.protocols.filter((protocol) => protocol.columns.length).flatMap((protocol) => {
    const name = protocolName(protocol);
    const single = protocol.columns.map((column, at) => ({
      id: columnId(protocol, at), text: `${name}: ${visible(column.dataset)}`, score: words(column.main),
      of: new Map(column.models.map((model, at) => [model, { y: column.mean[at], half: column.half[at] }])),
    }));
    const { models: owners, mean: means, half } = protocol.places[state.comparison] ?? { models: [] };
    const whole = new Map(owners.flatMap((model, at) => (means[at] === null ? [] : [[model, { y: means[at], half: half[at] }]])));
    return whole.size ? [{ id: `${protocolId(protocol)}:mean`, text: `${name}: mean`, score: "mean", of: whole }, ...single] : single;
  });
}

function showCost() {
  const every = scorings();
  const cost = state.x in COSTS ? state.x : "views";
  const list = chosen();
  const scoring = every.find((each) => each.id === state.y) ?? every.find((each) => each.id.endsWith(":mean")) ?? mostTelling(every, list);
  showCount(list.length);
  if (!scoring) return $("cost").replaceChildren(el("p", {}, "Nothing was measured."));
  const measured = list.filter((model) => scoring.of.has(model.at));
  const points = measured.filter((model) => model[cost] !== null)
    .map((model) => ({ model, x: model[cost], label: cut(visible(model.label), 28), ...scoring.of.get(model.at) }));
  const best = front(points);
  const left = [
    list.length - measured.length && `${plural(list.length - measured.length, "model")} without this score`,
    measured.length - points.length && `${plural(measured.length - points.length, "model")} whose ${cost === "views" ? "views are" : "number of images is"} not known`,
  ].filter(Boolean);
  const set = (name) => (value) => {
    state[name] = value;
    showCost();
    remember();
    $(`pick-${name}`).focus();
  };
  $("cost").replaceChildren(
    el("div", { class: "pickers" },
      picker("pick-y", "Accuracy", every.map((each) => [each.id, each.text]), scoring.id, set("y")),
      picker("pick-x", "Cost", Object.entries(COSTS), cost, set("x"))),
    points.length ? scatter(points, best, scoring, cost) : el("p", { class: "empty" }, "No model has both; choose another score or remove a filter."),
    el("p", { class: "legend" }, Object.entries(MARKS).filter(([kind]) => points.some((point) => point.model.kind === kind))
      .map(([kind, text]) => el("span", {}, svg("svg", { width: 14, height: 14, viewBox: "-7 -7 14 14", "aria-hidden": "true" }, mark(kind)), text)),
    best.length ? el("span", {}, svg("svg", { width: 22, height: 14, "aria-hidden": "true" }, svg("path", { class: "front", d: "M0 7H22" })), "Pareto front") : null),
    el("p", { class: "small" }, left.length ? `Left out: ${left.join("; ")}. ` : "",
      "Pareto front: models for which no other model at the same or a lower cost is as accurate. It compares means and ignores their intervals."),
    fold("Show as a table", () => table("Accuracy and cost", ["model", cost === "views" ? "views" : "images", scoring.score, "± (95 %)", "on the Pareto front"],
      [...points].sort((a, b) => a.x - b.x || b.y - a.y).map((point) => [el("a", { href: point.model.href }, bdi(point.model.name)), whole(point.x), percent(point.y),
        percent(point.half), best.includes(point) ? "yes" : "no"]), "numbers")));
}

// Of the scores that most models have, the one in which they differ most.
function mostTelling(every, list) {
  const values = new Map(every.map((each) => [each, list.flatMap((model) => each.of.get(model.at)?.y ?? [])]));
  const range = (of) => Math.max(...of) - Math.min(...of);
  return [...every].sort((a, b) => values.get(b).length - values.get(a).length || range(values.get(b)) - range(values.get(a)))[0];
}

function mark(kind) {
  if (kind === "real") return svg("path", { class: "mark real", d: "M0 -6L6 0L0 6L-6 0Z" });
  if (kind === "synthetic") return svg("circle", { class: "mark synthetic", r: 5 });
  if (kind === "not trained") return svg("rect", { class: "mark other", x: -4.5, y: -4.5, width: 9, height: 9 });
  return svg("path", { class: "mark other", d: "M-4 -4L4 4M4 -4L-4 4" });
}

function scatter(points, best, scoring, cost) {
  const width = Math.max(300, Math.min($("content").clientWidth - 2, 1100));
  const height = Math.max(300, Math.min(520, width * 0.62));
  const area = { left: 52, right: width - 16, top: 16, bottom: height - 52 };
  const ys = points.map((point) => point.y);
  const room = Math.max(500, (Math.max(...ys) - Math.min(...ys)) * 0.12);
  const [low, high] = [Math.max(0, Math.min(...ys) - room), Math.min(100000, Math.max(...ys) + room)];
  const py = (y) => area.bottom - ((y - low) / (high - low)) * (area.bottom - area.top);
  const axis = logAxis(points.map((point) => point.x), area.left, area.right);
  for (const point of points) Object.assign(point, { px: axis.at(point.x), py: py(point.y) });
  const text = (attributes, ...content) => svg("text", attributes, ...content);
  const grid = linearTicks(low / 1000, high / 1000).map((value) => svg("g", {},
    svg("path", { class: "grid", d: `M${area.left} ${py(value * 1000)}H${area.right}` }),
    text({ class: "tick", x: area.left - 8, y: py(value * 1000) + 4, "text-anchor": "end" }, String(value))));
  const bottom = axis.ticks.map((value) => svg("g", {},
    svg("path", { class: "grid", d: `M${axis.at(value)} ${area.top}V${area.bottom}` }),
    text({ class: "tick", x: axis.at(value), y: area.bottom + 18, "text-anchor": "middle" }, short(value))));
  const stairs = best.map((point, at) => (at ? `H${point.px}V${point.py}` : `M${point.px} ${point.py}`)).join("") + `H${area.right}`;
  const few = points.length <= MAX_LABELED;
  const ordered = [...best].reverse().concat(points.filter((point) => !best.includes(point)).sort((a, b) => b.y - a.y));
  const labels = place(ordered, { ...area, left: area.left + 2 }).filter(({ point }) => few || best.includes(point)).map(({ point, anchor, x, y }) =>
    text({ class: best.includes(point) ? "label best" : "label", x, y, "text-anchor": anchor }, point.label));
  const walk = [...points].sort((a, b) => a.x - b.x || a.y - b.y);
  const nodes = walk.map((point) => svg("a", {
    href: point.model.href, transform: `translate(${point.px} ${point.py})`, class: best.includes(point) ? "point best" : "point",
    "aria-label": `${visible(point.model.name)}: ${percent(point.y)} percent, ${whole(point.x)} ${cost}${best.includes(point) ? ", on the Pareto front" : ""}`,
  }, svg("circle", { class: "hit", r: 11 }), svg("circle", { class: "ring", r: 9 }), mark(point.model.kind)));
  keys(nodes, (at) => {
    const point = walk[at];
    tip([point.model.name, `${scoring.score} ${percent(point.y)} ± ${percent(point.half)}`,
      `${whole(point.x)} ${cost}`, `${point.model.kind}; ${point.model.encoder}`], nodes[at].getBoundingClientRect());
  }, (at) => (location.hash = walk[at].model.href));
  return el("figure", { class: "plot" },
    svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${scoring.text} against ${COSTS[cost].toLowerCase()}; arrow keys move between models. The table below has the same data.` },
      grid, bottom, axis.zero ? svg("path", { class: "break", d: `M${axis.start - 22} ${area.bottom - 5}l6 10m4 -10l6 10` }) : null,
      svg("path", { class: "axis", d: `M${area.left} ${area.bottom}H${area.right}` }),
      text({ class: "name", x: (area.left + area.right) / 2, y: height - 10, "text-anchor": "middle" }, COSTS[cost]),
      text({ class: "name", transform: `translate(13 ${(area.top + area.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, `${scoring.score}, percent`),
      svg("path", { class: "front", d: stairs }), labels, nodes));
}
