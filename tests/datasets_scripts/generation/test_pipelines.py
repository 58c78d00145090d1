"""Where the compiled code of a build is kept."""

import os
from pathlib import Path

import pytest
import torch
from torch._inductor.runtime.cache_dir_utils import cache_dir

from datasets_scripts.generation import pipelines
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


def test_unlike_nodes_have_subfolders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clock and number of processors may differ, the model and what it can do may not; likewise for GPUs."""
    processor, gpus = tmp_path / "cpuinfo", tmp_path / "gpus"
    monkeypatch.setattr(pipelines, "PROCESSORS", processor)
    monkeypatch.setattr(pipelines, "GPUS", gpus)

    def place(model: str, mhz: int, flags: str, gpu: str = "", count: int = 1) -> str:
        one = f"model name\t: {model}\ncpu MHz\t\t: {mhz}\nflags\t\t: {flags}\n"
        processor.write_text(one * count)
        if gpu:
            (gpus / "0000:01").mkdir(parents=True, exist_ok=True)
            (gpus / "0000:01" / "information").write_text(f"Model: \t\t {gpu}\nIRQ:   17\n")
        with compile_cache(tmp_path / "compiled"):
            return os.environ["TORCHINDUCTOR_CACHE_DIR"]

    first = place("EPYC 7", 2000, "avx2")
    assert Path(first).parent == tmp_path / "compiled"
    assert place("EPYC 7", 2100, "avx2", count=4) == first
    assert len({first, place("EPYC 9", 2000, "avx2"), place("EPYC 7", 2000, "avx2 avx512f")}) == 3
    assert len({first, place("EPYC 7", 2000, "avx2", "H100"), place("EPYC 7", 2000, "avx2", "H200")}) == 3


def test_a_place_that_the_environment_names_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    with compile_cache(tmp_path):
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/elsewhere"
