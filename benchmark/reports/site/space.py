"""The leaderboard page as a static Space on the Hub."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import SpaceCardData

from benchmark.errors import UserError
from benchmark.files import write_bytes
from benchmark.hub.client import MAY_BE_ANYWHERE, READ_LIMIT, Files, Repository, matches_local

CARD, PAGE = "README.md", "index.html"
MARK = "<!-- written by synrep site -->"
"""By this a Space is known to be ours."""


def publish_space(folder: Path, repo: str, log: Callable[[str], None]) -> str:
    """Make a static Space show the site in `folder`, in one commit, and compare what is there.

    Returns:
        The commit; the present one where nothing changed.

    Raises:
        UserError: the folder is no site, the Space is of something else, or the Hub refuses or cannot be reached.
    """
    site = _site(folder)
    place = Repository.open(repo, "space", writes=True)
    with place.friendly_errors(), tempfile.TemporaryDirectory() as temporary:
        card = Path(temporary) / "site" / CARD
        write_bytes(card, _space_card().encode())
        place.create()
        head = place.commit()
        there = place.files(head)
        _require_ours(place, head, there)
        files = {**site, CARD: card}
        changed = {
            path: file for path, file in files.items() if path not in there or not matches_local(there[path], file)
        }
        gone = sorted(path for path in there if path not in files and path not in MAY_BE_ANYWHERE)
        if not changed and not gone:
            log(f"{place} shows this site already; nothing to do")
            return head
        log(f"sending {len(changed)} files to {place}")
        return place.write(changed, "The leaderboard of SynRep-Bench", head, gone)


def _site(folder: Path) -> dict[str, Path]:
    """Path in the Space -> file."""
    if not (folder / PAGE).is_file():
        raise UserError(f"{folder} holds no {PAGE}; name the folder that `synrep site` wrote")
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise UserError(f"{path} is a link; put the file itself in its place")
        if path.is_file() and not path.name.startswith("."):
            found[path.relative_to(folder).as_posix()] = path
    return found


def _space_card() -> str:
    data = SpaceCardData(
        title="SynRep-Bench",
        emoji="📊",
        colorFrom="indigo",
        colorTo="green",
        sdk="static",
        app_file=PAGE,
        pinned=False,
        license="apache-2.0",
        short_description="Representations learned from synthetic images",
        tags=["synrep-bench", "leaderboard"],
    )
    return f"---\n{data.to_yaml()}\n---\n\n{MARK}\n\nThe page is made from records; changes here are overwritten.\n"


def _require_ours(place: Repository, head: str, there: Files) -> None:
    """The Space is as the Hub made it, or holds a site of ours."""
    files = sorted(there.keys() - MAY_BE_ANYWHERE)
    if not files or place.is_untouched(head):
        return
    if CARD in files and there[CARD].size < READ_LIMIT:
        with tempfile.TemporaryDirectory() as temporary:
            content = place.fetch(CARD, head, Path(temporary)).read_text(encoding="utf-8", errors="replace")
        if MARK in content:
            return
    raise UserError(f"{place} holds something else ({', '.join(files[:5])}); choose another name")
