"use strict";
// Recall of every group (of people, or of the toy dataset) for a few models side by side, with 95 % intervals.

const MAX_MODELS = 4; // more bars side by side are hard to distinguish
const FIRST_MODELS = 3;

async function showGroups() {
  const more = await details();
  if (route[0] !== "groups") return;
  const every = page.protocols.flatMap((protocol, at) => protocol.columns.map((column, index) => ({
    id: columnId(protocol, index), text: `${protocolName(protocol)}: ${visible(column.dataset)}`,
    column, of: more.protocols[at], result: more.protocols[at].results[index],
  }))).filter((each) => Object.keys(each.result.classes).length);
  const set = every.find((each) => each.id === state.on) ?? every[0];
  const heading = [el("h1", {}, "Groups"), el("p", { class: "lead" },
    "Zero-shot recall of each group as one class. The worst of many groups is a minimum of noisy estimates, so models are not ranked by it.")];
  if (!set) {
    return $("groups").replaceChildren(...heading, el("p", { class: "empty" }, "No record has groups: they need a model with a text tower."));
  }
  const owners = set.column.models.map((at) => models[at]).sort((a, b) => valueIn(set, b) - valueIn(set, a));
  const asked = state.models.split(",");
  const named = asked.map((name) => owners.find((model) => keyOf(model) === name)).filter(Boolean).slice(0, MAX_MODELS);
  const rows = new Set(chosen()); // of the leaderboard
  const compared = owners.filter((model) => rows.has(model));
  const picked = named.length ? named : (compared.length ? compared : owners).slice(0, FIRST_MODELS);
  const change = (name, value, focus) => {
    state[name] = value;
    remember();
    showGroups().then(() => $(focus)?.focus());
  };
  const take = (list) => change("models", list.map(keyOf).join(","), "add-model");
  const others = owners.filter((model) => !picked.includes(model));
  $("groups").replaceChildren(...heading,
    el("div", { class: "pickers" },
      picker("pick-on", "Dataset", every.map((each) => [each.id, each.text]), set.id, (id) => change("on", id, "pick-on")),
      others.length && picked.length < MAX_MODELS
        ? picker("add-model", "Add a model", [["", "choose"], ...others.map((model) => [keyOf(model), visible(model.name)])], "",
          (key) => key && take([...picked, owners.find((model) => keyOf(model) === key)]))
        : null,
      el("ul", { class: "picked", "aria-label": "Models shown" }, picked.map((model, at) => el("li", {},
        el("span", { class: `swatch c${at}`, "aria-hidden": "true" }), el("a", { href: model.href }, bdi(cut(model.name, 60))),
        picked.length > 1 ? el("button", { type: "button", "aria-label": `Remove ${cut(visible(model.name), 60)}`, click: () => take(picked.filter((each) => each !== model)) }, "×") : null)))),
    bars(set, picked), el("p", { class: "small" }, "Bars: mean over seeds. Lines: 95 % interval over test samples and training seeds. Dashed line: chance."),
    table("Mean, best and worst group", ["model", ...["mean", "best", "worst"].filter((name) => set.result.scores[name])],
      picked.map((model) => [el("a", { href: model.href }, bdi(model.name)), ...["mean", "best", "worst"].filter((name) => set.result.scores[name])
        .map((name) => full(ofModel(set, model, set.result.scores[name])))]), "numbers"),
    fold("Show every group as a table", () => table("Recall of every group", ["group", "n", ...picked.map((model) => bdi(model.name))],
      classesOf(set).map(([name, score]) => [bdi(name), ofModel(set, picked[0], score)?.n.map(whole).join(", ") ?? "–",
        ...picked.map((model) => full(ofModel(set, model, score)))]), "numbers")));
}

const keyOf = (model) => `${model.name.split("/").map(encodeURIComponent).join("/")}@${model.version}`;
const valueIn = (set, model) => set.column.mean[set.column.models.indexOf(model.at)];
const full = (all) => (all ? `${percent(all.value)} ${interval(all.low, all.high)}` : "–");
const ofModel = (set, model, score) => meanOf(score, model, valuesOf(set.result, score, rowsOfModel(set.of, model)));
const classesOf = (set) => Object.entries(set.result.classes);

function bars(set, picked) {
  const width = Math.max(300, Math.min($("content").clientWidth - 2, 1000));
  const narrow = width < 560;
  const classes = classesOf(set).map(([name, score]) => [name, picked.map((model) => ofModel(set, model, score))]);
  const bar = 11;
  const gap = narrow ? 30 : 16;
  const each = picked.length * (bar + 2) + gap;
  const left = narrow ? 8 : 190;
  const right = width - 20;
  const top = 12;
  const bottom = top + classes.length * each;
  const highest = Math.max(10000, ...classes.flatMap(([, found]) => found.filter(Boolean).map((all) => all.high)));
  const px = (units) => left + (units / Math.min(100000, highest * 1.04)) * (right - left);
  const ticks = linearTicks(0, Math.min(100, (highest * 1.04) / 1000)).map((value) => svg("g", {},
    svg("path", { class: "grid", d: `M${px(value * 1000)} ${top - 6}V${bottom}` }),
    svg("text", { class: "tick", x: px(value * 1000), y: bottom + 18, "text-anchor": "middle" }, String(value))));
  const nodes = [];
  const tips = [];
  const rows = classes.map(([name, found], row) => {
    const y = top + row * each + (narrow ? 18 : gap / 2);
    const shapes = found.map((all, at) => {
      const middle = y + at * (bar + 2) + bar / 2;
      const label = `${visible(picked[at].name)}, ${visible(name)}`;
      const node = svg("g", { class: "bar", role: "img", "aria-label": `${label}: ${all ? `${full(all)} percent` : "not measured"}` },
        all ? [svg("rect", { class: `c${at}`, x: left, y: middle - bar / 2, width: Math.max(1, px(all.value) - left), height: bar, rx: 1.5 }),
          svg("path", { class: "whisker", d: `M${px(all.low)} ${middle}H${px(all.high)}M${px(all.low)} ${middle - 3}v6M${px(all.high)} ${middle - 3}v6` })] : [],
        svg("rect", { class: "hit", x: left, y: middle - bar / 2 - 1, width: right - left, height: bar + 2 }));
      nodes.push(node);
      tips.push([label, all ? full(all) : "not measured", all ? `n ${all.n.map(whole).join(", ")} · ${plural(all.seeds, "seed")}` : ""]);
      return node;
    });
    const title = narrow ? { x: left, y: y - 6 } : { x: left - 12, y: y + (picked.length * (bar + 2)) / 2 + 3, "text-anchor": "end" };
    return svg("g", {}, svg("text", { class: "name", ...title }, cut(visible(name), 28)), shapes);
  });
  keys(nodes, (at) => tip(tips[at], nodes[at].getBoundingClientRect()));
  const chance = px(set.column.chance);
  return el("figure", { class: "plot" }, svg("svg", { width, height: bottom + 44, viewBox: `0 0 ${width} ${bottom + 44}`, role: "group",
    "aria-label": `Recall of every group on ${set.text}; arrow keys move between bars. The table below has the same data.` },
  ticks, rows, svg("path", { class: "chance", d: `M${chance} ${top - 6}V${bottom}` }),
  svg("text", { class: "name", x: (left + right) / 2, y: bottom + 38, "text-anchor": "middle" }, "recall, percent")));
}
