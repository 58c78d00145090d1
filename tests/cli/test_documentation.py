"""`docs/guide/command-line.md`, the help and the first screen say what the command does."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from benchmark.cli import main, welcome
from tests.cli.test_main import REPOSITORY, Synrep, assert_one_line, commands, synrep

__all__ = ["synrep"]

TEXT = (REPOSITORY / "docs/guide/command-line.md").read_text()


def test_a_bare_synrep_shows_three_ways_in(synrep: Synrep) -> None:
    code, shown, error = synrep()
    assert (code, error) == (0, "")
    assert shown == welcome.WELCOME + "\n" == synrep("--quiet")[1]
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert [line.split(".")[0] for line in shown.splitlines() if line.startswith("You ")] == [
        "You want a dataset",
        "You have a model",
        "You want the numbers",
    ]
    known = {path for path, _ in commands(typer.main.get_command(main.app))}
    lines = [line.split() for line in shown.splitlines() if line.startswith("  synrep ")]
    assert len(lines) == 8
    first = next(words for words in lines if words[1] == "evaluate")
    assert first == ["synrep", "evaluate", "pixels", "--datasets", "digits"], "it needs no download"
    for words in lines:
        assert " ".join(words[:3] if words[1] == "data" else words[:2]) in known
    assert "synrep --help" in shown and "synrep doctor" in shown


def test_the_help_groups_the_commands_and_names_the_exit_codes(synrep: Synrep) -> None:
    code, shown, _ = synrep("--help")
    assert code == 0
    places = [shown.index(f" {panel} ") for panel in main.PANELS]
    assert places == sorted(places)
    for exit_code in ("0    done", "1    ", "2    ", "130  stopped"):
        assert exit_code in shown
    assert "--install-completion" in shown


def test_every_command_is_in_the_table() -> None:
    listed = re.findall(r"^\| `(synrep [a-z -]+)` \|", TEXT, re.MULTILINE)
    assert sorted(listed) == sorted(path for path, _ in commands(typer.main.get_command(main.app)))


def examples() -> dict[str, dict[str, Any]]:
    """The commands with `--json` and the documents below them."""
    found = re.findall(r"^`synrep ([^`]+--json)`[^`]*```json\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return {words: json.loads(document) for words, document in found}


def shape(value: Any) -> Any:
    """The keys of a document, those of the first entry of a list, and the kind of each value."""
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


@pytest.mark.slow
@pytest.mark.parametrize("command", ["data estimate", "run", "compare"])
def test_the_examples_have_the_keys_of_the_documents(
    command: str, synrep: Synrep, two_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where no dataset is
    ((words, document),) = [(words, one) for words, one in examples().items() if words.startswith(command)]
    more = ("--records", two_models) if command == "compare" else ()
    code, shown, error = synrep(*words.split(), *more)
    assert (code, error) == (0, "")
    found = json.loads(shown)
    if command == "data estimate":
        found["machines"] = [machine for machine in found["machines"] if machine["machine"] == "A100"]
    if command == "compare":
        found["differences"] = found["differences"][:1]
        assert shape(found) == shape(document)
    else:
        assert found == document


def test_list_is_documented_with_all_its_keys(synrep: Synrep) -> None:
    found = json.loads(synrep("list", "--json")[1])
    (example,) = [one for words, one in examples().items() if words.startswith("list")]
    for key, listed in example.items():
        assert set(listed) <= set(found[key]), "those of the page; a plug-in may be new"
    for key in found.keys() - example.keys():
        assert f"`{key}`" in TEXT


def test_the_exit_code_of_each_kind_of_end(synrep: Synrep, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [synrep(*words)[0] for words in ([], ["list"], ["--version"], ["run", "--help"])] == [0, 0, 0, 0]
    assert_one_line(synrep("nosuch"))

    def stopped(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "app", stopped)
    code, shown, error = synrep("run", "smoke")
    assert (code, shown) == (130, "")
    assert error == "synrep: interrupted; finished work is saved; resume with: synrep run smoke\n"
    for code in ("0", "1", "2", "130"):
        assert re.search(rf"^\| {code} \|", TEXT, re.MULTILINE)
