"""Shared fixtures: single-threaded, offline tests, and two small datasets built by the real builder."""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # before torch, BLAS and datasets are imported

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from threadpoolctl import threadpool_limits

from benchmark import schema
from benchmark.training.dataset import CaptionImageDataset
from datasets_scripts.building.build import build
from tests.fixtures import browser as chromium
from tests.fixtures.small_datasets import NUMBERED, RECIPE

if TYPE_CHECKING:
    from playwright.sync_api import Browser

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of `tests.fixtures.small_datasets.RECIPE`, built once; treat it as read-only."""
    return build(RECIPE, tmp_path_factory.mktemp("data"), [""], lambda *_: None)


@pytest.fixture
def small_data(small_dataset: Path) -> CaptionImageDataset:
    """The small dataset, opened for training."""
    return CaptionImageDataset(small_dataset, RECIPE.revision)


@pytest.fixture(scope="session")
def numbered_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of `tests.fixtures.small_datasets.NUMBERED`, in three Parquet files; treat it as read-only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "SHARD_CAPTIONS", 64)
        return build(NUMBERED, tmp_path_factory.mktemp("data"), [""], lambda *_: None)


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Chromium, opened once per process: Playwright cannot run twice in one."""
    from playwright.sync_api import sync_playwright

    if (found := chromium.path()) is None:
        pytest.skip(f"no browser found: expected one of {', '.join(chromium.NAMES)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()
