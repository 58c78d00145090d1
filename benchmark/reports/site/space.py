"""The leaderboard page as a static Space on the Hub."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import SpaceCardData

from benchmark.errors import UserError
from benchmark.files import write_bytes
from benchmark.hub.client import IGNORED_FILES, READ_LIMIT, Files, Repository, matches_local

CARD, PAGE = "README.md", "index.html"
MARK = "<!-- written by synrep site -->"
"""Marker of a Space's card that was written by `synrep site`."""


TEXT = """# SynRep-Bench leaderboard

Scores of visual representations that were learned from synthetic images, next to baselines trained on real ones. Each
score has an interval and a named protocol. The page is one file that makes no network requests.

- **Read it**: filter and sort the table, share a view by its link, export it as CSV or LaTeX.
- **Not for** choosing an encoder by one number: scores with different protocol hashes are not comparable, and models of
  one protocol may differ in compute.
- **License**: Apache-2.0. The terms of a dataset also apply to results computed from it.
- **Provenance**: `synrep site` made the page from records, whose scores `synrep validate` recomputes from predictions.

`synrep site` writes these files again at the next upload; changes made here are lost.
"""


def publish_space(folder: Path, repo: str, log: Callable[[str], None]) -> str:
    """Publish the site in `folder` as a static Space, in one commit.

    Args:
        folder: folder written by `synrep site`.
        repo: Space on the Hub, as `ORG/SPACE`.
        log: called with each message for the user.

    Returns:
        The new commit, or the current one if nothing changed.

    Raises:
        UserError: the folder is not a site, the Space has other content, or the Hub refuses or cannot be reached.
    """
    site = _site_files(folder)
    space = Repository.open(repo, "space", writes=True)
    with space.friendly_errors(), tempfile.TemporaryDirectory() as temporary:
        card = Path(temporary) / "site" / CARD
        write_bytes(card, space_card().encode())
        space.create()
        head = space.commit()
        remote = space.files(head)
        _require_overwritable(space, head, remote)
        files = {**site, CARD: card}
        changed = {
            path: file for path, file in files.items() if path not in remote or not matches_local(remote[path], file)
        }
        deleted = sorted(path for path in remote if path not in files and path not in IGNORED_FILES)
        if not changed and not deleted:
            log(f"{space} is up to date; nothing to do")
            return head
        log(f"uploading {len(changed)} files to {space}")
        return space.write(changed, "The leaderboard of SynRep-Bench", head, deleted)


def _site_files(folder: Path) -> dict[str, Path]:
    """Return path in the Space -> local file."""
    if not (folder / PAGE).is_file():
        raise UserError(f"{folder} has no {PAGE}; choose the folder that `synrep site` wrote")
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise UserError(f"{path} is a symbolic link; replace it with the file itself")
        if path.is_file() and not path.name.startswith("."):
            found[path.relative_to(folder).as_posix()] = path
    return found


def space_card() -> str:
    """Return the README.md of the Space."""
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
    return f"---\n{data.to_yaml()}\n---\n\n{MARK}\n\n{TEXT}"


def _require_overwritable(space: Repository, head: str, remote: Files) -> None:
    """Raise a UserError unless the Space is new or was written by `synrep site`."""
    files = sorted(remote.keys() - IGNORED_FILES)
    if not files or space.is_untouched(head):
        return
    if CARD in files and remote[CARD].size < READ_LIMIT:
        with tempfile.TemporaryDirectory() as temporary:
            content = space.fetch(CARD, head, Path(temporary)).read_text(encoding="utf-8", errors="replace")
        if MARK in content:
            return
    raise UserError(
        f"{space} has files that `synrep site` did not write ({', '.join(files[:5])}); choose another Space"
    )
