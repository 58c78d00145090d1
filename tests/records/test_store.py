"""Tests of records: validation, hashes, and writing and reading."""

import dataclasses
import gc
import json
import math
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from pydantic import ValidationError

from benchmark.errors import SkipCode, UserError
from benchmark.interfaces import (
    AdamW,
    DatasetIdentity,
    DatasetScores,
    Evaluation,
    Experiment,
    Method,
    Pretrained,
    Sampling,
    Schedule,
    Score,
    Scores,
    Skipped,
    ViTConfig,
)
from benchmark.records import create, environment, store
from benchmark.records.schema import Measured, NotMeasured, Predictions, Record, canonical_json, sha256_of


@dataclass(frozen=True)
class Settings(Method):
    """A method with one knob and one mapping."""

    temperature: float = 0.1
    extra: dict[str, int] = dataclasses.field(default_factory=lambda: {"a": 1, "b": 2})


@dataclass(frozen=True)
class Probe(Evaluation):
    """An evaluation with one knob."""

    version: ClassVar[int] = 3
    preset: str = "ssl-transfer"
    datasets: tuple[str, ...] = ("digits", "cifar10")
    tolerance: float = 1e-8


SETTINGS = Settings(Sampling(images=2), AdamW(2e-4, 512, 0.1, (0.9, 0.98), 0.1))
EXPERIMENT = Experiment(
    name="smoke/stablerep",
    version=1,
    method="stablerep",
    settings=SETTINGS,
    dataset="synrep-bench/scenes",
    revision="1.0",
    schedule=Schedule(views=6000, batch_views=60),
    encoder=ViTConfig(image_size=32, patch=4, width=64, depth=2, heads=2),
    seeds=(0, 1),
)
FACTS = {"weights_sha256": "a" * 64, "layer": "cls", "transform": {"size": 32}, "precision": "float32"}
IDENTITY = DatasetIdentity("synrep-bench/digits", "1.7", "test", 360, "b" * 64, {"test": "c" * 64}, "unverified")
OLD_IDENTITY = dataclasses.replace(IDENTITY, content_sha256={}, provenance=None)
SCORES = DatasetScores(
    IDENTITY,
    {"top1": Score(0.9, 360, 0.87, 0.93), "mean": Score(0.89, 360, 0.85, 0.92)},
    chance=0.1,
    per_class={"zero": Score(1.0, 36, 0.9, 1.0)},
    details={"l2": np.float64(0.01), "edge": False, "iterations": np.array([3, 4])},
)


def make(scores: Any = None, experiment: Experiment = EXPERIMENT, **changes: Any) -> Record:
    arguments: dict[str, Any] = {
        "origin": experiment,
        "seed": 0,
        "name": "linear_probe",
        "evaluation": Probe(),
        "metadata": FACTS,
        "content_sha256": "c" * 64,
        "environment": environment.environment("cpu"),
        "parents": {"checkpoint": "d" * 64},
        "seconds": {"probe": 1.5},
        "predictions": {"digits": Predictions(file="digits.parquet", sha256="e" * 64)},
    }
    found: Scores = {"digits": SCORES, "cifar10": Skipped("not in the mirror", SkipCode.MISSING_DATASET)}
    return create.from_scores(found if scores is None else scores, **(arguments | changes))


def with_score(**changes: Any) -> Scores:
    score = dataclasses.replace(SCORES.scores["top1"], **changes)
    return {"digits": dataclasses.replace(SCORES, scores={"top1": score})}


def spoiled(tmp_path: Path, spoil: Callable[[dict[str, Any]], None]) -> Path:
    """Write a record that `spoil` changed, with a valid checksum."""
    path = tmp_path / "spoiled.json"
    content = make().model_dump(mode="json")
    spoil(content)
    store.write_with_checksum(path, content)
    return path


def one_line_error(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        store.read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_write_and_read_round_trip(tmp_path: Path) -> None:
    record = make()
    path = store.write(record, tmp_path)
    assert path == tmp_path / "smoke/stablerep/1/0/linear_probe.ssl-transfer.json"
    assert store.read(path) == record
    seen: list[tuple[int, int, str]] = []
    assert store.read_all(tmp_path, progress=lambda *now: seen.append(now)) == [record]
    assert seen == [(1, 1, "")]
    assert store.content_hash(store.read(path)) == store.content_hash(record)
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["linear_probe.ssl-transfer.json"]


def test_record_contains_scores_and_main_score(tmp_path: Path) -> None:
    record = store.read(store.write(make(), tmp_path))
    digits, cifar10 = record.results["digits"], record.results["cifar10"]
    assert isinstance(digits, Measured)
    assert isinstance(cifar10, NotMeasured)
    assert digits.main == "top1", "sorting the keys of the file must not move the main score"
    assert digits.scores["top1"].model_dump() == {"value": 0.9, "low": 0.87, "high": 0.93, "n": 360}
    assert digits.details == {"l2": 0.01, "edge": False, "iterations": [3, 4]}
    assert digits.dataset.model_dump() == dataclasses.asdict(IDENTITY)
    assert cifar10.skipped == "not in the mirror"
    assert (record.model.views, record.training.revision) == (6000, "1.0")


def test_content_hash_of_a_record_without_content_does_not_have_its_fields() -> None:
    record = make({"digits": dataclasses.replace(SCORES, dataset=OLD_IDENTITY)})
    assert isinstance(record.results["digits"], Measured)
    dumped = record.results["digits"].model_dump()
    assert "features_sha256" not in dumped
    assert dumped["dataset"].keys() == {"repo", "revision", "split", "n", "ids_sha256"}
    assert store.content_hash(record) == sha256_of(json.loads(canonical_json(record)))


def test_training_diagnostics_are_optional(tmp_path: Path) -> None:
    seen = {"health": {"rank": 17.5, "uniformity": -2.5}, "spikes": 2, "worst_spike": 120}
    record = make(training_diagnostics=seen)
    assert store.read(store.write(record, tmp_path)) == record
    assert {name: getattr(record.training, name) for name in seen} == seen
    old = spoiled(tmp_path, lambda content: [content["training"].pop(name) for name in seen] and None)
    assert store.read(old).training == make().training, "a record from before has none of it, and is valid"
    with pytest.raises(UserError, match="expected JSON values and finite numbers"):
        make(training_diagnostics={"health": {"rank": math.nan}})


@pytest.mark.parametrize("field", ["repo", "revision", "split", "n", "ids_sha256"])
def test_dataset_identity_is_required(tmp_path: Path, field: str) -> None:
    def remove(content: dict[str, Any]) -> None:
        del content["results"]["digits"]["dataset"][field]

    def empty(content: dict[str, Any]) -> None:
        content["results"]["digits"]["dataset"][field] = 0 if field == "n" else " "

    for spoil in (remove, empty):
        assert f"results.digits.dataset.{field}" in one_line_error(spoiled(tmp_path, spoil))
    nothing: Any = 0 if field == "n" else ""
    identity = dataclasses.replace(IDENTITY, **{field: nothing})
    with pytest.raises(UserError, match=f"dataset.{field}"):
        make({"digits": dataclasses.replace(SCORES, dataset=identity)})


def test_schema_requires_a_dataset_revision() -> None:
    part = make().results["digits"].model_dump()
    part["dataset"].pop("revision")
    with pytest.raises(ValidationError, match="revision"):
        Measured(**part)


def test_training_revision_is_required(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="revision"):
        make(experiment=dataclasses.replace(EXPERIMENT, revision=""))
    assert "training.revision" in one_line_error(spoiled(tmp_path, lambda content: content["training"].pop("revision")))


def test_content_hash_is_required_for_trained_models() -> None:
    with pytest.raises(UserError, match="content_sha256"):
        make(content_sha256=None)
    settings = dataclasses.replace(SETTINGS, optimizer=None)
    untrained = make(experiment=dataclasses.replace(EXPERIMENT, settings=settings), content_sha256=None)
    assert untrained.model.views == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"value": 0.86},
        {"value": 0.94},
        {"high": 1.2},
        {"low": -0.1},
        {"value": math.nan},
        {"high": math.inf},
        {"n": 0},
    ],
)
def test_impossible_scores_are_rejected(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        make(with_score(**changes))


def test_rounding_errors_of_intervals_are_corrected() -> None:
    record = make(with_score(value=1.0, low=0.9, high=math.nextafter(1, 0)))
    digits = record.results["digits"]
    assert isinstance(digits, Measured)
    assert digits.scores["top1"].high == 1.0


@pytest.mark.parametrize("chance", [-0.1, 1.1, math.nan])
def test_chance_is_a_fraction(chance: float) -> None:
    with pytest.raises(UserError):
        make({"digits": dataclasses.replace(SCORES, chance=chance)})


def test_missing_scores_and_reasons_are_rejected() -> None:
    for scores in ({}, {"digits": dataclasses.replace(SCORES, scores={})}, {"digits": Skipped("", SkipCode.FAILED)}):
        with pytest.raises(UserError):
            make(scores)


@pytest.mark.parametrize(
    "changed",
    [
        dataclasses.replace(EXPERIMENT, settings=dataclasses.replace(SETTINGS, temperature=0.2)),
        dataclasses.replace(EXPERIMENT, settings=dataclasses.replace(SETTINGS, sampling=Sampling(images=3))),
        dataclasses.replace(EXPERIMENT, settings=dataclasses.replace(SETTINGS, extra={"a": 1, "b": 3})),
        dataclasses.replace(EXPERIMENT, encoder=ViTConfig(depth=3)),
        dataclasses.replace(EXPERIMENT, schedule=Schedule(6000, 120)),
        dataclasses.replace(EXPERIMENT, revision="1.1"),
    ],
)
def test_fingerprint_depends_on_every_setting(changed: Experiment) -> None:
    assert create.fingerprint(changed) != create.fingerprint(EXPERIMENT)


def test_fingerprint_ignores_seeds() -> None:
    assert create.fingerprint(dataclasses.replace(EXPERIMENT, seeds=(0, 1, 2))) == create.fingerprint(EXPERIMENT)


def test_fingerprint_ignores_the_order_of_keys() -> None:
    settings = dataclasses.replace(SETTINGS, extra={"b": 2, "a": 1})
    assert create.fingerprint(dataclasses.replace(EXPERIMENT, settings=settings)) == create.fingerprint(EXPERIMENT)


def test_fingerprint_round_trip(tmp_path: Path) -> None:
    keys: Any = {2: 0, 10: 0}
    settings = dataclasses.replace(SETTINGS, extra=keys, temperature=1 / 3)
    experiment = dataclasses.replace(EXPERIMENT, settings=settings)
    record = store.read(store.write(make(experiment=experiment), tmp_path))
    assert record.experiment.fingerprint == create.fingerprint(experiment)


def test_protocol_hash_depends_on_knobs_but_not_on_datasets() -> None:
    class Later(Probe):
        version = 4

    changed = (Probe(), Probe(tolerance=1e-4), Later(), Probe(preset="lgssl"))
    assert len({create.protocol_hash(evaluation) for evaluation in changed}) == 4
    assert create.protocol_hash(Probe(datasets=("digits",))) == create.protocol_hash(Probe())


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("experiment", "declaration", "settings", "temperature"), 0.07),
        (("experiment", "declaration", "schedule", "views"), 9),
        (("experiment", "fingerprint"), "f" * 64),
        (("experiment", "method"), "simclr"),
        (("evaluation", "knobs", "tolerance"), 0.5),
        (("evaluation", "preset"), "lgssl"),
        (("model", "views"), 12000),
        (("model", "encoder", "depth"), 12),
        (("training", "revision"), "2.0"),
        (("seed",), "0"),
        (("schema_version",), 6),
        (("results", "digits", "predictions", "file"), "../digits.parquet"),
        (("model", "layer"), ""),
        (("training",), None),
        (("remark",), "an unknown field"),
    ],
)
def test_tampered_record_is_rejected(tmp_path: Path, place: tuple[str, ...], value: object) -> None:
    def tamper(content: dict[str, Any]) -> None:
        for key in place[:-1]:
            content = content[key]
        assert content.get(place[-1]) != value
        content[place[-1]] = value

    assert place[0] in one_line_error(spoiled(tmp_path, tamper))


PRETRAINED = Pretrained("timm:vit_tiny_patch16_224", "vit_tiny_patch16_224", {"architecture": "vit_tiny_patch16_224"})


def test_record_of_a_pretrained_model(tmp_path: Path) -> None:
    path = store.write(make(origin=PRETRAINED), tmp_path)
    assert path == tmp_path / "pretrained/vit_tiny_patch16_224/1/0/linear_probe.ssl-transfer.json"
    record = store.read(path)
    assert record.training is None
    assert record.model.views is None
    assert record.experiment.method == "vit_tiny_patch16_224"
    assert record.model_dump()["experiment"]["declaration"]["source"] == "timm:vit_tiny_patch16_224"
    assert record.experiment.fingerprint == create.fingerprint(PRETRAINED)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("experiment", "declaration", "source"), "timm:other"),
        (("experiment", "declaration", "source"), ""),
        (("model", "views"), 6000),
        (("model", "encoder"), {"architecture": "other"}),
        (("training",), {"repo": "a/b", "revision": "r", "content_sha256": None, "parents": {}}),
    ],
)
def test_tampered_record_of_a_pretrained_model_is_rejected(tmp_path: Path, place: tuple[str, ...], value: Any) -> None:
    path = store.write(make(origin=PRETRAINED), tmp_path)
    content = json.loads(path.read_text())
    part = content
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    store.write_with_checksum(path, content)
    assert place[0] in one_line_error(path)


def test_results_of_an_older_record_are_unchanged() -> None:
    before = make().results
    later = make({**before, "stl10": SCORES})
    assert {name: later.results[name] for name in before} == dict(before)
    assert isinstance(later.results["stl10"], Measured)


CYRILLIC = "\N{CYRILLIC SMALL LETTER I}"


@pytest.mark.parametrize(
    "name",
    [f"clip/cl{CYRILLIC}p", CYRILLIC, "smoke/con", "LPT1", "smoke/aux.2", "a./b", "a" * 201, "a/" * 200 + "a"],
)
def test_name_is_a_path_on_every_system(name: str) -> None:
    with pytest.raises(UserError, match="name"):
        make(experiment=dataclasses.replace(EXPERIMENT, name=name))
    with pytest.raises(UserError, match="method"):
        make(experiment=dataclasses.replace(EXPERIMENT, method=name.replace("/", "-").removeprefix("smoke-") + "."))


def test_names_that_only_look_like_devices_are_valid() -> None:
    for name in ("smoke/console", "smoke/com10", "a/com", "null/prn-1", "x" * 200):
        assert make(experiment=dataclasses.replace(EXPERIMENT, name=name)).experiment.name == name


@pytest.mark.parametrize("name", ["../up", "/root", "a//b", "a/../b", ""])
def test_name_cannot_escape_the_records_folder(name: str) -> None:
    with pytest.raises(UserError, match="name"):
        make(experiment=dataclasses.replace(EXPERIMENT, name=name))


@pytest.mark.parametrize("content", [b"", b" \n", b"{", b"[]", b"null", b"{}", b'{"model_name": "x"}', b"\xff\xfe"])
def test_invalid_file_raises_a_user_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "linear_probe.json"
    path.write_bytes(content)
    assert "remove" in one_line_error(path)
    with pytest.raises(UserError):
        store.read_all(tmp_path)


def test_nan_raises_a_user_error(tmp_path: Path) -> None:
    path = store.write(make(), tmp_path)
    path.write_text(path.read_text().replace('"l2": 0.01', '"l2": NaN'))
    assert "NaN" in one_line_error(path)


def test_deeply_nested_file_raises_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    assert "nested too deeply" in one_line_error(tmp_path / "deep.json")


@pytest.mark.parametrize("depth", [33, 200, 500, 900, 990])
def test_nesting_that_json_can_read_but_nothing_else_raises_a_user_error(tmp_path: Path, depth: int) -> None:
    path = store.write(make(), tmp_path)
    path.write_text(path.read_text().replace('"l2": 0.01', f'"l2": {"[" * depth}{"]" * depth}'))
    assert "nested too deeply" in one_line_error(path)


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        assert "expected a regular file, found a pipe or a device" in one_line_error(tmp_path / f"{name}.json")
    (tmp_path / "folder.json").mkdir()
    assert "cannot read the file: Is a directory" in one_line_error(tmp_path / "folder.json")


def test_truncated_record_raises_a_user_error(tmp_path: Path) -> None:
    path = store.write(make(), tmp_path)
    content = path.read_bytes()
    for size in (1, len(content) // 2, len(content) - 3):
        path.write_bytes(content[:size])
        assert "not valid JSON" in one_line_error(path)


def test_missing_files_and_empty_folders(tmp_path: Path) -> None:
    one_line_error(tmp_path / "none.json")
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match="no records"):
            store.read_all(folder)


def test_record_of_another_declaration_is_not_overwritten(tmp_path: Path) -> None:
    old = make()
    path = store.write(old, tmp_path)
    before = path.read_bytes()
    changed = dataclasses.replace(EXPERIMENT, settings=dataclasses.replace(SETTINGS, temperature=0.2))
    new = make(experiment=changed)
    with pytest.raises(UserError) as caught:
        store.write(new, tmp_path)
    assert old.experiment.fingerprint in str(caught.value)
    assert new.experiment.fingerprint in str(caught.value)
    assert path.read_bytes() == before
    store.write(make(seconds={"probe": 9.0}), tmp_path)
    assert store.read(path).seconds == {"probe": 9.0}


def test_values_that_json_cannot_represent_are_rejected() -> None:
    for details in ({"tolerance": math.inf}, {"path": Path("x")}):
        with pytest.raises(UserError, match="expected JSON values and finite numbers"):
            make({"digits": dataclasses.replace(SCORES, details=details)})


def test_canonical_json_is_unique() -> None:
    assert canonical_json({"b": (1, 2.0), "a": np.int64(3)}) == canonical_json({"a": 3, "b": [1, 2.0]})
    assert canonical_json({"a": 1}) != canonical_json({"a": 1.5})


def test_environment_contains_versions_but_no_paths() -> None:
    found = environment.environment("cpu")
    assert {"torch", "timm", "numpy", "scikit-learn"} <= found.packages.keys()
    assert str(Path.home()) not in found.model_dump_json()
    assert str(Path(store.__file__).parents[2]) not in found.model_dump_json()


# The checksum


RECORDS = sorted(
    (Path(__file__).parents[2] / "results/records/main-smoke-scenes-1x/stablerep_plus-syn/3/0").glob("*.json")
)


def leaves(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the keys of every leaf; a list and an empty mapping are leaves."""
    if isinstance(content, dict) and content:
        for key, value in content.items():
            yield from leaves(value, (*path, key))
    else:
        yield path


def modified(value: Any) -> Any:
    """Return a different value of the same type, the nearest one for a number."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return math.nextafter(value, math.inf)
    if isinstance(value, str):
        return value[:-1] + ("1" if value[-1:] != "1" else "2")
    return [*value, 1] if isinstance(value, list) else {"more": 1}


@pytest.mark.slow
@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_checksum_detects_a_change_of_any_field(path: Path, tmp_path: Path) -> None:
    content, file = json.loads(path.read_text()), tmp_path / "record.json"
    assert path.read_bytes().splitlines()[1] == f'  "checksum": "{content["checksum"]}",'.encode()
    tried = 0
    for leaf in leaves(content):
        owner = content
        for key in leaf[:-1]:
            owner = owner[key]
        before = owner[leaf[-1]]
        owner[leaf[-1]] = modified(before)
        rest = {name: value for name, value in content.items() if name != "checksum"}
        lines = json.dumps(rest, indent=2, sort_keys=True) + "\n"
        assert content["checksum"] != store.checksum(lines.encode())
        owner[leaf[-1]] = before
        tried += 1
    assert tried > 50
    file.write_text(path.read_text().replace('"seed": 0,', '"seed": 1,', 1))
    with pytest.raises(UserError, match=r"record.json: the checksum does not match"):
        store.read(file)
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    assert store.read(file) == store.read(path)


def test_checksum_is_that_of_the_other_lines(tmp_path: Path) -> None:
    """The command in the documentation, so that anyone can verify a file without this package."""
    path = store.write(make(), tmp_path)
    own = subprocess.run(f"sed 2d '{path}' | sha256sum", shell=True, check=True, capture_output=True, text=True).stdout
    assert json.loads(path.read_text())["checksum"] == own.split()[0]
    assert path.read_text() == json.dumps(json.loads(path.read_text()), indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize("place", [0, 1, 3, 20, 60, 90, 100, 101, 5000, -2, -1])
def test_a_changed_byte_is_refused(place: int, tmp_path: Path) -> None:
    content = bytearray(RECORDS[0].read_bytes())
    content[place] ^= 1
    (tmp_path / "record.json").write_bytes(content)
    one_line_error(tmp_path / "record.json")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: json.dumps(json.loads(text)),
        lambda text: json.dumps(json.loads(text), indent=4, sort_keys=True) + "\n",
        lambda text: json.dumps(dict(reversed(json.loads(text).items())), indent=2) + "\n",
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
        lambda text: text + "\n",
        lambda text: text + "{}",
        lambda text: text.replace('  "seed": 0,\n', '  "seed": 1,\n  "seed": 0,\n'),
        lambda text: text.replace('  "seed": 0,\n', '  "seed": 0,\n  "seed": 0,\n'),
        lambda text: text.replace("{\n", '{\n  "checksum": "' + "0" * 64 + '",\n', 1),
        lambda text: re.sub(r'(  "checksum": "\w+",\n)', r"\1\1", text, count=1),
        lambda text: text.replace('"checksum"', '"Checksum"', 1),
        lambda text: text.replace('"seed"', '"s\\u0065ed"'),
        lambda text: text.replace('"chance": 0.', '"chance": 0.0', 1),
        lambda text: re.sub(r'("chance": 0\.\d+)', r"\g<1>0", text, count=1),
    ],
)  # fmt: skip
def test_other_bytes_of_an_intact_record_are_refused(change: Callable[[str], str], tmp_path: Path) -> None:
    """Other layouts too: what is not byte by byte the file that was written is refused, whatever it means."""
    text = RECORDS[0].read_text()
    assert change(text) != text
    (tmp_path / "record.json").write_bytes(change(text).encode())
    one_line_error(tmp_path / "record.json")


def test_byte_order_mark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_bytes(b"\xef\xbb\xbf" + RECORDS[0].read_bytes())
    one_line_error(tmp_path / "record.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines.replace(b'"details": {', b'"details": {"x": NaN, ', 1), "expected finite numbers"),
        (lambda lines: lines.replace(b'"details": {', b'"details": {"x": [1e999], ', 1), "expected finite numbers"),
        (lambda lines: lines.replace(b'"settings": {', b'"settings": {"x": 1e999, ', 1), "expected finite numbers"),
        (lambda lines: lines.replace(b'"transform": {', b'"transform": {"x": -Infinity, ', 1), "finite numbers"),
        (
            lambda lines: lines.replace(b'"details": {', b'"details": {"x": ' + b"[" * 999 + b"]" * 999 + b",", 1),
            "deep",
        ),
        (lambda lines: lines.replace(b'"schema_version": 5', b'"schema_version": 6'), "found 6; update this package"),
        (lambda lines: lines.replace(b'"seed": 0', b'"seed": -1'), "field seed"),
        (lambda lines: lines + b"{}", "not valid JSON"),
        (lambda lines: lines.replace(b'"seed"', b'"s\xffed"'), "cannot read the file"),
    ],
)
def test_forged_record_with_a_valid_checksum_is_still_validated(
    change: Callable[[bytes], bytes], said: str, tmp_path: Path
) -> None:
    first, _, *others = RECORDS[0].read_bytes().splitlines(keepends=True)
    lines = first + b"".join(others)
    changed = change(lines)
    assert changed != lines
    line = f'  "checksum": "{store.checksum(changed)}",\n'.encode()
    (tmp_path / "record.json").write_bytes(first + line + changed.removeprefix(first))
    assert said in one_line_error(tmp_path / "record.json")


def test_garbage_collector_runs_again_after_reading(tmp_path: Path) -> None:
    store.write(make(), tmp_path)
    store.read_all(tmp_path)
    assert gc.isenabled()
    next(tmp_path.rglob("*.json")).write_text("{")
    with pytest.raises(UserError):
        store.read_all(tmp_path)
    assert gc.isenabled()
    with store.without_collection(), store.without_collection():
        assert not gc.isenabled()
    assert gc.isenabled()


@pytest.mark.parametrize("version", ["none", None, "5", 6, 0, True, [5]])
def test_missing_or_wrong_version_does_not_skip_the_checksum(version: Any, tmp_path: Path) -> None:
    content = json.loads(RECORDS[0].read_text()) | {"seed": 7, "schema_version": version}
    if version == "none":
        del content["schema_version"]
    (tmp_path / "record.json").write_text(json.dumps(content))
    assert "field schema_version: expected schema 5, found" in one_line_error(tmp_path / "record.json")
    assert content["seed"] != json.loads(RECORDS[0].read_text())["seed"]


@pytest.mark.parametrize("found", [None, "x", {}, "0" * 64, 1])
def test_missing_or_wrong_checksum_is_rejected(found: Any, tmp_path: Path) -> None:
    content = json.loads(RECORDS[0].read_text()) | {"checksum": found}
    (tmp_path / "record.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="the checksum does not match"):
        store.read(tmp_path / "record.json")


def test_checksum_is_added_when_writing(tmp_path: Path) -> None:
    record = store.read(RECORDS[0])
    path = store.write(record.model_copy(update={"seconds": {"train": 1.0}}), tmp_path)
    assert store.read(path).seconds == {"train": 1.0}
