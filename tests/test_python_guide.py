"""Every example of docs/guide/python.md runs in the order of the page, and its file has the right types."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datasets_scripts import recipe
from datasets_scripts.building.build import build
from datasets_scripts.scenes import renderer

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/guide/python.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
FILES = [block for block in BLOCKS if block.startswith("# my_project/")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the results of this checkout and a dataset, which is rendered to save the time of drawing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYNREP_DATA", raising=False)
    (tmp_path / "results").symlink_to(ROOT / "results")
    rendered = replace(recipe.find("toy-12-l4"), text_to_image=renderer.Scenes())
    build(rendered, tmp_path / "data", [""], lambda *_: None)
    return tmp_path


@pytest.mark.slow
def test_every_example_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for block in BLOCKS:
        if block not in FILES:
            exec(compile(block, "docs/guide/python.md", "exec"), names)
    shown = capsys.readouterr().out
    assert shown.count("torch.Size([24, 3, 64, 64])") == 2, "two batches of 6 captions, 2 images and 2 crops"
    assert "run `synrep data download cifar10`" in shown
    assert (folder / "comparison.svg").is_file() and (folder / "trade_off.svg").is_file()
    module: dict[str, Any] = {}
    exec(compile(FILES[0], "measure.py", "exec"), module)
    assert module["accuracy"](names["model"], 16).n == 600
    assert not module["is_better"](names["scores"], names["pixels"])
    with pytest.raises(names["api"].UserError, match="the method needs 6 images per caption"):
        module["views"]("toy-12-l4", 2)


@pytest.mark.slow
def test_a_project_that_uses_the_interface_has_the_right_types(tmp_path: Path) -> None:
    (file,) = FILES
    wrong = 'from benchmark import api\n\nx: str = api.evaluate("pixels", "knn")["digits"]\napi.compare("a", 3)\n'
    for name, text in (("measure", file), ("wrong", wrong)):
        (tmp_path / f"{name}.py").write_text(text)
    files = [str(tmp_path / "measure.py"), str(tmp_path / "wrong.py")]
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), *files]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    errors = [line for line in ran.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 2 and all("wrong.py" in line for line in errors), ran.stdout
