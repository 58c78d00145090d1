"use strict";
// Sharing a view: its link, and the table as it is shown, as CSV and LaTeX. All of it works without clipboard access.

// A button that copies a text; `otherwise` selects the text for the user if the browser does not allow copying.
function copyButton(label, text, otherwise) {
  const status = el("span", { class: "sr", role: "status" });
  const copy = async (event) => {
    const button = event.currentTarget;
    let done = "Copied";
    try {
      await navigator.clipboard.writeText(text());
    } catch {
      otherwise();
      done = "Selected";
    }
    button.textContent = done;
    status.textContent = done;
    setTimeout(() => (button.textContent = label), 1500);
  };
  return [el("button", { type: "button", click: copy }, label), status];
}

function prepareShare() {
  const link = () => location.href;
  $("theme").before(...copyButton("Copy link", link, () => share("Link to this view", link())));
}

// Show a text to copy or to save as a file.
function share(title, text, file) {
  const area = el("textarea", { readonly: true, "aria-labelledby": "share-title", rows: file ? 14 : 4, spellcheck: "false", wrap: file ? "off" : "soft" });
  area.value = text;
  const save = () => {
    const url = URL.createObjectURL(new Blob([text], { type: `${file.type};charset=utf-8` }));
    el("a", { href: url, download: file.name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  };
  const node = $("share");
  node.replaceChildren(
    el("h2", { id: "share-title" }, title),
    area,
    el("div", { class: "buttons" },
      copyButton("Copy", () => text, () => area.select()),
      file ? el("button", { type: "button", click: save }, "Download") : null,
      el("button", { type: "button", click: () => node.close() }, "Close")));
  node.showModal();
  area.focus();
  if (file) area.setSelectionRange(0, 0);
  else area.select();
  area.scrollTo(0, 0);
}

function exportButtons() {
  const formats = { CSV: [csv, { name: "leaderboard.csv", type: "text/csv" }], LaTeX: [latex, { name: "leaderboard.tex", type: "text/x-tex" }] };
  return Object.entries(formats).map(([name, [write, file]]) =>
    el("button", { type: "button", "aria-label": `Export as ${name}`, click: () => share(`The table as ${name}`, write(sorted(chosen()), shown), file) }, name));
}

// What a table needs beside its numbers: the notes of the page, protocols, filters, and the source.
function footnotes(columns, count) {
  const protocols = distinct(columns.map((column) => column.protocol).filter(Boolean));
  const filters = [["search", state.q], ...FILTERS.map((name) => [document.querySelector(`label[for=${name}]`).textContent, state[name]])];
  const view = location.protocol.startsWith("http") ? ` ${location.href}` : "";
  return [
    ...[...document.querySelectorAll("#table .notes li")].map((note) => note.textContent),
    ...protocols.map((protocol) => `${protocolName(protocol)}: version ${protocol.version}, hash ${protocol.hash}${protocol.knobs ? `; ${visible(protocol.knobs)}` : ""}.`),
    `${count} of ${plural(models.length, "model")}${filters.filter(([, value]) => value).map(([name, value]) => `; ${name.toLowerCase()}: ${visible(value)}`).join("")}.`,
    `Source: SynRep-Bench leaderboard, ${plural(page.records, "record")}.${view}`,
  ];
}

const isMean = (column) => column.id.endsWith(":mean");

// The parts of a cell: its number or text, its interval, and how it compares with the best.
function cellParts(column, model) {
  const value = column.value(model);
  if (value === null) return { value: "" };
  if (isMean(column)) {
    const { places, at } = placeIn(column.protocol, scopeOf(model), model);
    return { value: percent(value), interval: percent(places.half[at]) };
  }
  if (!column.column) return { value: column.place ? column.text(model) : visible(value) };
  const { extreme, half, low, high, marks } = column.column;
  const { best, level } = marks[scopeOf(model)];
  const at = column.place_of(model);
  return {
    value: percent(value),
    interval: extreme ? interval(low[at], high[at]) : percent(half[at]),
    mark: best === model.at ? "best" : level.includes(model.at) ? "not different from the best" : "",
  };
}

const columnTitle = (column) => [column.protocol && protocolName(column.protocol), column.label, column.sub].filter(Boolean).join(" · ");

// CSV, with cells of their own for intervals and marks. No cell is a spreadsheet formula.
function csv(rows, columns) {
  const quoted = (text) => {
    const safe = /^([=@\t]|[+-](?![\d.]+$))/.test(text) ? `'${text}` : text;
    return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const parts = (column) => ["value", ...(column.column || isMean(column) ? ["interval"] : []),
    ...(column.column && inScope(column.column.marks).some(({ best, level }) => level.length || best !== null) ? ["mark"] : [])];
  const heads = columns.flatMap((column) => parts(column).map((part) =>
    columnTitle(column) + { value: "", interval: column.column?.extreme ? " [95 %]" : " ±", mark: " mark" }[part]));
  const lines = [["model", "version", ...heads], ...rows.map((model) => [visible(model.name), String(model.version),
    ...columns.flatMap((column) => parts(column).map((part) => cellParts(column, model)[part] ?? ""))])];
  const notes = footnotes(columns, rows.length).map((note) => `# ${note.replace(/,(?=\s*[=+@-])/g, ",'")}`);
  return [...lines.map((line) => line.map(quoted).join(",")), ...notes, ""].join("\n");
}

const LATEX = {
  "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", $: "\\$", "#": "\\#", _: "\\_", "{": "\\{", "}": "\\}", "~": "\\textasciitilde{}",
  "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", "±": "$\\pm$", "–": "--", "·": "$\\cdot$",
};
const texed = (text) => String(text).replace(/[\\&%$#_{}~^<>|±–·]/g, (character) => LATEX[character]).replace(/^[[*]/, "{$&}");

// A LaTeX float that needs the package booktabs.
function latex(rows, columns) {
  const cell = (column, model) => {
    const { value, interval: behind, mark } = cellParts(column, model);
    if (value === "") return "--";
    const shown = behind && (behind.startsWith("[") ? ` ${behind}` : ` ± ${behind}`);
    const text = texed(value + (shown ?? ""));
    return mark === "best" ? `\\textbf{${text}}` : text + (mark ? "\\textsuperscript{*}" : "");
  };
  const heads = offered.map((group) => [group.title, columns.filter((column) => group.columns.includes(column))]).filter(([, of]) => of.length);
  let at = 2;
  const rules = heads.map(([, of]) => `\\cmidrule(lr){${at}-${(at += of.length) - 1}}`);
  const lines = [
    `% ${footnotes(columns, rows.length).at(-1)}`,
    "% \\usepackage{booktabs}",
    "\\begin{table}", "\\centering", "\\caption{SynRep-Bench leaderboard.}",
    `\\begin{tabular}{l${columns.map((column) => (column.number ? "r" : "l")).join("")}}`, "\\toprule",
    `${["", ...heads.map(([title, of]) => `\\multicolumn{${of.length}}{c}{${texed(visible(title))}}`)].join(" & ")} \\\\`, rules.join(" "),
    `${["model", ...columns.map((column) => texed(column.sub ? `${column.label}, ${column.sub}` : column.label))].join(" & ")} \\\\`, "\\midrule",
    ...rows.map((model) => `${[texed(`${visible(model.name)} v${model.version}`), ...columns.map((column) => cell(column, model))].join(" & ")} \\\\`),
    "\\bottomrule", "\\end{tabular}", "\\par\\raggedright\\footnotesize",
    ...footnotes(columns, rows.length).map((note) => `\\par ${texed(note)}`), "\\end{table}", "",
  ];
  return lines.join("\n");
}
