"use strict";
// The state of a view, stored after the # of the address, so that every view has a link, also in a local file.

const FILTERS = ["data", "kind", "encoder", "language", "comparison", "age"];
const KEPT = ["q", ...FILTERS, "sort", "dir", "show", "parts", "y", "x", "on", "models"];
const ALL = "all";
const state = Object.fromEntries(KEPT.map((name) => [name, ""]));
const first = { ...state, age: "current" }; // the first view; its comparison is that of the page
let models = [];
let route = ["table"];

function address(path) {
  const kept = new URLSearchParams();
  for (const name of KEPT) if (state[name] !== first[name]) kept.set(name, state[name]);
  const query = kept.toString();
  return `#/${path}${query ? `?${query}` : ""}`;
}

const pathOf = { table: "", cost: "cost", groups: "groups", "trade-offs": "trade-offs", protocols: "protocols" };

// After a change in a view: update its address without a new history entry.
function remember() {
  if (route[0] in pathOf) history.replaceState(null, "", address(pathOf[route[0]]));
  link();
}

function link() {
  for (const each of document.querySelectorAll("nav a, .brand")) {
    const name = each.dataset.page ?? "table";
    each.href = address(pathOf[name]);
    if (each.dataset.page) {
      if (name === route[0]) each.setAttribute("aria-current", "page");
      else each.removeAttribute("aria-current");
    }
  }
}

// Set route and state from the address. Missing values get their default; invalid ones are ignored.
function read() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").filter(Boolean);
  if (parts[0] === "model" && parts.length > 2) {
    let name = "";
    try {
      name = parts.slice(1, -1).map(decodeURIComponent).join("/");
    } catch {
      // invalid encoding: no such model
    }
    route = ["model", models.find((model) => model.name === name && String(model.version) === parts.at(-1))];
    return;
  }
  if (parts[0] === "protocols" && parts.length > 1) {
    route = ["protocols", parts[1]];
    return;
  }
  route = [parts[0] in pathOf ? parts[0] : "table"];
  const given = new URLSearchParams(query);
  for (const name of KEPT) state[name] = given.get(name) ?? first[name];
}

const valueOf = { data: (model) => model.data ?? "not known" };
for (const name of FILTERS) valueOf[name] ??= (model) => model[name];

// Raw pixels are the floor of other comparisons, too.
const belongs = (model, comparison) => model.comparison === comparison || page.protocols.some((each) => placeIn(each, comparison, model));

// The comparison in which a model is shown: the chosen one, or its own.
const scopeOf = (model) => state.comparison || model.comparison;

// The standing of a model under a protocol in a comparison: the list of places, and its index in it; or null.
function placeIn(protocol, comparison, model) {
  const places = protocol.places[comparison];
  const at = places ? places.models.indexOf(model.at) : -1;
  return at < 0 ? null : { places, at };
}

function chosen() {
  const asked = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const set = FILTERS.filter((name) => state[name] !== "");
  return models.filter((model) =>
    set.every((name) => (name === "comparison" ? belongs(model, state[name]) : valueOf[name](model) === state[name])) && asked.every((word) => model.search.includes(word)));
}

function prepareFilters(changed) {
  const form = $("filters");
  for (const name of FILTERS) {
    const values = distinct(models.map(valueOf[name])).sort(collator.compare);
    const label = (value) => cut(visible(name === "data" ? last(value) || value : value || "(none)"), 60);
    $(name).append(el("option", { value: "" }, ALL), ...values.map((value, at) => el("option", { value: at + 1 }, label(value))));
    $(name).addEventListener("change", (event) => {
      state[name] = event.target.value === "" ? "" : values[event.target.value - 1];
      changed(name);
    });
    $(name).show = (value) => {
      $(name).value = value === "" ? "" : String(values.indexOf(value) + 1);
      if ($(name).selectedIndex < 0) {
        state[name] = first[name];
        $(name).value = String(values.indexOf(first[name]) + 1);
      }
    };
  }
  prepareFold();
  $("q").addEventListener("input", (event) => {
    state.q = event.target.value.trim();
    changed("q");
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    Object.assign(state, first);
    showFilters();
    changed("comparison");
  });
  $("all").addEventListener("click", () => {
    for (const name of ["q", "sort", "dir", ...FILTERS]) state[name] = "";
    showFilters();
    changed("comparison");
  });
}

// On a phone the filters are folded, so that the table is visible without scrolling.
function prepareFold() {
  $("fold").addEventListener("click", () => {
    const open = $("fold").getAttribute("aria-expanded") !== "true";
    $("fold").setAttribute("aria-expanded", String(open));
  });
}

function showFilters() {
  if (document.activeElement !== $("q") || state.q === "") $("q").value = state.q;
  for (const name of FILTERS) $(name).show(state[name]);
  if (FILTERS.some((name) => state[name] !== first[name])) $("fold").setAttribute("aria-expanded", "true");
}

function showCount(count) {
  $("count").textContent = `${whole(count)} of ${plural(models.length, "model")}`;
  $("all").hidden = count === models.length;
}
