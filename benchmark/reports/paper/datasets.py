"""Datasets: captions before and after de-duplication, images, image size, GPU-hours; and those of our training runs.

Published counts are facts (`benchmark/reports/published/facts.csv`), from which images and GPU-hours are derived. A
training record contains the dataset's repository, revision and content hash; the dataset's manifest has its counts.
"""

from collections.abc import Sequence

from benchmark.reports.comparison import Notes
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.published.generation import gpu_hours, seconds_per_image
from benchmark.reports.published.numbers import Fact
from benchmark.reports.published.rows import without_duplicates
from benchmark.reports.published.table import source_mark
from benchmark.reports.table import Cell, Table

TITLE = "Datasets"
CAPTION = "The paper's synthetic datasets, as far as known, and the training datasets of our records."
COUNTS = {
    "captions before": "captions before de-duplication",
    "captions after": "captions after de-duplication",
    "images per caption": "images per caption",
    "guidance": "guidance",
    "image size": "image size (pixels)",
}
"""Fact -> column."""


def build(inputs: ReportInputs) -> Table:
    """Return the table: a row per published dataset, and one per dataset and revision of the records."""
    notes, speeds = Notes(), seconds_per_image(inputs.facts)
    subjects = dict.fromkeys(fact.subject for fact in inputs.facts if fact.name in COUNTS)
    rows = [*(_published(subject, inputs.facts, speeds, notes) for subject in subjects), *_measured(inputs)]
    derived = ("images", *(f"{speed.subject}-hours" for speed in speeds))
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
            "Measured: repository, revision and content hash in training records, and the number of models "
            "(experiments and seeds) trained on it; the counts are in the dataset's manifest and card.",
            "Empty: for published rows, not found in our sources (sizes in bytes are in none of them); for measured "
            "rows, not in a record.",
        ),
        leading=4,
        groups=("published",) * (len(COUNTS) + len(derived)) + ("measured",),
    )


def _published(subject: str, facts: Sequence[Fact], speeds: Sequence[Fact], notes: Notes) -> list[str]:
    fact_of = {fact.name: fact for fact in facts if fact.subject == subject}
    counts = [fact_of.get(name) for name in COUNTS]
    cells = [f"{fact.value:,.0f}{source_mark(fact.confidence, fact.source, notes)}" if fact else "" for fact in counts]
    captions, images = fact_of.get("captions after"), fact_of.get("images per caption")
    if captions and images:
        count = captions.value * images.value
        mark = notes.mark("published, derived: see below")
        cells += [f"{count:,.0f}{mark}", *(f"{gpu_hours(count, speed)}{mark}" for speed in speeds)]
    return ["published", subject, "", "", *cells]


def _measured(inputs: ReportInputs) -> list[list[str]]:
    models: dict[tuple[str, str, str], set[tuple[str, int, int]]] = {}
    for record in without_duplicates(inputs.records):
        if (source := record.training) and record.model.views:
            key = (source.repo, source.revision[:12], (source.content_sha256 or "")[:12])
            models.setdefault(key, set()).add((record.experiment.name, record.experiment.version, record.seed))
    width = len(COUNTS) + 1 + len(seconds_per_image(inputs.facts))
    return [["measured", *key, *[""] * width, str(len(trained))] for key, trained in sorted(models.items())]


TABLE = build
