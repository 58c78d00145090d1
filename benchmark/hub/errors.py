"""Conversion of Hub client errors to one-line user errors: what was requested, what failed, how to fix it."""

import contextlib
import errno
import json
import traceback
from collections.abc import Iterator

from huggingface_hub import constants, errors

from benchmark.errors import UserError

RUN_AGAIN = "run again to resume; finished transfers are kept"


class RevisionConflict(UserError):
    """Raised if the branch got another commit after its files were listed; nothing was written."""


@contextlib.contextmanager
def friendly_errors(repository: str, revision: str = "main", alternative: str = "") -> Iterator[None]:
    """Convert errors of the Hub client to one-line user errors; other errors pass unchanged.

    Args:
        repository: type and name of the repository, such as `dataset me/cats`.
        revision: requested revision.
        alternative: another way to proceed, such as `give a local file with --origin`.

    Raises:
        RevisionConflict: the branch got another commit in the meantime.
        UserError: the Hub rejects the request, cannot be reached, or does not have the repository or revision.
    """
    try:
        yield
    except UserError:
        raise
    except json.JSONDecodeError as error:
        if not _is_of_response(error):
            raise
        raise UserError(f"the Hub returned invalid JSON for {repository}; {RUN_AGAIN}") from None
    except Exception as error:
        if (line := explain(error, repository, revision)) is None:
            raise
        conflict = any(_status(cause) == 412 for cause in chain(error))
        raise (RevisionConflict if conflict else UserError)(
            f"{line}, or {alternative}" if alternative else line
        ) from None


def explain(error: BaseException, repository: str = "it", revision: str = "main") -> str | None:
    """Return a one-line explanation of an error or of one of its causes; None if none is from the Hub client."""
    by_precision = sorted(chain(error), key=lambda cause: isinstance(cause, errors.LocalEntryNotFoundError))
    return next(filter(None, (_explain_one(cause, repository, revision) for cause in by_precision)), None)


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _explain_one(error: BaseException, repository: str, revision: str) -> str | None:  # noqa: C901, PLR0911, PLR0912
    text, status = str(error), _status(error)
    match error:
        case errors.GatedRepoError():
            page = _page(repository)
            return f"{repository} is gated; request access on {page}, then run `hf auth login` or set HF_TOKEN"
        case errors.RevisionNotFoundError():
            return f"{repository} has no revision {revision}; its page on the Hub lists the available ones"
        case errors.HfHubHTTPError() if status == 401 and "Invalid credentials" in text:
            return f"the Hub rejected this token; run `hf auth login` or set HF_TOKEN to access {repository}"
        case errors.RepositoryNotFoundError():
            hint = "check the name or run `hf auth login`"
            return f"{repository} does not exist on the Hub, or this token cannot access it; {hint}"
        case errors.HfHubHTTPError() if status in (401, 403):
            return f"this token has no access to {repository}, or may only read it; use a token with more permissions"
        case errors.HfHubHTTPError() if status == 412:
            return f"{repository} was changed by somebody else in the meantime; run again"
        case errors.HfHubHTTPError() if status == 429 or status >= 500:
            return f"the Hub returned HTTP status {status} for {repository} after several attempts; {RUN_AGAIN}"
        case errors.HfHubHTTPError():
            return f"the Hub returned HTTP status {status} for {repository}: {(text.splitlines() or [''])[-1][:300]}"
        case errors.HFValidationError():
            return f"{repository} is not a valid name on the Hub; expected ORG/NAME"
        case errors.OfflineModeIsEnabled():
            return f"{repository} is not in the cache and HF_HUB_OFFLINE is set; unset it"
        case errors.LocalEntryNotFoundError():
            return f"{repository} is not in the cache and the Hub cannot be reached; check the network"
        case OSError() if error.errno == errno.ENOSPC or "No space left" in text:
            return f"the disk is full; free some space and {RUN_AGAIN}"
        case ConnectionError() if "xet-write-token" in text and "404" in text:
            return f"this Hub does not support Xet uploads to {repository}; set HF_HUB_DISABLE_XET=1 and run again"
        case ValueError() if text.startswith("Invalid metadata in README.md"):
            return f"the Hub rejected the card of {repository}: {' '.join(text.splitlines()[1:])[:300]}"
        case ConnectionError() | TimeoutError() | errors.HTTPError():
            return f"the Hub cannot be reached for {repository}; check the network and {RUN_AGAIN}"
    return None


def _is_of_response(error: json.JSONDecodeError) -> bool:
    """Return True if the invalid JSON came from a server, not from a file on this machine."""
    client = errors.HTTPError.__module__.split(".")[0]
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__", "").split(".")[0] == client for frame, _ in frames)


def _page(repository: str) -> str:
    kind, _, name = repository.partition(" ")
    prefix = {"model": "", "dataset": "datasets/", "space": "spaces/"}.get(kind)
    return "its page" if prefix is None else f"{constants.ENDPOINT}/{prefix}{name}"


def _status(error: BaseException) -> int:
    """Return the HTTP status of the response of an error, or 0."""
    return int(getattr(getattr(error, "response", None), "status_code", 0))
