"""SynRep-Bench from Python: load a dataset, evaluate a model, read and compare results, draw them.

This module is stable: a release that changes it says so in the changelog. All other modules may change at any time.
Errors that the user can fix are `UserError`, with the message that `synrep` prints. As with `synrep`, datasets are
found in `data/` or `$SYNREP_DATA`, and results in `results/`.
"""

import os
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

import pandas as pd  # type: ignore[import-untyped]
import torch
from matplotlib.figure import Figure
from torch import nn

from benchmark import evaluations, models, plugins, schema
from benchmark.analysis.evaluated import Evaluated, differences
from benchmark.analysis.experiments import paired_differences
from benchmark.errors import MissingDataset, UserError, require_whole, unknown
from benchmark.evaluations.datasets.splits import local_revision
from benchmark.files import as_path, read_json
from benchmark.hub import downloads
from benchmark.interfaces import Batch, DatasetScores, Schedule, Score
from benchmark.mirror import dataset_folder
from benchmark.models.loading.loader import Freeze, LoadedModel
from benchmark.models.loading.module import Preprocessing, Tokenizer, wrap_module
from benchmark.records import create, store, table
from benchmark.reports import build, figures, inputs
from benchmark.reports.comparison_figure import ComparisonFigure
from benchmark.sampling import Augmentation, Sampling
from benchmark.training.batches import BatchDataset
from benchmark.training.dataset import CaptionImageDataset
from benchmark.training.execution import ExecutionConfig, find_device, random_state_kept
from benchmark.training.loading import load_batches, render_ahead
from benchmark.transforms.evaluation import EvaluationTransform

__all__ = [
    "Augmentation",
    "Batch",
    "CaptionImageDataset",
    "DatasetScores",
    "Evaluated",
    "EvaluationTransform",
    "MissingDataset",
    "Sampling",
    "Score",
    "UserError",
    "compare",
    "evaluate",
    "iterate_batches",
    "list_datasets",
    "list_evaluations",
    "list_methods",
    "load_dataset",
    "plot_comparison",
    "plot_trade_off",
    "read_records",
]

SHORTEST = 7
"""Number of characters of the shortest abbreviation of a revision."""
NEEDS_TEXTS = "a module needs encode_image and encode_text, and evaluate its tokenizer"


def load_dataset(name: str | Path, revision: str | None = None) -> CaptionImageDataset:
    """Open a dataset of captions and images that was built or downloaded on this machine.

    It opens at once, whatever its size. A file is verified when the first of its images is read.

    Args:
        name: a folder; a dataset in `data/` or `$SYNREP_DATA`, as `ORG/NAME`; or a recipe, such as `toy-200`.
        revision: revision of the recipe, or the commit that was downloaded from the Hub; the first seven characters or
            more are enough. None accepts what is there.

    Returns:
        The dataset. `len(data)` counts captions, `data.caption(row)` is a text, and
            `data.images(row, data.available_images(row))` are its images, uint8 arrays (H, W, 3).

    Raises:
        UserError: the dataset is missing, incomplete or at another revision.

    Example:
        ```python
        data = load_dataset("toy-16")
        print(len(data), data.caption(0))
        ```
    """
    from datasets_scripts import recipe

    folder = as_path(name)
    if folder.is_file() or (not folder.is_dir() and (folder.is_absolute() or len(folder.parts) > 2)):
        raise UserError(f"expected the folder of a dataset, found {folder}; choose a folder, or a name as ORG/NAME")
    if not folder.is_dir():
        repo = str(name) if "/" in str(name) else recipe.find(str(name)).repo
        folder = dataset_folder(repo, revision or "<commit>")
    manifest = schema.read_manifest(folder)
    if revision is not None:
        _require_revision(folder, manifest, str(revision))
    return CaptionImageDataset(folder, manifest.revision)


def iterate_batches(
    data: CaptionImageDataset,
    sampling: Sampling | str,
    *,
    captions: int,
    size: int = 224,
    steps: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    workers: int = 0,
) -> Generator[Batch, None, None]:
    """Yield training batches, as the trainings of this benchmark read them.

    A batch depends on its number and on the arguments, but not on `workers` or `device`. An epoch visits every caption
    once, in an order of its own, and drops an incomplete last batch.

    Args:
        data: the dataset.
        sampling: images per caption, crops per image and augmentations; or a method that has them, such as `stablerep`.
        captions: captions per batch. A batch has `captions * sampling.views` views.
        size: side of a view in pixels.
        steps: number of batches. None is one epoch.
        seed: key of all random choices: the order of captions, the images that are sampled, and the views.
        device: device that renders the views.
        workers: processes that read and decode images; 0 reads in this process.

    Yields:
        Batches with the normalized views `images_V3HW` and, for each view, `caption_ids_V` and `image_ids_V`. With
            `Sampling(text=True)`, also `texts` and `text_index_V`.

    Raises:
        UserError: there is no such method, or the dataset has too few captions or images.

    Example:
        ```python
        for batch in iterate_batches(data, "stablerep", captions=8, size=64):
            print(batch.images_V3HW.shape, batch.caption_ids_V)
        ```
    """
    chosen: Sampling = (
        plugins.load("baselines", sampling, "method").METHOD.sampling if isinstance(sampling, str) else sampling
    )
    if not isinstance(chosen, Sampling) or not isinstance(data, CaptionImageDataset):
        found = f"{type(data).__name__} and {type(sampling).__name__}"
        raise UserError(f"expected a dataset and a Sampling or method, found {found}; open it with `load_dataset`")
    views = require_whole("captions", captions, 1) * chosen.views
    epoch = (len(data) - len(data.rows_without_images)) // captions
    schedule = Schedule(views * (epoch if steps is None else require_whole("steps", steps, 0)), views)
    execution = ExecutionConfig(find_device(device), workers=require_whole("workers", workers, 0))
    batches = BatchDataset(data, chosen, schedule, size, seed)
    return render_ahead(load_batches(batches, 0, execution), execution.device)


@random_state_kept()
def evaluate(
    model: nn.Module | str | Path,
    evaluation: str,
    datasets: str | Sequence[str] = (),
    *,
    preset: str | None = None,
    transform: Preprocessing | None = None,
    tokenizer: Tokenizer | None = None,
    device: str | torch.device | None = None,
    workers: int | None = None,
) -> Evaluated:
    """Evaluate a frozen model. The scores are those of `synrep evaluate`; no file is written.

    A model of timm or open_clip is evaluated at the layer, and with the preprocessing, of `synrep evaluate`. Of any
    other module, the output is evaluated. A module is copied, and stays as it is.

    Args:
        model: a module from images (B, 3, S, S) to features (B, D), or a model name of `synrep evaluate`:
            `timm:NAME`, `open_clip:NAME/PRETRAINED`, `hub:ORG/NAME`, `pixels:16`, or the folder of a run.
        evaluation: one of `list_evaluations()`.
        datasets: one or several of `list_datasets(evaluation)`. Empty selects all that are on this machine.
        preset: protocol of the evaluation. None selects the default.
        transform: `EvaluationTransform(S)`; or a function from a PIL image to a tensor (3, S, S) without randomness,
            which cannot serve protocols with crops of their own (such as `dino-crop`, `stablerep`, segmentation).
        tokenizer: function from a list of texts to the input of the module's `encode_text`.
        device: device of the network. None selects a GPU if there is one.
        workers: threads that decode images. None selects one per core, up to 16. Scores do not depend on it.

    Returns:
        The scores of all measured datasets, and the reasons why others were skipped.

    Raises:
        UserError: a name does not exist, a named dataset is not on this machine, or the model cannot be evaluated.

    Example:
        ```python
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 64))
        scores = evaluate(model, "linear_probe", "digits", transform=EvaluationTransform(16))
        print(scores["digits"].value)
        ```
    """
    if not isinstance(datasets, Iterable):
        raise UserError(f"expected datasets by name, found {datasets!r}; leave them out to select all")
    named = [datasets] if isinstance(datasets, str) else list(datasets)
    ((_, protocol),) = evaluations.select_evaluations([evaluation], preset, named)
    threads = min(os.cpu_count() or 1, 16) if workers is None else require_whole("workers", workers, 0)
    loaded = _load_model(model, transform, tokenizer, Freeze(device=find_device(device), workers=threads))
    if skipped := protocol.skip(loaded.model):
        raise UserError(f"{evaluation}: {skipped.reason}; {NEEDS_TEXTS}")
    results, reasons = dict[str, DatasetScores](), dict[str, str]()
    for dataset in sorted(protocol.datasets, key=lambda name: local_revision(name) is not None):  # missing ones first
        result = replace(protocol, datasets=(dataset,))(loaded.model)[dataset]
        if isinstance(result, DatasetScores):
            results[dataset] = result
        elif named:
            raise UserError(f"{evaluation} on {dataset}: {result.reason}")
        else:
            reasons[dataset] = result.reason
    name = create.record_key(loaded.origin, loaded.seed).rsplit("/", 2)[0]
    return Evaluated(name, evaluation, protocol, results, reasons)


def read_records(folder: str | Path = "results", **columns: object) -> pd.DataFrame:
    """Read a folder of records as a table with a row per record, dataset and score.

    Args:
        folder: a folder that contains `records/`, or the folder of records itself.
        **columns: column -> the value, or a list of values, of the rows to return.

    Returns:
        The table; values are fractions of one. `benchmark.records.table.COLUMNS` describes its columns.

    Raises:
        UserError: there are no records, a record is invalid, or no record has such a column or such values.

    Example:
        ```python
        probes = read_records("results", evaluation="linear_probe", is_main=True)
        print(probes.pivot_table("value", "experiment", "dataset"))
        ```
    """
    records = {f"records/{store.relative_path(each).as_posix()}": each for each in store.read_all(_records(folder))}
    frame = every = table.arrow(records).to_pandas()
    for column, value in columns.items():
        if column not in frame:
            raise unknown("column", column, list(frame))
        values = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
        for each in values:
            if not pd.api.types.is_scalar(each) or not every[column].isin([each]).any():
                raise unknown(column, each, [str(known) for known in every[column].dropna().unique()])
        frame = frame[frame[column].isin(values)]
    if frame.empty:
        raise UserError(f"expected records with {columns}, found none with all of these; choose fewer")
    return frame.reset_index(drop=True)


@overload
def compare(first: Evaluated, second: Evaluated) -> pd.DataFrame: ...
@overload
def compare(first: str, second: str, records: str | Path = "results", evaluation: str = "") -> pd.DataFrame: ...
def compare(
    first: Evaluated | str, second: Evaluated | str, records: str | Path = "results", evaluation: str = ""
) -> pd.DataFrame:
    """Compare two models: the paired differences `first - second`, with 95 % intervals.

    Both models answer the same samples, so most of the sampling noise cancels in their difference. Between experiments
    with several seeds, the interval also covers the seeds.

    Args:
        first: result of `evaluate`; or an experiment with records, such as `main-smoke-scenes-1x/stablerep-syn`.
        second: what to subtract, of the same kind.
        records: for experiments, a folder that contains `records/` and `predictions/`.
        evaluation: for experiments, the only evaluation to compare. Empty compares all.

    Returns:
        A row per score; for experiments, only main scores. Values are fractions of one. `p` is the two-sided p-value
            of a difference, not corrected for the number of comparisons.

    Raises:
        UserError: a name does not exist, or the models have no measurement in common.

    Example:
        ```python
        compare("main-smoke-scenes-1x/stablerep-syn", "main-smoke-scenes-1x/simclr-syn")
        ```
    """
    if isinstance(first, Evaluated) and isinstance(second, Evaluated):
        found = list(differences(first, second))
    elif isinstance(first, str) and isinstance(second, str):
        folder = _records(records)
        if evaluation:
            evaluations.presets(evaluation)  # an error if there is no such one
        found = paired_differences(first, second, store.read_all(folder), folder, evaluation)
    else:
        kinds = f"{type(first).__name__} and {type(second).__name__}"
        raise UserError(f"expected two names, or the scores of two models, found {kinds}; name or evaluate both")
    names = ("evaluation", "preset", "dataset", "score", "first", "second")
    return pd.DataFrame(
        {name: [getattr(each, name) for each in found] for name in names}
        | {name: [getattr(each.interval, name) for each in found] for name in ("difference", "low", "high", "p")}
    )


def plot_comparison(
    comparison: str, evaluation: str = "linear_probe", preset: str | None = None, records: str | Path = "results"
) -> Figure:
    """Draw the scores of a comparison: a panel per dataset, means with 95 % intervals, and the floors as lines.

    Args:
        comparison: first part of the names of its experiments, such as `main-smoke-scenes-1x`.
        evaluation: one of `list_evaluations()`.
        preset: protocol of the evaluation. None selects the default.
        records: a folder that contains `records/`, or the folder of records itself.

    Raises:
        UserError: there are no such records, or they cannot share a figure.

    Example:
        ```python
        plot_comparison("main-smoke-scenes-1x", "knn").savefig("knn.svg")
        ```
    """
    ((_, protocol),) = evaluations.select_evaluations([evaluation], preset, ())
    every = inputs.read(_records(records), lambda _: None)
    groups = build.records_by_comparison(every.records)
    if comparison not in list(groups):
        raise unknown("comparison in these records", comparison, list(groups))
    part = (evaluation, protocol.preset)
    chosen = [each for each in groups[comparison] if (each.evaluation.name, each.evaluation.preset) == part]
    return ComparisonFigure(evaluation, name="", title="", caption="").figure(replace(every, records=chosen))


def plot_trade_off(file: str | Path = "results/scenes/trade_off.json") -> Figure:
    """Draw fidelity against diversity of drawn images over guidance, beside the fidelity of each factor.

    Args:
        file: output of `python -m datasets_scripts.scenes.trade_off`.

    Raises:
        UserError: the file does not exist, or is another one.
    """
    from datasets_scripts.scenes import trade_off

    command = f"`python -m {trade_off.__name__}`"
    try:
        with figures.style():
            return trade_off.figure(read_json(as_path(file)))
    except FileNotFoundError:
        raise UserError(f"{file} does not exist; choose another, or measure it: {command}") from None
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"expected the output of {command}, found {file} ({error}); choose another file") from None


def list_methods() -> list[str]:
    """Return the names of the training methods."""
    return plugins.names("baselines")


def list_evaluations() -> dict[str, list[str]]:
    """Return evaluation -> its presets, the default first."""
    return {name: list(evaluations.presets(name)) for name in plugins.names("benchmark.evaluations")}


def list_datasets(evaluation: str) -> list[str]:
    """Return the datasets of an evaluation; a `UserError` lists the evaluations if there is no such one."""
    return sorted(evaluations.all_datasets(evaluation))


def _require_revision(folder: Path, manifest: schema.Manifest, revision: str) -> None:
    """Raise a UserError unless `revision` begins the revision of the recipe, or the commit that was downloaded."""
    commits = {note.commit for note in downloads.notes(folder).values()}
    commit = commits.pop() if len(commits) == 1 else None
    if len(revision) >= SHORTEST and any(known.startswith(revision) for known in (manifest.revision, commit or "")):
        return
    if commit is None:
        found, advice = f"revision {manifest.revision[:12]}", "build or download that revision"
    else:
        again = f"synrep data download {manifest.repo} --revision {revision}"
        found, advice = f"commit {commit[:12]}", f"give that commit, or move the folder and run `{again}`"
    raise UserError(f"{folder} is at {found}, expected {revision}; {advice}")


def _load_model(
    model: nn.Module | str | Path, transform: Preprocessing | None, tokenizer: Tokenizer | None, freeze: Freeze
) -> LoadedModel:
    if isinstance(model, nn.Module):
        return wrap_module(model, transform, tokenizer, freeze)
    if not isinstance(model, str | Path):
        kind = type(model).__name__
        raise UserError(f"expected a torch.nn.Module or a model name, found {kind}; wrap it in a module")
    if transform is not None or tokenizer is not None:
        raise UserError(f"{model} has its own transform and tokenizer; leave them out, or pass the module itself")
    return models.load(str(model), device=freeze.device, workers=freeze.workers)


def _records(folder: str | Path) -> Path:
    inside = as_path(folder) / "records"
    return inside if inside.is_dir() else as_path(folder)
