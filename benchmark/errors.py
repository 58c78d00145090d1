"""Exceptions for user errors, and the reasons for which a dataset is skipped.

A `UserError` is one line: what was expected, what was found and how to fix it.
`synrep` prints it and exits with code 2.
"""

import errno
import re
from difflib import get_close_matches
from enum import StrEnum
from numbers import Integral
from pathlib import Path

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""Control characters, invisible spaces, overrides of the writing direction, and lone surrogates."""

FEW_CHOICES = 20
"""Number of valid names that a message still lists next to those that resemble a wrong one."""


class SkipCode(StrEnum):
    """Machine-readable reason why a dataset was not measured; its text is for people and may be reworded."""

    MISSING_DATASET = "missing-dataset"
    """The dataset is not on this machine."""
    NO_TEXT_TOWER = "no-text-tower"
    """The evaluation needs text embeddings, but the model has no text tower."""
    NO_NETWORK = "no-network"
    """The evaluation encodes further images, but the model is a folder of stored features."""
    NO_PATCHES = "no-patch-tokens"
    """The evaluation needs patch tokens, and the model has none of images of this size."""
    NOT_APPLICABLE = "not-applicable"
    """The dataset lacks what the protocol needs, such as enough images per class."""
    NOT_REQUESTED = "not-requested"
    """The command named other datasets only."""
    FAILED = "failed"
    """An error occurred; the same command tries again."""


class UserError(Exception):
    """An error that the user can fix, such as a wrong name, path or file; shown on one line, without a traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class MissingDataset(UserError):
    """A dataset that is not on this machine; an evaluation reports it as skipped, with this message as the reason."""


def check_open_files(path: Path, error: Exception) -> None:
    """Raise another error if a file cannot be opened because too many are open: then it may be sound.

    Raises:
        UserError: too many files are open.
    """
    if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
        raise UserError(f"{path} cannot be opened (Too many open files); raise the limit (`ulimit -n`)") from None


def one_line(text: str) -> str:
    """Return `text` on one line, `printable`."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """Return `text` with its unprintable characters, apart from tabs and newlines, as escapes such as \\x1b."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def require_whole(what: str, value: object, least: int) -> int:
    """Return a whole number that a caller has passed.

    Raises:
        UserError: it is another value, or smaller than `least`.
    """
    if not isinstance(value, Integral) or value < least:
        raise UserError(f"expected {what} to be a whole number of at least {least}, found {value!r}; change it")
    return int(value)


def unknown(kind: str, name: object, choices: list[str]) -> UserError:
    """Return the error for a name that does not exist: with the names that resemble it, and the valid ones if few."""
    near = get_close_matches(str(name), choices, n=3)
    hints = [f"did you mean {' or '.join(near)}?"] if near else []
    if not near or len(choices) <= FEW_CHOICES:
        hints.append(f"choose one of: {', '.join(sorted(choices))}")
    return UserError(f"unknown {kind} {name!r}; {' '.join(hints)}")
