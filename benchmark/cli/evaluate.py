"""`synrep evaluate`: evaluation and comparison of frozen models. `synrep episodes`: export of few-shot episodes."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.output import show, show_differences
from benchmark.errors import SkipCode, UserError

if TYPE_CHECKING:
    from benchmark.interfaces import Evaluation
    from benchmark.runner.evaluate import EvaluationRun

NamedEvaluations = list[tuple[str, "Evaluation"]]


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            help="A finished run's folder, timm:NAME, open_clip:NAME/PRETRAINED, hub:ORG/NAME(@REVISION), a released "
            ".pth, pixels or pixels:SIDE, or a folder of feature files. Append #LAYER to choose the features."
        ),
    ],
    evaluation: Annotated[list[str] | None, typer.Option(help="Run only this evaluation; may be repeated.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Protocol, such as synclr; default: that of each evaluation.")
    ] = None,
    datasets: Annotated[str, typer.Option(help="Run only on these datasets, comma-separated.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for features, predictions and records.")] = Path("runs"),
    compare: Annotated[bool, typer.Option("--compare", help="Print paired differences of two models.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Number of threads that decode images.")] = min(
        os.cpu_count() or 1, 16
    ),
) -> None:
    """Evaluate frozen models. Finished measurements are reused; to resume, run the same command again."""
    if compare and len(models) != 2:
        raise UserError(f"--compare needs two models, found {len(models)}")
    if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise UserError(
            f"expected one process, found {processes} started by torchrun or accelerate; run synrep without a launcher"
        )
    from benchmark import evaluations

    names = [name.strip() for name in datasets.split(",") if name.strip()]
    chosen = evaluations.select_evaluations(evaluation or (), preset, names)
    failures: list[str] = []
    runs = [_evaluate_model(model, chosen, out, workers, failures) for model in models]
    for run in runs:
        failures += _print_scores(run, chosen, names)
    if compare:
        _print_differences(runs, chosen)
    if failures:
        raise UserError("; ".join(dict.fromkeys(failures)))


def _evaluate_model(
    model: str, chosen: NamedEvaluations, out: Path, workers: int, failures: list[str]
) -> "EvaluationRun":
    """Evaluate a model and write its records.

    Args:
        model: Model, as given on the command line.
        chosen: Evaluations to run, with their names.
        out: Folder for features, predictions and records.
        workers: Number of threads that decode images.
        failures: Messages of failed measurements, to which this function appends.
    """
    import torch

    from benchmark.cli.display import Display
    from benchmark.interfaces import Experiment
    from benchmark.models import load
    from benchmark.runner import not_requested
    from benchmark.runner.evaluate import EvaluationFailures, EvaluationRun, run_evaluations
    from benchmark.training import diagnostics

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaded = load(model, store=out / "features", device=device, workers=workers)
    card, is_run = loaded.training, isinstance(loaded.origin, Experiment)
    run = EvaluationRun(
        loaded.model,
        loaded.origin,
        loaded.seed,
        out / loaded.layer if is_run and loaded.layer else out,  # records of a run are not named after the layer
        torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        content_sha256=card["content_sha256"] if is_run else None,
        training_diagnostics=diagnostics.record_fields(card),
        seconds={"train": card["seconds"]} if is_run else {},
    )
    try:
        with Display() as display:
            run_evaluations(run, chosen, display.update)
    except EvaluationFailures as error:
        failures.append(str(error))
    for name, evaluation in chosen:
        not_requested.add_reasons(run.out / "records", run.key, name, evaluation.preset)
    return run


def _print_scores(run: "EvaluationRun", chosen: NamedEvaluations, requested: list[str]) -> list[str]:
    """Print the main score of each dataset and the skipped ones.

    Returns:
        The reasons of skipped datasets if datasets were requested by name; these are errors and are not printed.
    """
    from tabulate import tabulate

    from benchmark.mirror import missing_mirror
    from benchmark.records import store
    from benchmark.records.schema import NotMeasured

    rows, skipped = [], dict[str, NotMeasured]()
    for name, evaluation in chosen:
        path = store.record_path(run.out / "records", run.key, name, evaluation.preset)
        results = store.read(path).results
        for dataset in evaluation.datasets:
            result = results[dataset]
            if isinstance(result, NotMeasured):
                if result.code != SkipCode.FAILED:  # the command ends with its failures
                    skipped[f"{name} on {dataset}"] = result
                continue
            score = result.scores[result.main]
            percent = f"{100 * score.value:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]"
            rows.append((name, evaluation.preset, dataset, result.main, percent, f"{100 * result.chance:.1f}", score.n))
    show(f"{run.title}, records in {run.out / 'records'}")
    columns = ("evaluation", "preset", "dataset", "score", "percent [95 %]", "chance", "n")
    if rows:
        show(tabulate(rows, headers=columns, tablefmt="pipe", disable_numparse=True))
    if requested:
        return [f"{measurement}: {result.skipped}" for measurement, result in skipped.items()]
    mirror = missing_mirror()
    absent = "not on this machine" + (f" ($SYNREP_DATA is not a folder: {mirror})" if mirror else "")
    by_reason: dict[str, list[str]] = {}
    for measurement, result in skipped.items():
        missing = result.code == SkipCode.MISSING_DATASET
        by_reason.setdefault(absent if missing else result.skipped, []).append(measurement)
    for reason, measurements in by_reason.items():
        show(f"skipped, {reason}: {', '.join(measurements)}")
    return []


def _print_differences(runs: "list[EvaluationRun]", chosen: NamedEvaluations) -> None:
    from benchmark.analysis.compare import ModelOutput, differences

    first, second = runs
    found = differences(ModelOutput(first.out, first.key), ModelOutput(second.out, second.key), chosen)
    rows = [(d.evaluation, d.preset, d.dataset, d.score, d.first, d.second, d.interval) for d in found]
    show(f"\n{first.title} vs. {second.title}: paired differences with 95 % intervals")
    show_differences(rows)


def episodes(
    dataset: Annotated[str, typer.Argument(help="A labeled dataset, such as cifar10.")],
    preset: Annotated[str, typer.Option(help="Protocol: ssl-transfer or lgssl.")] = "ssl-transfer",
    seed: Annotated[int, typer.Option(min=0, help="Seed for sampling the episodes.")] = 0,
    out: Annotated[Path, typer.Option(help="File to write (.npz).")] = Path("episodes.npz"),
) -> None:
    """Write the few-shot episodes used for all models, for use in other code."""
    from benchmark import evaluations
    from benchmark.errors import unknown
    from benchmark.evaluations import few_shot
    from benchmark.interfaces import Skipped

    if preset not in (known := evaluations.presets("few_shot")):
        raise unknown("preset of few_shot", preset, list(known))
    found = few_shot.episodes(dataset, preset, seed)
    if isinstance(found, Skipped):
        raise UserError(found.reason)
    few_shot.save_episodes(out, found)
    show(f"{out}: {len(found.rows_EWR):,} episodes of {dataset}, sha256 {found.sha256}")
