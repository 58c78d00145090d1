"""The pictures of the README show what the models draw and what the leaderboard says today."""

import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

from tests import pictures

pytestmark = pytest.mark.slow


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(png)).convert("RGB")).astype(float)


def difference(one: bytes, other: bytes) -> float:
    """Mean absolute difference of two pictures, in gray levels."""
    return float(np.abs(pixels(one) - pixels(other)).mean())


def test_the_images_are_those_of_the_captions() -> None:
    """Up to the rounding of a processor: other seeds differ by 5 gray levels."""
    committed = (pictures.FOLDER / "captions.png").read_bytes()
    assert difference(committed, pictures.images_of_captions()) < 0.3


def test_the_screenshot_shows_the_rows_of_the_leaderboard(browser: Browser) -> None:
    """Its layout may be older: only what it says is compared."""
    committed = shown((pictures.FOLDER / "leaderboard.png").read_bytes())
    today = shown(pictures.leaderboard(browser))
    assert committed and committed == today[: len(committed)], "stale: run `make pictures`"


def shown(png: bytes) -> list[str]:
    """Rows of the leaderboard in a screenshot."""
    rows: list[str] = json.loads(Image.open(BytesIO(png)).info["rows"])
    return rows
