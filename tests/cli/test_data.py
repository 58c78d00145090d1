"""The `synrep data` commands as a user meets them."""

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from benchmark import schema
from datasets_scripts import recipe, toy
from datasets_scripts.generation import pipelines
from datasets_scripts.inspection import contact_sheet
from tests.cli.test_main import Synrep, assert_one_line, synrep
from tests.datasets_scripts.inspection.test_audit import weights
from tests.fixtures.small_datasets import RECIPE

__all__ = ["synrep", "weights"]


@pytest.fixture
def small_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """`small` names the recipe of `tests.fixtures.small_datasets`, whose dataset is `scenes-small`."""
    monkeypatch.setattr(recipe, "find", lambda name, data: {"small": RECIPE, "scenes-small": RECIPE}[name])


def test_captions_are_counted_and_compared_with_the_paper(tmp_path: Path, synrep: Synrep) -> None:
    source = tmp_path / "list.tsv"
    source.write_text("a cat\thttps://example.org/1\na  cat\thttps://example.org/2\n\thttps://example.org/3\n")
    code, shown, error = synrep("data", "captions", "cc3m", "--origin", source, "--data", tmp_path)
    assert (code, error) == (0, "")
    out = tmp_path / "captions" / "cc3m"
    assert shown.splitlines()[-1] == "next: synrep data estimate cc3m, then synrep data build cc3m"
    assert shown.splitlines()[-2] == (
        f"{out}: 1 caption of 3 rows, dropped: 1 empty, 1 duplicate; the paper has 2,700,000 of 3,000,000"
    )
    assert {path.name for path in out.iterdir()} == {"captions.parquet", "dropped.parquet", "captions.json"}


def test_captions_of_any_table_are_called_after_its_file(tmp_path: Path, synrep: Synrep) -> None:
    source = tmp_path / "birds.csv"
    source.write_text("text\na robin\n")
    code, shown, _ = synrep("data", "captions", source, "--column", "text", "--data", tmp_path)
    declare = "declare one (docs/how-to/add-a-dataset.md), then"
    assert code == 0 and f"\nnext: no recipe uses these captions; {declare} synrep data build NAME\n" in shown
    assert_one_line(
        synrep("data", "build", "birds", "--data", tmp_path),
        f"no recipe uses the captions {tmp_path / 'captions' / 'birds'}; {declare} build it by its name",
    )
    assert (tmp_path / "captions" / "birds" / "captions.json").exists()
    assert_one_line(
        synrep("data", "captions", source, "--column", "txt", "--data", tmp_path), "expected a column txt, found text"
    )


def test_the_estimate_is_the_arithmetic_of_the_paper(synrep: Synrep, tmp_path: Path) -> None:
    """2.7 million captions, ten images each, 0.8 s an image on an A100."""
    code, shown, _ = synrep("data", "estimate", "cc3m", "--gpus", "8", "--data", tmp_path)
    assert code == 0
    assert "2,700,000 captions x 10 = 27,000,000 images, 42,188 units, 1,319 shards" in shown
    (a100,) = [line.split() for line in shown.splitlines() if line.startswith("A100 ")]
    hours = 27e6 * 0.8 / 3600
    assert a100[3] == a100[5] == "days" and float(a100[2]) == pytest.approx(hours / 24, rel=0.02)
    assert float(a100[4]) == pytest.approx(hours / 8 / 24, rel=0.02)
    assert float(a100[6].strip("$").replace(",", "")) == pytest.approx(2.5 * hours, rel=0.02)


def test_the_estimate_of_a_small_dataset_has_small_units(synrep: Synrep) -> None:
    _, shown, _ = synrep("data", "estimate", "toy-1-l2", "--gpus", "1")
    assert "2 images, 1 unit, 1 shard, " in shown and " kB (" in shown and "less than $0.01 per month" in shown
    (row,) = [line for line in shown.splitlines() if line.startswith("CPU core ")]
    assert re.search(r" 0\.1 s +0\.1 s", row)


@pytest.mark.slow
def test_the_estimate_can_measure_this_machine(synrep: Synrep) -> None:
    code, shown, _ = synrep("data", "estimate", "toy-real", "--probe")
    (row,) = [line for line in shown.splitlines() if "(measured here)" in line]
    assert code == 0 and float(re.search(r"([\d,.]+) ", row.split("here)")[1])[1].replace(",", "")) > 50


def test_the_estimate_of_toy_is_in_cpu_cores(synrep: Synrep) -> None:
    code, shown, _ = synrep("data", "estimate", "toy", "--gpus", "2")
    (row,) = [line.split() for line in shown.splitlines() if line.startswith("CPU core ")]
    assert code == 0 and "2,048 captions x 10 = 20,480 images, 32 units, 1 shard, " in shown
    assert float(row[2]) == pytest.approx(1 / toy.DIFFUSION.core_seconds, rel=0.01)


def test_a_damaged_bundled_model_is_one_line(synrep: Synrep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(pipelines.BUNDLED, toy.DIFFUSION.model, tmp_path / "model")
    words = ("data", "build", "toy-20-l2", "--data", tmp_path / "data", "--workers", 1)
    assert_one_line(synrep(*words), "synrep-bench/scenes-diffusion: expected revision", "install SynRep-Bench again")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_build_prints_the_next_command_and_can_be_repeated(tmp_path: Path, synrep: Synrep, small_recipe: None) -> None:
    words = ("data", "build", "small", "--data", tmp_path, "--workers", "1")
    code, shown, error = synrep(*words)
    assert (code, error) == (0, "")
    folder = tmp_path / RECIPE.repo
    assert f"{folder}: 160 captions, 640 images, revision {RECIPE.revision}" in shown
    assert f"synrep data check {folder}" in shown
    assert synrep(*words)[0] == 0


@pytest.mark.slow
def test_shares_are_finished_by_the_last(tmp_path: Path, synrep: Synrep, small_recipe: None) -> None:
    _, first, _ = synrep("data", "build", "small", "--data", tmp_path, "--share", "1/2")
    _, last, _ = synrep("data", "build", "small", "--data", tmp_path, "--share", "0/2")
    assert "other shares are missing" in first and "640 images" in last


@pytest.mark.slow
def test_dataset_is_checked_and_a_sample_regenerated(small_dataset: Path, synrep: Synrep, small_recipe: None) -> None:
    code, shown, error = synrep("data", "check", small_dataset, "--sample", 7, "--workers", 1)
    assert (code, error) == (0, "")
    assert "8 images regenerated (whole captions): 8 bit-identical" in shown
    assert shown.splitlines()[-1].endswith(f"160 rows, 3 files, revision {RECIPE.revision}: no errors")


def test_a_changed_shard_is_found_and_the_exit_code_says_so(
    small_dataset: Path, tmp_path: Path, synrep: Synrep
) -> None:
    folder = shutil.copytree(small_dataset, tmp_path / "small")
    shard = folder / schema.shard_name("train", 0, 1)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    answer = synrep("data", "check", folder, "--workers", 1)
    assert_one_line(answer, f"{folder} has ", "(listed above); build or download it again")
    assert f"error: {schema.shard_name('train', 0, 1)}: sha256" in answer[1]


@pytest.mark.slow
def test_a_sheet_shows_captions_and_their_images(small_dataset: Path, tmp_path: Path, synrep: Synrep) -> None:
    out = tmp_path / "sheet.png"
    assert synrep("data", "contact-sheet", small_dataset, "--out", out, "--rows", 5) == (0, f"{out}\n", "")
    with Image.open(out) as picture:
        assert picture.format == "PNG" and picture.width > picture.height / 5
    first = out.read_bytes()
    synrep("data", "contact-sheet", small_dataset, "--out", out, "--rows", 5, "--seed", 1)
    assert out.read_bytes() != first
    answer = synrep("data", "contact-sheet", small_dataset, "--out", out, "--worst")
    assert_one_line(answer, "alignment.parquet is missing; run `synrep data check")


@pytest.mark.slow
def test_alignment_lists_the_worst_captions_and_the_sheet_shows_them(
    small_dataset: Path, tmp_path: Path, synrep: Synrep, weights: str
) -> None:
    folder = shutil.copytree(small_dataset, tmp_path / "small")
    code, shown, error = synrep(
        "data", "check", folder, "--alignment", f"synrep-tiny/{weights}", "--worst", 3, "--workers", 1
    )
    assert (code, error) == (0, "")
    listed = re.findall(r"^ *(\d+\.\d\d)  (.+)$", shown, re.MULTILINE)
    assert len(listed) == 3 and [float(score) for score, _ in listed] == sorted(float(score) for score, _ in listed)
    rows = contact_sheet.worst_rows(folder, 3)
    assert [row[schema.CAPTION] for row in rows] == [caption for _, caption in listed]
    assert synrep("data", "contact-sheet", folder, "--out", tmp_path / "worst.png", "--worst", "--rows", 3)[0] == 0
    with Image.open(tmp_path / "worst.png") as picture:
        assert picture.tobytes() == contact_sheet.render(rows).tobytes()


@pytest.mark.slow
def test_a_built_dataset_is_found_by_the_name_of_its_recipe(
    small_dataset: Path, tmp_path: Path, synrep: Synrep, monkeypatch: pytest.MonkeyPatch
) -> None:
    for root in ("data", "other"):
        (tmp_path / root / "synrep-bench").mkdir(parents=True)
    (tmp_path / "data/synrep-bench/scenes-toy-16").symlink_to(small_dataset)
    (tmp_path / "other/synrep-bench/scenes-toy-17").symlink_to(small_dataset)
    monkeypatch.chdir(tmp_path)
    for name in ("toy-16", "synrep-bench/scenes-toy-16"):
        assert synrep("data", "contact-sheet", name)[0] == 0
    assert synrep("data", "check", "toy-17", "--data", "other", "--workers", 1)[0] == 0
    for command in (("check",), ("contact-sheet",), ("publish",), ("export", "--to", "webdataset", "--out", "x")):
        assert_one_line(synrep("data", *command, "toy-17"), "build it with `synrep data build toy-17`")
        assert_one_line(synrep("data", *command, "nothing"), "unknown recipe 'nothing'; choose one of: cc12m, ")
        assert_one_line(synrep("data", *command, "a/b/c"), "folder a/b/c does not exist")


def test_a_path_without_an_organization_is_not_the_name_of_a_repository(
    tmp_path: Path, synrep: Synrep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYNREP_DATA", raising=False)
    (tmp_path / "data/synrep-bench/ten").mkdir(parents=True)
    answer = synrep("data", "publish", "data/ten", "--repo", "me/ten")
    assert_one_line(answer, "dataset data/ten is neither in data/", "did you mean data/synrep-bench/ten?")
    assert_one_line(synrep("data", "publish", "data/two"), "run `synrep data download data/two --revision <commit>`")


@pytest.mark.slow
@pytest.mark.parametrize(("words", "repo"), [((), RECIPE.repo), (("--repo", "me/mine"), "me/mine")])
def test_publish_ends_with_the_page_and_the_next_command(
    words: tuple[str, ...], repo: str, small_dataset: Path, synrep: Synrep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets_scripts.publishing.publish.publish", lambda folder, repo, **_: "c" * 40)
    result = f"published at revision {'c' * 40}\n"
    after = f"page: https://huggingface.co/datasets/{repo}\nnext: synrep data download {repo} --revision {'c' * 40}\n"
    assert synrep("data", "publish", small_dataset, *words) == (0, result + after, "")
    assert synrep("-q", "data", "publish", small_dataset, *words) == (0, result, "")


@pytest.mark.parametrize("layout", ["webdataset", "imagefolder"])
def test_a_dataset_is_exported(layout: str, small_dataset: Path, tmp_path: Path, synrep: Synrep) -> None:
    code, shown, _ = synrep("data", "export", small_dataset, "--to", layout, "--out", tmp_path / "out")
    assert code == 0 and "160 captions; 0 skipped" in shown
