"""Completion in the shell, driven as bash, zsh and fish do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark import evaluations, experiments, plugins
from benchmark.cli import names
from benchmark.errors import UserError
from datasets_scripts import recipe
from tests.cli.test_main import HEAVY, REPOSITORY, SYNREP, imported


def complete(line: str, folder: Path = REPOSITORY) -> list[str]:
    """The answer to Tab at the end of a line of bash."""
    words = line.split(" ")
    return ask("complete_bash", folder, COMP_WORDS=line, COMP_CWORD=str(len(words) - 1)).stdout.split()


def ask(instruction: str, folder: Path = REPOSITORY, **variables: str) -> subprocess.CompletedProcess[str]:
    """The command with the variables of a completion script; its imports are on standard error."""
    command = [sys.executable, "-X", "importtime", SYNREP]
    env = os.environ | {"_SYNREP_COMPLETE": instruction} | variables
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
    assert "typer" in imported(done.stderr) and imported(done.stderr).isdisjoint(
        set(HEAVY) - {"huggingface_hub"}  # recipes import its light part
    ), "Tab waits for no import"
    return done


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("synrep da", ["data"]),
        ("synrep data con", ["contact-sheet"]),
        ("synrep run smoke --only stable", ["stablerep", "stablerep_plus"]),
        ("synrep run demo --pl", ["--plan"]),
        ("synrep run language-s", ["language-smoke", "language-small"]),
        ("synrep check-method moc", ["mocov3"]),
        ("synrep data build toy scenes-", ["scenes-evaluation"]),
        ("synrep data estimate cc12m-10", ["cc12m-10k", "cc12m-100k"]),
        ("synrep data captions red", ["redcaps", "redcaps-real"]),
        ("synrep data download flo", ["flowers", "flowers-mteb"]),
        ("synrep episodes cifar", ["cifar10", "cifar100"]),
        ("synrep evaluate op", ["open_clip:"]),
        ("synrep evaluate pixels --evaluation few", ["few_shot"]),
        ("synrep evaluate pixels --evaluation few_shot --preset ", ["lgssl", "ssl-transfer"]),
        ("synrep evaluate pixels --datasets digits,cifar", ["digits,cifar10", "digits,cifar100"]),
        ("synrep compare pretrained/pix", ["pretrained/pixels-16"]),
        ("synrep report pretrained/pix", ["pretrained/pixels-16"]),
    ],
)
def test_names_are_completed(line: str, expected: list[str]) -> None:
    assert complete(line) == expected


@pytest.mark.slow
def test_records_are_completed_from_the_chosen_folder(tmp_path: Path) -> None:
    (tmp_path / "mine/first/method").mkdir(parents=True)
    (tmp_path / "mine/notes.txt").write_text("")
    assert complete("synrep compare --records mine f", tmp_path) == ["first/method"]
    assert complete("synrep compare f", tmp_path) == [], "without records, nothing fails"


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_complete_too(shell: str) -> None:
    variables = {"_TYPER_COMPLETE_ARGS": "synrep check-method moc", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    assert "mocov3" in ask(f"complete_{shell}", **variables).stdout


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_shown_and_installed(shell: str, tmp_path: Path) -> None:
    env = os.environ | {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    for option in ("--show-completion", "--install-completion"):
        command = [SYNREP, option, shell]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and shell in done.stdout + str(list(tmp_path.rglob("*")))
    assert any("_SYNREP_COMPLETE" in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


def test_every_experiment_that_is_completed_exists() -> None:
    completed = names.experiments()
    assert {name.partition("-")[0] for name in completed} == set(plugins.names("benchmark.experiments"))
    for name in completed:
        assert experiments.find(name)


def test_every_recipe_that_is_completed_exists() -> None:
    for name in set(names.sized_recipes()) - {names.SCENES_EVALUATION}:
        try:
            assert recipe.find(name)
        except UserError as error:
            assert "captions" in str(error)


@pytest.mark.parametrize("name", plugins.names("benchmark.evaluations"))
def test_presets_read_from_the_source_are_those_of_the_evaluation(name: str) -> None:
    assert names.presets_of(name) == set(evaluations.presets(name))
