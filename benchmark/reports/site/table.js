"use strict";
// The leaderboard: columns, sorting, and cells.

const FIRST_COLUMNS = 24; // by default, as many protocols are shown as fit into this number of columns
const FIRST_ROWS = 40; // rendered at once; the others follow without blocking the page
const MORE_ROWS = 80;
let groups = []; // groups of columns
let shown = []; // visible columns, from left to right
let cells = new Map(); // model -> its row, with the visible columns
let offered = []; // groups with a column of the chosen comparison
let drawing = 0;

const nothing = () => el("span", { class: "none" }, "–");

function prepareTable() {
  const plain = (id, label, width, value, text) => ({ id, label, width, value, text, first: "asc" });
  groups = [
    {
      key: "model",
      title: "Model",
      columns: [
        plain("data", "trained on", 176, (m) => m.data && last(m.data), (m) => (m.data ? bdi(last(m.data)) : nothing())),
        plain("kind", "images", 112, (m) => m.kind, (m) => m.kind),
        { ...plain("views", "views", 76, (m) => m.views, (m) => short(m.views)), number: true, first: "desc" },
        { ...plain("seeds", "seeds", 62, (m) => m.seeds, (m) => m.seeds ?? nothing()), number: true, first: "desc" },
      ],
    },
    ...page.protocols.filter((protocol) => protocol.columns.length).map(protocolGroup),
  ];
}

function protocolGroup(protocol) {
  const key = protocolId(protocol);
  const by = (list, owners) => {
    const found = new Array(models.length).fill(null);
    owners.forEach((model, at) => (found[model] = list[at]));
    return found;
  };
  const place = (id, label, field, first, text, width = 66) => {
    const found = (m) => placeIn(protocol, scopeOf(m), m);
    const value = (m) => found(m)?.places[field][found(m).at] ?? null;
    const show = (m) => (value(m) === null ? nothing() : text(value(m), found(m)));
    return { id: `${key}:${id}`, label, width, value, text: show, first, number: true, place: true, protocol };
  };
  const columns = protocol.columns.map((column, at) => {
    const values = by(column.mean, column.models);
    const places = by(column.models.map((_, at) => at), column.models);
    return {
      id: columnId(protocol, at),
      label: visible(column.dataset),
      sub: visible(words(column.main)) + (column.common && !column.unverified ? "" : ` @ ${visible(column.revision)}`),
      width: 100,
      value: (m) => values[m.at],
      text: (m) => score(column, places[m.at], column.marks[scopeOf(m)]),
      first: "desc",
      number: true,
      column,
      protocol,
      place_of: (m) => places[m.at],
    };
  });
  return {
    key,
    protocol,
    title: protocolName(protocol),
    columns: [
      place("mean", "mean", "mean", "desc", (v, { places, at }) => [percent(v), el("span", { class: "spread" }, ` ±${percent(places.half[at])}`)], 96),
      place("rank", "average rank", "rank", "asc", (v) => v.toFixed(1), 82),
      place("borda", "Borda", "borda", "desc", (v) => v.toFixed(1), 72),
      place("group", "tie group", "group", "asc", (v) => String(v)),
      ...columns,
    ],
  };
}

function score(column, at, marks) {
  if (at === null) return nothing();
  const winner = marks.best === column.models[at];
  const tied = marks.level.includes(column.models[at]);
  const mean = percent(column.mean[at]);
  const behind = column.extreme ? interval(column.low[at], column.high[at]) : `±${percent(column.half[at])}`;
  const partly = column.seeds[at] < column.of[at] ? ` ${column.seeds[at]}/${column.of[at]}` : null;
  return [
    el(winner ? "strong" : "span", { class: "value" }, mean),
    el("sup", { "aria-hidden": "true" }, tied ? "*" : ""),
    winner ? quiet(" best") : tied ? quiet(" not significantly different from the best") : null,
    el("span", { class: "spread" }, ` ${behind}`),
    partly && el("span", { class: "partly", title: "seeds with a score" }, partly),
  ];
}

// Choice of columns

function defaultKeys() {
  const keys = innerWidth < 640 ? [] : ["model"]; // a phone has no room for both properties and scores
  let count = 0;
  for (const group of offered.slice(1)) {
    count += group.columns.length;
    if (count > group.columns.length && count > FIRST_COLUMNS) break;
    keys.push(group.key);
  }
  return keys;
}

function shownKeys() {
  if (state.show === "") return defaultKeys();
  const asked = state.show.split(",");
  return offered.map((group) => group.key).filter((key) => asked.includes(encodeURIComponent(key)));
}

function chooseColumns() {
  const here = (column) => !state.comparison || !column.protocol || state.comparison in (column.column?.marks ?? column.protocol.places);
  offered = groups.map((group) => ({ ...group, columns: group.columns.filter(here) })).filter((group) => group.columns.length);
  const keys = shownKeys();
  const part = (column) => state.parts === "" || !column.protocol || (state.parts === "means") === Boolean(column.place);
  shown = offered.filter((group) => keys.includes(group.key)).flatMap((group) => group.columns.filter(part));
}

function chooser() {
  const keys = shownKeys();
  const set = (next) => {
    const same = next.length === defaultKeys().length && defaultKeys().every((key) => next.includes(key));
    state.show = same ? "" : next.map(encodeURIComponent).join(",") || "none";
    rebuild();
  };
  const chip = (label, checked, change, title) =>
    el("label", { class: "chip", title }, el("input", { type: "checkbox", checked, change }), el("span", {}, cut(label, 60)));
  const parts = ["means", "datasets"].map((name) =>
    chip(name === "means" ? "means and ranks" : "single datasets", state.parts === "" || state.parts === name, (event) => {
      const other = name === "means" ? "datasets" : "means";
      state.parts = event.target.checked ? "" : other;
      rebuild();
    }));
  const every = offered.map((group) => chip(group.title, keys.includes(group.key), (event) =>
    set(offered.map((each) => each.key).filter((key) => (key === group.key ? event.target.checked : shownKeys().includes(key)))), group.key));
  return el("div", { class: "choose" },
    el("fieldset", {}, el("legend", {}, "Columns"), every),
    el("fieldset", {}, el("legend", {}, "Show"), parts),
    el("fieldset", {}, el("legend", {}, "Export"), exportButtons()));
}

// Sorting

function sorted(list) {
  const column = sortColumn();
  const down = (state.dir || column.first) === "desc" ? -1 : 1;
  const compare = (a, b) => (column.number ? a - b : collator.compare(a, b));
  return list.map((model) => [model, column.value(model)]).sort(([a, x], [b, y]) => {
    if (x === null || y === null) return (x === null) - (y === null) || a.order - b.order; // missing ones are always last
    return down * compare(x, y) || a.order - b.order;
  }).map(([model]) => model);
}

const nameColumn = { id: "name", label: "model", value: (m) => m.name, first: "asc" };

// Means of different comparisons have no common order.
function sortColumn() {
  const all = offered.flatMap((group) => group.columns);
  return [nameColumn, ...all].find((column) => column.id === state.sort)
    ?? ((state.comparison && all.find((column) => column.place && models.some((model) => column.value(model) !== null))) || nameColumn);
}

function sortBy(column) {
  const now = sortColumn() === column ? state.dir || column.first : "";
  state.sort = column.id;
  state.dir = now === column.first ? (now === "asc" ? "desc" : "asc") : "";
  for (const head of document.querySelectorAll("#table thead [data-id]")) markSorted(head);
  drawRows();
  remember();
}

function markSorted(head) {
  const column = sortColumn();
  const way = (state.dir || column.first) === "desc" ? "descending" : "ascending";
  if (head.dataset.id === column.id) head.setAttribute("aria-sort", way);
  else head.removeAttribute("aria-sort");
}

// Rendering

function rebuild() {
  const focused = document.activeElement?.closest?.(".chip")?.textContent;
  showTable();
  remember();
  for (const chip of document.querySelectorAll(".chip")) if (chip.textContent === focused) chip.firstChild.focus();
}

function showTable() {
  const scrolled = document.querySelector("#table .board")?.scrollLeft ?? 0;
  chooseColumns();
  cells = new Map();
  const width = shown.reduce((sum, column) => sum + column.width, 0);
  const board = el("div", { class: "scroll board", tabindex: "0", role: "region", "aria-label": "Leaderboard" },
    el("table", {},
      el("caption", { class: "sr" }, "Models by protocol and dataset; headings sort."),
      el("colgroup", {}, el("col", { class: "name" }), shown.map((column) => el("col", { width: column.width }))),
      head(), el("tbody", {}), foot()));
  board.firstChild.style.setProperty("--columns", `${width}px`);
  $("table").replaceChildren(chooser(), board, notes());
  board.scrollLeft = scrolled;
  prepareTips(board.querySelector("tbody"));
  drawRows();
}

function head() {
  const kinds = offered.map((group) => [group, shown.filter((column) => group.columns.includes(column))]).filter(([, of]) => of.length);
  const button = (column, attributes) => {
    const node = el("th", { scope: "col", "data-id": column.id, ...attributes },
      el("button", { type: "button", title: column.place ? "within the comparison of the model" : column.label.length > 24 ? column.label : null, click: () => sortBy(column) },
        el("span", { class: "label" }, el("bdi", {}, column.label)), column.sub && el("span", { class: "sub" }, column.sub)));
    markSorted(node);
    return node;
  };
  const first = (group, column) => (group.columns.includes(column) && column === kinds.find(([g]) => g === group)[1][0] ? "edge" : "");
  return el("thead", {},
    el("tr", {},
      button(nameColumn, { class: "name", rowspan: 2 }),
      kinds.map(([group, of]) => el("th", { scope: "colgroup", colspan: of.length, class: "edge" },
        el("span", { class: "title", title: group.title }, group.protocol ? protocolLink(group.protocol) : group.title),
        group.protocol && el("span", { class: "sub" }, `version ${group.protocol.version} · ${group.protocol.hash.slice(0, 6)}`)))),
    el("tr", {}, kinds.flatMap(([group, of]) =>
      of.map((column) => button(column, { class: `${column.number ? "number" : "text"} ${first(group, column)}` })))));
}

function foot() {
  const row = (label, value) => el("tr", {}, el("th", { scope: "row", class: "name" }, label),
    shown.map((column) => el("td", { class: "number" }, column.column ? value(column.column) : "")));
  return el("tfoot", {}, row("chance", (column) => percent(column.chance)), row("test samples", (column) => whole(column.n)));
}

function rowOf(model) {
  let row = cells.get(model.at);
  if (!row) {
    row = el("tr", {}, el("th", { scope: "row", class: "name" },
      el("a", { href: model.href, title: model.name.length > 40 ? cut(visible(model.name), 2000) : null }, bdi(model.label)),
      el("span", { class: "sub" }, el("bdi", {}, `${visible(model.comparison)} · v${model.version}${model.superseded ? ", superseded" : ""}`))),
    shown.map((column, at) => {
      const edge = at && column.protocol !== shown[at - 1].protocol ? " edge" : "";
      return el("td", { class: (column.number ? "number" : "text") + edge }, column.text(model));
    }));
    row.model = model;
    cells.set(model.at, row);
  }
  return row;
}

function drawRows() {
  const order = sorted(chosen());
  const body = document.querySelector("#table tbody");
  const token = ++drawing;
  showCount(order.length);
  if (!order.length) {
    body.replaceChildren(el("tr", {}, el("td", { colspan: shown.length + 1, class: "empty" }, "No model matches; remove a filter.")));
    return;
  }
  body.replaceChildren(...order.slice(0, FIRST_ROWS).map(rowOf));
  const next = (from) => {
    if (token !== drawing || from >= order.length) return;
    body.append(...order.slice(from, from + MORE_ROWS).map(rowOf));
    setTimeout(next, 0, from + MORE_ROWS);
  };
  setTimeout(next, 0, FIRST_ROWS);
}

// Tooltips

function prepareTips(body) {
  const show = (event) => {
    const cell = event.target.closest("td");
    const column = cell && shown[cell.cellIndex - 1];
    if (!column?.protocol || !cell.parentNode.model) return tip(null);
    const model = cell.parentNode.model;
    tip(column.column ? scoreTip(column, model) : standingTip(column, model), cell.getBoundingClientRect());
    if (column.column && column.place_of(model) === null) {
      details().then((more) => {
        if (cell.matches(":hover")) tip([...scoreTip(column, model), missingReason(more, column, model)], cell.getBoundingClientRect());
      });
    }
  };
  body.addEventListener("pointerover", show);
  body.addEventListener("click", show);
  body.addEventListener("pointerleave", () => tip(null));
}

function scoreTip(column, model) {
  const of = column.column;
  const at = column.place_of(model);
  const head = `${model.label} on ${cut(of.dataset, 60)}`;
  if (at === null) return [head, "not measured"];
  const many = of.seeds[at] > 1;
  const marks = of.marks[scopeOf(model)];
  return [
    head,
    `${words(of.main)} ${percent(of.mean[at])}, 95 % interval ${interval(of.low[at], of.high[at])} over samples${many ? " and seeds" : ""}`,
    `n ${whole(of.n)} · ${model.seeds === null ? "" : `${of.seeds[at]} of ${plural(of.of[at], "seed")} · `}chance ${percent(of.chance)}`,
    ...(marks.level.includes(model.at) ? ["not significantly different from the best of its comparison"] : []),
    ...(marks.best === model.at ? ["significantly better than every other model of its comparison"] : []),
  ];
}

function standingTip(column, model) {
  const found = placeIn(column.protocol, scopeOf(model), model);
  if (!found) return [model.label, "not measured"];
  const { places, at } = found;
  const complete = places.mean[at] !== null;
  return [`${model.label}, ${protocolName(column.protocol)}`, `among ${plural(places.models.length, "model")} of ${scopeOf(model)}`,
    `${places.datasets[at]} of ${plural(places.of, "dataset")}`,
    ...(complete ? [] : ["no mean and no rank: a dataset is missing"]),
    ...(complete && places.group[at] === null ? ["no tie group: the paired difference from the first of the group is unknown"] : [])];
}

function missingReason(more, column, model) {
  const of = more.protocols[page.protocols.indexOf(column.protocol)];
  const name = more.texts.indexOf(column.column.dataset);
  const rows = of.models.map((owner, row) => (owner === model.at ? row : -1)).filter((row) => row >= 0);
  const reasons = rows.flatMap((row) => more.reasons[of.skipped[row]]).filter(([dataset]) => dataset === name).map(([, why]) => more.texts[why]);
  if (rows.length && !reasons.length) return "measured on another version of the dataset, or not requested";
  return cut(distinct(reasons).join("; ") || "not evaluated", 300);
}

// Notes on the numbers

function notes() {
  const used = offered.filter((group) => group.protocol && shown.some((column) => column.protocol === group.protocol));
  const marks = used.flatMap(({ protocol }) => protocol.columns.flatMap((column) => inScope(column.marks)));
  const tied = marks.some((each) => each.level.length);
  const winner = marks.some((each) => each.best !== null);
  const item = (...content) => el("li", {}, content);
  return el("div", { class: "notes" },
    el("ul", {},
      item("Scores in percent. ± is half of the 95 % interval over test samples and training seeds; with one seed, over samples only. n and the interval are in the tooltip of a cell and on the page of a model."),
      item(state.comparison
        ? ["Models are compared with each other within ", bdi(state.comparison), "."]
        : "Models are compared with each other only within their own comparison, the first part of a model's name. Means, ranks and marks of different comparisons are over different models, and may be over different datasets."),
      item("Mean and average rank are over all datasets of the comparison, for the models that were measured on each of them. Borda: one point per dataset for every model with a lower score, half a point for an equal one. Tie group: models that are not significantly different from the first of their group (paired 95 % interval). Other filters do not change these, nor bold and stars."),
      models.some((model) => model.superseded) ? item("Superseded: there is a newer version of the experiment, or a newer revision of its training images.") : null,
      pooled(used.map(({ protocol }) => protocol)).map((line) => item(line)),
      winner ? item(el("strong", {}, "Bold"), ": the best of a column in its comparison, significantly better than every other model.") : null,
      tied ? item("* the best of a column in its comparison and those not significantly different from it.") : null,
      winner || tied ? null : item("Bold, stars and tie groups need paired differences, which need the predictions of every model.")),
    el("p", {}, "Settings and datasets: ", used.map(({ protocol }, at) => [at ? ", " : "", protocolLink(protocol)]), "."));
}

// The values of the chosen comparison, or of all.
const inScope = (of) => (state.comparison ? [of[state.comparison]].filter(Boolean) : Object.values(of));

// Notes on differences between trained models that are ranked together, and on limits of the intervals.
function pooled(protocols) {
  const trained = protocols.flatMap(({ places }) => inScope(places))
    .map((each) => each.models.map((at) => models[at]).filter((model) => model.kind !== "not trained"));
  const seeds = trained.map((of) => distinct(of.map((model) => model.seeds)));
  const views = trained.map((of) => distinct(of.map((model) => model.views)));
  const several = (of) => of.some((values) => values.length > 1);
  const differ = [several(views) ? "views seen" : null, several(seeds) ? "seeds" : null].filter(Boolean);
  return [
    differ.length ? `All models of a comparison are ranked together, although they differ in ${differ.join(" and in ")}: ranks are not at equal compute.` : null,
    seeds.flat().includes(1) ? "A model with one seed: the interval of its differences is over samples only and does not cover other seeds." : null,
    "Bold, stars and tie groups: no correction for multiple comparisons.",
  ].filter(Boolean);
}
