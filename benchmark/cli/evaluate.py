"""`synrep evaluate`: evaluation and comparison of frozen models. `synrep episodes`: export of few-shot episodes."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.cli import names as known_names
from benchmark.cli.output import Answer, difference_document, differences_text, note, show, wrapped
from benchmark.errors import SkipCode, UserError

if TYPE_CHECKING:
    from benchmark.interfaces import Evaluation
    from benchmark.runner.evaluate import EvaluationRun

NamedEvaluations = list[tuple[str, "Evaluation"]]


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            autocompletion=known_names.models,
            help="A finished run's folder, timm:NAME, open_clip:NAME/PRETRAINED, hub:ORG/NAME(@REVISION), a released "
            ".pth, pixels or pixels:SIDE, or a folder of feature files. Append #LAYER to choose the features.",
        ),
    ],
    evaluation: Annotated[
        list[str] | None,
        typer.Option(autocompletion=known_names.evaluations, help="Run only this evaluation; may be repeated."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            autocompletion=known_names.presets, help="Protocol, such as synclr; default: that of each evaluation."
        ),
    ] = None,
    datasets: Annotated[
        str,
        typer.Option(
            autocompletion=known_names.labeled_dataset_list, help="Run only on these datasets, comma-separated."
        ),
    ] = "",
    out: Annotated[Path, typer.Option(help="Folder for features, predictions and records.")] = Path("runs"),
    compare: Annotated[bool, typer.Option("--compare", help="Print paired differences of two models.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Number of threads that decode images.")] = min(
        os.cpu_count() or 1, 16
    ),
) -> Answer:
    """Evaluate frozen models. Finished measurements are reused; to resume, run the same command again."""
    _check_arguments(models, evaluation or (), compare)
    if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise UserError(
            f"expected one process, found {processes} started by torchrun or accelerate; run synrep without a launcher"
        )
    from benchmark import evaluations

    names = [name.strip() for name in datasets.split(",") if name.strip()]
    chosen = evaluations.select_evaluations(evaluation or (), preset, names)
    failures: list[str] = []
    runs = [_evaluate_model(model, chosen, out, workers, failures) for model in models]
    found = [_model_document(run, chosen) for run in runs]
    text = "\n".join(_scores_text(model, bool(names)) for model in found)
    if names:  # a dataset that was asked for by name and is skipped is an error
        failures += [f"{part['evaluation']} on {part['dataset']}: {part['reason']}" for part in _skipped(found)]
    document: dict[str, Any] = {"models": found}
    if compare:
        try:
            document["differences"] = _differences(runs, chosen)
            text += f"\n\n{differences_text(models, document['differences'])}"
        except UserError as error:
            failures.append(str(error))
    return Answer(document, text, "; ".join(dict.fromkeys(failures)))


def _check_arguments(models: Sequence[str], evaluations: Sequence[str], compare: bool) -> None:
    """Check that there are two models to compare, and that no option has a list of evaluations.

    Raises:
        UserError: there are not two models, or an evaluation is a list.
    """
    if compare and len(models) != 2:
        raise UserError(f"--compare needs two models, found {len(models)}")
    if compare and models[0] == models[1]:
        raise UserError(f"--compare needs two models, found {models[0]} twice; name another one")
    if listed := next((name for name in evaluations if "," in name), ""):
        several = " ".join(f"--evaluation {name.strip()}" for name in listed.split(",") if name.strip())
        raise UserError(f"expected one evaluation, found {listed!r}; repeat the option: {several}")


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
    display = Display()
    features = functools.partial(display.update, "features")
    with display:
        display.update(f"loading {model}", 0, None)
        loaded = load(model, store=out / "features", device=device, workers=workers, progress=features)
        display.update(f"loading {model}", 1, 1)
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
        with display:
            run_evaluations(run, chosen, display.update, note)
    except EvaluationFailures as error:
        failures.append(str(error))
    for name, evaluation in chosen:
        not_requested.add_reasons(run.out / "records", run.key, name, evaluation.preset)
    return run


def _model_document(run: "EvaluationRun", chosen: NamedEvaluations) -> dict[str, Any]:
    """Return the main score of each dataset, as a fraction of one, and the skipped datasets of one model."""
    from benchmark.records import store
    from benchmark.records.schema import NotMeasured

    scores, skipped = [], []
    for name, evaluation in chosen:
        path = store.record_path(run.out / "records", run.key, name, evaluation.preset)
        results = store.read(path).results
        for dataset in evaluation.datasets:
            result, place = results[dataset], {"evaluation": name, "preset": evaluation.preset, "dataset": dataset}
            if isinstance(result, NotMeasured):
                skipped.append({**place, "code": str(result.code), "reason": result.skipped})
                continue
            score = result.scores[result.main]
            values = {"value": score.value, "low": score.low, "high": score.high, "chance": result.chance}
            scores.append({**place, "score": result.main, **values, "n": score.n})
    return {
        "model": run.key,
        "layer": run.model.metadata["layer"],
        "records": str(run.out / "records"),
        "scores": scores,
        "skipped": skipped,
    }


def _skipped(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the skipped datasets without the failed ones, whose errors are the failures of the command."""
    return [part for model in models for part in model["skipped"] if part["code"] != SkipCode.FAILED]


def _scores_text(model: dict[str, Any], requested: bool) -> str:
    """Return the scores in percent as a table; the skipped datasets follow unless they were requested by name."""
    from tabulate import tabulate

    from benchmark.mirror import missing_mirror

    rows = [
        (
            *(score[name] for name in ("evaluation", "preset", "dataset", "score")),
            f"{100 * score['value']:.1f} [{100 * score['low']:.1f}, {100 * score['high']:.1f}]",
            f"{100 * score['chance']:.1f}",
            score["n"],
        )
        for score in model["scores"]
    ]
    columns = ("evaluation", "preset", "dataset", "score", "percent [95 %]", "chance", "n")
    lines = [f"{model['model']}, layer {model['layer']}, records in {model['records']}"]
    if rows:
        lines.append(tabulate(rows, headers=columns, tablefmt="pipe", disable_numparse=True))
    mirror = missing_mirror()
    absent = "not on this machine" + (f" ($SYNREP_DATA is not a folder: {mirror})" if mirror else "")
    by_reason: dict[str, list[str]] = {}
    for part in [] if requested else _skipped([model]):
        reason = absent if part["code"] == SkipCode.MISSING_DATASET else part["reason"]
        by_reason.setdefault(reason, []).append(f"{part['evaluation']} on {part['dataset']}")
    lines += [wrapped(f"skipped, {reason}: {', '.join(names)}") for reason, names in by_reason.items()]
    return "\n".join(lines)


def _differences(runs: "list[EvaluationRun]", chosen: NamedEvaluations) -> list[dict[str, Any]]:
    from benchmark.analysis.compare import ModelOutput, differences

    first, second = (ModelOutput(run.out, run.key) for run in runs)
    return [difference_document(found) for found in differences(first, second, chosen)]


def episodes(
    dataset: Annotated[
        str, typer.Argument(autocompletion=known_names.labeled_datasets, help="A labeled dataset, such as cifar10.")
    ],
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
