"""The datasets: captions before and after de-duplication, images, their size, GPU-hours; and what was trained on.

Published counts are facts (`benchmark/reports/published/facts.csv`); images and hours follow from them. A training
record says which dataset in which revision, and by the hash of what content; how many captions that has, its manifest
says.
"""

from collections.abc import Sequence

from benchmark.reports.comparison import Notes
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.published.generation import devices, hours
from benchmark.reports.published.numbers import Fact
from benchmark.reports.published.rows import unique
from benchmark.reports.published.table import source_mark
from benchmark.reports.table import Cell, Table

TITLE = "Datasets"
CAPTION = "What is known of the paper's synthetic datasets, and what the models of our records were trained on."
COUNTS = {
    "captions before": "captions before de-duplication",
    "captions after": "captions after de-duplication",
    "images per caption": "images per caption",
    "image size": "image size (pixels)",
}
"""Fact -> column."""


def build(inputs: ReportInputs) -> Table:
    """A row per published dataset, and one per dataset and revision of the records."""
    notes, drawing = Notes(), devices(inputs.facts)
    subjects = dict.fromkeys(fact.subject for fact in inputs.facts if fact.fact in COUNTS)
    rows = [*(_published(subject, inputs.facts, drawing, notes) for subject in subjects), *_measured(inputs)]
    derived = ("images", *(f"{device.subject}-hours" for device in drawing))
    columns = ("source", "dataset", "revision", "content", *COUNTS.values(), *derived, "models")
    return Table(
        title=TITLE,
        captions=(CAPTION,),
        columns=columns,
        keys=columns,
        rows=tuple((*map(Cell, (row + [""] * len(columns))[: len(columns)]),) for row in rows),
        footnotes=(
            *notes.lines(),
            "Derived, from the marked facts: images = captions after de-duplication x images per caption; "
            "GPU-hours = images x seconds per image / 3,600.",
            "Measured: repository, revision and hash of the content that training records name, and how many models "
            "(experiments and seeds) were trained on it; the dataset's manifest and card hold its counts.",
            "Empty: published, not found in any source at hand (also bytes: in none); measured, not in a record.",
        ),
    )


def _published(subject: str, facts: Sequence[Fact], drawing: Sequence[Fact], notes: Notes) -> list[str]:
    own = {fact.fact: fact for fact in facts if fact.subject == subject}
    found = [own.get(name) for name in COUNTS]
    cells = [f"{fact.value:,.0f}{source_mark(fact.confidence, fact.source, notes)}" if fact else "" for fact in found]
    captions, images = own.get("captions after"), own.get("images per caption")
    if captions and images:
        count = captions.value * images.value
        mark = notes.mark("published, derived: see below")
        cells += [f"{count:,.0f}{mark}", *(f"{hours(count, device)}{mark}" for device in drawing)]
    return ["published", subject, "", "", *cells]


def _measured(inputs: ReportInputs) -> list[list[str]]:
    models: dict[tuple[str, str, str], set[tuple[str, int, int]]] = {}
    for record in unique(inputs.records):
        if (source := record.training) and record.model.views:
            key = (source.repo, source.revision[:12], (source.content_sha256 or "")[:12])
            models.setdefault(key, set()).add((record.experiment.name, record.experiment.version, record.seed))
    width = len(COUNTS) + 1 + len(devices(inputs.facts))
    return [["measured", *key, *[""] * width, str(len(found))] for key, found in sorted(models.items())]


TABLE = build
