"""Registration of commands with the options that they share.

Every command has `--quiet`, which may also stand before the name of the command. A command that returns an `Answer` has
`--json`.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args

import typer

from benchmark.cli import output
from benchmark.cli.output import Answer

PANEL = "Output"
"""Heading of the shared options in the help of a command."""
SHARED = ("quiet", "as_json")
"""Names of the parameters of the shared options."""

Quiet = Annotated[bool, typer.Option("--quiet", "-q", rich_help_panel=PANEL, help="Print only the result and errors.")]
AsJson = Annotated[bool, typer.Option("--json", rich_help_panel=PANEL, help="Print the result as one JSON document.")]


def group(description: str) -> typer.Typer:
    """Return an empty group of commands with a one-line description."""
    return typer.Typer(help=description, no_args_is_help=True, callback=accept_quiet)


def accept_quiet(quiet: Quiet = False) -> None:
    """Drop messages and progress if `--quiet` stands before the name of the command."""
    if quiet:
        output.be_quiet()


def add(app: typer.Typer, *functions: Callable[..., Any], name: str | None = None, panel: str | None = None) -> None:
    """Add functions to `app` as commands.

    Args:
        app: The group of commands.
        functions: Commands. Each prints its result, or returns an `Answer`.
        name: Name of the command. None: that of its function.
        panel: Heading of the commands in the help of the group.
    """
    for function in functions:
        app.command(name=name, rich_help_panel=panel)(_with_shared_options(function))


def _with_shared_options(function: Callable[..., Any]) -> Callable[..., None]:
    signature = inspect.signature(function)
    returned = signature.return_annotation
    shared = {"quiet": Quiet} | ({"as_json": AsJson} if Answer in (returned, *get_args(returned)) else {})

    @functools.wraps(function)
    def command(*, quiet: bool, as_json: bool = False, **arguments: Any) -> None:
        accept_quiet(quiet)
        with output.document_only() if as_json else contextlib.nullcontext():
            if answer := function(**arguments):
                answer.print()

    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in shared.items()
    ]
    command.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), *parameters]
    )
    command.__annotations__ = function.__annotations__ | shared
    return command
