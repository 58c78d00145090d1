"use strict";
// The page of protocols: what an evaluation measures, its settings, and the exact datasets, with links to the documentation.

const protocolHref = (protocol) => `#/protocols/${encodeURIComponent(protocolId(protocol))}`;
const protocolLink = (protocol) => el("a", { href: protocolHref(protocol) }, boxed(protocolName(protocol)));

function showProtocols() {
  document.title = "Protocols – SynRep-Bench";
  const evaluations = distinct(page.protocols.map((protocol) => protocol.evaluation));
  $("protocols").replaceChildren(
    el("h1", {}, "Protocols"),
    el("p", { class: "lead" }, "A protocol is one version of one preset of an evaluation. Its hash covers the version and all settings, so that scores with the same hash are comparable."),
    ...evaluations.map((name) => {
      const presets = page.protocols.filter((protocol) => protocol.evaluation === name);
      const { about, docs } = presets[0];
      return el("section", {}, el("h2", {}, boxed(words(name))),
        about ? el("p", {}, about) : null,
        docs ? el("p", {}, el("a", { href: docs }, "Origin, exact steps and departures")) : null,
        presets.map(protocolSection));
    }));
}

function protocolSection(protocol) {
  const fact = (name, value) => el("div", {}, el("dt", {}, name), el("dd", {}, value));
  return el("section", { class: "protocol" },
    el("h3", { id: `protocol-${encodeURIComponent(protocolId(protocol))}`, tabindex: "-1" }, boxed(protocol.preset)),
    el("dl", { class: "facts" },
      fact("Version", protocol.version),
      fact("Hash", el("code", {}, protocol.hash)),
      fact("Models", whole(distinct(protocol.columns.flatMap((column) => column.models)).length)),
      el("div", { class: "wide" }, el("dt", {}, "Settings"), el("dd", {}, protocol.knobs ? boxed(protocol.knobs) : "none"))),
    protocol.columns.length ? table(`Datasets of ${protocolName(protocol)}`, ["dataset", "score", "repository", "revision", "split", "images", "n", "chance", "ids"],
      protocol.columns.map((column) => [boxed(column.dataset), boxed(words(column.main)), boxed(column.repo), boxed(column.revision),
        boxed(column.split), whole(column.images), whole(column.n), percent(column.chance), el("code", {}, column.ids)])) : el("p", {}, "Nothing was measured."));
}
