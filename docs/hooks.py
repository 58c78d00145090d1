"""Hooks of the documentation site.

Links in documents are relative to the repository, so that they also work in a checkout. On the site, a link to a page
leads to this page, a picture is copied, and a link to any other file of the repository is shown as plain text. A
picture is a link to its file, as on GitHub, because a figure is too small to read on a phone.
"""

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
EXTERNAL_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "results/README.md")
"""Pages of the site that are outside of docs/."""
PICTURES = {".png", ".svg"}
LINK = re.compile(r"(?P<picture>!?)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^()\s]+)\)")
IMAGE = re.compile(r'<img\b[^>]*\bsrc="([^"]+)"[^>]*>')
FENCED = re.compile(r"(^ *```.*?^ *```)", re.DOTALL | re.MULTILINE)


def on_config(config: MkDocsConfig) -> None:
    """Expand the folders in `nav`."""
    nav = config.nav or []
    config.nav = _expanded(nav, Path(config.docs_dir), set(_names(nav)))


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that are outside of docs/."""
    for name in EXTERNAL_PAGES:
        files.append(_repository_file(config, name))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links within the repository into links within the site."""
    source = page.file.src_uri if page.file.src_uri in EXTERNAL_PAGES else f"docs/{page.file.src_uri}"

    def resolved(link: re.Match[str]) -> str:
        target, hash_, anchor = link["target"].partition("#")
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if not target or re.match(r"[a-z]+:", target) or not (ROOT / place).exists():
            return link[0]  # MkDocs reports a link that leads nowhere
        if not place.startswith("docs/") and place not in EXTERNAL_PAGES:
            if Path(place).suffix not in PICTURES:
                return link["text"]
            if files.get_file_from_path(place) is None:
                files.append(_repository_file(config, place))
        inside = posixpath.relpath(place.removeprefix("docs/"), posixpath.dirname(page.file.src_uri) or ".")
        return f"{link['picture']}[{link['text']}]({inside}{hash_}{anchor})"

    parts = FENCED.split(markdown)  # every second part is code
    parts[::2] = [LINK.sub(resolved, part) for part in parts[::2]]
    return "".join(parts)


def on_page_content(html: str, **_: object) -> str:
    """Make every picture a link to its file."""
    return IMAGE.sub(r'<a href="\1">\g<0></a>', html)


def _repository_file(config: MkDocsConfig, name: str) -> File:
    return File.generated(config, name, abs_src_path=os.fspath(ROOT / name))


def _names(nav: Any) -> list[str]:
    """Return the paths in a navigation."""
    if isinstance(nav, str):
        return [nav]
    return [name for item in (nav.values() if isinstance(nav, dict) else nav) for name in _names(item)]


def _expanded(nav: list[Any], docs: Path, listed: set[str]) -> list[Any]:
    """Return a navigation with pages in place of each folder, its index first; empty folders are left out."""
    expanded: list[Any] = []
    for item in nav:
        if isinstance(item, dict):
            ((title, inner),) = item.items()
            inner = _expanded([inner], docs, listed) if isinstance(inner, str) and inner.endswith("/") else inner
            inner = _expanded(inner, docs, listed) if isinstance(inner, list) else inner
            expanded += [{title: inner}] if inner else []
        elif item.endswith("/"):
            pages = sorted((docs / item).rglob("*.md"), key=lambda path: (path.name != "index.md", path))
            names = (path.relative_to(docs).as_posix() for path in pages)
            expanded += [name for name in names if name not in listed]
        else:
            expanded.append(item)
    return expanded
