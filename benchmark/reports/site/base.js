"use strict";
// Data loading, and shared building blocks of the views. Texts of records are only inserted as text nodes.

const $ = (id) => document.getElementById(id);
let page; // data of the table
let more; // promise of the data of the model pages

async function unpacked(id) {
  const packed = atob($(id).textContent);
  const bytes = new Uint8Array(packed.length);
  for (let at = 0; at < packed.length; at++) bytes[at] = packed.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

function details() {
  more ??= unpacked("more");
  return more;
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const svg = (name, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

// Control characters and those that change the text direction are shown as codes.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
function visible(text) {
  return String(text).replace(HIDDEN, (c) => `[U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}]`);
}

const bdi = (text) => el("bdi", {}, visible(text));
const LONG = 300; // characters; longer texts get a scrollable box that can have the keyboard focus
const boxed = (text) => (text.length > LONG ? el("bdi", { class: "long", tabindex: "0" }, visible(text)) : bdi(text));
const cut = (text, length) => (text.length > length ? `${[...text].slice(0, length - 1).join("")}…` : text);
const quiet = (text) => el("span", { class: "sr" }, text);

// Numbers. Scores are integers in units of page.unit (1e-5), rounded to tenths of a percent as in the tables.
const percent = (units) => (units === null ? "–" : (Math.floor((units + 50) / 100) / 10).toFixed(1));
const interval = (low, high) => `[${percent(low)}, ${percent(high)}]`;
const whole = (number) => (number === null ? "not known" : number.toLocaleString("en"));
const words = (name) => name.replaceAll("_", " ");
const plural = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;
const last = (path) => path.slice(path.lastIndexOf("/") + 1);
const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
const distinct = (values) => [...new Set(values)];

function short(number) {
  if (number === null) return "–";
  for (const [size, unit] of [[1e9, "B"], [1e6, "M"], [1e4, "k"]]) {
    if (number >= size) return `${+(number / (unit === "k" ? 1e3 : size)).toPrecision(3)}${unit}`;
  }
  return whole(number);
}

function seconds(count) {
  if (count === null) return "–";
  if (count < 120) return `${+count.toPrecision(3)} s`;
  return count < 7200 ? `${(count / 60).toFixed(1)} min` : `${(count / 3600).toFixed(1)} h`;
}

// Columns (a list per field) to rows (an object per model).
function rowsOf(columns) {
  const names = Object.keys(columns);
  return (columns.name ?? []).map((_, at) => {
    const row = { at };
    for (const name of names) row[name] = columns[name][at];
    row.label = last(row.name);
    row.age = row.superseded ? "superseded" : "current";
    row.href = `#/model/${row.name.split("/").map(encodeURIComponent).join("/")}/${row.version}`;
    row.search = [row.name, `v${row.version}`, row.method, row.data, row.kind, row.language, row.encoder, row.source]
      .join(" ").toLowerCase();
    return row;
  });
}

const protocolName = (protocol) => `${words(protocol.evaluation)} · ${visible(protocol.preset)}`;
const protocolId = (protocol) =>
  `${protocol.evaluation}.${protocol.preset}.${protocol.version}.${protocol.hash.slice(0, 6)}`;

// Columns of the same name are numbered, except the most frequent one.
function columnId(protocol, at) {
  const name = protocol.columns[at].dataset;
  const earlier = protocol.columns.slice(0, at).filter((column) => column.dataset === name).length;
  return `${protocolId(protocol)}/${name}${earlier ? `~${earlier + 1}` : ""}`;
}

// The tooltip of the element under the pointer or with the focus.
function tip(lines, box) {
  const node = $("tip");
  if (!lines) {
    node.hidden = true;
    return;
  }
  node.replaceChildren(...lines.map((line, at) => el(at ? "div" : "strong", {}, visible(line))));
  node.hidden = false;
  const own = node.getBoundingClientRect();
  const left = Math.min(Math.max(8, box.left + box.width / 2 - own.width / 2), innerWidth - own.width - 8);
  const above = box.top - own.height - 8;
  node.style.left = `${left}px`;
  node.style.top = `${above > 4 ? above : box.bottom + 8}px`;
}

function table(caption, head, rows, classes = "") {
  const cell = (content, tag, scope) =>
    content instanceof Node && content.matches?.("td, th") ? content : el(tag, { scope }, content);
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el("table", { class: `plain ${classes}` },
      el("caption", { class: "sr" }, caption),
      el("thead", {}, el("tr", {}, head.map((each) => cell(each, "th", "col")))),
      el("tbody", {}, rows.map((row) =>
        el("tr", {}, row.map((each, at) => cell(each, at ? "td" : "th", at ? null : "row")))))));
}
