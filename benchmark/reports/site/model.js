"use strict";
// The page of one model: properties, every score of every seed, reasons for missing ones, records and environments.

async function showModel(model) {
  const place = $("model");
  if (!model) {
    place.replaceChildren(el("h1", {}, "No such model"), el("p", {}, "No record has this name and version. ",
      el("a", { href: address("") }, "All models")));
    document.title = "No such model – SynRep-Bench";
    return;
  }
  document.title = `${cut(visible(model.label), 80)} – SynRep-Bench`;
  const more = await details();
  if (route[1] !== model) return; // the user left in the meantime
  const found = page.protocols.map((protocol, at) => ({ protocol, of: more.protocols[at], rows: rowsOfModel(more.protocols[at], model) }))
    .filter(({ rows }) => rows.length);
  place.replaceChildren(el("article", {},
    el("p", { class: "back" }, el("a", { href: address("") }, "All models")),
    el("h1", {}, boxed(model.label)),
    el("p", { class: "lead" }, boxed(model.name), `, version ${model.version}${model.superseded ? " (superseded)" : ""}`),
    facts(model),
    model.superseded
      ? el("p", { class: "small" }, "The experiment or its training images have changed since, so its command now trains another model.")
      : command(model.command),
    el("h2", {}, "Standing"), standing(model, found),
    el("h2", {}, "Scores"), found.map((each) => scores(more, model, each)),
    el("h2", {}, "Records"), records(more, model, found)));
}

const rowsOfModel = (of, model) => of.models.flatMap((owner, row) => (owner === model.at ? [row] : []));

function facts(model) {
  const pair = (name, value) => value === null ? null : el("div", {}, el("dt", {}, name), el("dd", {}, value));
  const data = model.data && [boxed(model.data), el("span", { class: "sub" }, boxed(`revision ${cut(model.revision, 200)}`))];
  return el("dl", { class: "facts" },
    pair("Method", boxed(model.method)),
    pair("Trained on", data ?? (model.source && boxed(model.source))),
    pair("Images", `${model.kind}${model.images ? `, ${whole(model.images)} distinct` : ""}`),
    pair("Language", model.language),
    pair("Encoder", boxed(model.encoder)),
    pair("Views seen", model.views === null ? "not known" : whole(model.views) + (model.batch && model.views ? `, in batches of ${whole(model.batch)}` : "")),
    pair("Evaluated features", boxed(`${model.layer}, ${model.precision}`)),
    pair("Fingerprint", el("code", {}, model.fingerprint)));
}

function command(line) {
  const code = el("code", { tabindex: "0" }, visible(line));
  return el("div", { class: "command" }, el("span", { class: "label" }, "Reproduce"), code,
    copyButton("Copy", () => line, () => getSelection().selectAllChildren(code)));
}

function standing(model, found) {
  const rows = found.map(({ protocol }) => [protocol, placeIn(protocol, model.comparison, model)]).filter(([, place]) => place);
  if (!rows.length) return el("p", {}, "Nothing was measured.");
  return table(`Standing within ${cut(visible(model.comparison), 60)}`, ["protocol", "mean", "average rank", "Borda", "tie group", "datasets", "models"],
    rows.map(([protocol, { places, at }]) => {
      const { mean, half, rank, borda, group, datasets, of: all, models: others } = places;
      return [boxed(protocolName(protocol)), mean[at] === null ? "–" : `${percent(mean[at])} ± ${percent(half[at])}`, rank[at] === null ? "–" : rank[at].toFixed(1),
        borda[at].toFixed(1), group[at] ?? "–", `${datasets[at]} of ${all}`, whole(others.length)];
    }), "numbers");
}

function scores(more, model, { protocol, of, rows }) {
  const seeds = rows.map((row) => of.seeds[row]);
  const linesOf = (shown) => protocol.columns.flatMap((column, at) => scoreLines(more, model, column, of.results[at], rows, shown));
  const main = (name, column, result) => name === column.main || name in result.picked;
  const lines = linesOf(main);
  const others = linesOf((...of) => !main(...of));
  const groups = protocol.columns.flatMap((column, at) => groupLines(model, column, of.results[at], rows));
  const skipped = new Map();
  for (const row of rows) {
    for (const [name, why] of more.reasons[of.skipped[row]]) skipped.set(`${name} ${why}`, [name, why, [...(skipped.get(`${name} ${why}`)?.[2] ?? []), of.seeds[row]]]);
  }
  const heads = seeds.map((seed) => `seed ${seed}`);
  return el("section", { class: "protocol" },
    el("h3", {}, protocolLink(protocol), " ", el("span", { class: "sub" }, `version ${protocol.version}, hash ${protocol.hash}`)),
    lines.length ? table(`Scores of ${protocolName(protocol)}`, ["dataset", "score", "mean", ...heads, "n", "chance"], lines, "numbers scores") : el("p", {}, "Nothing was measured."),
    others.length ? fold(`Other scores (${others.length})`, () => table(`Other scores of ${protocolName(protocol)}`, ["dataset", "score", "mean", ...heads, "n", "chance"], others, "numbers scores")) : null,
    groups.length ? fold(`Every group (${groups.length})`, () => table(`Groups of ${protocolName(protocol)}`, ["dataset", "group", "mean", ...heads, "n"], groups, "numbers scores")) : null,
    fold("Repeat this evaluation", () => command(evaluateCommand(model, protocol, seeds[0]))),
    skipped.size ? fold(`Not measured (${plural(distinct([...skipped.values()].map(([name]) => name)).length, "dataset")})`, () =>
      table("Not measured", ["dataset", "reason", "seeds"], [...skipped.values()].map(([name, why, which]) =>
        [boxed(more.texts[name]), boxed(more.texts[why]), which.length === rows.length ? "all" : which.join(", ")]), "reasons")) : null);
}

// The command that repeats an evaluation. A model trained here is given by its run folder; texts are quoted for a shell.
function evaluateCommand(model, protocol, seed) {
  const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`);
  const place = model.source ?? `runs/train/${model.name}/${model.version}/${seed}`;
  return `synrep evaluate ${quoted(place)} --evaluation ${quoted(protocol.evaluation)} --preset ${quoted(protocol.preset)}`;
}

function fold(title, content) {
  const node = el("details", {}, el("summary", {}, title));
  node.addEventListener("toggle", () => {
    if (node.open && node.childElementCount === 1) node.append(...[content()].flat());
  });
  return node;
}

// The values of one score for the rows of a model: { at, value, low, high, n } each, or null.
function valuesOf(result, score, rows) {
  return rows.map((row) => {
    const at = result.rows.indexOf(row);
    if (at < 0 || score.value[at] === null) return null;
    const value = score.value[at];
    return { at, value, low: value - score.low[at], high: value + score.high[at], n: Array.isArray(score.n) ? score.n[at] : score.n };
  });
}

// The mean of one score over the seeds of a model, with its interval over samples and seeds; null without a value.
function meanOf(score, model, found) {
  const there = found.filter(Boolean);
  if (!there.length) return null;
  const { value, low, high } = there[0];
  const [mean, from, to, half] = score.means[model.at] ?? [value, low, high, (high - low) / 2];
  return { value: mean, low: from, high: to, half, n: distinct(there.map((each) => each.n)), seeds: there.length };
}

// The best and worst of many classes are always shown with their interval.
const summary = (all, picked) =>
  picked ? `${percent(all.value)} ${interval(all.low, all.high)}` : `${percent(all.value)} ± ${percent(all.half)}`;

const single = (each) => each ? [percent(each.value), " ", el("span", { class: "spread" }, interval(each.low, each.high))] : "–";

function scoreLines(more, model, column, result, rows, shown) {
  const names = Object.keys(result.scores).filter((name) => shown(name, column, result));
  return names.sort((a, b) => (b === column.main) - (a === column.main)).flatMap((name) => {
    const score = result.scores[name];
    const found = valuesOf(result, score, rows);
    const all = meanOf(score, model, found);
    if (!all) return [];
    const picked = result.picked[name];
    const which = (each) => picked && each && more.texts[picked[each.at]] ? el("span", { class: "sub" }, boxed(more.texts[picked[each.at]])) : null;
    const main = name === column.main;
    return [[boxed(column.dataset + (column.common && !column.unverified ? "" : ` @ ${column.revision}`)),
      boxed(words(name)), summary(all, picked), ...found.map((each) => [single(each), which(each)]),
      all.n.map(whole).join(", "), main ? percent(column.chance) : ""].map((content, at) => el(at ? "td" : "th", at ? {} : { scope: "row" }, content))];
  });
}

function groupLines(model, column, result, rows) {
  return Object.entries(result.classes).flatMap(([name, score]) => {
    const found = valuesOf(result, score, rows);
    const all = meanOf(score, model, found);
    return all ? [[boxed(column.dataset), boxed(name), summary(all), ...found.map((each) => el("td", {}, single(each))), all.n.map(whole).join(", ")]] : [];
  });
}

function recordLink(model, protocol, seed) {
  const path = `${model.name}/${model.version}/${seed}/${protocol.evaluation}.${protocol.preset}.json`;
  const shownPath = el("bdi", {}, cut(`${protocol.evaluation}.${visible(protocol.preset)}.json`, 80));
  const title = visible(path);
  if (page.url === null) return el("span", { title }, shownPath);
  return el("a", { href: `${page.url}/${path.split("/").map(encodeURIComponent).join("/")}`, rel: "noreferrer", title }, shownPath);
}

function records(more, model, found) {
  const rows = found.flatMap(({ protocol, of, rows }) => rows.map((row) => ({ protocol, of, row })));
  const hash = (text, row) => text.slice(row * 12, row * 12 + 12).trim() || "–";
  const diagnostics = distinct(rows.map(({ of, row }) => `seed ${of.seeds[row]}: ${more.texts[of.training[row]]}`)).filter((line) => !line.endsWith(": "));
  const results = rows.flatMap(({ protocol, of, row }) => protocol.columns.flatMap((column, at) => {
    const place = of.results[at].rows.indexOf(row);
    return place < 0 ? [] : [[boxed(column.dataset), boxed(protocolName(protocol)), of.seeds[row],
      el("code", {}, hash(of.results[at].predictions, place)), boxed(more.texts[of.results[at].environment[place]])]];
  }));
  const environments = distinct(results.map((line) => line[4].textContent));
  return [
    el("p", {}, "Hashes are cut to twelve digits; the records have the full hashes, settings and details."),
    table("Records", ["record", "seed", "created", "training", "evaluation", "weights", "data", "protocol"],
      rows.map(({ protocol, of, row }) => [recordLink(model, protocol, of.seeds[row]), of.seeds[row], more.texts[of.created[row]],
        seconds(of.train[row]), seconds(of.seconds[row]), el("code", {}, hash(of.weights, row)), el("code", {}, hash(of.content, row)),
        el("code", {}, protocol.hash)]), "records"),
    diagnostics.length ? [el("h3", {}, "Training diagnostics"), el("ul", { class: "plainlist" }, diagnostics.sort(collator.compare).map((line) => el("li", {}, boxed(line))))] : null,
    environments.length ? [el("h3", {}, "Environments"), el("ul", { class: "plainlist" }, environments.map((line) => el("li", {}, boxed(line))))] : null,
    results.length ? fold(`Predictions and environment of every result (${whole(results.length)})`, () =>
      table("Results", ["dataset", "protocol", "seed", "predictions", "environment"], results, "reasons")) : null,
  ];
}
