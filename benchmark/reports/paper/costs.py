"""What it costs: GPU-hours of generation as published, and seconds of training and evaluation as recorded."""

from collections.abc import Iterator, Sequence
from statistics import fmean, stdev

from benchmark.records.schema import Measured, Record
from benchmark.reports.comparison import Notes
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.published.generation import devices, hours
from benchmark.reports.published.rows import unique
from benchmark.reports.published.table import source_mark
from benchmark.reports.rows import natural_sort_key
from benchmark.reports.table import Cell, Table

TITLE = "Costs"
CAPTION = "Published: drawing images. Measured: training a model, and all its evaluations."
IMAGES = (1, 10)
"""Per caption."""
COLUMNS = (
    "source", "what", "method", "device", "seconds per image", *(f"GPU-hours, {n} per caption" for n in IMAGES),
    "seeds", "views", "training (s)", "evaluation (s)",
)  # fmt: skip
TRAIN = "train"


def build(inputs: ReportInputs) -> Table:
    """A row per published dataset and device, and one per experiment and device of the records."""
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
            "Measured: mean over seeds ± sample standard deviation where there are several. Evaluation: the sum over "
            "all presets and datasets; features that were already stored are not counted again. The device is that of "
            "the evaluations; what a machine was shared with, no record says.",
            "Empty: published, no such number in any source at hand; measured, not in the records.",
        ),
    )


def _published(inputs: ReportInputs, notes: Notes) -> Iterator[tuple[str, ...]]:
    captions = [fact for fact in inputs.facts if fact.fact == "captions after"]
    for device in devices(inputs.facts):
        mark = source_mark(device.confidence, device.source, notes)
        yield "published", "an image", "", device.subject, f"{device.value:g}{mark}", *[""] * (len(COLUMNS) - 5)
        for fact in captions:
            derived = notes.mark("published, derived: see below")
            found = (f"{hours(fact.value * count, device)}{derived}" for count in IMAGES)
            yield "published", fact.subject, "", device.subject, "", *found, *[""] * 4


def _measured(records: Sequence[Record]) -> Iterator[tuple[str, ...]]:
    models: dict[tuple[str, int], dict[int, list[Record]]] = {}
    for record in unique(record for record in records if record.seconds):
        own = record.experiment
        models.setdefault((own.name, own.version), {}).setdefault(record.seed, []).append(record)
    for name, version in sorted(models, key=lambda key: (natural_sort_key(key[0]), key)):
        seeds = [found for _, found in sorted(models[name, version].items())]
        first = seeds[0][0]
        trained = [max(record.seconds.get(TRAIN, 0.0) for record in found) for found in seeds]
        evaluated = [sum(sorted(_evaluation_seconds(found))) for found in seeds]
        views = "" if first.model.views is None else f"{first.model.views:,}"
        what = name if version == 1 else f"{name} v{version}"
        numbers = (str(len(seeds)), views, _seconds(trained), _seconds(evaluated))
        yield "measured", what, first.experiment.method, _devices(seeds), "", *[""] * len(IMAGES), *numbers


def _evaluation_seconds(records: Sequence[Record]) -> list[float]:
    return [seconds for record in records for name, seconds in record.seconds.items() if name != TRAIN]


def _devices(seeds: Sequence[Sequence[Record]]) -> str:
    results = (result for found in seeds for record in found for result in record.results.values())
    return ", ".join(sorted({result.environment.device for result in results if isinstance(result, Measured)}))


def _seconds(values: Sequence[float]) -> str:
    if not any(values):
        return ""
    mean = fmean(values)
    return f"{mean:,.0f} ± {stdev(values):,.0f}" if len(values) > 1 else f"{mean:,.0f}"


TABLE = build
