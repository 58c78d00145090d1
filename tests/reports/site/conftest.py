"""A real browser, if installed, and the pages it opens. Console messages and errors fail the test."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext
from playwright.sync_api import Page as Tab

from tests.fixtures.site_records import curved, few, grouped, hostile, made, on, record, several, trade_off, twins


@dataclass
class Visit:
    """A browser tab, its file, and its log."""

    tab: Tab
    file: Path
    said: list[str] = field(default_factory=list)
    """Console messages and script errors."""
    asked: list[str] = field(default_factory=list)
    """Addresses that were requested."""

    def go(self, view: str = "") -> "Visit":
        """Open a view of the page by its link and wait until it is rendered."""
        self.tab.goto("about:blank")
        self.tab.goto(f"{self.file.as_uri()}{view}")
        self.tab.wait_for_selector("html[data-ready]")
        if view.startswith("#/model") or view.startswith("#/groups"):
            self.tab.wait_for_selector("#model h1, #groups h1")
        return self

    def texts(self, selector: str) -> list[str]:
        """Return the stripped texts of all matching elements."""
        return [text.strip() for text in self.tab.locator(selector).all_text_contents()]

    def cells(self, name: str) -> list[str]:
        """Return the cells of a model's first row of the leaderboard."""
        row = self.tab.locator("#table tbody tr").filter(has=self.tab.get_by_role("link", name=name, exact=True)).first
        return [" ".join(text.split()) for text in row.locator("td").all_text_contents()]

    @property
    def names(self) -> list[str]:
        """Models of the leaderboard, from top to bottom."""
        return self.texts("#table tbody th a")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Page files by name."""
    place = tmp_path_factory.mktemp("site")
    found = {"few": made(few()), "hostile": made(hostile()), "none": made(few()[:1])}
    found |= {"several": made(several()), "twins": made(twins())}
    recalls = {"main-x/old": 0.3, "main-x/new": 0.4, "side/a": 0.7, "side/b": 0.6}
    groups = [
        record("clip", {"faces": grouped({"young": recall, "old": recall})}, evaluation="fairface", name=name)
        for name, recall in recalls.items()
    ]
    found["groups"] = made([*groups, record("mae", {"digits": on("digits", 0.5)}, name="side-without-groups/c")])
    odd = {"constructor/a": "knn", "main-x/b": "linear_probe"}
    found["odd"] = made(record("a", {"digits": on("digits", 0.5)}, evaluation=e, name=n) for n, e in odd.items())
    found["curves"] = made(curved(), trade_off=trade_off())
    paths = {name: place / name / "index.html" for name in found}
    for name, path in paths.items():
        path.parent.mkdir()
        path.write_text(found[name].html, encoding="utf-8")
    return paths


@pytest.fixture
def visit(browser: Browser, files: dict[str, Path]) -> Iterator[Callable[..., Visit]]:
    """Function that opens a page in a new tab. Afterwards there must be no other request and no message."""
    opened: list[tuple[BrowserContext, Visit]] = []

    def visit(name: str = "few", view: str = "", width: int = 1280, script: str = "", **options: Any) -> Visit:
        context = browser.new_context(viewport={"width": width, "height": 800}, offline=True, **options)
        if script:
            context.add_init_script(script)
        seen = Visit(context.new_page(), files[name])
        seen.tab.set_default_timeout(60_000)
        seen.tab.on("console", lambda message: seen.said.append(f"{message.type}: {message.text}"))
        seen.tab.on("pageerror", lambda error: seen.said.append(str(error)))
        seen.tab.on("request", lambda request: seen.asked.append(request.url))
        seen.tab.on("dialog", lambda dialog: seen.said.append(f"dialog {dialog.message}"))
        opened.append((context, seen))
        return seen.go(view)

    yield visit
    for context, seen in opened:
        context.close()
        assert seen.said == []
        own = ("data:", "blob:")  # made by the page
        others = {url.partition("#")[0] for url in seen.asked if not url.startswith(own)} - {"about:blank"}
        assert others == {seen.file.as_uri()}
