"""Entry point of the `synrep` command. Commands import lazily, so that `synrep --help` is fast."""

import os
import shlex
import signal
import sys
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from benchmark import __version__
from benchmark.cli.data import data
from benchmark.cli.evaluate import episodes, evaluate
from benchmark.cli.records import results, submit, validate
from benchmark.cli.release import push_model
from benchmark.cli.reports import site, tables
from benchmark.cli.run import check_method, list_all, run
from benchmark.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
INTERRUPTED = 130
"""Return value of a typer app that was stopped by Ctrl-C."""


def main() -> NoReturn:
    """Run the command line and exit; a user error prints one line and exits with code 2."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if app(prog_name="synrep", standalone_mode=False) == INTERRUPTED:
            raise KeyboardInterrupt
        sys.stdout.flush()
    except UserError as error:
        _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        _fail(f"interrupted; progress is saved, resume with: {shlex.join(['synrep', *sys.argv[1:]])}")
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # discard the rest of the buffer
        path = error.filename or "the output"
        _fail(f"cannot read or write {path}: {error.strerror}; free some space or choose another path")
    except typer.Exit as end:
        sys.exit(end.exit_code)
    except Exception as error:
        if hasattr(error, "format_message"):
            _fail(_usage_message(error))
        raise
    sys.exit(0)


def _usage_message(error: Any) -> str:
    """Return the message for an invalid command line, with the valid choices; empty for a bare `synrep`."""
    message = error.format_message().rstrip(".")
    if error.ctx is None:
        return f"{message}; see `synrep --help`"
    command, path = error.ctx.command, error.ctx.command_path
    if commands := getattr(command, "commands", None):
        return message and f"{message}; choose one of: {', '.join(commands)}"
    if hasattr(error, "possibilities"):  # an unknown option
        options = [name for parameter in command.params for name in parameter.opts if name.startswith("-")]
        return f"`{path}` has no option {error.option_name}; choose one of: {', '.join(options)}"
    return f"{message}; see `{path} --help`"


def _fail(message: str) -> NoReturn:
    if message:
        print(f"synrep: {message}", file=sys.stderr)
    sys.exit(2)


def _print_version(requested: bool) -> None:
    if requested:
        print(__version__)
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """SynRep-Bench: train and evaluate representations learned from synthetic images."""


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


app.command(name="list")(list_all)
app.add_typer(data, name="data")
for command in (run, evaluate, episodes, tables, site, validate, submit):  # in the order of use
    app.command()(command)
app.add_typer(results, name="results")
app.command()(push_model)
app.command()(check_method)
