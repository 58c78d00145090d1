"""The documentation site: a strict build, no dead link, nothing loaded from elsewhere, accessible in a real browser."""

import functools
import http.server
import re
import textwrap
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort
from playwright.sync_api import Browser
from playwright.sync_api import Page as Tab

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
KINDS = (
    "index.html", "guide/training.html", "results/index.html", "reference/hub.html", "architecture.html",
    "faq.html", "CHANGELOG.html", "404.html",
)  # fmt: skip
"""One page of each kind."""
LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
"""Tag -> its attribute with an address that a browser loads."""


def built(config: Path, site: Path) -> Path:
    """Build the site of a configuration into a folder."""
    build(load_config(str(config), site_dir=str(site)))
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site; a warning fails the build."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return built(ROOT / "mkdocs.yml", tmp_path_factory.mktemp("site"))


class Html(HTMLParser):
    """Addresses, anchors and pictures of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.pictures: list[str] = []
        self.nameless: list[str] = []
        self.title = ""
        text = path.read_text()
        self.feed(text)
        if titled := re.search("<title>(.*?)</title>", text):
            self.title = titled[1].removesuffix(" - SynRep-Bench")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag refers to."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if values.get(LOADS.get(tag, ""), "") and values.get("rel") not in {"prev", "next", "canonical"}:
            self.loads.append(values[LOADS[tag]])
        if tag == "img":
            self.pictures.append(values.get("src", ""))
        if tag == "img" and not values.get("alt", "").strip():
            self.nameless.append(values.get("src", ""))


def faults(site: Path) -> list[str]:
    """Return dead links and fragments, pictures without a text, and addresses on other hosts that pages load."""
    pages = {path: Html(path) for path in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site)
        found += [f"{name}: no text for {source}" for source in page.nameless]
        for address in (*page.links, *page.loads):
            url = urlsplit(address)
            if url.scheme or url.netloc:
                found += [f"{name} loads {address}"] if address in page.loads and url.scheme != "data" else []
                continue
            start = site if url.path.startswith("/") else path.parent
            target = (start / unquote(url.path).lstrip("/")).resolve() if url.path else path
            target = target / "index.html" if target.is_dir() else target
            anchors = pages[target].anchors if target in pages else set()
            if not target.is_file() or (url.fragment and target in pages and unquote(url.fragment) not in anchors):
                found.append(f"{name} leads to {address}")
    for path in site.rglob("*.css"):
        remote = re.findall(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')]+)", path.read_text())
        found += [f"{path.relative_to(site)} loads {address}" for address in remote]
    return found


def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    assert len(list(site.rglob("*.html"))) > 15
    assert faults(site) == []


def test_tabs_have_names_of_their_own(site: Path) -> None:
    pages = {path.relative_to(site).as_posix(): Html(path).title for path in site.rglob("*.html")}
    del pages["404.html"]  # has the name of the site
    assert len(set(pages.values())) == len(pages)
    assert (pages["examples/model_card.html"], pages["results/index.html"]) == ("Model card", "Results")


def test_pictures_lead_to_their_files_and_plain_urls_are_links(site: Path) -> None:
    pages = [Html(path) for path in site.rglob("*.html")]
    pictures = [(link, page) for page in pages for link in page.pictures]
    assert len(pictures) > 10 and [link for link, page in pictures if link not in page.links] == []
    page = Html(site / "protocols/index.html")
    assert "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz" in page.links


def test_faults_of_a_site_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text("@import 'https://x.org/f.css'; a { background: url(//x.org/p.png) }")
    (tmp_path / "a.html").write_text(
        '<h1 id="one">1</h1><a href="#one"></a><a href="#two"></a><a href="b.html"></a><a href="https://x.org"></a>'
        '<script src="https://x.org/s.js"></script><link rel="stylesheet" href="a.css"><img src="a.css">'
    )
    assert sorted(faults(tmp_path)) == [
        "a.css loads //x.org/p.png",
        "a.css loads https://x.org/f.css",
        "a.html leads to #two",
        "a.html leads to b.html",
        "a.html loads https://x.org/s.js",
        "a.html: no text for a.css",
    ]


@pytest.mark.parametrize(
    ("text", "sound"),
    [
        ("[a](guide/b.md#one) ![c](../results/c.png) [d](../LICENSE) `x` [*e*](../CONTRIBUTING.md)", True),
        ("[a](guide/none.md)", False),
        ("[a](guide/b.md#none)", False),
        ("![a](../results/none.png)", False),
        ("```\n[a](guide/none.md)\n```", True),
    ],
)
def test_links_are_those_of_the_repository(tmp_path: Path, text: str, sound: bool) -> None:
    """A page is linked, a picture copied, another file named; a link that leads nowhere fails the build."""
    pages = ("CHANGELOG.md", "CONTRIBUTING.md", "results/README.md")
    for name in ("docs/guide/b.md", "results/c.png", "LICENSE", *pages):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("# One\n")
    (tmp_path / "docs/index.md").write_text(f"# Home\n\n{text}\n")
    nav = f"[index.md, {', '.join(pages)}, guide/, none/]"
    (tmp_path / "docs/hooks.py").write_text((ROOT / "docs/hooks.py").read_text())
    config = f"""
        site_name: x
        strict: true
        use_directory_urls: false
        nav: {nav}
        hooks: [docs/hooks.py]
        exclude_docs: hooks.py
        validation: {{links: {{anchors: warn}}}}
    """
    (tmp_path / "mkdocs.yml").write_text(textwrap.dedent(config))
    if not sound:
        with pytest.raises(Abort):
            built(tmp_path / "mkdocs.yml", tmp_path / "site")
        return
    page = Html(built(tmp_path / "mkdocs.yml", tmp_path / "site") / "index.html")
    if "LICENSE" in text:
        assert {"guide/b.html#one", "CONTRIBUTING.html"} <= set(page.links)
        assert "results/c.png" in page.loads and (tmp_path / "site/results/c.png").is_file()
        assert not any("LICENSE" in link for link in page.links)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server without a log."""

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The address of the site on a server of this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host, port = str(server.server_address[0]), server.server_port
    yield f"http://{host}:{port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(params=[("light", 1280), ("dark", 390)], ids=["light-wide", "dark-phone"])
def tab(request: pytest.FixtureRequest, browser: Browser, address: str) -> Iterator[Tab]:
    """A tab in a theme and of a width. Afterwards there must be no message and no request to another host."""
    scheme, width = request.param
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce", base_url=address
    )
    tab = context.new_page()
    tab.set_default_timeout(60_000)
    said: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    yield tab
    context.close()
    assert said == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


@pytest.mark.parametrize("page", KINDS)
def test_a_page_is_accessible_and_as_wide_as_its_window(tab: Tab, page: str) -> None:
    tab.goto(page)
    tab.wait_for_load_state("networkidle")
    scheme = tab.evaluate("document.body.dataset.mdColorScheme")
    assert scheme == ("slate" if tab.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") else "default")
    assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert Axe().run(tab).response["violations"] == []


def test_no_section_of_the_menu_lists_its_own_name(site: Path) -> None:
    """The first page of a section is the link of its title."""
    text = (site / "results/index.html").read_text()
    sections = re.findall(r'<nav class="md-nav"[^>]*aria-labelledby.*?</nav>', text, re.DOTALL)
    shown = [re.findall(r"^\s*(\w.*?)\s*$", re.sub("<[^>]*>", "\n", section), re.MULTILINE) for section in sections]
    assert [names[0] for names in shown] == ["Guide", "How to", "Protocols", "Results", "Reference", "Background"]
    assert [names for names in shown if names[0] in names[1:]] == []


def test_the_site_is_found_by_its_menu_and_its_search(tab: Tab) -> None:
    tab.goto("index.html")
    if tab.viewport_size == {"width": 390, "height": 800}:
        tab.locator(".md-header label[for=__drawer]").click()
        tab.locator(".md-nav--primary").get_by_text("Background", exact=True).first.click()
    else:
        tab.locator(".md-tabs").get_by_role("link", name="Background").click()
    tab.locator(".md-nav--primary").get_by_role("link", name="Glossary").click()
    tab.get_by_role("heading", name="Glossary").wait_for()
    if tab.viewport_size == {"width": 390, "height": 800}:
        tab.locator(".md-header__button[for=__search]").click()
    tab.get_by_placeholder("Search").press_sequentially("provenance")  # the theme listens to keys
    tab.locator(".md-search-result__item").first.wait_for()
