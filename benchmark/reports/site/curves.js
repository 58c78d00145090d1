"use strict";
// Trade-offs: curves with intervals, drawn from the data of the page, in panels that do not share an axis.

const PANEL = { width: 400, height: 300, left: 52, right: 388, top: 12, bottom: 246 };
const SHAPES = [ // marks of series, so that color is not the only difference
  (x, y) => svg("circle", { cx: x, cy: y, r: 4 }),
  (x, y) => svg("rect", { x: x - 3.6, y: y - 3.6, width: 7.2, height: 7.2 }),
  (x, y) => svg("path", { d: `M${x} ${y - 5}l5 5l-5 5l-5 -5z` }),
  (x, y) => svg("path", { d: `M${x} ${y - 5}l4.8 8.6h-9.6z` }),
  (x, y) => svg("path", { d: `M${x} ${y + 5}l4.8 -8.6h-9.6z` }),
  (x, y) => svg("path", { d: `M${x - 4} ${y - 4}l8 8m0 -8l-8 8` }),
  (x, y) => svg("path", { d: `M${x - 5} ${y}h10m-5 -5v10` }),
];
const styled = (at, color, x, y) => fill(SHAPES[at % SHAPES.length](x, y), { class: `dot ${color}` }, []);

// The only series of its kind of images has the color of that kind.
const colorOf = (panel, at) => {
  const { kind } = panel.series[at];
  return kind && panel.series.filter((each) => each.kind === kind).length === 1 ? kind : `c${at % SHAPES.length}`;
};

function showTradeOffs() {
  document.title = "Trade-offs – SynRep-Bench";
  $("trade-offs").replaceChildren(
    el("h1", {}, "Trade-offs"),
    el("p", { class: "lead" }, "How the quality of training images, and the scores of models trained on them, change with guidance and with the number of captions."),
    ...(page.curves.length ? page.curves.map(curveFigure) : [el("p", { class: "empty" }, "These records have no curves: they need the comparisons over guidance or over numbers of captions.")]));
}

function curveFigure(figure) {
  return el("section", {}, el("h2", {}, figure.title), el("p", { class: "small" }, figure.caption),
    el("div", { class: "panels" }, figure.panels.map((panel) => curvePanel(panel))),
    fold("Show as a table", () => figure.panels.map((panel) => table(`${panel.title}: ${panel.y} against ${panel.x}`, ["series", panel.x, panel.y, "from", "to"],
      panel.series.flatMap(({ name, points }) => points.map(([x, y, low, high]) => [bdi(name), x === null ? "–" : String(x), String(y), String(low), String(high)])), "numbers"))));
}

// A linear or logarithmic axis through all values: the position of a value, and the ticks.
function axisOf(values, from, to, log) {
  const scale = log ? Math.log10 : (value) => value;
  const [low, high] = [Math.min(...values.map(scale)), Math.max(...values.map(scale))];
  const margin = (high - low || 1) * 0.07;
  const at = (value) => from + ((scale(value) - low + margin) / (high - low + 2 * margin)) * (to - from);
  return { at, ticks: log ? values : linearTicks(low - margin, high + margin) };
}

function curvePanel(panel) {
  const { width, height, left, right, top, bottom } = PANEL;
  const all = panel.series.flatMap(({ points }) => points);
  const xs = distinct(all.flatMap(([x, , , , across = []]) => (x === null ? [] : [x, ...across]))).sort((a, b) => a - b);
  const across = axisOf(xs, left, right, panel.log);
  const up = axisOf(all.flatMap(([, y, low, high]) => [y, low, high]), bottom, top, false);
  const text = (attributes, content) => svg("text", attributes, visible(content));
  const grid = [
    ...up.ticks.map((value) => svg("g", {}, svg("path", { class: "grid", d: `M${left} ${up.at(value)}H${right}` }),
      text({ class: "tick", x: left - 7, y: up.at(value) + 4, "text-anchor": "end" }, String(value)))),
    ...across.ticks.map((value) => text({ class: "tick", x: across.at(value), y: bottom + 17, "text-anchor": "middle" }, panel.log ? short(value) : String(value))),
  ];
  const nodes = [];
  const tips = [];
  const series = panel.series.map(({ name, points }, at) => {
    const color = colorOf(panel, at);
    const line = points.filter(([x]) => x !== null).map(([x, y]) => `${across.at(x)} ${up.at(y)}`);
    const marks = points.map(([x, y, low, high, wide, label]) => {
      const say = `${name}${label ? `, ${label}` : x === null ? "" : `, ${panel.x} ${x}`}: ${panel.y} ${y}, ${low} to ${high}${wide ? `; ${panel.x} ${x}, ${wide.join(" to ")}` : ""}`;
      const px = x === null ? right - 8 : across.at(x);
      const node = svg("g", { class: "bar", role: "img", "aria-label": visible(say) },
        x === null ? svg("path", { class: `curve reference ${color}`, d: `M${left} ${up.at(y)}H${right}` }) : null,
        svg("path", { class: `whisker`, d: `M${px} ${up.at(low)}V${up.at(high)}${wide ? `M${across.at(wide[0])} ${up.at(y)}H${across.at(wide[1])}` : ""}` }),
        styled(at, color, px, up.at(y)), svg("circle", { class: "hit", cx: px, cy: up.at(y), r: 10 }));
      nodes.push(node);
      tips.push([label ? `${name}, ${label}` : name, ...say.slice(say.indexOf(": ") + 2).split("; "), ...(label || x === null ? [] : [`${panel.x} ${x}`])]);
      return node;
    });
    return [line.length > 1 ? svg("path", { class: `curve ${color}`, d: `M${line.join("L")}` }) : null, marks];
  });
  const labels = place(all.filter(([, , , , , label]) => label).map(([x, y, , , , label]) => ({ px: across.at(x), py: up.at(y) - 8, label })),
    { left, right, top: 0, bottom }).map(({ point, anchor, x, y }) => text({ class: "label", x, y, "text-anchor": anchor }, point.label));
  keys(nodes, (at) => tip(tips[at], nodes[at].getBoundingClientRect()));
  return el("figure", { class: "plot" }, el("figcaption", {}, bdi(panel.title)),
    svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group",
      "aria-label": visible(`${panel.title}: ${panel.y} against ${panel.x}; arrow keys move between points. The table below has the same data.`) },
    grid, svg("path", { class: "axis", d: `M${left} ${bottom}H${right}` }), series, labels,
    text({ class: "name", x: (left + right) / 2, y: height - 14, "text-anchor": "middle" }, panel.x),
    text({ class: "name", transform: `translate(12 ${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, panel.y)),
    el("p", { class: "legend" }, panel.series.map(({ name }, at) => el("span", {},
      svg("svg", { width: 14, height: 14, viewBox: "-7 -7 14 14", "aria-hidden": "true" }, styled(at, colorOf(panel, at), 0, 0)), bdi(name)))));
}
