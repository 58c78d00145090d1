"""Tests of the command depend on no duration: a task never takes long enough for a plain line of progress."""

import shutil
from math import inf
from pathlib import Path

import pytest

from benchmark.cli import display

RESULTS = Path(__file__).parents[2] / "results"


@pytest.fixture(autouse=True)
def _no_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "LINE_INTERVAL", inf)


@pytest.fixture
def two_models(tmp_path: Path) -> Path:
    """Folder with the committed records of two models, and beside it their predictions."""
    for model in ("main-smoke-scenes-1x/simclr-syn", "pretrained/pixels-16"):
        for kind in ("records", "predictions"):
            shutil.copytree(RESULTS / kind / model, tmp_path / "two" / kind / model)
    return tmp_path / "two/records"
