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
from benchmark.cli import commands, output
from benchmark.cli.commands import Quiet
from benchmark.cli.data import build, captions, estimate
from benchmark.cli.dataset_folders import check, contact_sheet, download, export, publish
from benchmark.cli.doctor import doctor
from benchmark.cli.evaluate import episodes, evaluate
from benchmark.cli.records import migrate, pull, push, submit, validate
from benchmark.cli.release import push_model
from benchmark.cli.reports import compare, report, site, tables
from benchmark.cli.run import check_method, list_all, run
from benchmark.cli.welcome import WELCOME
from benchmark.errors import UserError

USER_ERROR = 2
"""Exit code of an error that the user can fix."""
INTERRUPTED = 130
"""Exit code of a command that was stopped by Ctrl-C or SIGTERM; a typer app returns it after Ctrl-C."""
EPILOG = """Exit codes:
  0    done
  1    an unexpected error, or the reader of the output ended early
  2    an error that one line explains: a wrong name, an invalid record, ...
  130  stopped by Ctrl-C or SIGTERM; the line says how to resume

Completion of commands and names: synrep --install-completion
"""
"""Text below the commands in `synrep --help`."""
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
        again = shlex.join(["synrep", *sys.argv[1:]])
        return _fail(f"interrupted; finished work is saved; resume with: {again}", INTERRUPTED)
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


def _fail(message: str, code: int = USER_ERROR) -> int:
    """Print a message, if there is one, and return the exit code."""
    if message:
        output.show(f"synrep: {message}", error=True)
    return code


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _print_version(requested: bool) -> None:
    if requested:
        output.show(__version__)
        raise typer.Exit


START, DATASETS, TRAINING, RESULTS, SHARING = PANELS = (
    "Start", "Datasets", "Training and evaluation", "Results", "Sharing",
)  # fmt: skip
"""Headings of the commands in `synrep --help`, in this order."""


class _Group(typer.core.TyperGroup):
    """Group of commands that are listed in the order of their headings."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return sorted(self.commands, key=lambda name: PANELS.index(vars(self.commands[name])["rich_help_panel"]))


app = typer.Typer(cls=_Group, invoke_without_command=True, pretty_exceptions_enable=False, epilog=EPILOG)


@app.callback()
def _global_options(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """SynRep-Bench: train and evaluate representations learned from synthetic images."""
    commands.accept_quiet(quiet)
    if context.invoked_subcommand is None:
        output.show(WELCOME)


data = commands.group("Prepare captions; build, check, publish, download and export datasets.")
results = commands.group("Share records in a dataset repository on the Hub.")
commands.add(app, list_all, name="list", panel=START)
commands.add(app, doctor, panel=START)
app.add_typer(data, name="data", rich_help_panel=DATASETS)
commands.add(data, captions, estimate, build, check, contact_sheet, publish, download, export)  # in the order of use
commands.add(app, run, evaluate, episodes, check_method, panel=TRAINING)
commands.add(app, tables, compare, report, site, validate, panel=RESULTS)
commands.add(app, submit, push_model, panel=SHARING)
app.add_typer(results, name="results", rich_help_panel=SHARING)
commands.add(results, push, pull, migrate)
