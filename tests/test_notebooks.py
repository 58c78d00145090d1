"""The notebooks of `examples/` run as they stand, and show what is committed.

The texts of all cells are compared, with decimals masked: these differ in their last digits between processors.
Pictures are not compared. After a change, `python -m tests.fixtures.notebooks` writes the outputs again.
"""

from pathlib import Path

import nbformat
import pytest

from tests.fixtures.notebooks import METADATA, NOTEBOOKS, ROOT, execute, texts


def committed(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "examples" / name, as_version=4)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_shows_what_is_committed(name: str, tmp_path: Path) -> None:
    before = sorted(path for path in (ROOT / "examples").rglob("*"))
    executed = execute(name, tmp_path)
    assert texts(executed) == texts(committed(name)), "run `python -m tests.fixtures.notebooks`, and look at the change"
    assert sorted(path for path in (ROOT / "examples").rglob("*")) == before, "the checkout is not written to"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_executed_in_order_and_names_no_machine(name: str) -> None:
    book = committed(name)
    assert book.metadata == METADATA
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not any(cell.metadata for cell in book.cells)
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs and not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs)


def test_there_is_a_notebook_for_each_kind_of_user() -> None:
    assert NOTEBOOKS == ["dataset.ipynb", "model.ipynb", "numbers.ipynb", "quickstart.ipynb"]


def test_texts_are_compared_without_decimals() -> None:
    cell = nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("stream", text="a  0.25\n-1.5e-10 7 of 8")])
    assert texts(nbformat.v4.new_notebook(cells=[cell])) == ["a # # 7 of 8"]
