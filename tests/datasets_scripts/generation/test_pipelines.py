"""Where the compiled code of a build is kept."""

import os
from pathlib import Path

import pytest
import torch
from torch._inductor.runtime.cache_dir_utils import cache_dir

from datasets_scripts.generation.pipelines import compile_cache


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)


def test_compiled_code_is_kept_in_the_folder_and_nowhere_else_afterwards(tmp_path: Path) -> None:
    before = cache_dir()
    os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)  # torch sets what it chose
    with compile_cache(tmp_path):
        torch._dynamo.reset()
        assert torch.compile(lambda x: x.sin() + 17)(torch.ones(3)) is not None
        assert any(tmp_path.rglob("*"))
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    assert Path(cache_dir()) != tmp_path and before


def test_a_place_that_the_environment_names_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    with compile_cache(tmp_path):
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"
