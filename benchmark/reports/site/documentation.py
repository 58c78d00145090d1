"""Links from the page to the protocol pages of the documentation: at an address, or in a copy next to the page."""

import shutil
from pathlib import Path

from benchmark import evaluations, plugins
from benchmark.errors import UserError

COPY = "docs"
"""Folder of the copy, below that of the page."""
BUILD = "run `make docs`, or pass a folder that it built"


def documentation_links(docs: str, out: Path) -> dict[str, str]:
    """Return evaluation -> link to its protocol page. A folder is copied to `out/docs`.

    Args:
        docs: folder of the built documentation, or its https address. Empty: no links.
        out: folder of the page.

    Raises:
        UserError: the folder is not a built documentation with protocol pages, or cannot be copied.
    """
    if not docs:
        return {}
    if docs.startswith(("https://", "http://")):
        names, base = plugins.names(evaluations.__name__), docs.rstrip("/")
    else:
        names, base = sorted(page.stem for page in Path(docs).glob("protocols/*.html")), COPY
        if not names:
            raise UserError(f"expected protocol pages in {docs}/protocols, found none; {BUILD}")
        _copy(Path(docs).resolve(), out.resolve() / COPY)
    return {name: f"{base}/protocols/{name}.html" for name in names}


def _copy(source: Path, target: Path) -> None:
    """Replace `target`, a former copy, by a copy of `source`."""
    if source == target:
        return
    if target.is_relative_to(source) or source.is_relative_to(target):
        raise UserError(f"expected --out outside of the documentation, found {target.parent}; choose another folder")
    if target.is_dir() and not (target / "index.html").is_file():
        raise UserError(f"expected a copy of the documentation in {target}, found other files; choose another --out")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
