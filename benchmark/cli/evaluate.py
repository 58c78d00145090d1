"""`synrep evaluate`: measure any model, or compare two on the same samples. `synrep episodes`: what few-shot asks."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.errors import SkipCode, UserError

if TYPE_CHECKING:
    from benchmark.interfaces import Evaluation
    from benchmark.runner.evaluate import EvaluationRun

Chosen = list[tuple[str, "Evaluation"]]


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            help="A finished run's folder, timm:NAME, open_clip:NAME/PRETRAINED, hub:ORG/NAME[@REVISION], a released "
            ".pth, or a folder of feature files; #LAYER behind it chooses a layer."
        ),
    ],
    evaluation: Annotated[list[str] | None, typer.Option(help="Only this evaluation; may be repeated.")] = None,
    preset: Annotated[str | None, typer.Option(help="Protocol, such as synclr; the default is each one's own.")] = None,
    datasets: Annotated[str, typer.Option(help="Only these, comma-separated.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for features, predictions and records.")] = Path("runs"),
    compare: Annotated[bool, typer.Option("--compare", help="Print the paired differences of two models.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode images.")] = min(os.cpu_count() or 1, 8),
) -> None:
    """Measure models that are frozen; what is measured already is not measured again."""
    if compare and len(models) != 2:
        raise UserError(f"--compare wants two models, found {len(models)}")
    from benchmark import evaluations

    names = [name.strip() for name in datasets.split(",") if name.strip()]
    chosen = evaluations.select_evaluations(evaluation or (), preset, names)
    failures: list[str] = []
    measured = [_measure(model, chosen, out, workers, failures) for model in models]
    for one in measured:
        failures += _print_scores(one, chosen, names)
    if compare:
        _print_differences(measured, chosen)
    if failures:
        raise UserError("; ".join(dict.fromkeys(failures)))


def _measure(model: str, chosen: Chosen, out: Path, workers: int, failures: list[str]) -> "EvaluationRun":
    """The model with its records written; what failed of it is added to `failures`."""
    import torch

    from benchmark.cli.display import Display
    from benchmark.interfaces import Experiment
    from benchmark.models import load
    from benchmark.runner.evaluate import EvaluationRun, Failures, run_evaluations
    from benchmark.training import diagnostics

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaded = load(model, store=out / "features", device=device, workers=workers)
    card, ours = loaded.training, isinstance(loaded.origin, Experiment)
    measured = EvaluationRun(
        loaded.model,
        loaded.origin,
        loaded.seed,
        out / loaded.layer if ours and loaded.layer else out,  # its records are named after the run alone
        torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        content_sha256=card["content_sha256"] if ours else None,
        training_diagnostics=diagnostics.record_fields(card),
        seconds={"train": card["seconds"]} if ours else {},
    )
    try:
        with Display() as display:
            run_evaluations(measured, chosen, display.update)
    except Failures as error:
        failures.append(str(error))
    return measured


def _print_scores(measured: "EvaluationRun", chosen: Chosen, wanted: list[str]) -> list[str]:
    """Print the main score of each dataset and what was skipped; return what of that was asked for by name."""
    from tabulate import tabulate

    from benchmark.records import store
    from benchmark.records.schema import NotMeasured

    rows, skipped = [], dict[str, NotMeasured]()
    for name, evaluation in chosen:
        path = store.record_path(measured.out / "records", measured.key, name, evaluation.preset)
        found = store.read(path).results
        for dataset in evaluation.datasets:
            result = found[dataset]
            if isinstance(result, NotMeasured):
                skipped[f"{name} on {dataset}"] = result
                continue
            score = result.scores[result.main]
            shown = f"{100 * score.value:.1f} [{100 * score.low:.1f}, {100 * score.high:.1f}]"
            rows.append((name, evaluation.preset, dataset, result.main, shown, f"{100 * result.chance:.1f}", score.n))
    print(f"{measured.title}, records in {measured.out / 'records'}")
    columns = ("evaluation", "preset", "dataset", "score", "percent [95 %]", "chance", "n")
    if rows:
        print(tabulate(rows, headers=columns, tablefmt="pipe", disable_numparse=True))
    if wanted:
        return [f"{what}: {result.skipped}" for what, result in skipped.items()]
    reasons: dict[str, list[str]] = {}
    for what, result in skipped.items():
        absent = result.code == SkipCode.MISSING_DATASET
        reasons.setdefault("not on this machine" if absent else result.skipped, []).append(what)
    for reason, whats in reasons.items():
        print(f"not measured, {reason}: {', '.join(whats)}")
    return []


def _print_differences(measured: "list[EvaluationRun]", chosen: Chosen) -> None:
    from tabulate import tabulate

    from benchmark.analysis.compare import ModelOutput, differences

    first, second = measured
    outputs = [ModelOutput(one.out, one.key) for one in measured]
    rows = [
        (
            found.evaluation,
            found.preset,
            found.dataset,
            found.score,
            f"{100 * found.first:.1f}",
            f"{100 * found.second:.1f}",
            f"{100 * own.difference:+.1f} [{100 * own.low:+.1f}, {100 * own.high:+.1f}]",
            "" if own.significant else "not significant",
        )
        for found in differences(outputs[0], outputs[1], chosen)
        for own in (found.interval,)
    ]
    print(f"\n{first.title} against {second.title}: paired differences with 95 % intervals")
    columns = ("evaluation", "preset", "dataset", "score", "first", "second", "first - second", "")
    print(tabulate(rows, headers=columns, tablefmt="pipe", disable_numparse=True))


def episodes(
    dataset: Annotated[str, typer.Argument(help="A labelled dataset, such as cifar10.")],
    preset: Annotated[str, typer.Option(help="ssl-transfer or lgssl.")] = "ssl-transfer",
    seed: Annotated[int, typer.Option(min=0, help="Draws the episodes.")] = 0,
    out: Annotated[Path, typer.Option(help="File to write, .npz.")] = Path("episodes.npz"),
) -> None:
    """Write the few-shot episodes that every model answers, for use in other code."""
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
    print(f"{out}: {len(found.rows_EWR):,} episodes of {dataset}, sha256 {found.sha256}")
