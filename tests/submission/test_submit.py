"""Records from a run's folder into a checkout: what enters, what is refused, and that it is all or nothing."""

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from benchmark import evaluations
from benchmark.errors import SkipCode, UserError
from benchmark.experiments import smoke
from benchmark.interfaces import DatasetIdentity, DatasetScores, Pretrained, Skipped
from benchmark.records import create, environment, predictions, store
from benchmark.records.schema import sha256_of
from benchmark.submission import bundle, submit, validate
from tests.cli.test_main import assert_one_line, synrep
from tests.fixtures import runs

__all__ = ["synrep"]

N = 30
KNN = evaluations.presets("knn")["dino"]
IDENTITY = DatasetIdentity("scikit-learn/digits", "1.7", "test", N, "b" * 64)


def model(slug="tiny", **encoder):
    return Pretrained(f"timm:{slug}", slug, {"architecture": "tiny", **encoder})


def write(out, origin=None, right=20, seed=0, evaluation=KNN, weights="a", path=None):
    """A record and its predictions below `out`, of a model that has `right` of 30 digits right; the record's path."""
    origin = origin or model()
    label_N = np.arange(N) % 10
    columns = {"row": np.arange(N), "label": label_N, "prediction_k20": (label_N + (np.arange(N) >= right)) % 10}
    scores = evaluation.intervals("digits", columns)
    place = f"{create.record_key(origin, seed)}/knn.{evaluation.preset}"
    file = predictions.write(out / "predictions" / (path or place) / "digits.parquet", columns)
    record = create.from_scores(
        {"digits": DatasetScores(IDENTITY, scores, chance=0.1), "cars": Skipped("gone", SkipCode.FAILED)},
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


def lie(path):
    """Raise a score of a record, and give it its checksum."""
    content = json.loads(path.read_text())
    scores = content["results"]["digits"]["scores"]
    scores[next(iter(scores))] |= {"value": 0.9, "high": 1.0}
    store.write_with_checksum(path, {name: part for name, part in content.items() if name != "checksum"})


def tree(folder):
    """Path -> content of every file."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@dataclass
class Sides:
    runs: Path
    results: Path

    def refused(self, *words):
        """Submitting fails with these words in its lines, and nothing of the checkout changes."""
        before, said = tree(self.results), []
        with pytest.raises(UserError) as error:
            submit.submit(self.runs, self.results, validate.find_problems, said.append)
        lines = [*said, str(error.value)]
        assert all("\n" not in line for line in lines)
        for word in words:
            assert any(word in line for line in lines), lines
        assert tree(self.results) == before
        return lines

    def taken(self):
        said = []
        count = submit.submit(self.runs, self.results, validate.find_problems, said.append)
        return count, said


@pytest.fixture
def sides(tmp_path):
    """A run with two records, and a checkout with another one."""
    runs, checkout = tmp_path / "out", tmp_path / "results"
    write(runs, model("one")), write(runs, model("two"), right=10, weights="d")
    write(checkout, model("three"), right=15, weights="e")
    (checkout / "README.md").write_text("# Results")
    return Sides(runs, checkout)


ONE = "records/pretrained/one/1/0/knn.dino.json"
OF_ONE = "predictions/pretrained/one/1/0/knn.dino/digits.parquet"


# What enters


def test_records_and_predictions_enter_as_they_are_beside_those_that_are_there(sides):
    before, new = tree(sides.results), tree(sides.runs)
    assert sides.taken() == (2, [f"2 records are new in {sides.results}, 0 were there; 0 other files are ignored"])
    assert tree(sides.results) == {**before, **new} and len(new) == 4
    assert list(validate.find_problems(sides.results / "records")) == []
    assert sides.taken() == (0, [f"0 records are new in {sides.results}, 2 were there; 0 other files are ignored"])
    assert tree(sides.results) == {**before, **new}


def test_the_command_says_what_comes_next(sides, synrep):
    code, said, error = synrep("submit", sides.runs, "--results", sides.results)
    assert (code, error) == (0, "") and "2 records are new" in said
    for word in ("synrep tables", "git add", "pull request"):
        assert word in said
    assert "git add" not in synrep("submit", sides.runs, "--results", sides.results)[1]


def test_what_is_neither_record_nor_predictions_is_counted_and_stays(sides):
    for name in ("train/x/model.json", "records/.x.json.1.tmp", "records/notes.txt", "predictions/old/x.parquet"):
        (sides.runs / name).parent.mkdir(parents=True, exist_ok=True)
        (sides.runs / name).write_text("{}")
    count, said = sides.taken()
    assert count == 2 and said[-1].endswith("4 other files are ignored")
    assert not (sides.results / "train").exists() and len(tree(sides.results)) == 3 + 4


def test_a_record_that_says_the_same_in_other_bytes_is_there_already(sides):
    sides.taken()
    path = sides.results / ONE
    path.write_text(json.dumps(json.loads(path.read_text())))
    before = tree(sides.results)
    assert sides.taken()[0] == 0 and tree(sides.results) == before


def test_predictions_that_were_lost_come_back(sides):
    sides.taken()
    (sides.results / OF_ONE).unlink()
    sides.taken()
    assert (sides.results / OF_ONE).read_bytes() == (sides.runs / OF_ONE).read_bytes()


def test_records_come_last_so_that_none_ever_stands_without_its_predictions(sides, monkeypatch):
    order, copyfile = [], shutil.copyfile
    monkeypatch.setattr(bundle.shutil, "copyfile", lambda a, b, **k: [order.append(str(a)), copyfile(a, b, **k)][1])
    sides.taken()
    into = order[-4:]
    assert [".json" in path for path in into] == [False, False, True, True]


# What is refused


def test_another_content_under_one_path_is_a_conflict_and_nothing_enters(sides):
    write(sides.results, model("one"), right=12)
    lines = sides.refused(f"{ONE}: results.digits.scores.", ".value is 0.66666666666666")
    assert f" in {sides.runs}, 0.4 in {sides.results} (and " in lines[0] and "; created 20" in lines[0]
    assert len(lines) == 2 and lines[1].startswith("1 problem, nothing was taken: ")


def test_predictions_that_are_not_those_of_the_record_there_are_a_conflict(sides):
    sides.taken()
    (sides.results / OF_ONE).write_bytes(b"x")
    sides.refused(f"{OF_ONE}: sha256 ")


def test_one_bad_record_keeps_the_good_ones_out(sides):
    path = sides.runs / ONE
    path.write_text(path.read_text().replace('"n": 30', '"n": 31', 1))
    sides.refused("was changed since it was written")


def test_a_score_that_the_predictions_do_not_give_is_refused(sides):
    lie(sides.runs / ONE)
    sides.refused("is 0.9, its predictions give 0.666")


def test_the_files_of_the_run_beside_the_records_are_checked_too(sides):
    origin = runs.experiment("clip", steps=2)
    write(sides.runs, origin, weights="f")
    (sides.runs / "train" / create.record_key(origin, 0)).mkdir(parents=True)
    (sides.runs / "train" / create.record_key(origin, 0) / "model.json").write_text(json.dumps({"weights_sha256": "0"}))
    sides.refused("model.json says 0; evaluate the run anew")


def test_a_declaration_that_differs_from_one_in_the_checkout_is_refused(sides):
    """Another evaluation of a model that has the same name there: no path is the same, the records do not fit."""
    write(sides.results, model("one", depth=3), path="pretrained/one/1/0/knn.dino")
    shutil.rmtree(sides.runs)
    write(sides.runs, model("one"), seed=1)
    new = str(sides.runs / ONE.replace("/0/", "/1/"))
    lines = sides.refused("conflicting declarations under one name", new, str(sides.results / ONE))
    assert len(lines) == 2 and "/tmp" not in lines[0].replace(str(sides.runs), "").replace(str(sides.results), "")


def test_a_run_under_an_official_name_is_as_declared(sides, synrep):
    official = next(declared for declared in smoke.EXPERIMENTS if declared.method == "simclr")
    write(sides.runs, replace(official, schedule=replace(official.schedule, views=60)))
    before = tree(sides.results)
    code, said, error = synrep("submit", sides.runs, "--results", sides.results)
    assert_one_line((code, said, error), "1 problem, nothing was taken")
    assert f"smoke/simclr version {official.version} is declared as" in said and tree(sides.results) == before


@pytest.mark.parametrize("name", [ONE, OF_ONE, "records/pretrained", "predictions", "records"])
def test_links_are_not_followed(sides, tmp_path, name):
    path, elsewhere = sides.runs / name, tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    sides.refused(f"{path} is a link")


def test_what_is_no_plain_file_is_refused(sides):
    os.mkfifo(sides.runs / "records/pipe.json")
    sides.refused("pipe.json is no plain file")


def test_a_link_in_the_checkout_leads_nowhere_else(sides, tmp_path):
    outside = tmp_path / "outside"
    (sides.results / "records/pretrained").rename(outside)
    (sides.results / "records/pretrained").symlink_to(outside)
    before = tree(outside)
    sides.refused("leads out of")
    assert tree(outside) == before


@pytest.mark.parametrize("place", ["elsewhere", "pretrained/other/1/0/knn.dino", "pretrained/one/1/0/knn.lgssl"])
def test_a_record_lies_where_it_says(sides, place):
    write(sides.runs, model("one"), path=place)
    sides.refused(f"{place}.json says that its place is {ONE}")


@pytest.mark.parametrize("preset", ["../../../../../x", "/x", "a b", "."])
def test_a_record_cannot_name_a_place_outside(sides, preset):
    path = sides.runs / ONE
    content = {name: part for name, part in json.loads(path.read_text()).items() if name != "checksum"}
    own = content["evaluation"]
    own["preset"] = preset
    own["protocol"] = sha256_of({name: own[name] for name in ("version", "preset", "knobs")})
    store.write_with_checksum(path, content)
    sides.refused("field evaluation.preset")


def test_huge_files_are_not_read(sides):
    with (sides.runs / ONE).open("r+b") as file:
        file.truncate(store.MAX_BYTES + 1)
    sides.refused("has 4,194,305 bytes, wanted at most 4,194,304")
    write(sides.runs, model("one"), path="pretrained/one/1/0/knn.dino")
    with (sides.runs / OF_ONE).open("r+b") as file:
        file.truncate(predictions.MAX_BYTES + 1)
    sides.refused("has 268,435,457 bytes, wanted at most 268,435,456")


def test_predictions_are_there_and_are_the_record_s(sides):
    (sides.runs / OF_ONE).write_bytes(b"x")
    sides.refused(f"{OF_ONE} has sha256 ", " says ")
    (sides.runs / OF_ONE).unlink()
    sides.refused(f"{OF_ONE} is missing, but {ONE} names it")


def test_a_record_of_nested_brackets_is_one_line(sides):
    (sides.runs / ONE).write_text("[" * 100_000)
    sides.refused(f"{sides.runs / ONE}")


def test_a_folder_that_is_not_a_run_s_is_one_line(sides, synrep, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    answer = synrep("submit", sides.runs / "records", "--results", sides.results)
    assert_one_line(answer, "no records in", "name the folder that --out named")
    assert_one_line(synrep("submit", sides.runs, "--results", "nowhere"), "there is no nowhere/records", "--results")


# All or nothing


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_copy_that_stops_leaves_nothing(sides, monkeypatch, stop, after):
    before, copyfile, done = tree(sides.results), shutil.copyfile, []

    def failing(source, target, **more):
        if Path(target).is_relative_to(sides.results):
            done.append(target)
            if len(done) > after:
                raise stop
        return copyfile(source, target, **more)

    monkeypatch.setattr(bundle.shutil, "copyfile", failing)
    with pytest.raises(KeyboardInterrupt if isinstance(stop, KeyboardInterrupt) else UserError):
        sides.taken()
    assert tree(sides.results) == before and len(done) == after + 1
    monkeypatch.undo()
    assert sides.taken()[0] == 2


def test_a_file_that_changes_meanwhile_is_found_out(sides, monkeypatch):
    before, copyfile = tree(sides.results), shutil.copyfile

    def changing(source, target, **more):
        copyfile(source, target, **more)
        if Path(target).is_relative_to(sides.results) and source.name.endswith(".json"):
            target.write_text("{}")

    monkeypatch.setattr(bundle.shutil, "copyfile", changing)
    with pytest.raises(UserError, match="changed while it was copied; run again"):
        sides.taken()
    assert tree(sides.results) == before


# How two records differ

SIDES = ("here", "there")


def text(**changes):
    content = {"created": "2026-01-02", "seed": 0, "results": {"x": {"environment": {"a": 1}, "scores": {"t": 0.5}}}}
    return json.dumps({**content, **changes}).encode()


def test_what_differs_is_the_first_field_that_says_why():
    other = {"x": {"environment": {"a": 2}, "scores": {"t": 0.25}}}
    assert bundle.difference(text(), text(results=other, created="2026-01-03", checksum="x"), SIDES) == (
        "results.x.scores.t is 0.5 in here, 0.25 in there (and 3 more fields); "
        "created 2026-01-02 in here, 2026-01-03 in there"
    )
    assert bundle.difference(text(), text(created="2026-01-01"), SIDES).startswith("created is 2026-01-02 in here, ")
    assert bundle.difference(text(seed=3), text(results=other), SIDES).startswith("seed is 3 in here, 0 in there (and")
    assert bundle.difference(text(), text() + b"\n ", SIDES) == ""


def test_what_is_no_record_is_said_to_be_none():
    for content in (b"", b"[1]", b"[" * 100_000, b"\xff"):
        assert bundle.difference(text(), content, SIDES) == "no record in there"
        assert bundle.difference(content, content, SIDES) == ""
