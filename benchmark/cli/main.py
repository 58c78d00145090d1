"""Entry point of the `synrep` command. Commands import lazily, so that `synrep --help` is fast."""

import errno
import os
import shlex
import signal
import sys
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from benchmark import __version__
from benchmark.cli import output
from benchmark.cli.data import data
from benchmark.cli.evaluate import episodes, evaluate
from benchmark.cli.records import results, submit, validate
from benchmark.cli.release import push_model
from benchmark.cli.reports import compare, report, site, tables
from benchmark.cli.run import check_method, list_all, run
from benchmark.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
INTERRUPTED = 130
"""Return value of a typer app that was stopped by Ctrl-C."""
OUT_OF_MEMORY = ("Cannot allocate memory", "can't allocate memory", "can't start new thread", "failed to map segment")
"""Parts of the messages of other errors than MemoryError: of the system, torch, threads and imports of libraries."""
OTHER_PATH = "free some space or choose another path"


def main() -> NoReturn:
    """Run the command line and exit; a user error prints one line and exits with code 2."""
    signal.signal(signal.SIGTERM, _interrupt)
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its retries are noise before the one line of `hub.errors`
    output.prepare()
    try:
        code = _run()
        sys.stdout.flush()
    except OSError as error:
        code = _output_failed(error)
    sys.exit(code)


def _run() -> int:
    """Run the command line and return its exit code.

    Raises:
        OSError: the output cannot be written.
    """
    try:
        if app(prog_name="synrep", standalone_mode=False) == INTERRUPTED:
            raise KeyboardInterrupt
    except UserError as error:
        return _fail(str(error))
    except (KeyboardInterrupt, typer.Abort):
        return _fail(f"interrupted; progress is saved, resume with: {shlex.join(['synrep', *sys.argv[1:]])}")
    except typer.Exit as end:
        return end.exit_code
    except Exception as error:
        if (message := _explain(error)) is None:
            raise
        return _fail(message)
    return 0


def _explain(error: Any) -> str | None:
    """Return the message for an error of this machine or of the command line, or None for any other error."""
    if hasattr(error, "format_message"):
        return _usage_message(error)
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY):
        return "out of memory; free some, or raise the limit of this process (`ulimit -v`)"
    if isinstance(error, OSError) and error.filename is not None:
        too_many = error.errno in (errno.EMFILE, errno.ENFILE)
        hint = "raise the limit (`ulimit -n`)" if too_many else OTHER_PATH
        return f"cannot read or write {error.filename}: {error.strerror}; {hint}"
    return None


def _output_failed(error: OSError) -> int:
    """Return the exit code if the output cannot be written; like click, say nothing if its reader has ended."""
    output.discard()
    if isinstance(error, BrokenPipeError):
        return 1
    return _fail(f"cannot read or write the output: {error.strerror}; {OTHER_PATH}")


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


def _fail(message: str) -> int:
    """Print a message, if there is one, and return the exit code of a user error."""
    if message:
        output.show(f"synrep: {message}", error=True)
    return 2


def _print_version(requested: bool) -> None:
    if requested:
        output.show(__version__)
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
for command in (run, evaluate, episodes, tables, compare, report, site, validate, submit):  # in the order of use
    app.command()(command)
app.add_typer(results, name="results")
app.command()(push_model)
app.command()(check_method)
