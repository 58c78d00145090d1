"""`synrep run`, `synrep list`, `synrep check-method`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.data import SCENES_EVALUATION
from benchmark.errors import UserError, unknown

if TYPE_CHECKING:
    from benchmark.interfaces import Experiment

Out = Annotated[Path, typer.Option("--out", help="Folder for everything a run writes; run again to go on.")]


def list_all() -> None:
    """Methods, experiments, recipes, evaluations and tables that there are."""
    from benchmark import plugins
    from datasets_scripts import recipe
    from datasets_scripts.captions import sources

    kinds = {
        "methods": plugins.names("baselines"),
        "experiments": plugins.names("benchmark.experiments"),
        "sizes of an experiment": ["smoke", *recipe.SIZES],
        "captions": list(sources.sources()),
        "datasets to build": [*recipe.names(), SCENES_EVALUATION],
        "sizes of a dataset": list(recipe.SIZES),
        "guidance of a dataset": [*recipe.GUIDANCE, "w2, w7.5, ..."],
        "evaluations": plugins.names("benchmark.evaluations"),
        "tables": plugins.names("benchmark.reports.tables"),
        "tables and figures of the paper": plugins.names("benchmark.reports.paper"),
    }
    for kind, names in kinds.items():
        print(f"{kind}: {', '.join(names)}")


def run(
    experiment: Annotated[
        str, typer.Argument(help="smoke; main, language, ablations with a size: main-10k; ablations-smoke-images.")
    ],
    only: Annotated[list[str] | None, typer.Option(help="Only this method; may be repeated.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="This seed, not the declared ones.")] = None,
    out: Out = Path("runs"),
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs side by side; else one per GPU, or four.")] = None,
    micro_batch: Annotated[
        int | None, typer.Option(min=1, help="Views in memory at a time: slower by a third, the same result.")
    ] = None,
    deterministic: Annotated[bool, typer.Option(help="The same bits again, on the same machine.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Start nothing; print what each run costs.")] = False,
) -> None:
    """Train and evaluate an experiment's methods; write one record per method, seed and evaluation.

    Under `torchrun` or `accelerate launch` all processes train each run together.
    """
    from benchmark import experiments

    declared = experiments.find(experiment)
    methods = sorted({e.method for e in declared})
    for method in only or []:
        if method not in methods:
            raise unknown(f"method of experiment {experiment}", method, methods)
    chosen = [e for e in declared if not only or e.method in only]
    seeds = [(e, s) for e in chosen for s in (e.seeds if seed is None else (seed,))]
    if plan:
        _print_plan(chosen, seed)
        return

    from benchmark.cli.display import Display
    from benchmark.nn import distributed
    from benchmark.runner.jobs import Job, default_parallel_jobs, run_distributed, run_jobs

    work, knobs = [Job(e, s) for e, s in seeds], (micro_batch, deterministic)
    with Display() as display:
        if distributed.launched_world_size() > 1:
            run_distributed(work, out, display.update, knobs)
        else:
            run_jobs(work, out, jobs or default_parallel_jobs(), display.update, knobs)
    if os.environ.get("RANK", "0") == "0":
        print(f"records: {out / 'records'}; tables: synrep tables --records {out / 'records'} --out {out / 'tables'}")


def _print_plan(chosen: "list[Experiment]", seed: int | None) -> None:
    from benchmark.training import cost
    from datasets_scripts import recipe
    from datasets_scripts.building import estimate

    def expected_bytes(repo: str) -> int | None:
        try:
            return estimate.estimate(recipe.find(repo.rpartition("/")[2])).bytes
        except UserError:
            return None

    print(cost.format_plan([cost.Run(e, len(e.seeds) if seed is None else 1) for e in chosen], expected_bytes))


def check_method(method: Annotated[str, typer.Argument(help="A file of baselines/.")]) -> None:
    """Check that a method keeps the contract: seeded, finite, learning, independent of the batch."""
    from benchmark import plugins

    tiny = plugins.load("baselines", method, "method").METHOD.tiny()

    from benchmark.training import contract  # torch takes seconds; a wrong name shall not wait for it

    for name, test in contract.CHECKS.items():
        test(tiny)
        print(f"ok  {name}")
