"""The report on one model: what it is, its scores next to baselines and published numbers, its groups and classes.

All numbers come from the records, as in the tables and on the leaderboard. Only predictions of the model, and of the
one that it is compared with, are read.
"""

from benchmark.analysis.experiments import records_of
from benchmark.errors import UserError
from benchmark.reports.inputs import ReportInputs
from benchmark.reports.model_report import subject
from benchmark.reports.model_report.classes import confusions, extremes
from benchmark.reports.model_report.differences import differences
from benchmark.reports.model_report.document import Report
from benchmark.reports.model_report.facts import about, datasets
from benchmark.reports.model_report.published import published
from benchmark.reports.model_report.scores import groups, missing, other_scores, scores
from benchmark.reports.site.models import Sources


def report(inputs: ReportInputs, name: str, against: str | None, sources: Sources) -> Report:
    """Return the report on the newest version of a model.

    Args:
        inputs: records, paired differences and published numbers.
        name: name of the model's experiment, or its source.
        against: name of a model to compare with. None: without a comparison.
        sources: function that returns the metadata of a training dataset.

    Raises:
        UserError: a model does not exist, the two are one, no difference of the two is known, or a predictions file
            does not match its record.
    """
    found = subject.find(name, inputs.records)
    other = records_of(against, inputs.records) if against else None
    if other and other[0].experiment.name == found.model.name:
        raise UserError(f"expected another model after --against, found {against} itself; choose another")
    sections = (
        about(found, sources),
        scores(found),
        *([differences(found, other, inputs.pairs)] if other else []),
        published(found, inputs.published),
        groups(found),
        extremes(found),
        confusions(found, inputs.pairs),
        missing(found),
        other_scores(found),
        datasets(found),
    )
    results = sum(len(row.records) for each in found.evaluated for row in each.rows)
    lead = f"Version {found.model.version}. Records: {len(found.model.records)}. Results: {results}."
    kept = tuple(section for section in sections if section.text or section.facts or section.parts)
    return Report(found.model.name, lead, found.labels, kept)
