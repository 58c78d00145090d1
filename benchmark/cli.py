"""The `synrep` command. Imports are lazy, so that `synrep --help` answers at once; the science is in declarations."""

import os
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from benchmark.cli_data import SCENES_EVALUATION, data
from benchmark.cli_evaluate import episodes, evaluate
from benchmark.cli_exchange import results, submit
from benchmark.cli_push import push
from benchmark.cli_results import migrate, tables, validate
from benchmark.cli_site import site
from benchmark.errors import UserError, unknown

if TYPE_CHECKING:
    from benchmark.interfaces import Experiment

app = typer.Typer(
    help="SynRep-Bench: representations learned from synthetic images, from captions to comparison tables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
INTERRUPTED = 130
"""What typer returns in the place of a KeyboardInterrupt."""

Out = Annotated[Path, typer.Option("--out", help="Folder for everything a run writes; run again to go on.")]


def main() -> NoReturn:
    """Entry point: a user's error is one line and exit code 2."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if app(standalone_mode=False) == INTERRUPTED:
            raise KeyboardInterrupt
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        _fail(f"interrupted; the state is kept, go on with: {shlex.join(['synrep', *sys.argv[1:]])}")
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the rest of its buffer has nowhere to go
        place = error.filename or "the output"
        _fail(f"cannot read or write {place}: {error.strerror}; free some space or name another place")
    except typer.Exit as end:
        sys.exit(end.exit_code)
    except Exception as error:
        if hasattr(error, "format_message"):
            _fail(_usage(error))
        raise
    sys.exit(0)


def _usage(error: Any) -> str:
    """What is wrong with a command line, and what there is instead; empty after the help of a bare `synrep`."""
    message = error.format_message().rstrip(".")
    if error.ctx is None:
        return f"{message}; see `synrep --help`"
    command, path = error.ctx.command, error.ctx.command_path
    if commands := getattr(command, "commands", None):
        return message and f"{message}; choose one of: {', '.join(commands)}"
    if hasattr(error, "possibilities"):  # an unknown option
        options = [name for parameter in command.params for name in parameter.opts if name.startswith("-")]
        return f"no option {error.option_name} of `{path}`; choose one of: {', '.join(options)}"
    return f"{message}; see `{path} --help`"


def _fail(message: str) -> NoReturn:
    if message:
        print(f"synrep: {message}", file=sys.stderr)
    sys.exit(2)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def list_all() -> None:
    """Methods, experiments, recipes, evaluations and tables that there are."""
    from benchmark import plugins
    from datasets_scripts import caption_sources, recipe

    kinds = {
        "methods": plugins.names("baselines"),
        "experiments": plugins.names("benchmark.experiments"),
        "sizes of an experiment": ["smoke", *recipe.SIZES],
        "captions": list(caption_sources.sources()),
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
    views_at_once: Annotated[
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

    from benchmark.nn import distributed
    from benchmark.progress import Display
    from benchmark.runner.jobs import Job, default_parallel_jobs, run_distributed, run_jobs

    work, knobs = [Job(e, s) for e, s in seeds], (views_at_once, deterministic)
    with Display() as display:
        if distributed.launched() > 1:
            run_distributed(work, out, display.update, knobs)
        else:
            run_jobs(work, out, jobs or default_parallel_jobs(), display.update, knobs)
    if os.environ.get("RANK", "0") == "0":
        print(f"records: {out / 'records'}; tables: synrep tables --records {out / 'records'} --out {out / 'tables'}")


def _print_plan(chosen: "list[Experiment]", seed: int | None) -> None:
    from benchmark.training import cost
    from datasets_scripts import estimate, recipe

    def expected_bytes(repo: str) -> int | None:
        try:
            return estimate.estimate(recipe.find(repo.rpartition("/")[2])).bytes
        except UserError:
            return None

    print(cost.text([cost.Run(e, len(e.seeds) if seed is None else 1) for e in chosen], expected_bytes))


def check(method: Annotated[str, typer.Argument(help="A file of baselines/.")]) -> None:
    """Check that a method keeps the contract: seeded, finite, learning, independent of the batch."""
    from benchmark import plugins

    tiny = plugins.load("baselines", method, "method").METHOD.tiny()

    from benchmark.training import contract  # torch takes seconds; a wrong name shall not wait for it

    for name, test in contract.CHECKS.items():
        test(tiny)
        print(f"ok  {name}")


app.command(name="list")(list_all)
app.add_typer(data, name="data")
for command in (run, evaluate, episodes, tables, site, validate, submit):  # in the order of use
    app.command()(command)
results.command()(migrate)
app.add_typer(results, name="results")
app.command()(push)
app.command()(check)

if __name__ == "__main__":
    main()
