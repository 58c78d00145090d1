"""`synrep evaluate` and `synrep episodes` as a user meets them."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmark.errors import SkipCode
from benchmark.evaluations import few_shot
from benchmark.evaluations.datasets.splits import open_split
from benchmark.records import store
from benchmark.records.schema import Measured, NotMeasured, Record
from tests.cli.test_main import Synrep, assert_one_line, synrep
from tests.fixtures import evaluation_sets
from tests.fixtures.doubles import png, write_manifest, write_split

pytestmark = pytest.mark.slow

__all__ = ["synrep"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder without datasets, so that only scikit-learn's digits are there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNREP_DATA", str(tmp_path / "hub"))
    (tmp_path / "hub").mkdir()
    return tmp_path


def pixels(folder: Path, scale: float = 1.0, name: str = "pixels", **card: str) -> Path:
    """Raw digits as a folder of feature files, with noise that depends on `scale`; `card` adds to features.json."""
    (folder / "digits").mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        images = open_split("digits", split)
        values = np.stack([images.read(row)[..., 0].reshape(-1) for row in range(len(images))]).astype(np.float32)
        noise = np.random.default_rng(0).standard_normal(values.shape) * 200 * (1 - scale)
        np.save(folder / "digits" / f"{split}.npy", (values + noise).astype(np.float16))
    content = {"name": name, "layer": "pixels", "transform": {"zoom": 1.0, "interpolation": "bicubic"}, **card}
    (folder / "features.json").write_text(json.dumps(content))
    return folder


def test_scores_are_printed_recorded_and_not_measured_twice(
    machine: Path, synrep: Synrep, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pixels(machine / "a")
    words = (
        "evaluate",
        folder,
        "--evaluation",
        "knn",
        "--evaluation",
        "few_shot",
        "--datasets",
        "digits",
        "--out",
        machine / "out",
    )
    code, shown, error = synrep(*words)
    assert (code, error) == (0, "")
    rows = [line for line in shown.splitlines() if line.startswith("| knn") or line.startswith("| few_shot")]
    assert len(rows) == 2 and all("digits" in row for row in rows)
    paths = sorted((machine / "out" / "records").rglob("*.json"))
    assert [path.name for path in paths] == ["few_shot.ssl-transfer.json", "knn.dino.json"]
    before = [path.stat().st_mtime_ns for path in paths]
    for module in ("evaluate", "not_requested"):
        monkeypatch.delattr(f"benchmark.runner.{module}.lock")  # a folder without changes may be read-only
    assert synrep(*words)[1].splitlines()[-2:] == shown.splitlines()[-2:]
    assert [path.stat().st_mtime_ns for path in paths] == before
    assert synrep("validate", machine / "out" / "records")[0] == 0
    left_out = store.read(paths[1]).results["cifar10"]
    assert isinstance(left_out, NotMeasured) and left_out.code == SkipCode.NOT_REQUESTED
    assert synrep("tables", "--records", machine / "out" / "records", "--out", machine / "tables")[0] == 0


def test_two_models_are_compared_on_the_same_samples(machine: Path, synrep: Synrep) -> None:
    good, poor = pixels(machine / "a"), pixels(machine / "b", 0.3, "noisy")
    words = ("--evaluation", "knn", "--datasets", "digits", "--out", machine / "out")
    code, shown, _ = synrep("evaluate", "--compare", good, poor, *words)
    assert code == 0
    scores, differences = shown.split(f"first:  {good}\nsecond: {poor}\n")
    assert "| digits" in scores and "paired by sample" in differences
    rows = differences.splitlines()
    assert "significant" in rows[rows.index("knn.dino, top1_k20_T0.07") + 1]
    answer = synrep("evaluate", "--compare", good, good, *words)
    assert_one_line(answer, f"--compare needs two models, found {good} twice; name another one")
    assert_one_line(synrep("evaluate", "--compare", good, *words), "--compare needs two models, found 1")


def test_missing_dataset_is_skipped_or_an_error_if_requested(
    machine: Path, synrep: Synrep, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pixels(machine / "a")
    code, shown, _ = synrep("evaluate", folder, "--evaluation", "few_shot", "--out", machine / "out")
    assert code == 0
    assert "skipped, not on this machine: few_shot on scenes-shape, few_shot on scenes-kinds" in shown
    monkeypatch.setenv("SYNREP_DATA", str(machine / "wrong"))
    shown = synrep("evaluate", folder, "--evaluation", "few_shot", "--out", machine / "out")[1]
    assert f"skipped, not on this machine ($SYNREP_DATA is not a folder: {machine / 'wrong'}): few_shot on" in shown
    assert str(machine) not in "".join(path.read_text() for path in (machine / "out" / "records").rglob("*.json"))
    monkeypatch.delenv("SYNREP_DATA")
    words = ("evaluate", folder, "--evaluation", "knn", "--datasets", "digits,cifar100", "--out", machine / "out")
    code, shown, error = synrep(*words)
    assert_one_line((code, shown, error), "knn on cifar100", "run `synrep data download cifar100`")
    assert "| digits" in shown.replace("digits ", "digits")
    assert_one_line(
        synrep("evaluate", folder, "--evaluation", "zero_shot", "--out", machine / "out", "--datasets", "cifar10"),
        "no text",
    )


WORDS = ("--evaluation", "knn", "--datasets")


def knn(out: Path) -> Record:
    (path,) = (out / "records").rglob("knn.dino.json")
    return store.read(path)


def test_features_made_again_with_the_same_declared_weights_are_measured_again(machine: Path, synrep: Synrep) -> None:
    words = ("evaluate", folder := machine / "a", *WORDS, "digits", "--out", machine / "out")
    pixels(folder, weights_sha256="a" * 64)
    assert synrep(*words)[0] == 0
    first = knn(machine / "out").results["digits"]
    test = folder / "digits" / "test.npy"
    np.save(test, np.roll(np.load(test), 1, axis=0))  # rows in another order
    code, shown, error = synrep(*words)
    assert (code, error) == (0, "")
    assert "knn.dino.json: digits is measured again, as its feature files changed" in shown
    second = knn(machine / "out").results["digits"]
    assert isinstance(first, Measured) and isinstance(second, Measured)
    assert first.scores[first.main].value > 0.9
    assert second.scores[second.main].value < 0.2
    assert first.features_sha256 != second.features_sha256
    assert "measured again" not in synrep(*words)[1]
    assert synrep("validate", machine / "out" / "records")[0] == 0


def test_features_of_other_weights_are_another_record(machine: Path, synrep: Synrep) -> None:
    words = ("evaluate", folder := machine / "a", *WORDS, "digits", "--out", machine / "out")
    assert synrep(*words, pixels(folder) and "--workers", 1)[0] == 0
    assert synrep(*words, pixels(folder, 0.3) and "--workers", 1)[0] == 0
    assert len(list((machine / "out" / "records").rglob("knn.dino.json"))) == 2
    pixels(folder, weights_sha256="a" * 64)
    assert synrep(*words)[0] == 0
    (path,) = (machine / "out" / "records").rglob("*-aaaaaaaa/1/0/knn.dino.json")
    before = path.read_bytes()
    pixels(folder, weights_sha256="a" * 8 + "b" * 56)  # with the same beginning, and so with the same name
    assert_one_line(synrep(*words), f"expected weights_sha256 {'a' * 8}{'b' * 56}, found {'a' * 64}; choose another")
    assert path.read_bytes() == before


def test_changed_images_and_labels_are_measured_again(
    machine: Path, synrep: Synrep, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = evaluation_sets.mirror_of(["stl10"], monkeypatch, machine / "hub")
    folder = machine / "features"
    (folder / "stl10").mkdir(parents=True)
    for split in ("train", "test"):
        label = open_split("stl10", split).columns["label_index"]
        np.save(folder / "stl10" / f"{split}.npy", np.eye(10, dtype=np.float16)[label])
    card = {"name": "perfect", "layer": "pixels", "transform": {"zoom": 1.0, "interpolation": "bicubic"}}
    (folder / "features.json").write_text(json.dumps(card))
    words = ("evaluate", folder, *WORDS, "stl10", "--out", machine / "out")
    assert synrep(*words)[0] == 0
    first = knn(machine / "out").results["stl10"]
    assert isinstance(first, Measured) and first.dataset.provenance == "unverified"
    assert first.dataset.content_sha256.keys() == {"train", "test"}
    path = root / "mteb/stl10/data/train-00000-of-00002.parquet"
    table = pq.read_table(path)
    labels = [(label + 1) % 10 for label in table["label"].to_pylist()]
    pq.write_table(table.set_column(table.column_names.index("label"), "label", pa.array(labels)), path)
    code, shown, _ = synrep(*words)
    assert code == 0 and "knn.dino.json: stl10 is measured again, as the files of train changed" in shown
    second = knn(machine / "out").results["stl10"]
    assert isinstance(second, Measured)
    assert first.dataset.content_sha256["test"] == second.dataset.content_sha256["test"]
    assert "measured again" not in synrep(*words)[1]
    notes = root / "mteb/stl10/.cache/huggingface/download"
    notes.mkdir(parents=True)
    (notes / "README.md.metadata").write_text(f"{'f' * 40}\netag\n1.0\n")
    assert_one_line(synrep(*words), f"found README.md of commit {'f' * 40}; move the folder away")
    assert knn(machine / "out").results["stl10"] == second


def test_a_damaged_dataset_hides_no_other_score(machine: Path, synrep: Synrep) -> None:
    folder = pixels(machine / "a")
    sets = machine / "data" / "synrep-bench" / "scenes-objects"
    columns = {"id": [str(at) for at in range(16)], "shape": [str(at % 8) for at in range(16)]}
    columns |= {"colour": columns["shape"], "texture": columns["shape"]}
    for split in ("train", "test"):
        write_split(sets / "data", split, [png(np.zeros((4, 4, 3), np.uint8))] * 16, columns)
    write_manifest(sets, "synrep-bench/scenes-objects", {"train": 16, "test": 16})
    code, shown, error = synrep("evaluate", folder, "--evaluation", "knn", "--out", machine / "out")
    assert_one_line((code, shown, error), "evaluations failed: knn on scenes-shape", "no file")
    assert "top1_k20_T0.07" in shown
    words = ("--evaluation", "knn", "--datasets", "scenes-shape", "--out", machine / "out")
    code, shown, error = synrep("evaluate", folder, *words)
    assert_one_line((code, shown, error), "1 of 1 evaluations failed: knn on scenes-shape")
    assert (shown + error).count("no file") == 1, "a failure is told once"


def test_number_sign_in_the_name_of_a_folder(machine: Path, synrep: Synrep) -> None:
    words = ("--evaluation", "knn", "--datasets", "digits", "--out", machine / "out")
    folder = pixels(machine / "mine#1")
    for prefix in ("", "feature_files:"):
        code, shown, error = synrep("evaluate", f"{prefix}{folder}", *words)
        assert (code, error) == (0, "") and "top1_k20_T0.07" in shown
    assert_one_line(synrep("evaluate", f"{folder}#depths", *words), "depths")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("evaluate nobody:x", ["unknown model 'nobody:x'", "timm:NAME"]),
        ("evaluate nowhere/x.pth", ["nowhere/x.pth does not exist", "released:FILE.pth"]),
        ("evaluate x --evaluation probe", ["unknown evaluation 'probe'", "linear_probe"]),
        ("evaluate x --evaluation knn,aro", ["found 'knn,aro'; repeat the option: --evaluation knn --evaluation aro"]),
        ("evaluate x --preset y", ["unknown preset 'y'", "synclr"]),
        ("episodes nothing", ["unknown dataset 'nothing'", "cifar10"]),
        ("episodes digits --preset x", ["unknown preset of few_shot 'x'", "lgssl, ssl-transfer"]),
        ("episodes cifar100", ["mteb/cifar100", "synrep data download cifar100"]),
    ],
)
def test_errors_are_one_line(machine: Path, synrep: Synrep, words: str, said: list[str]) -> None:
    assert_one_line(synrep(*words.split()), *said)


def test_several_processes_are_refused(machine: Path, synrep: Synrep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert_one_line(synrep("evaluate", "pixels"), "expected one process, found 4 started by torchrun")


def test_episodes_are_those_of_the_records(machine: Path, synrep: Synrep) -> None:
    code, shown, _ = synrep("episodes", "digits", "--preset", "lgssl", "--out", machine / "e.npz")
    assert code == 0
    written = few_shot.read_episodes(machine / "e.npz")
    assert written.sha256 in shown
    assert written.sha256 == few_shot.episodes("digits", "lgssl").sha256
