"""Tests of push and pull of records, and of the leaderboard Space, with a local fake Hub."""

import io
import json
import random
import re
import subprocess
import sys
import time
from datetime import date

import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard, constants

from benchmark.errors import UserError
from benchmark.evaluations.scoring.intervals import wilson
from benchmark.records import predictions, store, table
from benchmark.reports.site import space
from benchmark.submission import bundle, exchange, validate
from tests.cli.test_main import assert_one_line, synrep
from tests.fixtures import runs
from tests.fixtures.fake_hub import CUT, Hub
from tests.release.test_encoder import hub
from tests.submission.test_submit import IDENTITY, OF_ONE, ONE, falsify_score, model, tree, write

pytestmark = pytest.mark.slow

__all__ = ["hub", "synrep"]

REPO = "me/records"
TRAINED = runs.experiment("clip", steps=2)
COLUMNS = """
experiment version method seed evaluation preset evaluation_version protocol dataset dataset_repo
dataset_revision split score is_main value low high n chance training_repo training_revision views weights_sha256 layer
predictions_sha256 path created
"""


def quiet(_):
    """Ignore a message."""


@pytest.fixture
def here(tmp_path):
    """A folder with the records of three models, one of them trained."""
    write(tmp_path / "here", model("one")), write(tmp_path / "here", model("two"), right=200, weights="d")
    write(tmp_path / "here", TRAINED, right=500, weights="e", seed=1)
    return tmp_path / "here"


@pytest.fixture
def pushed(hub, here):
    """Push the three records to the Hub; return the commit."""
    return exchange.push(REPO, here, validate.find_problems, private=False, log=quiet)


@pytest.fixture
def said(synrep):
    """A function that runs the command, asserts its exit code and returns its lines, which never contain the token."""

    def call(*words, fails=False):
        code, out, error = synrep("results", *words)
        assert "hf_loopback" not in out + error and "hf_wrong" not in out + error
        if fails:
            assert_one_line((code, out, error))
            return [*out.splitlines(), error.removeprefix("synrep: ").strip()]
        assert (code, error) == (0, ""), error
        return out.splitlines()

    return call


def parts(folder):
    """Return the records and predictions of a folder."""
    return {path: content for path, content in tree(folder).items() if path.startswith(("records/", "predictions/"))}


def held(hub, repo=REPO, kind="datasets"):
    """Return path -> content of the files on the Hub."""
    there = hub.repo(repo, kind)
    return {path: hub.read(repo, path, kind=kind) for path in there.revisions[there.refs["main"]]}


def table_of(hub):
    return pq.read_table(io.BytesIO(hub.read(REPO, "records.parquet"))).to_pylist()


def spoil(hub, tmp_path, **files):
    """Commit changed files to the Hub; None deletes a file."""
    folder = tmp_path / "spoiled"
    for path, content in (held(hub) | files).items():
        if content is not None:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
    return hub.put(REPO, folder, "datasets")


# Push


def test_push_sends_records_predictions_table_and_card(hub, here, said):
    lines = said("push", REPO, "--results", here)
    there = hub.repo(REPO)
    commit = there.refs["main"]
    assert lines[0] == f"sending 3 new records to dataset {REPO}, total 3" and lines[1] == f"{REPO}@{commit}"
    files = held(hub)
    assert {path: files[path] for path in parts(here)} == parts(here) and len(parts(here)) == 6
    assert set(files) - parts(here).keys() == {".gitattributes", "records.parquet", "README.md"}
    assert len(there.messages) == 2 and not there.private
    assert said("push", REPO, "--results", here)[0] == f"dataset {REPO} has all 3 records; nothing to do"
    assert there.refs["main"] == commit, "again: no commit"


LOADS = """
import datasets, json, sys
found = datasets.load_dataset(sys.argv[1], split="train", revision=sys.argv[2])
print(json.dumps([found.column_names, [{**row, "created": str(row["created"])} for row in found]]))
"""


def test_datasets_library_loads_the_table(hub, pushed, tmp_path):
    """The table loads with the unmodified client, in a separate process."""
    env = hub.environment(tmp_path / "home", None)
    command = [sys.executable, "-c", LOADS, REPO, pushed]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    columns, rows = json.loads(ran.stdout.splitlines()[-1])
    assert columns == COLUMNS.split()
    assert rows == [{**row, "created": str(row["created"])} for row in table_of(hub)] and len(rows) == 6


def test_the_code_of_the_card_runs(hub, pushed, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", hub.read(REPO, "README.md").decode(), re.DOTALL)
    env = hub.environment(tmp_path / "home", None)
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert "test/clip" in ran.stdout and "digits" in ran.stdout


def test_table_row_matches_its_record(hub, pushed, here):
    path = "records/test/clip/1/1/knn.dino.json"
    record = store.read(here / path)
    part = record.results["digits"]
    row, other = (row for row in table_of(hub) if row["path"] == path)
    assert row == {
        **{"experiment": "test/clip", "version": 1, "method": "clip", "seed": 1, "path": path},
        **{"evaluation": "knn", "preset": "dino", "evaluation_version": 1, "protocol": record.evaluation.protocol},
        **{
            "dataset": "digits",
            "dataset_repo": "scikit-learn/digits",
            "dataset_revision": IDENTITY.revision,
            "split": "test",
        },
        **{"score": "top1_k20_T0.07", "is_main": True, "value": 500 / 600, "low": pytest.approx(wilson(500, 600).low)},
        **{"high": pytest.approx(wilson(500, 600).high), "n": 600, "chance": 0.1, "views": TRAINED.schedule.views},
        **{"training_repo": TRAINED.dataset, "training_revision": TRAINED.revision, "weights_sha256": "e" * 64},
        **{"layer": "cls", "predictions_sha256": part.predictions.sha256, "created": date.today()},
    } | {"created": record.created}
    assert not other["is_main"] and other["score"] == "mean_per_class_k20_T0.07" != part.main
    foreign = next(row for row in table_of(hub) if row["path"] == ONE)
    assert [foreign[name] for name in ("training_repo", "training_revision", "views")] == [None] * 3


def test_table_does_not_depend_on_the_order_of_records(here):
    records = {path: store.read(here / path) for path in parts(here) if path.endswith(".json")}
    wanted = table.parquet(records)
    shuffled = list(records.items())
    random.Random(1).shuffle(shuffled)
    assert shuffled != list(records.items()) and table.parquet(dict(shuffled)) == wanted
    rows = pq.read_table(io.BytesIO(wanted))
    assert rows.column_names == COLUMNS.split() and rows["path"].to_pylist() == sorted(rows["path"].to_pylist())
    assert rows["is_main"].to_pylist() == [True, False] * 3
    assert pq.read_table(io.BytesIO(table.parquet({}))).column_names == COLUMNS.split()


def test_number_that_does_not_fit_into_its_column(here):
    record = store.read(here / ONE)
    huge = record.model_copy(update={"seed": 2**70})
    with pytest.raises(UserError, match=f"record {re.escape(ONE)}: a number does not fit into its column"):
        table.parquet({ONE: huge})


def test_card_contains_counts_and_columns(hub, pushed):
    card = DatasetCard(hub.read(REPO, "README.md").decode())
    assert card.data.configs == [  # type: ignore[attr-defined]
        {"config_name": "default", "data_files": [{"split": "train", "path": "records.parquet"}]}
    ]
    assert "3 records of 3 models, with 6 scores" in " ".join(card.text.split()) and "| knn | 3 |" in card.text
    assert re.findall(r"^\| `(\w+)` \| \w+ \|", card.text, re.MULTILINE) == COLUMNS.split()


def test_existing_records_stay_and_are_in_the_table(hub, pushed, said, tmp_path):
    before = held(hub)
    write(tmp_path / "mine", model("four"), weights="f")
    assert said("push", REPO, "--results", tmp_path / "mine")[0].startswith("sending 1 new records to")
    after = held(hub)
    kept = {path: content for path, content in before.items() if path not in ("records.parquet", "README.md")}
    assert {path: after[path] for path in kept} == kept
    assert len({row["path"] for row in table_of(hub)}) == 4 and "4 records of 4 models" in after["README.md"].decode()
    commits = hub.lines("POST .*/commit/")
    assert len(commits) == 2


def test_push_sends_only_missing_files(hub, pushed, here):
    write(here, model("four"), right=100, weights="f")
    exchange.push(REPO, here, validate.find_problems, private=False, log=quiet)
    last = [request for request in hub.requests if "/commit/" in request.path][-1]
    sent = [json.loads(line)["value"].get("path") for line in last.body.decode().splitlines()]
    name = "pretrained/four/1/0/knn.dino"
    expected = {f"predictions/{name}/digits.parquet", f"records/{name}.json", "records.parquet", "README.md"}
    assert {path for path in sent if path} == expected


def test_push_conflict_of_a_record_sends_nothing(hub, pushed, said, tmp_path):
    mine = tmp_path / "mine"
    write(mine, model("one"), right=600), write(mine, model("four"), weights="f")
    before = held(hub)
    conflict, last = said("push", REPO, "--results", mine, fails=True)
    assert conflict.startswith(f"{ONE}: results.digits.scores.mean_per_class_k20_T0.07.value is 1.0 in {mine}, 0.66")
    today = store.read(mine / ONE).created
    assert conflict.endswith(f"; created {today} in {mine}, {today} in {REPO}")
    assert last.startswith(f"1 of these files have different content in dataset {REPO}, nothing was sent; increase the")
    assert held(hub) == before and len(hub.repo(REPO).messages) == 2


def test_push_conflict_of_predictions(hub, pushed, said, here, tmp_path):
    spoil(hub, tmp_path, **{OF_ONE: b"x"})
    assert (
        said("push", REPO, "--results", here, fails=True)[0]
        == f"{OF_ONE}: the file in the repository does not match {ONE}"
    )


def test_equal_record_in_other_bytes_is_no_conflict(hub, pushed, said, here, tmp_path):
    spoil(hub, tmp_path, **{ONE: json.dumps(json.loads((here / ONE).read_text())).encode()})
    assert said("push", REPO, "--results", here)[0].endswith("nothing to do")


def test_missing_or_damaged_table_is_regenerated(hub, pushed, said, here, tmp_path):
    wanted = held(hub)
    for content in (b"no table", wanted["records.parquet"][:-30]):
        spoil(hub, tmp_path, **{"records.parquet": content})
        said("push", REPO, "--results", here)
        assert held(hub) == wanted
    other = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(wanted["records.parquet"])), other, compression="gzip")
    spoil(hub, tmp_path, **{"records.parquet": other.getvalue()})
    assert said("push", REPO, "--results", here)[0].endswith("nothing to do"), "the same rows by another writer"


def test_invalid_records_are_not_sent(hub, said, here):
    (here / OF_ONE).write_bytes(b"x")
    lines = said("push", REPO, "--results", here, fails=True)
    assert f"{OF_ONE}: expected sha256 " in lines[0] and "1 problem, nothing was copied" in lines[-1]
    assert hub.repos == {}
    (here / OF_ONE).unlink()
    (here / OF_ONE).symlink_to(here / ONE)
    assert "found a link" in said("push", REPO, "--results", here, fails=True)[0]


def test_wrong_scores_are_not_sent(hub, said, here):
    falsify_score(here / ONE)
    assert "(from predictions), found 0.9;" in said("push", REPO, "--results", here, fails=True)[0]
    assert hub.repos == {}


def test_invalid_record_on_the_hub_is_named(hub, pushed, said, tmp_path):
    spoil(hub, tmp_path, **{ONE: b"{}"})
    write(tmp_path / "mine", model("four"), weights="f")
    (line,) = said("push", REPO, "--results", tmp_path / "mine", fails=True)
    assert line.startswith(f"dataset {REPO} contains an invalid record: record {ONE}: field") and "/tmp" not in line


def test_unrelated_repository_is_not_changed(hub, said, here, tmp_path):
    for name, files in {"me/images": ["data/train.parquet", "README.md"], "me/empty": ["README.md"]}.items():
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text("x")
        hub.put(name, tmp_path / name, "datasets")
    (line,) = said("push", "me/images", "--results", here, fails=True)
    assert line.startswith("expected only records in dataset me/images, found data/train.parquet")
    assert len(hub.repo("me/images").messages) == 2
    said("push", "me/empty", "--results", here)
    (line,) = said("push", "me/empty", "--private", "--results", here, fails=True)
    assert "to be private, but it exists and is public" in line
    said("push", "me/closed", "--private", "--results", here)
    assert hub.repo("me/closed").private


def races(hub, tmp_path, times):
    """Let another user commit a record before ours, `times` times."""
    left = list(range(times))

    def before(request):
        if "/preupload/" in request.path and left:
            other = tmp_path / f"race{left.pop()}"
            write(other, model(f"race{len(left)}"), weights=str(len(left)))
            there = hub.repo(REPO)
            files = {path: hub.keep(path, content) for path, content in parts(other).items()}
            there.commit(there.revisions[there.refs["main"]] | files, "race")

    hub.before = before


def test_concurrent_commit_is_merged(hub, said, here, tmp_path):
    races(hub, tmp_path, 1)
    lines = said("push", REPO, "--results", here)
    assert lines[1] == f"dataset {REPO} was changed by another commit; comparing again"
    assert lines[2].endswith("total 4") and hub.repo(REPO).messages[1] == "race"
    assert {row["method"] for row in table_of(hub)} == {"one", "two", "clip", "race0"}
    assert parts(tmp_path / "race0").items() <= held(hub).items()


def test_repeated_concurrent_commits_raise_a_user_error(hub, said, here, tmp_path):
    races(hub, tmp_path, 2)
    assert said("push", REPO, "--results", here, fails=True)[-1].endswith("by somebody else in the meantime; run again")
    assert hub.repo(REPO).messages == ["initial commit", "race", "race"]
    assert not parts(here).keys() & held(hub).keys()


@pytest.mark.parametrize("name", [ONE, OF_ONE, "records.parquet", "README.md"])
def test_corrupted_upload_is_detected(hub, said, here, name):
    hub.corrupt = f"^{re.escape(name)}$"
    lines = said("push", REPO, "--results", here, fails=True)
    assert lines[-1].startswith(f"{name} in dataset {REPO} at ") and "differs from the uploaded file" in lines[-1]


# Pull


def test_pull_returns_what_was_pushed(hub, pushed, said, here, tmp_path):
    lines = said("pull", REPO, "--results", tmp_path / "back")
    assert lines[:2] == [
        f"dataset {REPO} at {pushed}: 3 records",
        f"{tmp_path / 'back'}: 6 new files; 0 of 3 records already present",
    ]
    assert tree(tmp_path / "back") == parts(here)
    assert list(validate.find_problems(tmp_path / "back/records")) == []


def test_pull_does_not_download_present_records(hub, pushed, said, here, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    before, asked = {path: path.stat() for path in here.rglob("*")}, len(hub.lines("/resolve/"))
    (here / "README.md").write_text("mine")
    assert said("pull", REPO, "--results", here)[1] == f"{here}: 0 new files; 3 of 3 records already present"
    after = {path: path.stat() for path in before}
    assert after | {here: None} == before | {here: None} and len(hub.lines("/resolve/")) == asked
    (here / OF_ONE).unlink()
    said("pull", REPO, "--results", here)
    assert (here / OF_ONE).read_bytes() == hub.read(REPO, OF_ONE)


def test_pull_conflict_keeps_the_local_record(hub, pushed, said, here, tmp_path):
    mine = tmp_path / "mine"
    write(mine, model("one"), right=600), write(mine, model("four"), weights="f")
    before = tree(mine)
    _, conflict, count, last = said("pull", REPO, "--results", mine, fails=True)
    assert conflict.startswith(f"{ONE}: results.digits.scores.mean_per_class_k20_T0.07.value is 0.66")
    assert f" in {REPO}, 1.0 in {mine} (and " in conflict
    assert count == f"{mine}: 4 new files; 0 of 3 records already present"
    assert last == (f"1 of 3 records of dataset {REPO} were not added, all others were; correct the problems above")
    assert tree(mine) == {**parts(here), **before}


def test_pull_conflict_of_predictions(hub, pushed, said, here):
    (here / OF_ONE).write_bytes(b"mine")
    assert said("pull", REPO, "--results", here, fails=True)[1].startswith(f"{OF_ONE}: sha256 is ")
    assert (here / OF_ONE).read_bytes() == b"mine"


def elsewhere(content):
    """Return the record with another model name and no checksum."""
    changed = json.loads(content)
    del changed["checksum"]
    for part in (changed["experiment"], changed["experiment"]["declaration"]):
        part |= {"name": "pretrained/../../../evil"}
    return json.dumps(changed).encode()


@pytest.mark.parametrize(
    ("spoiled", "line"),
    [
        (
            lambda files: {ONE: files[ONE].replace(b'"n": 600', b'"n": 601', 1)},
            f"record {ONE}: the checksum does not match",
        ),
        (lambda files: {ONE: b""}, f"record {ONE}: the file is empty"),
        (lambda files: {ONE: b"[" * 100_000}, f"record {ONE}"),
        (lambda files: {ONE: elsewhere(files[ONE])}, f"record {ONE}"),
        (lambda files: {ONE: b" " * store.MAX_BYTES + files[ONE]}, f"{ONE}: expected at most 4,19"),
        (lambda files: {OF_ONE: b"x"}, f"{OF_ONE}: expected sha256 "),
        (lambda files: {OF_ONE: None}, f"{OF_ONE} is missing in the repository, but {ONE} names it"),
        (
            lambda files: {ONE: None, "records/other/1/0/knn.dino.json": files[ONE]},
            f"record records/other/1/0/knn.dino.json: expected path {ONE}",
        ),
    ],
)
def test_pull_rejects_invalid_records_and_adds_all_others(hub, pushed, said, here, tmp_path, spoiled, line):
    spoil(hub, tmp_path, **spoiled(held(hub)))
    lines = said("pull", REPO, "--results", tmp_path / "back", fails=True)
    assert lines[1].startswith(line) and "/tmp" not in lines[1], lines
    assert ": 4 new files" in lines[2]
    wanted = {path: content for path, content in parts(here).items() if path not in (ONE, OF_ONE)}
    assert tree(tmp_path / "back") == wanted


def test_large_predictions_are_not_downloaded(hub, pushed, said, tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "MAX_BYTES", 100)
    lines = said("pull", REPO, "--results", tmp_path / "back", fails=True)
    assert re.fullmatch(r"predictions/\S+: expected at most 100 bytes, found [\d,]+; contact its author", lines[1])
    assert tree(tmp_path / "back") == {} and not hub.lines("GET .*/resolve/.*parquet")


@pytest.mark.parametrize("name", ["records/../../evil.json", "records/a/..json", "records/.x.json", "evil.json", "x/y"])
def test_files_with_other_names_are_not_requested(hub, pushed, said, here, tmp_path, name):
    there = hub.repo(REPO)
    there.commit(there.revisions[pushed] | {name: hub.keep(name, (here / ONE).read_bytes())}, "evil")
    said("pull", REPO, "--results", tmp_path / "back")
    assert tree(tmp_path / "back") == parts(here)
    assert not [request for request in hub.requests if "evil" in request.path or "/x" in request.path]


def test_pull_does_not_follow_local_links(hub, pushed, said, here, tmp_path):
    outside, back = tmp_path / "outside", tmp_path / "back"
    outside.mkdir()
    (back / "records").mkdir(parents=True)
    (back / "records/pretrained").symlink_to(outside)
    lines = said("pull", REPO, "--results", back, fails=True)
    assert all("found a link that leads out of it" in line for line in lines[1:3]) and ": 2 new files" in lines[3]
    assert tree(outside) == {} and not (back / OF_ONE).exists()


def test_interrupted_pull_resumes(hub, pushed, said, here, tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "THREADS", 1)
    hub.fail("GET .*/resolve/.*two.*parquet", 404, 1)
    back = tmp_path / "back"
    assert "the Hub returned HTTP status 404" in said("pull", REPO, "--results", back, fails=True)[-1]
    entered = tree(back)
    assert {ONE, OF_ONE} <= entered.keys() and entered.items() < parts(here).items()
    for path in entered:
        assert "two" not in path, "neither of the two files of a record that did not come whole"
    asked = len(hub.lines("GET .*/resolve/"))
    said("pull", REPO, "--results", back)
    assert tree(back) == parts(here)
    assert not [line for line in hub.lines("GET .*/resolve/")[asked:] if ONE in line], "what is there is not fetched"


def test_full_disk_stops_the_pull(hub, pushed, said, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle.shutil, "copyfile", full)
    lines = said("pull", REPO, "--results", tmp_path / "back", fails=True)
    assert len(lines) == 2 and "No space left on device; free some space" in lines[1]
    assert tree(tmp_path / "back") == {}


def test_pull_beside_another_process_adds_what_is_still_missing(hub, pushed, tmp_path, monkeypatch):
    """Another pull places a record after ours compared it."""
    back, require_files = tmp_path / "back", bundle.require_files

    def placing(one, staged, paths):
        require_files(one, staged, paths)
        if one.path == ONE:
            bundle.copy(one.files, staged, back)

    monkeypatch.setattr(bundle, "require_files", placing)
    assert exchange.pull(REPO, back, "main", quiet) == 4
    assert list(validate.find_problems(back / "records")) == [] and len(parts(back)) == 6


def test_pull_of_an_older_revision(hub, pushed, said, here, tmp_path):
    write(here, model("four"), right=100, weights="f")
    wanted = {path: content for path, content in parts(here).items() if "four" not in path}
    said("push", REPO, "--results", here)
    said("pull", REPO, "--revision", pushed, "--results", tmp_path / "old")
    assert tree(tmp_path / "old") == wanted
    (line,) = said("pull", REPO, "--revision", "v9", "--results", tmp_path / "new", fails=True)
    assert line == f"dataset {REPO} has no revision v9; its page on the Hub lists the available ones"


def test_repository_without_records_raises_a_user_error(hub, said, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/README.md").write_text("x")
    hub.put("me/x", tmp_path / "x", "datasets")
    assert "no records in dataset me/x at main" in said("pull", "me/x", "--results", tmp_path / "back", fails=True)[-1]


# The Hub's errors


@pytest.mark.parametrize("word", ["push", "pull"])
@pytest.mark.parametrize(
    ("how", "line"),
    [
        ({"HF_HUB_OFFLINE": True}, "HF_HUB_OFFLINE=1 disables access to"),
        ({"HF_TOKEN": "hf_wrong"}, "the Hub rejected this token; run `hf auth login` or set HF_TOKEN"),
    ],
)
def test_offline_mode_and_invalid_tokens(hub, here, said, monkeypatch, word, how, line):
    for name, value in how.items():
        monkeypatch.setenv(name, value) if name == "HF_TOKEN" else monkeypatch.setattr(constants, name, value)
    (found,) = said(word, REPO, "--results", here, fails=True)
    assert found.startswith(line) and hub.repos == {}


def test_push_needs_a_token_with_write_permission(hub, here, said, monkeypatch):
    (line,) = said("push", "others/records", "--results", here, fails=True)
    assert line.startswith("this token has no access to dataset others/records")
    monkeypatch.delenv("HF_TOKEN")
    (line,) = said("push", REPO, "--results", here, fails=True)
    assert line == f"writing to dataset {REPO} needs a token; run `hf auth login` or set HF_TOKEN"


@pytest.mark.parametrize("name", ["records", "a/b/c", "../x", "me/..", "me/a--b", "me/x y", "me/x\n", "hf/é"])
@pytest.mark.parametrize("word", ["push", "pull"])
def test_invalid_repository_names(hub, here, said, word, name):
    (line,) = said(word, name, "--results", here, fails=True)
    assert line.startswith("expected the dataset's name on the Hub as ORG/NAME") and hub.requests == []


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (401, "this token has no access"),
        (403, "this token has no access"),
        (404, "the Hub returned HTTP status 404 for dataset"),
        (503, "the Hub returned HTTP status 503 for dataset"),
        (CUT, "the Hub cannot be reached for dataset"),
    ],
)
@pytest.mark.parametrize("at", ["POST .*/commit/", "GET .*/tree/", "GET .*/revision/", "/resolve/"])
def test_errors_of_the_hub_are_one_line(hub, pushed, here, said, tmp_path, monkeypatch, status, line, at):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits between its tries
    write(tmp_path / "new", model("four"), weights="f")
    hub.fail(at, status, 10**6, Retry_After="0")
    words = ("pull", REPO, "--results", tmp_path / "back")
    if "commit" in at:
        words = ("push", REPO, "--results", tmp_path / "new")
    last = said(*words, fails=True)[-1]
    assert line in last, last
    assert not (tmp_path / "back").exists() and len(hub.repo(REPO).messages) == 2


def test_missing_repository_is_one_line(hub, said, tmp_path):
    (line,) = said("pull", "me/none", "--results", tmp_path, fails=True)
    assert line.startswith("dataset me/none does not exist on the Hub, or this token cannot access it; check the name")


# The leaderboard Space


PLACE = "me/board"


@pytest.fixture
def site(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/index.html").write_text("<title>SynRep-Bench</title>")
    return tmp_path / "site"


def board(hub):
    return held(hub, PLACE, "spaces")


def test_publish_replaces_the_default_files_of_a_new_space(hub, site):
    lines = []
    commit = space.publish_space(site, PLACE, lines.append)
    there = hub.repo(PLACE, "spaces")
    assert (
        there.refs["main"] == commit and len(there.messages) == 2 and lines == [f"uploading 2 files to space {PLACE}"]
    )
    files = board(hub)
    assert set(files) == {".gitattributes", "README.md", "index.html"}, "the Hub's own style.css is gone"
    assert files["index.html"] == b"<title>SynRep-Bench</title>"
    head = DatasetCard(files["README.md"].decode()).data
    assert (head.sdk, head.app_file, head.title) == ("static", "index.html", "SynRep-Bench")  # type: ignore[attr-defined]
    assert space.publish_space(site, PLACE, lines.append) == commit and len(there.messages) == 2
    assert lines[-1] == f"space {PLACE} is up to date; nothing to do"


def test_publish_deletes_old_files_in_one_commit(hub, site):
    (site / "old.svg").write_text("<svg/>")
    (site / ".index.html.tmp").write_text("cut off")
    space.publish_space(site, PLACE, quiet)
    assert set(board(hub)) == {".gitattributes", "README.md", "index.html", "old.svg"}
    (site / "old.svg").unlink()
    (site / "index.html").write_text("new")
    (site / "README.md").write_text("not this one")
    space.publish_space(site, PLACE, quiet)
    files = board(hub)
    assert set(files) == {".gitattributes", "README.md", "index.html"} and files["index.html"] == b"new"
    assert b"sdk: static" in files["README.md"] and len(hub.repo(PLACE, "spaces").messages) == 3


@pytest.mark.parametrize(
    "files",
    [
        {"README.md": "---\nsdk: gradio\ntags: [synrep-bench]\n---\nmine", "app.py": "x"},
        {"README.md": "---\nsdk: static\n---\nmine", "index.html": "mine", "style.css": "x"},
        {"README.md": "a card"},
        {"index.html": "Welcome to your static Space!", "app.js": "mine"},
    ],
)
def test_unrelated_space_is_not_changed(hub, site, tmp_path, files):
    for name, text in files.items():
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / name).write_text(text)
    hub.put(PLACE, tmp_path / "other", "spaces")
    before = board(hub)
    with pytest.raises(
        UserError, match=r"space me/board has files that `synrep site` did not write \(.*\); choose another Space"
    ):
        space.publish_space(site, PLACE, quiet)
    assert board(hub) == before


def test_publish_rejects_invalid_site_folders(hub, site):
    (site / "secret").symlink_to("index.html")
    with pytest.raises(UserError, match="secret is a symbolic link"):
        space.publish_space(site, PLACE, quiet)
    with pytest.raises(UserError, match=r"has no index\.html; choose the folder that `synrep site` wrote"):
        space.publish_space(site / "none", PLACE, quiet)
    assert hub.requests == []


@pytest.mark.parametrize("name", ["index.html", "README.md"])
def test_corrupted_upload_of_a_site_is_detected(hub, site, name):
    def before(request):
        hub.corrupt = name if "/commit/" in request.path else "(?!)"

    hub.before = before
    with pytest.raises(UserError, match=f"{name} in space {PLACE} at .* differs from the uploaded file"):
        space.publish_space(site, PLACE, quiet)


@pytest.mark.parametrize(
    ("status", "line"),
    [(403, "no access to space"), (503, "returned HTTP status 503"), (CUT, "cannot be reached"), (412, "by")],
)
def test_errors_of_the_hub_while_publishing_are_one_line(hub, site, status, line):
    hub.fail("POST .*/commit/", status, 10**6, Retry_After="0")
    with pytest.raises(UserError, match=line) as error:
        space.publish_space(site, PLACE, quiet)
    assert "\n" not in str(error.value) and hub.token not in str(error.value)


def test_publish_needs_the_network_and_a_token(hub, site, monkeypatch):
    with pytest.raises(UserError, match="expected the space's name on the Hub as ORG/NAME, found 'board'"):
        space.publish_space(site, "board", quiet)
    with pytest.raises(UserError, match="no access to space others/board"):
        space.publish_space(site, "others/board", quiet)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="writing to space me/board needs a token"):
        space.publish_space(site, PLACE, quiet)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE=1"):
        space.publish_space(site, PLACE, quiet)


PUBLISHES = """
import sys
import time
from pathlib import Path
from benchmark.reports.site import space
from benchmark.submission import exchange, validate
print(exchange.push(sys.argv[1], Path(sys.argv[3]), validate.find_problems, private=False, log=print))
exchange.pull(sys.argv[1], Path(sys.argv[4]), "main", print)
print(space.publish_space(Path(sys.argv[5]), sys.argv[2], print))
"""


def test_by_xet_too(here, site, tmp_path):
    """The other tests take plain LFS; here in a process of its own."""
    with Hub(tmp_path / "hub") as xet:
        words = [REPO, PLACE, here, tmp_path / "back", site]
        command = [sys.executable, "-c", PUBLISHES, *map(str, words)]
        env = xet.environment(tmp_path / "home")
        ran = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert ran.returncode == 0 and xet.token not in ran.stdout + ran.stderr, ran.stderr
        assert tree(tmp_path / "back") == parts(here) and xet.lines("xet-write-token")
        assert ran.stdout.split()[-1] == xet.repo(PLACE, "spaces").refs["main"]
