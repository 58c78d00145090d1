"""The one exception a user meets: a single line that says what was wanted, what was found and what to do.

`synrep` prints it and exits with code 2.
"""


class UserError(Exception):
    """Something the user can mend: a name, a path, a file. The message is one line, without a traceback."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class MissingDataset(UserError):
    """A dataset is neither in the local mirror nor to be had; an evaluation reports it as skipped, with this reason."""


def unknown(kind: str, name: str, choices: list[str]) -> UserError:
    """The error for a name that does not exist; lists the names that do."""
    return UserError(f"unknown {kind} {name!r}; choose one of: {', '.join(sorted(choices))}")
