"""The `synrep` command as a user meets it: what it prints, how it fails, and how it goes on."""

import importlib
import math
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from safetensors import safe_open

import baselines
from benchmark import experiments, plugins
from benchmark.analysis.paired import PairedComparisons
from benchmark.cli import main
from benchmark.cli.commands import SHARED
from benchmark.records import store
from benchmark.training.dataset import CaptionImageDataset
from datasets_scripts import recipe
from datasets_scripts.captions import sources
from tests.fixtures.runs import experiment, metrics, train_here
from tests.reports.tables.conftest import measured, record

REPOSITORY = Path(__file__).parents[2]
SYNREP = Path(sys.executable).with_name("synrep")
METHODS = f"choose one of: {', '.join(plugins.names('baselines'))}"
EXPERIMENTS = f"choose one of: {', '.join(plugins.names('benchmark.experiments'))}"

Synrep = Callable[..., tuple[int, str, str]]


@pytest.fixture
def synrep(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Synrep]:
    """Calls the command in this process, which has torch already; returns exit code, output and error."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["synrep", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main.main()
        return int(end.value.code or 0), *capsys.readouterr()

    before = signal.getsignal(signal.SIGTERM)
    yield call
    signal.signal(signal.SIGTERM, before)


def assert_one_line(answer: tuple[int, str, str], *words: str) -> None:
    """The command failed as it should: exit code 2, and a single line with these words."""
    assert answer[0] == 2, answer
    assert_last_words(answer[2], *words)


def assert_last_words(error: str, *words: str) -> None:
    """The command ended with a single line on standard error."""
    assert error.startswith("synrep: ")
    assert error.endswith("\n")
    assert error.count("\n") == 1, error
    for word in words:
        assert word in error


# Help


HEAVY = ("torch", "pandas", "sklearn", "datasets", "huggingface_hub", "timm", "matplotlib")


def imported(error: str) -> set[str]:
    """The top-level packages which `python -X importtime` lists."""
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in error.splitlines() if "import time:" in line}


@pytest.mark.slow
def test_help_imports_no_heavy_package() -> None:
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", SYNREP, "--help"], capture_output=True, text=True, check=True
    )
    assert "typer" in imported(ran.stderr)
    assert imported(ran.stderr).isdisjoint(HEAVY)
    assert all(command in ran.stdout for command in ("list", "run", "tables", "validate", "check-method", "data"))


@pytest.mark.slow
def test_help_imports_nothing_heavy() -> None:
    script = """
import sys
from benchmark.cli.main import main
for command in ([], ["run"], ["tables"], ["validate"], ["check-method"], ["list"], ["data"], ["data", "build"]):
    sys.argv = ["synrep", *command, "--help"]
    try:
        main()
    except SystemExit as end:
        assert not end.code, command
print("heavy:", {"torch", "numpy", "pyarrow", "datasets_scripts", "baselines"} & sys.modules.keys())
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "heavy: set()"


@pytest.mark.slow
def test_the_modules_of_tables_import_no_torch() -> None:
    script = """
import sys
from benchmark import plugins
from benchmark.reports import build
for package in (build.TABLES, build.PAPER_TABLES):
    for name in plugins.names(package):
        plugins.load(package, name, "table")
print("torch:", "torch" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "torch: False\n"


def commands(command: Any, path: str = "synrep") -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for name, part in command.commands.items():
            yield from commands(part, f"{path} {name}")
    else:
        yield path, command


@pytest.mark.parametrize(("path", "command"), list(commands(typer.main.get_command(main.app))))
def test_a_command_has_a_sentence_and_at_most_eight_options_each_explained(path: str, command: Any) -> None:
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    assert "quiet" in {option.name for option in options}
    assert len([option for option in options if option.name not in SHARED]) <= 8
    assert command.help
    for parameter in command.params:
        assert parameter.help, f"{path}: {parameter.name}"


# What is not known


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "nosuch",
            [
                "'nosuch'",
                "choose one of: list, doctor, run, evaluate, episodes, check-method, tables, compare, ",
            ],
        ),
        (
            "data nosuch",
            ["'nosuch'", "choose one of: captions, estimate, build, check, contact-sheet, publish, download, export"],
        ),
        (
            "data build nosuch",
            [
                "recipe 'nosuch'",
                f"choose one of: {', '.join(sorted(recipe.names()))}",
            ],
        ),
        ("data build toy nosuch", ["recipe 'nosuch'"]),
        ("data build toy-1000k", ["unknown variant '1000k' of recipe toy", "choose captions (10k, 100k, 1m, full, or"]),
        ("data build toy --share 3", ["expected --share RANK/WORLD_SIZE", "0/8", "found '3'"]),
        ("data build toy --share 8/8", ["expected --share RANK/WORLD_SIZE", "found '8/8'"]),
        ("data build toy --executor moon", ["--executor", "'local', 'slurm', 'ray'"]),
        ("data build toy --executor-arg partition=gpu", ["--executor-arg is for a cluster"]),
        ("data build toy --share 0/2 --workers 2", ["--workers is for a whole build"]),
        ("data build toy --share 0/2 --executor slurm", ["--share is for local builds"]),
        (
            "data build toy --executor slurm --executor-arg partition",
            ["expected --executor-arg NAME=VALUE", "'partition'"],
        ),
        ("data build cc3m-10k", ["captions of cc3m are not prepared", "run `synrep data captions cc3m`"]),
        ("data estimate cc4m", ["recipe 'cc4m'", "choose one of"]),
        (
            "data captions cc4m",
            [
                f"cc4m is not one of {', '.join(sources.sources())}",
                "--column",
            ],
        ),
        ("data captions nosuch.csv --column text", ["no file or folder nosuch.csv"]),
        ("data check nosuch", ["nosuch"]),
        ("data contact-sheet nosuch", ["nosuch"]),
        ("data publish nosuch", ["unknown recipe 'nosuch'"]),
        ("data download org/name", ["Missing option '--revision'"]),
        ("data download org/name --revision main", ["HF_HUB_OFFLINE=1"]),
        ("data export nosuch --to webdataset --out x", ["nosuch"]),
        ("data export nosuch --to tar --out x", ["--to", "'webdataset', 'imagefolder'"]),
        ("run nosuch", ["experiment 'nosuch'", EXPERIMENTS]),
        (
            "run main",
            ["experiment main needs a size, found none", "main-smoke, main-small, main-10k, main-100k, main-1m, "],
        ),
        ("run main-11k", ["experiment main needs a size, found '11k'", "choose one of: main-smoke"]),
        ("run smoke-10k", ["experiment 'smoke-10k'", EXPERIMENTS]),
        ("run ablations-smoke-x", ["comparison of experiment ablations-smoke 'ablations-smoke-x'", "-smoke-images, "]),
        ("run main-smoke-scenes-1x/simclr-sin", ["experiment of main-smoke-scenes-1x", "simclr-syn"]),
        ("run main-10k --only byol", ["method of experiment main-10k 'byol'", "choose one of"]),
        ("data captions cc3m-real", ["no folder data/originals/cc3m-wds", "put the tars of real images there"]),
        ("run smoke --only nosuch", ["method of experiment smoke 'nosuch'", METHODS]),
        ("run smoke --only simclr --only nosuch", ["'nosuch'", METHODS]),
        ("check-method nosuch", ["method 'nosuch'", METHODS]),
        ("check-method _private", ["method '_private'", METHODS]),
        ("run smoke --nosuch 3", ["--nosuch", "`synrep run`", "choose one of: --only, --seed, --out, --jobs"]),
        ("tables --nosuch", ["--nosuch", "choose one of: --records, --out, --check"]),
        ("--nosuch", ["--nosuch", "choose one of: list, doctor, run, evaluate"]),
        ("run", ["Missing argument 'experiment'", "see `synrep run --help`"]),
        ("run smoke --out", ["--out", "requires an argument"]),
        ("run smoke surplus", ["surplus", "see `synrep run --help`"]),
        ("run smoke --seed x", ["--seed", "integer"]),
        ("run smoke --seed -1", ["--seed", "greater than or equal to 0"]),
        ("run smoke --seed 4294967296", ["--seed", "less than or equal to 4294967295"]),
        ("run smoke --jobs 0", ["--jobs", "greater than or equal to 1"]),
    ],
)
def test_what_is_not_known_is_one_line_with_the_choices(
    words: str, said: list[str], synrep: Synrep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line(synrep(*words.split()), *said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_script_itself_fails_in_one_line() -> None:
    ran = subprocess.run([SYNREP, "check-method", "nosuch"], capture_output=True, text=True, check=False)
    assert ran.stdout == ""
    assert_one_line((ran.returncode, ran.stdout, ran.stderr), METHODS)


@pytest.mark.parametrize("words", ["data", "results", "-q data"])
def test_a_bare_group_shows_its_help_and_no_more(words: str, synrep: Synrep) -> None:
    code, shown, error = synrep(*words.split())
    assert (code, error) == (2, "")
    assert "Usage: synrep" in shown


def test_list_names_every_plug_in(synrep: Synrep) -> None:
    code, shown, _ = synrep("list")
    assert code == 0
    lines = dict(line.split(": ") for line in shown.splitlines())
    assert lines["methods"].split(", ") == plugins.names("baselines")
    assert lines["experiments"].split(", ") == plugins.names("benchmark.experiments")
    assert lines["evaluations"].split(", ") == plugins.names("benchmark.evaluations")
    assert lines["tables"].split(", ") == plugins.names("benchmark.reports.tables")
    recipes = "cc12m, cc12m-real, cc3m, cc3m-real, laion-50m, laion-50m-real, redcaps, redcaps-real, toy, toy-real"
    assert {*recipes.split(", "), "scenes-evaluation"} <= {*lines["datasets to build"].split(", ")}
    assert {"cc12m", "cc12m-real", "cc3m", "laion", "redcaps"} <= {*lines["captions"].split(", ")}
    assert lines["sizes of an experiment"] == "smoke, small, 10k, 100k, 1m, full"


# Records and tables


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A folder with the records of two methods and two seeds."""
    for method, value in (("stablerep", 0.7), ("untrained", 0.3)):
        for seed in (0, 1):
            store.write(record(method, {"digits": measured(value)}, seed=seed), tmp_path / "records")
    return tmp_path / "records"


@pytest.mark.slow
def test_tables_are_written_printed_and_checked(records: Path, synrep: Synrep) -> None:
    out = records.parent / "tables"
    code, shown, _ = synrep("tables", "--records", records, "--out", out)
    assert code == 0
    written = sorted((out / "smoke").glob("*.md"))
    assert [path.name for path in written] == [
        "linear_probe.synrep.md",
        "ranking_linear_probe.synrep.md",
        "summary.md",
    ]
    lines = shown.splitlines()
    assert lines[0] == "smoke" and any(line.startswith("StableRep") and "70.0 ± " in line for line in lines)
    assert lines[-2] == f"{out / 'smoke'}: this summary and 2 tables" and lines[-1].startswith(f"{out / 'paper'}: ")
    assert len(lines) <= 25 and "<!--" not in shown
    assert synrep("tables", "--records", records, "--out", out, "--check")[0] == 0
    written[0].write_text(written[0].read_text().replace("70", "71"))
    before = written[0].read_bytes()
    stale = synrep("tables", "--records", records, "--out", out, "--check")
    assert_one_line(stale, "stale: linear_probe.synrep.md", f"run `synrep tables --records {records} --out {out}`")
    assert written[0].read_bytes() == before
    written[0].unlink()
    assert_one_line(synrep("tables", "--records", records, "--out", out, "--check"), "missing: linear_probe.synrep.md")


@pytest.mark.slow
def test_outdated_tables_are_reported_and_removed(records: Path, synrep: Synrep) -> None:
    out = records.parent / "tables"
    words = ("tables", "--records", records, "--out", out)
    assert synrep(*words)[0] == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    shutil.copytree(out / "smoke", out / "gone")
    assert_one_line(
        synrep(*words, "--check"), f"{out / 'gone'}: no record belongs to this comparison; run `synrep tables"
    )
    (out / "smoke/knn.dino.md").write_bytes((out / "smoke/linear_probe.synrep.md").read_bytes())
    assert_one_line(synrep(*words, "--check"), "extra: knn.dino.md")
    assert synrep(*words)[::2] == (0, "")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert not (out / "gone").exists() and synrep(*words, "--check")[0] == 0
    shutil.copytree(out / "smoke", out / "mine")
    (out / "mine/notes.txt").write_text("mine")
    code, _, error = synrep(*words)
    assert (code, error.count("\n")) == (0, 1) and error.endswith(f"move them away: {out / 'mine'}\n")
    assert len(list((out / "mine").iterdir())) == 1 + len(list((out / "smoke").iterdir()))
    assert_one_line(
        synrep(*words, "--check"), f"{out / 'mine'}: no record belongs to this comparison", "or move it away"
    )


def test_two_experiments_are_compared_over_samples_and_seeds(synrep: Synrep) -> None:
    """Committed records; the values are those of the records, the interval that of the analysis."""
    names = ("main-smoke-scenes-1x/stablerep-syn", "main-smoke-scenes-1x/untrained")
    folder = REPOSITORY / "results/records"
    code, shown, _ = synrep("compare", *names, "--records", folder, "--evaluation", "linear_probe")
    assert code == 0
    lines = shown.splitlines()
    assert lines[:2] == [f"first:  {names[0]}", f"second: {names[1]}"], "whole names, which are never ambiguous"
    table = lines[3 : lines.index("", 3)]
    assert table[0].split() == ["dataset", "first", "second", "first", "-", "second"]
    assert max(map(len, table)) <= 80
    assert [line for line in table[2:] if not line.startswith(" ")] == ["linear_probe.synclr, top1"], "one heading"
    row = next(line for line in table if "scenes-shape" in line)
    cells = re.split(" {2,}", row.strip())
    found = store.read_all(folder)
    models = [
        [each for each in found if each.experiment.name == name and each.evaluation.name == "linear_probe"]
        for name in names
    ]
    assert [len(records) for records in models] == [3, 3]
    values = [[record.results["scenes-shape"].scores["top1"].value for record in records] for records in models]
    assert cells[1:3] == [f"{100 * statistics.fmean(each):.1f}" for each in values]
    pairs = PairedComparisons.for_records(folder)
    difference = pairs.difference(models[0], models[1], [("scenes-shape", "top1")])
    assert difference is not None
    bounds = [100 * value for value in (difference.difference, difference.low, difference.high)]
    assert cells[3:] == ["{:+.1f} [{:+.1f}, {:+.1f}]".format(*bounds), "significant"]
    assert [line.endswith("significant") for line in table[3:]] == [
        low[0] == high[0] for low, high in (re.findall(r"[+-][\d.]+", line)[1:] for line in table[3:])
    ]
    reverse = synrep("compare", *reversed(names), "--records", folder, "--evaluation", "linear_probe")[1]
    assert f" -{cells[3].split()[0][1:]} [" in next(line for line in reverse.splitlines() if "scenes-shape" in line)


def test_what_cannot_be_compared_is_one_line(records: Path, synrep: Synrep) -> None:
    words = ("--records", records)
    assert_one_line(synrep("compare", "smoke/x", "smoke/untrained", *words), "unknown experiment", "smoke/stablerep")
    both = ("smoke/stablerep", "smoke/untrained")
    assert_one_line(synrep("compare", *both, *words), "have no evaluation in common", "keep the predictions next to")
    assert_one_line(synrep("compare", *both, *words, "--evaluation", "knn"), "have no knn in common")
    answer = synrep("compare", both[0], both[0], *words)
    assert_one_line(answer, "expected two experiments, found smoke/stablerep twice; name another one")


def test_no_comparison_takes_the_place_of_the_paper_s_tables(records: Path, synrep: Synrep) -> None:
    store.write(record("mae", {"digits": measured(0.5)}, name="paper/mae"), records)
    out = records.parent / "tables"
    for more in ((), ("--check",)):
        answer = synrep("tables", "--records", records, "--out", out, *more)
        assert_one_line(answer, "experiment paper/mae: the name 'paper' is reserved", "rename the experiment")
    assert not out.exists()


@pytest.mark.slow
def test_tables_are_printed_whatever_the_locale_says(records: Path) -> None:
    words = ("tables", "--records", records, "--out", records.parent / "tables")
    settings = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "utf-8"}
    ran = subprocess.run([SYNREP, *words], capture_output=True, env=os.environ | settings, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "70.0 ± " in ran.stdout.decode()


@pytest.mark.slow
def test_published_numbers_are_in_the_tables_of_any_records(records: Path, synrep: Synrep) -> None:
    """They come with the package, wherever the records are: `make demo` shows them too."""
    words = ("tables", "--records", records, "--out", records.parent / "tables")
    paper = records.parent / "tables/paper"
    assert synrep(*words)[0] == 0 and (paper / "figure_6.svg").is_file()
    assert "source: published" in (paper / "table_1.md").read_text()
    assert synrep(*words, "--check")[0] == 0
    (paper / "figure_6.png").write_bytes(b"")
    assert_one_line(synrep(*words, "--check"), "paper: stale: figure_6.png")


@pytest.mark.parametrize("command", ["tables", "validate"])
@pytest.mark.parametrize(
    ("content", "said"),
    [("", "is empty"), ("{", "not valid JSON"), ("[]", "record"), ("{}", "field"), ('{"seed": NaN}', "record")],
)
def test_a_malformed_record_is_named(command: str, content: str, said: str, records: Path, synrep: Synrep) -> None:
    bad = sorted(records.rglob("*.json"))[1]
    bad.write_text(content)
    out = records.parent / "tables"
    words = ["validate", records] if command == "validate" else ["tables", "--records", records, "--out", out]
    code, shown, error = synrep(*words)
    assert_one_line((code, "", error))
    (line,) = [line for line in (shown + error).splitlines() if str(bad) in line]
    assert said in line
    assert not out.exists()


def test_a_folder_without_records_is_one_line(tmp_path: Path, synrep: Synrep) -> None:
    for folder in (tmp_path, tmp_path / "nosuch", SYNREP):
        assert_one_line(synrep("validate", folder), f"no records in {folder}")
        assert_one_line(synrep("tables", "--records", folder), f"no records in {folder}")


# Nowhere to write


@pytest.mark.slow
def test_a_file_in_the_place_of_a_folder_is_one_line(records: Path, synrep: Synrep) -> None:
    (records.parent / "file").write_text("mine")
    words = ("tables", "--records", records, "--out", records.parent / "file")
    assert_one_line(synrep(*words), f"cannot write {records.parent}/file/", "Not a directory")
    assert (records.parent / "file").read_text() == "mine"


@pytest.mark.slow
def test_a_disk_that_fills_leaves_no_table_half_written(
    records: Path, synrep: Synrep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    out = records.parent / "tables"
    answer = synrep("tables", "--records", records, "--out", out)
    assert_one_line(answer, f"cannot write {out}", "No space left", "free some space")
    assert "70.0 ± " in answer[1], "the summary is printed"
    assert [path for path in out.rglob("*") if path.is_file()] == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_output_that_cannot_be_written_is_one_line(records: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run([SYNREP, "list"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert_one_line((ran.returncode, "", ran.stderr), "the output", "No space left on device")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 6 GiB"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_a_full_memory_is_one_line(error: Exception, synrep: Synrep, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise error

    monkeypatch.setattr(main, "app", full)
    assert_one_line(synrep("list"), "out of memory", "ulimit -v")


# Methods


@pytest.mark.slow
def test_check_says_what_it_checked(synrep: Synrep) -> None:
    code, shown, error = synrep("check-method", "stablerep")
    assert (code, error) == (0, "")
    *checks, following = shown.splitlines()
    assert [line[:4] for line in checks] == ["ok  "] * 3 + ["--  ", "ok  "]
    assert checks[3].endswith("unit vectors: not applicable, no text tower")
    assert following.startswith("next: pytest -k stablerep")


TOY = '''"""Features that say the mean colour of their image."""

from dataclasses import dataclass
from typing import Self

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from benchmark.interfaces import AdamW, Batch, Method, Model
from benchmark.sampling import Sampling


@dataclass(frozen=True)
class Toy(Method):
    """Nothing to set."""

    sampling: Sampling = Sampling()
    optimizer: AdamW = AdamW(base_lr=1e-3, base_views=256, weight_decay=0.05, betas=(0.9, 0.95), warmup=0.05)

    def build(self, vit: VisionTransformer) -> Model:
        """ViT and a linear layer."""
        return ToyModel(vit)

    def tiny(self) -> Self:
        """Itself."""
        return self


class ToyModel(Model):
    """Mean colour from features."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__(vit)
        self.colour = nn.Linear(vit.embed_dim, 3)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Squared error."""
        wrong = self.colour(self.encode_images(batch.images_V3HW)) - batch.images_V3HW.mean((2, 3))
        return {"loss": wrong.square().mean()}


METHOD = Toy()
'''

CUSTOMIZE = """
import baselines
import benchmark.experiments

baselines.__path__.append({folder!r})
benchmark.experiments.__path__.append({folder!r})
"""


def with_plug_in(name: str, source: str, tmp_path: Path) -> dict[str, str]:
    """The environment of a process in which a method or an experiment is a file more in its folder."""
    for folder in ("plug-ins", "site"):
        (tmp_path / folder).mkdir()
    (tmp_path / "plug-ins" / f"{name}.py").write_text(source)
    (tmp_path / "site" / "sitecustomize.py").write_text(CUSTOMIZE.format(folder=str(tmp_path / "plug-ins")))
    return {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{REPOSITORY}"}


@pytest.mark.slow
def test_one_file_makes_a_method(tmp_path: Path) -> None:
    env = with_plug_in("toy", TOY, tmp_path)
    script = """
import sys
from benchmark import plugins
from benchmark.cli.main import main
from benchmark.experiments import smoke
print(*(e.name for e in smoke.EXPERIMENTS), *plugins.names("baselines"))
sys.argv = ["synrep", "check-method", "toy"]
main()
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=False)
    assert ran.stderr == ""
    names, *checks, following = ran.stdout.splitlines()
    assert following.startswith("next: pytest -k toy")
    assert {"smoke/toy", "toy"} <= set(names.split())
    assert [line[:4] for line in checks] == ["ok  "] * 3 + ["--  ", "ok  "]
    assert ran.returncode == 0


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("toy_detached", "batch.images_V3HW)) -", "batch.images_V3HW).detach()) -", "no gradient reaches the encoder"),
        ("toy_rising", '{"loss": ', '{"loss": -2 * wrong.square().mean().detach() + ', "the loss does not fall"),
        ("toy_unnamed", '{"loss": wrong', '{"error": wrong', "must return a dict with 'loss', found error"),
        ("toy_unseeded", "nn.Linear(vit.embed_dim, 3)", "_unseeded(vit.embed_dim)", "torch's seed does not fix"),
        ("toy_absent", "METHOD = Toy()", "", "declares no METHOD"),
        ("toy_large", "def tiny", "def other", "expected tiny() in Toy, found none; add it to toy_large.py"),
        ("toy_model", "def build", "def other", "expected build() in Toy, found none; add it to toy_model.py"),
        ("toy_thawed", "(frozen=True)", "", "expected frozen dataclasses in toy_thawed.py (cannot inherit non-frozen"),
        ("toy-named", "METHOD = Toy()", "METHOD = Toy()", "the file toy-named.py of a method; rename it toy_named.py"),
        ("toy_seven", "= Sampling()", "= Sampling(images=7)", "a batch of 120 views does not divide by the method's 7"),
    ],
)
def test_a_broken_method_is_one_line(
    name: str, old: str, new: str, said: str, synrep: Synrep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert old in TOY
    helper = """

def _unseeded(width: int) -> nn.Linear:
    layer = nn.Linear(width, 3)
    layer.bias.data.normal_(generator=_generator)
    return layer


import torch

_generator = torch.Generator()
"""
    (tmp_path / f"{name}.py").write_text(TOY.replace(old, new) + helper)
    monkeypatch.setattr(baselines, "__path__", [*baselines.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    assert_one_line(synrep("check-method", name), said)


# What it would cost


@pytest.mark.parametrize("words", [["--plan"], []])
def test_a_batch_of_no_whole_number_of_captions_fails_before_anything_starts(
    words: list[str], synrep: Synrep, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (one,) = experiments.find("smoke/stablerep")
    batch = replace(one.schedule, batch_views=121)
    monkeypatch.setattr(experiments, "find", lambda _: (replace(one, schedule=batch),))
    answer = synrep("run", "smoke", *words)
    assert_one_line(answer, "smoke/stablerep: a batch of 121 views does not divide by the method's 6 views per caption")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_plan_starts_nothing_and_says_what_is_missing(
    synrep: Synrep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYNREP_DATA", raising=False)
    code, shown, error = synrep("run", "ablations-smoke-images", "--only", "stablerep", "--plan")
    assert (code, error) == (0, "")
    rows = [line.split() for line in shown.splitlines() if line.startswith("ablations-smoke-images/")]
    assert [row[0].partition("-images/stablerep-")[2] for row in rows] == ["l2", "l4", "l8", "l10"]
    assert {row[2] for row in rows} == {"no"}
    assert "12 runs, 489,600 views, " in shown  # three seeds of each
    built = shown.splitlines()[-1].partition("synrep data build ")[2].split()
    assert built == ["scenes-toy-1k-l2", "scenes-toy-500-l4", "scenes-toy-250-l8", "scenes-toy-200"]
    assert list(tmp_path.iterdir()) == []
    assert "3 runs" in synrep("run", "smoke", "--only", "simclr", "--plan")[1]  # its three seeds
    one = synrep("run", "main-smoke-scenes-1x/simclr-syn", "--plan")[1]
    assert [line.split()[0] for line in one.splitlines() if "/" in line.split(" ")[0]] == [
        "main-smoke-scenes-1x/simclr-syn"
    ]
    assert "1 runs" in synrep("run", "smoke", "--only", "simclr", "--seed", 5, "--plan")[1]


# A run that is stopped


LITTLE = """
import os, time
from benchmark.training import loop
from tests.fixtures.runs import experiment
EXPERIMENTS = (experiment('stablerep', {steps}), experiment('mae'))
if "SLOW_FROM" in os.environ:
    train_step = loop.Trainer.train_step
    def slow(self, *arguments, **named):
        if self.step >= int(os.environ["SLOW_FROM"]):
            time.sleep(1)
        return train_step(self, *arguments, **named)
    loop.Trainer.train_step = slow
"""
"""Two short runs, which take a second a step from the step in $SLOW_FROM: a signal always comes before the end."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_interrupted_run_resumes_with_the_printed_command(
    synrep: Synrep,
    small_dataset: Path,
    small_data: CaptionImageDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ctrl-C (to the whole group of processes), then SIGTERM (to the command alone), then to its end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNREP_DATA", str(small_dataset.parents[1]))
    steps = 120
    env = with_plug_in("little", LITTLE.format(steps=steps), tmp_path)
    with (tmp_path / "site" / "sitecustomize.py").open("a") as site:
        site.write("import benchmark.experiments.little\n")  # in the worker as well, which does the steps
    folder = tmp_path / "my runs" / "train" / "test" / "stablerep" / "1" / "7"
    words = ["synrep", "run", "little", "--only", "stablerep", "--seed", "7", "--out", "my runs", "--jobs", "1"]
    reached = 0
    for stop in (lambda child: os.killpg(child.pid, signal.SIGINT), lambda child: child.terminate()):
        child = start(words, env | {"SLOW_FROM": str(reached + 20)})
        wait_for_step(reached + 20, folder, child)
        stop(child)
        _, error = child.communicate()
        assert child.returncode == 130
        assert_last_words(
            error.splitlines(keepends=True)[-1], "interrupted; finished work is saved; resume with: synrep run"
        )
        assert not (folder / "model.json").exists()
        with safe_open(folder / "state.safetensors", "pt") as state:
            before, reached = reached, int(state.metadata()["step"])
        assert before + 20 <= reached < steps
        wait_for_empty_group(child.pid)
        words = shlex.split(error.partition("resume with: ")[2])
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path / "plug-ins")])
    code, shown, error = synrep(*words[1:])
    assert (code, error) == (0, "")
    assert shown.splitlines()[-1].startswith("records: my runs/records; tables: synrep tables")
    assert [line["step"] for line in metrics(folder)] == list(range(10, steps + 1, 10))
    undisturbed = train_here(experiment("stablerep", steps), small_data, tmp_path / "undisturbed", seed=7)
    assert (folder / "model.safetensors").read_bytes() == undisturbed
    names = [one.experiment.name for one in store.read_all(tmp_path / "my runs" / "records")]
    assert Counter(names) == dict.fromkeys(
        ("test/stablerep", "pretrained/pixels-16"), len(plugins.names("benchmark.evaluations"))
    )
    assert list((tmp_path / "my runs").rglob("*.tmp")) == []


def start(words: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    """The command, leader of a group of processes of its own, as a shell starts it in the foreground."""
    assert words[0] == "synrep"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a background job
    try:
        return subprocess.Popen(
            [SYNREP, *words[1:]],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def wait_for_step(step: int, folder: Path, child: subprocess.Popen[str]) -> None:
    """Until the line of the first logged step (every tenth) that is not before ``step`` is written."""
    log = folder / "metrics.jsonl"
    while not log.exists() or log.read_text().count("\n") < math.ceil(step / 10):
        assert child.poll() is None, child.communicate()
        time.sleep(0.02)


def wait_for_empty_group(group: int) -> None:
    """Return when all processes of the group have ended."""
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)


@pytest.mark.slow
def test_the_module_is_the_command() -> None:
    """As launchers start it."""
    command = [sys.executable, "-m", "benchmark.cli", "run", "no-such-experiment"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert_one_line((ran.returncode, ran.stdout, ran.stderr), "unknown experiment")
