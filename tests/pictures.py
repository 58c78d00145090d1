"""The pictures of the README: images of captions, and the first screen of the leaderboard of `results/`.

`make pictures` writes both to docs/images/; it needs Chromium. `test_pictures.py` fails if one of them is stale. The
picture of the main comparison is written by `synrep tables`.
"""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import Browser, sync_playwright

from benchmark.cli.main import app
from benchmark.reports import figures
from datasets_scripts import recipe
from datasets_scripts.scenes import renderer, trade_off
from tests.fixtures import browser as chromium

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "images"
CAPTIONS, DRAWN, GUIDANCE = 2, 5, 3.0
WIDTH, HEIGHT = 1200, 800
"""Size of the browser window in CSS pixels."""


def images_of_captions() -> bytes:
    """Return a PNG: one row per caption, a real (rendered) image and then images that the bundled model drew."""
    captions = trade_off.captions(CAPTIONS)
    model = recipe.find("toy").text_to_image
    rows = []
    for caption in captions:
        seeds = [recipe.seed_of("README", caption, index) for index in range(DRAWN)]
        drawn = [each.image for each in model([caption] * DRAWN, seeds, [GUIDANCE] * DRAWN)]
        rows.append([renderer.render(caption, seeds[0]).image, *drawn])
    return figures.draw(lambda: _figure(captions, rows))["png"]


def _figure(captions: Sequence[str], rows: Sequence[Sequence[np.ndarray]]) -> Figure:
    """Return a figure with one row per caption; the first image of a row stands apart."""
    figure = Figure(figsize=(6, 1.19 * len(captions) + 0.15))
    grid = figure.subplots(len(captions), DRAWN + 2, width_ratios=[1, 0.1] + [1] * DRAWN)
    figure.subplots_adjust(0.01, 0.01, 0.99, 1 - 0.38 / figure.get_figheight(), wspace=0.05, hspace=0.24)
    for caption, images, axes in zip(captions, rows, grid, strict=True):
        axes[0].set_title(f"“{caption}”", fontsize=8, loc="left")
        for ax in axes:
            ax.axis("off")
        for ax, image in zip([axes[0], *axes[2:]], images, strict=True):
            ax.imshow(image, interpolation="bicubic")
    top = 1 - 0.13 / figure.get_figheight()
    for ax, text in ((grid[0, 0], "real (rendered)"), (grid[0, 2], "synthetic (drawn by the bundled model)")):
        figure.text(ax.get_position().x0, top, text, fontsize=8, weight="bold")
    return figure


def leaderboard(browser: Browser) -> bytes:
    """Return a screenshot of the leaderboard. Its text chunk `rows` has the rows that it shows, as JSON."""
    with TemporaryDirectory() as folder:
        app(["site", "--out", folder], standalone_mode=False)
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=1.5)
        tab.goto((Path(folder) / "index.html").as_uri())
        tab.wait_for_selector("html[data-ready]")
        shown = [row for row in tab.locator("#table tbody tr").all() if _bottom(row.bounding_box()) <= HEIGHT]
        rows = [row.inner_text() for row in shown]
        screenshot = tab.screenshot()
        tab.close()
    information, picture = PngInfo(), io.BytesIO()
    information.add_itxt("rows", json.dumps(rows))
    # A palette of 128 colors halves the file; the page has few.
    Image.open(io.BytesIO(screenshot)).convert("RGB").quantize(128).save(picture, "png", pnginfo=information)
    return picture.getvalue()


def _bottom(box: dict[str, float]) -> float:
    return box["y"] + box["height"]


def main() -> None:
    """Write the pictures.

    Raises:
        SystemExit: no browser is installed.
    """
    if (found := chromium.path()) is None:
        sys.exit(f"no browser found: expected one of {', '.join(chromium.NAMES)}")
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "captions.png").write_bytes(images_of_captions())
    with sync_playwright() as play, play.chromium.launch(executable_path=found, args=["--no-sandbox"]) as browser:
        (FOLDER / "leaderboard.png").write_bytes(leaderboard(browser))


if __name__ == "__main__":
    main()
