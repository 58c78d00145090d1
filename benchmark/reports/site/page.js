"use strict";
// The start, and which page is shown.

const TITLES = { table: ["Leaderboard", ""], cost: ["Accuracy and cost", "What a model scores against what its training took."] };

function show() {
  const [name, model] = route;
  tip(null);
  for (const each of ["table", "cost", "groups", "model"]) $(each).hidden = each !== name;
  $("filters").hidden = !["table", "cost"].includes(name);
  $("intro").hidden = !(name in TITLES);
  if (name in TITLES) {
    const [title, lead] = TITLES[name];
    document.title = name === "table" ? "SynRep-Bench leaderboard" : `${title} – SynRep-Bench`;
    $("intro").firstElementChild.textContent = title;
    $("intro").lastElementChild.textContent = lead || $("intro").lead;
    showFilters();
  }
  if (name === "table") showTable();
  if (name === "cost") showCost();
  if (name === "groups") {
    document.title = "Groups – SynRep-Bench";
    showGroups();
  }
  if (name === "model") showModel(model);
  link();
}

// Filters change what is shown, not how: rows are drawn again, columns are not.
function filtered() {
  if (route[0] === "table") drawRows();
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
  for (const protocol of page.protocols) {
    protocol.columns.forEach((column) => column.models.forEach((model, at) =>
      (models[model].seeds = Math.max(models[model].seeds ?? 0, column.of[at]))));
  }
  for (const model of models) model.seeds ??= null;
  [...models].sort((a, b) => collator.compare(a.name, b.name) || a.version - b.version).forEach((model, at) => (model.order = at));
  $("intro").lead = $("intro").lastElementChild.textContent;
  prepareTable();
  prepareFilters(filtered);
  read();
  show();
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // its address would take the place of the view's
    $("content").focus();
  });
  addEventListener("hashchange", () => {
    read();
    show();
    scrollTo(0, 0);
    $("content").focus({ preventScroll: true });
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
    : "This browser is too old for this page: it cannot unpack the data. The records and the tables hold the same numbers.";
});
