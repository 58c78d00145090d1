"""Every command that a document shows is one; those for the three kinds of users are executed as they stand."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
import yaml

from benchmark.cli import main
from benchmark.records import store
from tests.cli.test_main import SYNREP, Synrep, synrep
from tests.fixtures.fake_hub import Hub
from tests.release.test_encoder import finished, hub, pushed, run

__all__ = ["finished", "hub", "pushed", "run", "synrep"]

ROOT = Path(__file__).parents[1]
FENCED = re.DOTALL | re.MULTILINE
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "results/README.md", *PAGES)
MODELS = (
    "main-smoke-scenes-1x/stablerep_plus-syn/3/0",
    "main-smoke-scenes-1x/clip-syn/3/0",
    "main-smoke-scenes-1x/clip-syn/3/1",
)


def shown(text: str) -> Iterator[str]:
    """The commands in a text's code blocks, without what explains them."""
    blocks = re.findall(r"^ *```(\w*)\n(.*?)^ *```", text, FENCED)
    for block in (block for language, block in blocks if language in {"", "sh", "bash"}):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.split(r"\s+#|;", line.strip())[0]
            if command.startswith("synrep "):
                yield command


def inline(text: str) -> Iterator[str]:
    """Commands in the middle of a sentence."""
    yield from (" ".join(found.split()) for found in re.findall(r"`(synrep [^`]+)`", text))


def words_of(command: str) -> list[list[str]]:
    """The words of a command; several where it stands for several, explained after two spaces."""
    if "|" in command:
        before, *others = re.split(r" +\| +", re.split(r" {2,}(?!\|)", command)[0])
        start, last = before.rsplit(" ", 1)
        return [[*shlex.split(start)[1:], name.split()[0], "?"] for name in (last, *others)]
    return [shlex.split(re.split(r" {2,}", command)[0] if not re.search(r" {2,}--", command) else command)[1:]]


def parsed(words: list[str]) -> None:
    """Fails where the command line has no such command or option."""
    command = typer.main.get_command(main.app)
    context = command.make_context("synrep", ["list"])
    while hasattr(command, "commands"):
        command, words = command.get_command(context, words[0]) or pytest.fail(f"no command {words}"), words[1:]  # type: ignore[attr-defined]
    if words != ["?"]:
        command.make_context("synrep", list(words), parent=context)


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_in_a_code_block_has_the_words_that_the_command_line_knows(document: str) -> None:
    for command in shown((ROOT / document).read_text()):
        for words in words_of(command):
            parsed(words)


def test_documents_show_commands() -> None:
    shows = {document for document in DOCUMENTS if list(shown((ROOT / document).read_text()))}
    guide = ("datasets", "evaluation", "results", "scenes", "training")
    assert {"README.md", "docs/index.md", "docs/faq.md", *(f"docs/guide/{page}.md" for page in guide)} <= shows


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_in_a_sentence_exists(document: str) -> None:
    for command in inline((ROOT / document).read_text()):
        for words in words_of(command):
            options = [word.partition("=")[0] for word in words if word.startswith("--")]
            names = [word for word in words if re.fullmatch(r"[a-z][a-z_-]*", word)][:2]
            found = typer.main.get_command(main.app)
            while hasattr(found, "commands") and names:
                found = found.commands.get(names.pop(0)) or pytest.fail(f"{document}: no command {command!r}")
            known = {option for parameter in found.params for option in parameter.opts}
            assert set(options) <= known | {"--help"}, f"{document}: {command}"


def test_a_command_that_is_none_is_found() -> None:
    for wrong in ("tables --chek", "sight", "data bild toy", "site --out", "results pull"):
        with pytest.raises((Exception, pytest.fail.Exception)):
            parsed(wrong.split())
    text = "```\nsynrep a --b  # c\nsynrep d \\\n  --e\n```\n`synrep f\ng` and\n```python\nsynrep h\n```"
    assert list(shown(text)) == ["synrep a --b", "synrep d    --e"]
    assert list(inline("`synrep f\ng` and")) == ["synrep f g"]
    assert words_of("synrep data a | b | c") == [["data", "a", "?"], ["data", "b", "?"], ["data", "c", "?"]]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a fresh clone has it: some of the committed results."""
    for kind in ("records", "predictions"):
        for model in MODELS:
            shutil.copytree(ROOT / "results" / kind / model, tmp_path / "clone/results" / kind / model)
    monkeypatch.chdir(tmp_path / "clone")
    return tmp_path / "clone"


def section(document: str, title: str = "") -> list[str]:
    """The commands of a document, or of one of its sections."""
    text = (ROOT / document).read_text()
    return list(shown(text.split(f"\n## {title}\n")[1].split("\n## ")[0] if title else text))


@pytest.fixture
def executed(synrep: Synrep, hub: Hub, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Executes commands; what each printed. Those with a model of the Hub in a process that knows only that Hub."""

    def call(commands: list[str], **values: str) -> dict[str, str]:
        printed = {}
        for command in commands:
            (words,) = words_of(command)
            filled = [word.replace("<commit>", values.get(word.partition("@")[0], values["commit"])) for word in words]
            if any(word.startswith("hub:") for word in filled):
                env = hub.environment(tmp_path / "home")
                ran = subprocess.run([SYNREP, *filled], env=env, capture_output=True, text=True, check=False)
                code, out, error = ran.returncode, ran.stdout, ran.stderr
            else:
                code, out, error = synrep(*filled)
            assert code == 0, f"{command}: {error}"
            printed[command] = out
        return printed

    return call


@pytest.mark.slow
def test_the_three_ways_of_the_readme(
    checkout: Path,
    hub: Hub,
    run: Path,
    pushed: Callable[..., str],
    small_dataset: Path,
    synrep: Synrep,
    executed: Callable[..., dict[str, str]],
) -> None:
    """In their order: a dataset from the Hub, a model of the Hub measured and submitted, the tables and the page."""
    model = pushed(run, "me/my-encoder")
    assert synrep("data", "publish", small_dataset, "--repo", "me/cc3m-10k")[0] == 0
    commands = section("README.md", "Three ways in")
    assert [command.split()[1] for command in commands] == [
        "data", "data", "evaluate", "tables", "validate", "submit", "validate", "tables", "site",
    ]  # fmt: skip
    printed = executed(commands, commit=hub.repo("me/cc3m-10k").refs["main"], **{"hub:me/my-encoder": model})
    assert (checkout / "data/me/cc3m-10k").is_dir()
    measured = store.read_all(checkout / "runs/records")
    assert {record.evaluation.name for record in measured} == {"linear_probe", "few_shot"}
    assert printed["synrep validate runs"].startswith("runs/records: 2 valid records, scored again from 2")
    assert len(store.read_all(checkout / "results/records")) == 8 * len(MODELS) + 2, "submitted to this checkout"
    tables = checkout / "results/tables"
    assert "StableRep+" in printed["synrep tables"], "the summary of the main comparison"
    assert (tables / "main-smoke-scenes-1x/linear_probe.synclr.md").is_file()
    assert (tables / "pretrained/few_shot.ssl-transfer.md").is_file()
    assert (checkout / "site/index.html").read_text().startswith("<!doctype html>")


@pytest.mark.slow
def test_the_commands_about_results(checkout: Path, hub: Hub, executed: Callable[..., dict[str, str]]) -> None:
    """As they stand, for somebody whose colleague has pushed records before."""
    push = "synrep results push me/records"
    commands = section("docs/guide/results.md")
    assert push in commands
    shutil.move(checkout / "results/records/main-smoke-scenes-1x/clip-syn/3/1", checkout / "record")
    shutil.move(checkout / "results/predictions/main-smoke-scenes-1x/clip-syn/3/1", checkout / "predictions")
    executed([push], commit="")
    shutil.move(checkout / "record", checkout / "results/records/main-smoke-scenes-1x/clip-syn/3/1")
    shutil.move(checkout / "predictions", checkout / "results/predictions/main-smoke-scenes-1x/clip-syn/3/1")
    shutil.rmtree(checkout / "results/records/main-smoke-scenes-1x/stablerep_plus-syn")
    shutil.rmtree(checkout / "results/predictions/main-smoke-scenes-1x/stablerep_plus-syn")
    printed = executed(commands, commit="")
    assert "main-smoke-scenes-1x" in printed["synrep tables --check"]
    assert len(store.read_all(checkout / "results/records")) == 8 * len(MODELS), "pulled"
    there = [
        path for path in hub.repo("me/records").revisions[hub.repo("me/records").refs["main"]] if "records/" in path
    ]
    assert len(there) == 8 * len(MODELS), "pushed"


def test_the_bibtex_entries_are_those_of_the_citation_file() -> None:
    (entries,) = re.findall(r"^```bibtex\n(.*?)^```", (ROOT / "docs/index.md").read_text(), FENCED)
    suite, paper = re.findall(r"^@(.*?)^}$", entries, FENCED)
    own = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    (cited,) = own["references"]
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in cited["authors"])
    wanted = (own["title"], f"{{{own['authors'][0]['name']}}}", own["version"])
    assert [value for value in wanted if f" = {{{value}}}," not in suite] == []
    wanted = (cited["title"], authors, cited["collection-title"], cited["year"], cited["url"])
    assert [value for value in wanted if f" = {{{value}}}," not in paper] == []


@pytest.mark.slow
def test_the_types_of_the_examples_are_right(tmp_path: Path) -> None:
    """Each Python block that begins with the path of its file, by the type checker of the project."""
    files = []
    for document in DOCUMENTS:
        for number, block in enumerate(
            re.findall(r"^```python\n(# \w+/.*?)^```", (ROOT / document).read_text(), FENCED)
        ):
            name = re.sub(r"\W", "_", document)
            files.append(tmp_path / f"{name}_{number}.py")
            files[-1].write_text(block)
    assert len(files) >= 6
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), *map(str, files)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
