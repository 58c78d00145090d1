"""`synrep list`, `synrep run`, `synrep check-method`: plug-ins, experiments and checks of methods."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli import names
from benchmark.cli.output import Answer, show, wants_document, wrapped
from benchmark.errors import UserError, unknown

if TYPE_CHECKING:
    from benchmark.interfaces import Experiment

Out = Annotated[Path, typer.Option("--out", help="Output folder; to resume, run again with the same one.")]


def list_all() -> Answer:
    """List the available methods, experiments, datasets, evaluations and tables."""
    from benchmark import plugins
    from datasets_scripts import recipe

    kinds = {
        "methods": names.methods(),
        "experiments": names.experiment_files(),
        "sizes of an experiment": names.experiment_sizes(),
        "captions": names.caption_sources(),
        "datasets to build": names.recipes(),
        "sizes of a dataset": list(recipe.SIZES),
        "guidance of a dataset": [*recipe.GUIDANCE, "w2, w7.5, ..."],
        "evaluations": names.evaluations(),
        "tables": plugins.names("benchmark.reports.tables"),
        "tables and figures of the paper": plugins.names("benchmark.reports.paper"),
    }
    text = "\n".join(wrapped(f"{kind}: {', '.join(known)}") for kind, known in kinds.items())
    return Answer({kind.replace(" ", "_"): known for kind, known in kinds.items()}, text)


def run(
    experiment: Annotated[
        str,
        typer.Argument(
            autocompletion=names.experiments,
            help="demo, smoke, or main, language or ablations with a size, such as main-10k; a comparison of these, "
            "such as main-smoke-scenes-1x; or a row of it, such as main-smoke-scenes-1x/simclr-syn.",
        ),
    ],
    only: Annotated[
        list[str] | None, typer.Option(autocompletion=names.methods, help="Run only this method; may be repeated.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, help="Run this seed instead of the declared ones.")
    ] = None,
    out: Out = Path("runs"),
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Number of parallel runs; default: one per GPU, or up to four on CPU.")
    ] = None,
    micro_batch: Annotated[
        int | None,
        typer.Option(min=1, help="Views per forward pass: less memory, a third slower, same but for rounding."),
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Bit-identical results on the same machine.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print the cost of each run and start nothing.")] = False,
) -> Answer | None:
    """Train and evaluate the methods of an experiment; write one record per method, seed and evaluation.

    Raw pixels are evaluated as well: they are the floor that every method must beat.
    Under `torchrun` or `accelerate launch`, all processes train each run together (data parallel).
    """
    if wants_document() and not plan:
        raise UserError("--json is for --plan; add it, or read the records that the run writes")
    chosen = _choose(experiment, only or ())
    seeds = [(e, s) for e in chosen for s in (e.seeds if seed is None else (seed,))]
    if plan:
        return _plan(chosen, seed)

    from benchmark.cli.display import Display
    from benchmark.nn import distributed
    from benchmark.runner.jobs import Job, default_parallel_jobs, evaluate_pixels, run_distributed, run_jobs

    work, options = [Job(e, s) for e, s in seeds], (micro_batch, deterministic)
    is_main = os.environ.get("RANK", "0") == "0"
    with Display() as display:
        if distributed.launched_world_size() > 1:
            run_distributed(work, out, display.update, options)
        else:
            run_jobs(work, out, jobs or default_parallel_jobs(), display.update, options)
        if is_main:
            evaluate_pixels(out, display.update)
    if is_main:
        show(f"records: {out / 'records'}; tables: synrep tables --records {out / 'records'} --out {out / 'tables'}")
    return None


def _choose(experiment: str, only: Sequence[str]) -> "list[Experiment]":
    """Return the experiments of a name, restricted to the methods `only`; empty: all methods.

    Raises:
        UserError: there is no such experiment or method, or a batch is not a whole number of captions.
    """
    from benchmark import experiments

    declared = experiments.find(experiment)
    methods = sorted({each.method for each in declared})
    for method in only:
        if method not in methods:
            raise unknown(f"method of experiment {experiment}", method, methods)
    chosen = [each for each in declared if not only or each.method in only]
    for each in chosen:
        try:
            each.schedule.captions_per_batch(each.settings.sampling)
        except UserError as error:
            raise UserError(f"{each.name}: {error}") from None
    return chosen


def _plan(chosen: "list[Experiment]", seed: int | None) -> Answer:
    from benchmark.cli.display import Display
    from benchmark.training import cost
    from datasets_scripts import recipe
    from datasets_scripts.building import estimate

    def expected_bytes(repo: str) -> int | None:
        try:
            return estimate.estimate(recipe.find(repo.rpartition("/")[2])).bytes
        except UserError:
            return None

    runs = [cost.Run(e, len(e.seeds) if seed is None else 1) for e in chosen]
    with Display() as display:
        found = cost.plan(runs, expected_bytes, functools.partial(display.update, "counting FLOP"))
    return Answer(found, cost.as_text(found))


def check_method(
    method: Annotated[
        str, typer.Argument(autocompletion=names.methods, help="Name of a method: a file in baselines/.")
    ],
) -> None:
    """Check the contract of a method: seeded, finite, learning, independent of the batch."""
    from benchmark import plugins

    declared = plugins.load("baselines", method, "method").METHOD
    if isinstance(declared, type):
        raise UserError(
            f"expected an instance as METHOD of {method}, found a class; write METHOD = {declared.__name__}()"
        )

    from benchmark.interfaces import Method  # imports torch, which is slow; check the name first
    from benchmark.training import contract

    for required in ("build", "tiny"):
        if getattr(type(declared), required) is getattr(Method, required):
            raise UserError(f"expected {required}() in {type(declared).__name__}, found none; add it to {method}.py")
    for name, test in contract.CHECKS.items():
        reason = test(declared.tiny())
        show(f"--  {name}: not applicable, {reason}" if reason else f"ok  {name}")

    from benchmark.experiments.smoke import SCHEDULE  # imports all methods

    SCHEDULE.captions_per_batch(declared.tiny().sampling)
    show("ok  the batch of smoke is a whole number of captions")
    show(f"next: pytest -k {method}, which also checks imports and training on several processes")
