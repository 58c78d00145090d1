"""The one exception a user meets: a single line that says what was wanted, what was found and what to do.

`synrep` prints it and exits with code 2.
"""

from enum import StrEnum


class SkipCode(StrEnum):
    """Why a dataset was not measured, for programs; the reason beside it is for people and may be reworded."""

    MISSING_DATASET = "missing-dataset"
    """Not on this machine."""
    NO_TEXT_TOWER = "no-text-tower"
    """The evaluation asks for texts, the model embeds none."""
    NO_NETWORK = "no-network"
    """The evaluation encodes further images, the model is a folder of stored features."""
    NOT_APPLICABLE = "not-applicable"
    """The dataset lacks what the protocol needs, such as images per class."""
    FAILED = "failed"
    """An error; the same command tries again."""


class UserError(Exception):
    """Something the user can mend: a name, a path, a file. The message is one line, without a traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class MissingDataset(UserError):
    """A dataset is neither in the local mirror nor to be had; an evaluation reports it as skipped, with this reason."""


def unknown(kind: str, name: str, choices: list[str]) -> UserError:
    """The error for a name that does not exist; lists the names that do."""
    return UserError(f"unknown {kind} {name!r}; choose one of: {', '.join(sorted(choices))}")
