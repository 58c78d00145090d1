"""Tests of the submission of a run to a checkout: copied files, rejected files, atomicity."""

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from benchmark import evaluations
from benchmark.errors import SkipCode, UserError
from benchmark.evaluations.datasets.splits import open_split
from benchmark.experiments import smoke
from benchmark.interfaces import DatasetScores, Pretrained, Skipped
from benchmark.records import create, environment, predictions, store
from benchmark.records.schema import sha256_of
from benchmark.submission import bundle, submit, validate
from tests.cli.test_main import assert_one_line, synrep
from tests.fixtures import runs

__all__ = ["synrep"]

KNN = evaluations.presets("knn")["dino"]
IDENTITY = open_split("digits", "test").identity
N = IDENTITY.n


def model(slug="tiny", **encoder):
    return Pretrained(f"timm:{slug}", slug, {"architecture": "tiny", **encoder})


def write(out, origin=None, right=400, seed=0, evaluation=KNN, weights="a", path=None):
    """Write a record with `right` of 600 correct predictions below `out`; return its path."""
    origin = origin or model()
    label_N = np.arange(N) % 10
    columns = {"row": np.arange(N), "label": label_N, "prediction_k20": (label_N + (np.arange(N) >= right)) % 10}
    scores = evaluation.intervals("digits", columns)
    name = f"{create.record_key(origin, seed)}/knn.{evaluation.preset}"
    file = predictions.write(out / "predictions" / (path or name) / "digits.parquet", columns)
    record = create.from_scores(
        dict.fromkeys(evaluation.datasets, Skipped("gone", SkipCode.FAILED))
        | {"digits": DatasetScores(IDENTITY, scores, chance=0.1)},
        origin=origin,
        seed=seed,
        name="knn",
        evaluation=evaluation,
        metadata={"weights_sha256": weights * 64, "layer": "cls", "transform": {}, "precision": "float32"},
        content_sha256="c" * 64,
        environment=environment.environment("cpu"),
        predictions={"digits": file},
    )
    if path is None:
        return store.write(record, out / "records")
    store.write_with_checksum(out / "records" / f"{path}.json", record.model_dump(mode="json"))
    return out / "records" / f"{path}.json"


def falsify_score(path):
    """Increase a score of a record and update its checksum."""
    content = json.loads(path.read_text())
    scores = content["results"]["digits"]["scores"]
    scores[next(iter(scores))] |= {"value": 0.9, "high": 1.0}
    store.write_with_checksum(path, {name: part for name, part in content.items() if name != "checksum"})


def tree(folder):
    """Return path -> content of every file."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@dataclass
class Sides:
    runs: Path
    results: Path

    def assert_rejected(self, *words):
        """Assert that the submission fails with these words and does not change the checkout; return its lines."""
        before, said = tree(self.results), []
        with pytest.raises(UserError) as error:
            submit.submit(self.runs, self.results, validate.find_problems, said.append)
        lines = [*said, str(error.value)]
        assert all("\n" not in line for line in lines)
        for word in words:
            assert any(word in line for line in lines), lines
        assert tree(self.results) == before
        return lines

    def submit(self):
        said = []
        count = submit.submit(self.runs, self.results, validate.find_problems, said.append)
        return count, said


@pytest.fixture
def sides(tmp_path):
    """A run with two records, and a checkout with another one."""
    runs, checkout = tmp_path / "out", tmp_path / "results"
    write(runs, model("one")), write(runs, model("two"), right=200, weights="d")
    write(checkout, model("three"), right=300, weights="e")
    (checkout / "README.md").write_text("# Results")
    return Sides(runs, checkout)


ONE = "records/pretrained/one/1/0/knn.dino.json"
OF_ONE = "predictions/pretrained/one/1/0/knn.dino/digits.parquet"


# Accepted submissions


def test_new_records_and_predictions_are_copied(sides):
    before, new = tree(sides.results), tree(sides.runs)
    assert sides.submit() == (2, [f"{sides.results}: 2 new records, 0 already present; 0 other files ignored"])
    assert tree(sides.results) == {**before, **new} and len(new) == 4
    assert list(validate.find_problems(sides.results / "records")) == []
    assert sides.submit() == (0, [f"{sides.results}: 0 new records, 2 already present; 0 other files ignored"])
    assert tree(sides.results) == {**before, **new}


def test_command_prints_the_next_steps(sides, synrep):
    code, said, error = synrep("submit", sides.runs, "--results", sides.results)
    assert (code, error) == (0, "") and "2 new records" in said
    for word in ("synrep tables", "git add", "pull request"):
        assert word in said
    assert "git add" not in synrep("submit", sides.runs, "--results", sides.results)[1]


def test_other_files_are_counted_but_not_copied(sides):
    for name in ("train/x/model.json", "records/.x.json.1.tmp", "records/notes.txt", "predictions/old/x.parquet"):
        (sides.runs / name).parent.mkdir(parents=True, exist_ok=True)
        (sides.runs / name).write_text("{}")
    count, said = sides.submit()
    assert count == 2 and said[-1].endswith("4 other files ignored")
    assert not (sides.results / "train").exists() and len(tree(sides.results)) == 3 + 4


def test_equal_record_in_other_bytes_is_already_present(sides):
    sides.submit()
    path = sides.results / ONE
    path.write_text(json.dumps(json.loads(path.read_text())))
    before = tree(sides.results)
    assert sides.submit()[0] == 0 and tree(sides.results) == before


def test_missing_predictions_are_restored(sides):
    sides.submit()
    (sides.results / OF_ONE).unlink()
    sides.submit()
    assert (sides.results / OF_ONE).read_bytes() == (sides.runs / OF_ONE).read_bytes()


def test_records_are_copied_after_their_predictions(sides, monkeypatch):
    order, copyfile = [], shutil.copyfile
    monkeypatch.setattr(bundle.shutil, "copyfile", lambda a, b, **k: [order.append(str(a)), copyfile(a, b, **k)][1])
    sides.submit()
    into = order[-4:]
    assert [".json" in path for path in into] == [False, False, True, True]


# Rejected submissions


def test_different_record_at_the_same_path_is_a_conflict(sides):
    write(sides.results, model("one"), right=240)
    lines = sides.assert_rejected(f"{ONE}: results.digits.scores.", ".value is 0.66666666666666")
    assert f" in {sides.runs}, 0.4 in {sides.results} (and " in lines[0] and "; created 20" in lines[0]
    assert len(lines) == 2 and lines[1].startswith("found 1 problem, nothing was copied: ")


def test_different_predictions_at_the_same_path_are_a_conflict(sides):
    sides.submit()
    (sides.results / OF_ONE).write_bytes(b"x")
    sides.assert_rejected(f"{OF_ONE}: sha256 is ")


def test_one_invalid_record_rejects_all(sides):
    path = sides.runs / ONE
    path.write_text(path.read_text().replace('"n": 600', '"n": 601', 1))
    sides.assert_rejected("the checksum does not match")


def test_score_that_differs_from_its_predictions_is_rejected(sides):
    falsify_score(sides.runs / ONE)
    sides.assert_rejected("expected 0.666", "(from predictions), found 0.9;")


def test_files_of_the_run_are_checked_too(sides):
    origin = runs.experiment("clip", steps=2)
    write(sides.runs, origin, weights="f")
    (sides.runs / "train" / create.record_key(origin, 0)).mkdir(parents=True)
    (sides.runs / "train" / create.record_key(origin, 0) / "model.json").write_text(json.dumps({"weights_sha256": "0"}))
    sides.assert_rejected("expected 0 as in ", "model.json, found ")


def test_declaration_that_differs_from_the_checkout_is_rejected(sides):
    """Different paths, but the declaration of the same model differs."""
    write(sides.results, model("one", depth=3), path="pretrained/one/1/0/knn.dino")
    shutil.rmtree(sides.runs)
    write(sides.runs, model("one"), seed=1)
    new = str(sides.runs / ONE.replace("/0/", "/1/"))
    lines = sides.assert_rejected("two declarations with one name", new, str(sides.results / ONE))
    assert len(lines) == 2 and "/tmp" not in lines[0].replace(str(sides.runs), "").replace(str(sides.results), "")


def test_run_with_an_official_name_must_match_its_declaration(sides, synrep):
    official = next(declared for declared in smoke.EXPERIMENTS if declared.method == "simclr")
    write(sides.runs, replace(official, schedule=replace(official.schedule, views=60)))
    before = tree(sides.results)
    code, said, error = synrep("submit", sides.runs, "--results", sides.results)
    assert_one_line((code, said, error), "1 problem, nothing was copied")
    assert f"as declared for smoke/simclr version {official.version}, found " in said and tree(sides.results) == before


@pytest.mark.parametrize("name", [ONE, OF_ONE, "records/pretrained", "predictions", "records"])
def test_links_are_not_followed(sides, tmp_path, name):
    path, elsewhere = sides.runs / name, tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    sides.assert_rejected(f"{path}: expected a file, found a link")


def test_special_files_are_rejected(sides):
    os.mkfifo(sides.runs / "records/pipe.json")
    sides.assert_rejected("pipe.json: expected a regular file")


def test_link_in_the_checkout_is_not_followed(sides, tmp_path):
    outside = tmp_path / "outside"
    (sides.results / "records/pretrained").rename(outside)
    (sides.results / "records/pretrained").symlink_to(outside)
    before = tree(outside)
    sides.assert_rejected("found a link that leads out of it")
    assert tree(outside) == before


@pytest.mark.parametrize("path", ["elsewhere", "pretrained/other/1/0/knn.dino", "pretrained/one/1/0/knn.lgssl"])
def test_misplaced_record_is_rejected(sides, path):
    write(sides.runs, model("one"), path=path)
    sides.assert_rejected(f"{path}.json: expected path {ONE}")


@pytest.mark.parametrize("preset", ["../../../../../x", "/x", "a b", "."])
def test_preset_that_escapes_the_folder_is_rejected(sides, preset):
    path = sides.runs / ONE
    content = {name: part for name, part in json.loads(path.read_text()).items() if name != "checksum"}
    own = content["evaluation"]
    own["preset"] = preset
    own["protocol"] = sha256_of({name: own[name] for name in ("version", "preset", "knobs")})
    store.write_with_checksum(path, content)
    sides.assert_rejected("field evaluation.preset")


def test_huge_files_are_not_read(sides):
    with (sides.runs / ONE).open("r+b") as file:
        file.truncate(store.MAX_BYTES + 1)
    sides.assert_rejected("expected at most 4,194,304 bytes, found 4,194,305")
    write(sides.runs, model("one"), path="pretrained/one/1/0/knn.dino")
    with (sides.runs / OF_ONE).open("r+b") as file:
        file.truncate(predictions.MAX_BYTES + 1)
    sides.assert_rejected("expected at most 268,435,456 bytes, found 268,435,457")


def test_missing_or_changed_predictions_are_rejected(sides):
    (sides.runs / OF_ONE).write_bytes(b"x")
    sides.assert_rejected(f"{OF_ONE}: expected sha256 ", ", found ")
    (sides.runs / OF_ONE).unlink()
    sides.assert_rejected(f"{OF_ONE} is missing, but {ONE} names it")


def test_deeply_nested_record_is_one_line(sides):
    (sides.runs / ONE).write_text("[" * 100_000)
    sides.assert_rejected(f"{sides.runs / ONE}")


def test_wrong_folders_raise_user_errors(sides, synrep, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    answer = synrep("submit", sides.runs / "records", "--results", sides.results)
    assert_one_line(answer, "no records in", "give the folder that was the --out of the run")
    assert_one_line(synrep("submit", sides.runs, "--results", "nowhere"), "no folder nowhere/records", "--results")


# Atomicity


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_interrupted_copy_leaves_nothing(sides, monkeypatch, stop, after):
    before, copyfile, done = tree(sides.results), shutil.copyfile, []

    def failing(source, target, **more):
        if Path(target).is_relative_to(sides.results):
            done.append(target)
            if len(done) > after:
                raise stop
        return copyfile(source, target, **more)

    monkeypatch.setattr(bundle.shutil, "copyfile", failing)
    with pytest.raises(KeyboardInterrupt if isinstance(stop, KeyboardInterrupt) else UserError):
        sides.submit()
    assert tree(sides.results) == before and len(done) == after + 1
    monkeypatch.undo()
    assert sides.submit()[0] == 2


def test_file_that_changes_during_the_copy_is_detected(sides, monkeypatch):
    before, copyfile = tree(sides.results), shutil.copyfile

    def changing(source, target, **more):
        copyfile(source, target, **more)
        if Path(target).is_relative_to(sides.results) and source.name.endswith(".json"):
            target.write_text("{}")

    monkeypatch.setattr(bundle.shutil, "copyfile", changing)
    with pytest.raises(UserError, match="changed while it was copied; run the command again"):
        sides.submit()
    assert tree(sides.results) == before


def test_failed_copy_keeps_what_another_process_has_placed(sides, monkeypatch):
    """Such as `git pull`, which takes no lock."""
    copyfile, theirs = shutil.copyfile, tree(sides.runs)[ONE]

    def placing(source, target, **more):
        copyfile(source, target, **more)
        if Path(target).is_relative_to(sides.results) and not (sides.results / ONE).exists():
            (sides.results / ONE).parent.mkdir(parents=True, exist_ok=True)
            (sides.results / ONE).write_bytes(theirs)

    before = tree(sides.results)
    monkeypatch.setattr(bundle.shutil, "copyfile", placing)
    with pytest.raises(UserError, match=r"knn.dino.json was written by another process; run the command again"):
        sides.submit()
    assert tree(sides.results) == before | {ONE: theirs}
    monkeypatch.undo()
    assert sides.submit()[0] == 1


def test_two_submissions_at_once_add_all_records(sides):
    """Each waits for the other: a record of both is new to one of them and known to the other."""
    other = Sides(sides.runs.with_name("other"), sides.results)
    write(other.runs, model("one")), write(other.runs, model("four"), right=100, weights="f")
    with ThreadPoolExecutor(2) as pool:
        counts = [future.result()[0] for future in [pool.submit(side.submit) for side in (sides, other)]]
    assert sum(counts) == 3
    assert {path for path in tree(sides.results) if path.endswith(".json")} == {
        f"records/pretrained/{name}/1/0/knn.dino.json" for name in ("one", "two", "three", "four")
    }
    assert list(sides.results.rglob(".*")) == []


def test_leftovers_of_a_killed_submission_are_removed_by_the_next(sides):
    left = (sides.results / ONE).with_name(".knn.dino.json.7.0123abcd.tmp")
    left.parent.mkdir(parents=True)
    left.write_text("{")
    (sides.results / ".records.lock").write_text("")
    assert sides.submit()[0] == 2
    assert list(sides.results.rglob(".*")) == []


# Differences of records

SIDES = ("here", "there")


def text(**changes):
    content = {"created": "2026-01-02", "seed": 0, "results": {"x": {"environment": {"a": 1}, "scores": {"t": 0.5}}}}
    return json.dumps({**content, **changes}).encode()


def test_difference_names_the_most_informative_field():
    other = {"x": {"environment": {"a": 2}, "scores": {"t": 0.25}}}
    assert bundle.describe_difference(text(), text(results=other, created="2026-01-03", checksum="x"), SIDES) == (
        "results.x.scores.t is 0.5 in here, 0.25 in there (and 3 more fields); "
        "created 2026-01-02 in here, 2026-01-03 in there"
    )
    assert bundle.describe_difference(text(), text(created="2026-01-01"), SIDES).startswith(
        "created is 2026-01-02 in here, "
    )
    assert bundle.describe_difference(text(seed=3), text(results=other), SIDES).startswith(
        "seed is 3 in here, 0 in there (and"
    )
    assert bundle.describe_difference(text(), text() + b"\n ", SIDES) == ""


def test_difference_to_invalid_content():
    for content in (b"", b"[1]", b"[" * 100_000, b"\xff"):
        assert bundle.describe_difference(text(), content, SIDES) == "not a record in there"
        assert bundle.describe_difference(content, content, SIDES) == ""
