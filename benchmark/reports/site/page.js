"use strict";
// Startup, and switching between views.

const TITLES = { table: ["Leaderboard", ""], cost: ["Accuracy and cost", "The score of a model against the cost of its training."] };

function show() {
  const [name, detail] = route;
  tip(null);
  for (const each of [...Object.keys(pathOf), "model"]) $(each).hidden = each !== name;
  $("filters").hidden = !["table", "cost"].includes(name);
  $("intro").hidden = !(name in TITLES);
  if (name in TITLES) {
    const [title, lead] = TITLES[name];
    document.title = name === "table" ? "SynRep-Bench leaderboard" : `${title} – SynRep-Bench`;
    $("intro").firstElementChild.textContent = title;
    $("lead").textContent = lead || $("lead").first;
    if ($("scope")) $("scope").hidden = name !== "table";
    showFilters();
  }
  if (name === "table") showTable();
  if (name === "cost") showCost();
  if (name === "groups") {
    document.title = "Groups – SynRep-Bench";
    showGroups();
  }
  if (name === "trade-offs") showTradeOffs();
  if (name === "protocols") showProtocols();
  if (name === "model") showModel(detail);
  link();
}

// Move to the protocol that the address names, otherwise to the top of a view.
function arrive() {
  const place = route[0] === "protocols" && route[1] && document.getElementById(`protocol-${route[1]}`);
  if (!place) scrollTo(0, 0);
  else place.scrollIntoView();
  (place || $("content")).focus({ preventScroll: true });
}

// Another comparison has other columns; the other filters change only the rows.
function filtered(name) {
  if (route[0] === "table") (name === "comparison" ? showTable : drawRows)();
  if (route[0] === "cost") showCost();
  remember();
}

function prepareTheme() {
  const button = $("theme");
  const label = () => {
    button.setAttribute("aria-pressed", String(theme.dark));
  };
  button.addEventListener("click", () => {
    theme.set(theme.dark ? "light" : "dark");
    label();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  label();
}

async function start() {
  prepareTheme();
  page = await unpacked("shown");
  models = rowsOf(page.models);
  first.comparison = page.main;
  Object.assign(state, first);
  for (const protocol of page.protocols) {
    // Keyed by names of comparisons, which may be any, such as `constructor`.
    for (const named of [protocol.places, ...protocol.columns.map((column) => column.marks)]) Object.setPrototypeOf(named, null);
  }
  [...models].sort((a, b) => collator.compare(a.name, b.name) || a.version - b.version).forEach((model, at) => (model.order = at));
  $("lead").first = $("lead").textContent;
  prepareTable();
  prepareFilters(filtered);
  prepareShare();
  read();
  show();
  if (route[0] === "protocols" && route[1]) arrive();
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // following the link would replace the address of the view
    $("content").focus();
  });
  addEventListener("hashchange", () => {
    read();
    show();
    arrive();
  });
  addEventListener("keydown", (event) => event.key === "Escape" && tip(null));
  addEventListener("scroll", () => tip(null), { passive: true });
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    if (route[0] === "cost") showCost();
    if (route[0] === "groups") showGroups();
  });
  document.documentElement.dataset.ready = "true";
}

start().catch((error) => {
  $("trouble").hidden = false;
  $("trouble").textContent = "DecompressionStream" in window
    ? `The data of this page cannot be read: ${error.message}`
    : "This browser is too old for this page: it cannot unpack the data. The records and the tables have the same numbers.";
});
