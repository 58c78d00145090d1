"""Costs: published GPU-hours of image generation, and recorded seconds of training and evaluation."""

from collections.abc import Iterator, Sequence
from statistics import fmean, stdev

from benchmark.records.schema import Measured, Record
from benchmark.reports.comparison import Notes
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.published.generation import gpu_hours, seconds_per_image
from benchmark.reports.published.rows import without_duplicates
from benchmark.reports.published.table import source_mark
from benchmark.reports.rows import natural_sort_key
from benchmark.reports.table import Cell, Table

TITLE = "Costs"
CAPTION = "Published: image generation. Measured: training of a model, and all its evaluations."
IMAGES_PER_CAPTION = (1, 10)
COLUMNS = (
    "source", "what", "method", "device", "seconds per image",
    *(f"GPU-hours, {n} per caption" for n in IMAGES_PER_CAPTION),
    "seeds", "views", "training (s)", "evaluation (s)",
)  # fmt: skip
TRAIN = "train"
"""Key of the training time in `Record.seconds`."""


def build(inputs: ReportInputs) -> Table:
    """Return the table: a row per published dataset and device, and one per experiment of the records."""
    notes = Notes()
    rows = (*_published(inputs, notes), *_measured(inputs.records))
    return Table(
        title=TITLE,
        captions=(CAPTION,),
        columns=COLUMNS,
        keys=COLUMNS,
        rows=tuple(tuple(map(Cell, row)) for row in rows),
        footnotes=(
            *notes.lines(),
            "GPU-hours are derived: captions after de-duplication x images per caption x seconds per image / 3,600.",
            "Measured: mean over seeds, with their sample standard deviation (sd). Evaluation: the sum over all "
            "presets and datasets; features that were already stored are not counted again. The device is that of the "
            "evaluations; records do not say whether the machine was shared.",
            "Empty: for published rows, not found in our sources; for measured rows, not in the records. Random "
            "weights and raw pixels were not trained, so they have no training time.",
        ),
        leading=COLUMNS.index("seconds per image"),
        groups=("generation",) * (1 + len(IMAGES_PER_CAPTION)) + ("training",) * 4,
        csv_only=("method",),
    )


def _published(inputs: ReportInputs, notes: Notes) -> Iterator[tuple[str, ...]]:
    captions = [fact for fact in inputs.facts if fact.name == "captions after"]
    for speed in seconds_per_image(inputs.facts):
        mark = source_mark(speed.confidence, speed.source, notes)
        yield "published", "an image", "", speed.subject, f"{speed.value:g}{mark}", *[""] * (len(COLUMNS) - 5)
        for fact in captions:
            derived = notes.mark("published, derived: see below")
            hours = (f"{gpu_hours(fact.value * count, speed)}{derived}" for count in IMAGES_PER_CAPTION)
            yield "published", fact.subject, "", speed.subject, "", *hours, *[""] * 4


def _measured(records: Sequence[Record]) -> Iterator[tuple[str, ...]]:
    models: dict[tuple[str, int], dict[int, list[Record]]] = {}
    for record in without_duplicates(record for record in records if record.seconds):
        experiment = record.experiment
        models.setdefault((experiment.name, experiment.version), {}).setdefault(record.seed, []).append(record)
    for name, version in sorted(models, key=lambda key: (natural_sort_key(key[0]), key)):
        seeds = [seed_records for _, seed_records in sorted(models[name, version].items())]
        first = seeds[0][0]
        training = [max(record.seconds.get(TRAIN, 0.0) for record in seed_records) for seed_records in seeds]
        evaluation = [sum(sorted(_evaluation_seconds(seed_records))) for seed_records in seeds]
        views = "" if first.model.views is None else f"{first.model.views:,}"
        label = name if version == 1 else f"{name} v{version}"
        numbers = (str(len(seeds)), views, _seconds(training), _seconds(evaluation))
        yield "measured", label, first.experiment.method, _devices(seeds), "", *[""] * len(IMAGES_PER_CAPTION), *numbers


def _evaluation_seconds(records: Sequence[Record]) -> list[float]:
    return [seconds for record in records for name, seconds in record.seconds.items() if name != TRAIN]


def _devices(seeds: Sequence[Sequence[Record]]) -> str:
    results = (result for records in seeds for record in records for result in record.results.values())
    return ", ".join(sorted({result.environment.device for result in results if isinstance(result, Measured)}))


def _seconds(values: Sequence[float]) -> str:
    if not any(values):
        return ""
    mean = fmean(values)
    return f"{mean:,.0f} (sd {stdev(values):,.0f})" if len(values) > 1 else f"{mean:,.0f}"


TABLE = build
