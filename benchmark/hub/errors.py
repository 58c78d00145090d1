"""What the Hub's client raises, as one line each: what was wanted, what happened, what to do."""

import contextlib
import errno
import json
from collections.abc import Iterator

from huggingface_hub import constants, errors

from benchmark.errors import UserError

RUN_AGAIN = "run again: what was transferred is kept"


class RevisionConflict(UserError):
    """Somebody else made a commit since the files were listed; nothing was written."""


@contextlib.contextmanager
def friendly_errors(what: str, revision: str = "main", instead: str = "") -> Iterator[None]:
    """Turn what the client raises into one line; an error that is not the Hub's stays as it is.

    Args:
        what: kind and name of the repository, such as `dataset me/cats`.
        revision: the one that was asked for.
        instead: what else the user may do, such as `give a local file with --origin`.

    Raises:
        RevisionConflict: a commit was made meanwhile.
        UserError: the Hub refuses, cannot be reached, or has no such thing.
    """
    try:
        yield
    except UserError:
        raise
    except json.JSONDecodeError:
        raise UserError(f"the Hub answers with something that is no JSON for {what}; {RUN_AGAIN}") from None
    except Exception as error:
        if (line := explain(error, what, revision)) is None:
            raise
        conflict = any(_status(cause) == 412 for cause in chain(error))
        raise (RevisionConflict if conflict else UserError)(f"{line}, or {instead}" if instead else line) from None


def explain(error: BaseException, what: str = "it", revision: str = "main") -> str | None:
    """Say in one line what an error, or what led to it, means; None if it is not the Hub's."""
    vague_last = sorted(chain(error), key=lambda cause: isinstance(cause, errors.LocalEntryNotFoundError))
    return next(filter(None, (_explain_one(cause, what, revision) for cause in vague_last)), None)


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that led to it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _explain_one(error: BaseException, what: str, revision: str) -> str | None:  # noqa: C901, PLR0911, PLR0912
    text, status = str(error), _status(error)
    match error:
        case errors.GatedRepoError():
            return f"{what} is gated; ask for access on {_page(what)}, then run `hf auth login` or set HF_TOKEN"
        case errors.RevisionNotFoundError():
            return f"{what} has no revision {revision}, or no longer; its page lists those that it has"
        case errors.HfHubHTTPError() if status == 401 and "Invalid credentials" in text:
            return f"the Hub rejected this token; run `hf auth login` or set HF_TOKEN (wanted: {what})"
        case errors.RepositoryNotFoundError():
            return (
                f"{what} does not exist on the Hub, or this token may not see it; check the name or run `hf auth login`"
            )
        case errors.HfHubHTTPError() if status in (401, 403):
            return f"this token has no write access to {what}; use a token with write permission"
        case errors.HfHubHTTPError() if status == 412:
            return f"{what} was changed by somebody else meanwhile; run again"
        case errors.HfHubHTTPError() if status == 429 or status >= 500:
            return f"the Hub answers {status} for {what}, also after several tries; {RUN_AGAIN}"
        case errors.HfHubHTTPError():
            return f"the Hub answers {status} for {what}: {(text.splitlines() or [''])[-1][:300]}"
        case errors.HFValidationError():
            return f"{what} is no name on the Hub; wanted ORG/NAME"
        case errors.OfflineModeIsEnabled():
            return f"{what} is not in the cache and HF_HUB_OFFLINE is set; unset it"
        case errors.LocalEntryNotFoundError():
            return f"{what} is not in the cache and the Hub does not answer; check the network"
        case OSError() if error.errno == errno.ENOSPC or "No space left" in text:
            return f"the disk is full; free some space and {RUN_AGAIN}"
        case ConnectionError() if "xet-write-token" in text and "404" in text:
            return f"this Hub takes no Xet uploads (wanted: {what}); set HF_HUB_DISABLE_XET=1 and run again"
        case ValueError() if text.startswith("Invalid metadata in README.md"):
            return f"the Hub refuses the card of {what}: {' '.join(text.splitlines()[1:])[:300]}"
        case ConnectionError() | TimeoutError() | errors.HTTPError():  # of its httpx
            return f"the Hub cannot be reached for {what}; check the network and {RUN_AGAIN}"
    return None


def _page(what: str) -> str:
    kind, _, name = what.partition(" ")
    prefix = {"model": "", "dataset": "datasets/", "space": "spaces/"}.get(kind)
    return "its page" if prefix is None else f"{constants.ENDPOINT}/{prefix}{name}"


def _status(error: BaseException) -> int:
    """Return the HTTP status of an answer, or 0."""
    return int(getattr(getattr(error, "response", None), "status_code", 0))
