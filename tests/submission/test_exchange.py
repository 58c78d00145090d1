"""Records to and from a Hub of this machine, and the leaderboard page: what goes there, what comes back, what stays."""

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
from tests.submission.test_submit import OF_ONE, ONE, lie, model, tree, write

__all__ = ["hub", "synrep"]

REPO = "me/records"
TRAINED = runs.experiment("clip", steps=2)
COLUMNS = """
experiment version method seed evaluation preset evaluation_version protocol dataset dataset_repo
dataset_revision split score is_main value low high n chance training_repo training_revision views weights_sha256 layer
predictions_sha256 path created
"""


def quiet(_):
    """Takes a line."""


@pytest.fixture
def here(tmp_path):
    """A folder with the records of three models, one of them trained."""
    write(tmp_path / "here", model("one")), write(tmp_path / "here", model("two"), right=10, weights="d")
    write(tmp_path / "here", TRAINED, right=25, weights="e", seed=1)
    return tmp_path / "here"


@pytest.fixture
def pushed(hub, here):
    """The three records are on the Hub; returns the commit."""
    return exchange.push(REPO, here, validate.find_problems, private=False, log=quiet)


@pytest.fixture
def said(synrep):
    """Calls the command as it should end; returns its lines, which never hold the token."""

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
    """Its records and predictions."""
    return {path: content for path, content in tree(folder).items() if path.startswith(("records/", "predictions/"))}


def held(hub, repo=REPO, kind="datasets"):
    """Path -> content of what the Hub has now."""
    there = hub.repo(repo, kind)
    return {path: hub.read(repo, path, kind=kind) for path in there.revisions[there.refs["main"]]}


def table_of(hub):
    return pq.read_table(io.BytesIO(hub.read(REPO, "records.parquet"))).to_pylist()


def spoil(hub, tmp_path, **files):
    """Put other files on the Hub, a revision later; None takes one away."""
    folder = tmp_path / "spoiled"
    for path, content in (held(hub) | files).items():
        if content is not None:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
    return hub.put(REPO, folder, "datasets")


# There


def test_records_and_predictions_go_there_as_they_are_with_a_table_and_a_card(hub, here, said):
    lines = said("push", REPO, "--results", here)
    there = hub.repo(REPO)
    commit = there.refs["main"]
    assert lines[0] == f"sending 3 new records to dataset {REPO}, which then has 3" and lines[1] == f"{REPO}@{commit}"
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


def test_datasets_loads_the_table_and_nothing_else_of_it(hub, pushed, tmp_path):
    """By the unmodified client, in a process of its own."""
    env = hub.environment(tmp_path / "home", None)
    command = [sys.executable, "-c", LOADS, REPO, pushed]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    columns, rows = json.loads(ran.stdout.splitlines()[-1])
    assert columns == COLUMNS.split()
    assert rows == [{**row, "created": str(row["created"])} for row in table_of(hub)] and len(rows) == 6


def test_a_row_says_what_its_record_says(hub, pushed, here):
    path = "records/test/clip/1/1/knn.dino.json"
    record = store.read(here / path)
    part = record.results["digits"]
    row, other = (row for row in table_of(hub) if row["path"] == path)
    assert row == {
        **{"experiment": "test/clip", "version": 1, "method": "clip", "seed": 1, "path": path},
        **{"evaluation": "knn", "preset": "dino", "evaluation_version": 1, "protocol": record.evaluation.protocol},
        **{"dataset": "digits", "dataset_repo": "scikit-learn/digits", "dataset_revision": "1.7", "split": "test"},
        **{"score": "top1_k20_T0.07", "is_main": True, "value": 25 / 30, "low": pytest.approx(wilson(25, 30).low)},
        **{"high": pytest.approx(wilson(25, 30).high), "n": 30, "chance": 0.1, "views": TRAINED.schedule.views},
        **{"training_repo": TRAINED.dataset, "training_revision": TRAINED.revision, "weights_sha256": "e" * 64},
        **{"layer": "cls", "predictions_sha256": part.predictions.sha256, "created": date.today()},
    } | {"created": record.created}
    assert not other["is_main"] and other["score"] == "mean_per_class_k20_T0.07" != part.main
    foreign = next(row for row in table_of(hub) if row["path"] == ONE)
    assert [foreign[name] for name in ("training_repo", "training_revision", "views")] == [None] * 3


def test_the_table_is_the_same_in_whatever_order_records_come(here):
    records = {path: store.read(here / path) for path in parts(here) if path.endswith(".json")}
    wanted = table.parquet(records)
    shuffled = list(records.items())
    random.Random(1).shuffle(shuffled)
    assert shuffled != list(records.items()) and table.parquet(dict(shuffled)) == wanted
    rows = pq.read_table(io.BytesIO(wanted))
    assert rows.column_names == COLUMNS.split() and rows["path"].to_pylist() == sorted(rows["path"].to_pylist())
    assert rows["is_main"].to_pylist() == [True, False] * 3
    assert pq.read_table(io.BytesIO(table.parquet({}))).column_names == COLUMNS.split()


def test_a_number_that_no_column_takes_is_one_line(here):
    record = store.read(here / ONE)
    huge = record.model_copy(update={"seed": 2**70})
    with pytest.raises(UserError, match=f"record {re.escape(ONE)} does not fit into a table"):
        table.parquet({ONE: huge})


def test_the_card_counts_and_names_every_column(hub, pushed):
    card = DatasetCard(hub.read(REPO, "README.md").decode())
    assert card.data.configs == [  # type: ignore[attr-defined]
        {"config_name": "default", "data_files": [{"split": "train", "path": "records.parquet"}]}
    ]
    assert "3 records of 3 models, with 6 scores" in " ".join(card.text.split()) and "| knn | 3 |" in card.text
    assert re.findall(r"^\| `(\w+)` \| \w+ \|", card.text, re.MULTILINE) == COLUMNS.split()


def test_records_of_others_stay_and_are_in_the_table(hub, pushed, said, tmp_path):
    before = held(hub)
    write(tmp_path / "mine", model("four"), weights="f")
    assert said("push", REPO, "--results", tmp_path / "mine")[0].startswith("sending 1 new records to")
    after = held(hub)
    kept = {path: content for path, content in before.items() if path not in ("records.parquet", "README.md")}
    assert {path: after[path] for path in kept} == kept
    assert len({row["path"] for row in table_of(hub)}) == 4 and "4 records of 4 models" in after["README.md"].decode()
    commits = hub.lines("POST .*/commit/")
    assert len(commits) == 2


def test_only_what_is_missing_is_sent(hub, pushed, here):
    write(here, model("four"), weights="f")
    exchange.push(REPO, here, validate.find_problems, private=False, log=quiet)
    last = [request for request in hub.requests if "/commit/" in request.path][-1]
    sent = [json.loads(line)["value"].get("path") for line in last.body.decode().splitlines()]
    place = "pretrained/four/1/0/knn.dino"
    wanted = {f"predictions/{place}/digits.parquet", f"records/{place}.json", "records.parquet", "README.md"}
    assert {path for path in sent if path} == wanted


def test_the_same_path_with_other_content_is_a_conflict_and_nothing_is_sent(hub, pushed, said, tmp_path):
    mine = tmp_path / "mine"
    write(mine, model("one"), right=30), write(mine, model("four"), weights="f")
    before = held(hub)
    conflict, last = said("push", REPO, "--results", mine, fails=True)
    assert conflict.startswith(f"{ONE}: results.digits.scores.mean_per_class_k20_T0.07.value is 1.0 in {mine}, 0.66")
    today = store.read(mine / ONE).created
    assert conflict.endswith(f"; created {today} in {mine}, {today} in {REPO}")
    assert last.startswith(f"dataset {REPO} has 1 of these files with other content, nothing is sent; raise the")
    assert held(hub) == before and len(hub.repo(REPO).messages) == 2


def test_the_same_record_with_other_predictions_there_is_a_conflict(hub, pushed, said, here, tmp_path):
    spoil(hub, tmp_path, **{OF_ONE: b"x"})
    assert said("push", REPO, "--results", here, fails=True)[0] == f"{OF_ONE}: not the file that {ONE} names"


def test_a_record_in_other_bytes_is_the_same_record(hub, pushed, said, here, tmp_path):
    spoil(hub, tmp_path, **{ONE: json.dumps(json.loads((here / ONE).read_text())).encode()})
    assert said("push", REPO, "--results", here)[0].endswith("nothing to do")


def test_a_table_that_was_lost_or_spoiled_is_made_again(hub, pushed, said, here, tmp_path):
    wanted = held(hub)
    for content in (b"no table", wanted["records.parquet"][:-30]):
        spoil(hub, tmp_path, **{"records.parquet": content})
        said("push", REPO, "--results", here)
        assert held(hub) == wanted
    other = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(wanted["records.parquet"])), other, compression="gzip")
    spoil(hub, tmp_path, **{"records.parquet": other.getvalue()})
    assert said("push", REPO, "--results", here)[0].endswith("nothing to do"), "the same rows by another writer"


def test_records_that_break_the_rules_are_not_sent(hub, said, here):
    (here / OF_ONE).write_bytes(b"x")
    lines = said("push", REPO, "--results", here, fails=True)
    assert f"{OF_ONE} has sha256 " in lines[0] and "1 problem, nothing was taken" in lines[-1]
    assert hub.repos == {}
    (here / OF_ONE).unlink()
    (here / OF_ONE).symlink_to(here / ONE)
    assert "is a link" in said("push", REPO, "--results", here, fails=True)[0]


def test_scores_that_the_predictions_do_not_give_are_not_sent(hub, said, here):
    lie(here / ONE)
    assert "is 0.9, its predictions give 0.66" in said("push", REPO, "--results", here, fails=True)[0]
    assert hub.repos == {}


def test_a_broken_record_there_is_named_and_no_table_is_made_without_it(hub, pushed, said, tmp_path):
    spoil(hub, tmp_path, **{ONE: b"{}"})
    write(tmp_path / "mine", model("four"), weights="f")
    (line,) = said("push", REPO, "--results", tmp_path / "mine", fails=True)
    assert line.startswith(f"dataset {REPO} holds a broken record: record {ONE}: field") and "/tmp" not in line


def test_a_repository_of_something_else_is_left_alone(hub, said, here, tmp_path):
    for name, files in {"me/images": ["data/train.parquet", "README.md"], "me/empty": ["README.md"]}.items():
        for file in files:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text("x")
        hub.put(name, tmp_path / name, "datasets")
    (line,) = said("push", "me/images", "--results", here, fails=True)
    assert line.startswith("dataset me/images holds data/train.parquet, which is of no record")
    assert len(hub.repo("me/images").messages) == 2
    said("push", "me/empty", "--results", here)
    (line,) = said("push", "me/empty", "--private", "--results", here, fails=True)
    assert "is to be private, but it exists and is public" in line
    said("push", "me/closed", "--private", "--results", here)
    assert hub.repo("me/closed").private


def races(hub, tmp_path, times):
    """Before our commit somebody else makes one, so often; each adds a record."""
    left = list(range(times))

    def before(request):
        if "/preupload/" in request.path and left:
            other = tmp_path / f"race{left.pop()}"
            write(other, model(f"race{len(left)}"), weights=str(len(left)))
            there = hub.repo(REPO)
            files = {path: hub.keep(path, content) for path, content in parts(other).items()}
            there.commit(there.revisions[there.refs["main"]] | files, "race")

    hub.before = before


def test_a_commit_meanwhile_is_merged(hub, said, here, tmp_path):
    races(hub, tmp_path, 1)
    lines = said("push", REPO, "--results", here)
    assert lines[1] == f"dataset {REPO} was changed by somebody else meanwhile; comparing again"
    assert lines[2].endswith("which then has 4") and hub.repo(REPO).messages[1] == "race"
    assert {row["method"] for row in table_of(hub)} == {"one", "two", "clip", "race0"}
    assert parts(tmp_path / "race0").items() <= held(hub).items()


def test_a_repository_that_moves_on_and_on_is_left_alone(hub, said, here, tmp_path):
    races(hub, tmp_path, 2)
    assert said("push", REPO, "--results", here, fails=True)[-1].endswith("by somebody else meanwhile; run again")
    assert hub.repo(REPO).messages == ["initial commit", "race", "race"]
    assert not parts(here).keys() & held(hub).keys()


@pytest.mark.parametrize("name", [ONE, OF_ONE, "records.parquet", "README.md"])
def test_a_hub_that_holds_something_else_afterwards_is_found_out(hub, said, here, name):
    hub.corrupt = f"^{re.escape(name)}$"
    lines = said("push", REPO, "--results", here, fails=True)
    assert lines[-1].startswith(f"{name} in dataset {REPO} at ") and "is not what was sent" in lines[-1]


# And back


def test_what_comes_back_is_what_went_there(hub, pushed, said, here, tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "LOG_EVERY", 2)
    lines = said("pull", REPO, "--results", tmp_path / "back")
    assert lines[:3] == [
        f"dataset {REPO} at {pushed}: 3 records",
        "2 of 3 records",
        f"6 files are new in {tmp_path / 'back'}; 0 of 3 records were there",
    ]
    assert tree(tmp_path / "back") == parts(here)
    assert list(validate.find_problems(tmp_path / "back/records")) == []


def test_what_is_there_is_neither_fetched_nor_touched(hub, pushed, said, here, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    before, asked = {path: path.stat() for path in here.rglob("*")}, len(hub.lines("/resolve/"))
    (here / "README.md").write_text("mine")
    assert said("pull", REPO, "--results", here)[1] == f"0 files are new in {here}; 3 of 3 records were there"
    after = {path: path.stat() for path in before}
    assert after | {here: None} == before | {here: None} and len(hub.lines("/resolve/")) == asked
    (here / OF_ONE).unlink()
    said("pull", REPO, "--results", here)
    assert (here / OF_ONE).read_bytes() == hub.read(REPO, OF_ONE)


def test_a_conflict_leaves_the_local_one_and_all_others_come(hub, pushed, said, here, tmp_path):
    mine = tmp_path / "mine"
    write(mine, model("one"), right=30), write(mine, model("four"), weights="f")
    before = tree(mine)
    _, conflict, count, last = said("pull", REPO, "--results", mine, fails=True)
    assert conflict.startswith(f"{ONE}: results.digits.scores.mean_per_class_k20_T0.07.value is 0.66")
    assert f" in {REPO}, 1.0 in {mine} (and " in conflict
    assert count == f"4 files are new in {mine}; 0 of 3 records were there"
    assert last == f"1 of 3 records of dataset {REPO} were left alone, see above; all others are here"
    assert tree(mine) == {**parts(here), **before}


def test_local_predictions_that_are_others_are_a_conflict(hub, pushed, said, here):
    (here / OF_ONE).write_bytes(b"mine")
    assert said("pull", REPO, "--results", here, fails=True)[1].startswith(f"{OF_ONE}: sha256 ")
    assert (here / OF_ONE).read_bytes() == b"mine"


def elsewhere(content):
    """The record, with its checksum, that says it is of another model."""
    changed = json.loads(content)
    del changed["checksum"]
    for part in (changed["experiment"], changed["experiment"]["declaration"]):
        part |= {"name": "pretrained/../../../evil"}
    return json.dumps(changed).encode()


@pytest.mark.parametrize(
    ("spoiled", "line"),
    [
        (lambda files: {ONE: files[ONE].replace(b'"n": 30', b'"n": 31', 1)}, f"record {ONE} was changed since it was"),
        (lambda files: {ONE: b""}, f"record {ONE} is empty"),
        (lambda files: {ONE: b"[" * 100_000}, f"record {ONE}"),
        (lambda files: {ONE: elsewhere(files[ONE])}, f"record {ONE}"),
        (lambda files: {ONE: b" " * store.MAX_BYTES + files[ONE]}, f"{ONE} has 4,19"),
        (lambda files: {OF_ONE: b"x"}, f"{OF_ONE} has sha256 2d711642b726, {ONE} says "),
        (lambda files: {OF_ONE: None}, f"{OF_ONE} is missing, but {ONE} names it"),
        (
            lambda files: {ONE: None, "records/other/1/0/knn.dino.json": files[ONE]},
            f"record records/other/1/0/knn.dino.json says that its place is {ONE}",
        ),
    ],
)
def test_what_breaks_the_rules_does_not_enter_and_all_others_do(hub, pushed, said, here, tmp_path, spoiled, line):
    spoil(hub, tmp_path, **spoiled(held(hub)))
    lines = said("pull", REPO, "--results", tmp_path / "back", fails=True)
    assert lines[1].startswith(line) and "/tmp" not in lines[1], lines
    assert lines[2].startswith("4 files are new")
    wanted = {path: content for path, content in parts(here).items() if path not in (ONE, OF_ONE)}
    assert tree(tmp_path / "back") == wanted


def test_predictions_that_are_too_large_are_not_fetched(hub, pushed, said, tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "MAX_BYTES", 100)
    lines = said("pull", REPO, "--results", tmp_path / "back", fails=True)
    assert re.fullmatch(r"predictions/\S+ has [\d,]+ bytes, wanted at most 100", lines[1])
    assert tree(tmp_path / "back") == {} and not hub.lines("GET .*/resolve/.*parquet")


@pytest.mark.parametrize("name", ["records/../../evil.json", "records/a/..json", "records/.x.json", "evil.json", "x/y"])
def test_files_with_other_names_are_not_even_asked_for(hub, pushed, said, here, tmp_path, name):
    there = hub.repo(REPO)
    there.commit(there.revisions[pushed] | {name: hub.keep(name, (here / ONE).read_bytes())}, "evil")
    said("pull", REPO, "--results", tmp_path / "back")
    assert tree(tmp_path / "back") == parts(here)
    assert not [request for request in hub.requests if "evil" in request.path or "/x" in request.path]


def test_a_link_here_leads_nowhere_else(hub, pushed, said, here, tmp_path):
    outside, back = tmp_path / "outside", tmp_path / "back"
    outside.mkdir()
    (back / "records").mkdir(parents=True)
    (back / "records/pretrained").symlink_to(outside)
    lines = said("pull", REPO, "--results", back, fails=True)
    assert all("leads out of" in line for line in lines[1:3]) and lines[3].startswith("2 files are new")
    assert tree(outside) == {} and not (back / OF_ONE).exists()


def test_what_stops_goes_on(hub, pushed, said, here, tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "THREADS", 1)
    hub.fail("GET .*/resolve/.*two.*parquet", 404, 1)
    back = tmp_path / "back"
    assert "the Hub answers 404" in said("pull", REPO, "--results", back, fails=True)[-1]
    entered = tree(back)
    assert {ONE, OF_ONE} <= entered.keys() and entered.items() < parts(here).items()
    for path in entered:
        assert "two" not in path, "neither of the two files of a record that did not come whole"
    asked = len(hub.lines("GET .*/resolve/"))
    said("pull", REPO, "--results", back)
    assert tree(back) == parts(here)
    assert not [line for line in hub.lines("GET .*/resolve/")[asked:] if ONE in line], "what is there is not fetched"


def test_a_disk_that_is_full_stops_at_once(hub, pushed, said, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle.shutil, "copyfile", full)
    lines = said("pull", REPO, "--results", tmp_path / "back", fails=True)
    assert len(lines) == 2 and "No space left on device; free some space" in lines[1]
    assert tree(tmp_path / "back") == {}


def test_a_revision_is_as_it_was(hub, pushed, said, here, tmp_path):
    write(here, model("four"), weights="f")
    wanted = {path: content for path, content in parts(here).items() if "four" not in path}
    said("push", REPO, "--results", here)
    said("pull", REPO, "--revision", pushed, "--results", tmp_path / "old")
    assert tree(tmp_path / "old") == wanted
    (line,) = said("pull", REPO, "--revision", "v9", "--results", tmp_path / "new", fails=True)
    assert line == f"dataset {REPO} has no revision v9, or no longer; its page lists those that it has"


def test_a_repository_without_records_is_one_line(hub, said, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/README.md").write_text("x")
    hub.put("me/x", tmp_path / "x", "datasets")
    assert "holds no records at main" in said("pull", "me/x", "--results", tmp_path / "back", fails=True)[-1]


# The Hub's errors


@pytest.mark.parametrize("word", ["push", "pull"])
@pytest.mark.parametrize(
    ("how", "line"),
    [
        ({"HF_HUB_OFFLINE": True}, "HF_HUB_OFFLINE=1 keeps everything off the network; unset it"),
        ({"HF_TOKEN": "hf_wrong"}, "the Hub rejected this token; run `hf auth login` or set HF_TOKEN"),
    ],
)
def test_a_client_that_may_not_is_one_line(hub, here, said, monkeypatch, word, how, line):
    for name, value in how.items():
        monkeypatch.setenv(name, value) if name == "HF_TOKEN" else monkeypatch.setattr(constants, name, value)
    (found,) = said(word, REPO, "--results", here, fails=True)
    assert found.startswith(line) and hub.repos == {}


def test_writing_needs_a_token_and_the_right_to_write(hub, here, said, monkeypatch):
    (line,) = said("push", "others/records", "--results", here, fails=True)
    assert line.startswith("this token has no write access to dataset others/records")
    monkeypatch.delenv("HF_TOKEN")
    (line,) = said("push", REPO, "--results", here, fails=True)
    assert line == f"writing to dataset {REPO} needs a token; run `hf auth login` or set HF_TOKEN"


@pytest.mark.parametrize("name", ["records", "a/b/c", "../x", "me/..", "me/a--b", "me/x y", "me/x\n", "hf/é"])
@pytest.mark.parametrize("word", ["push", "pull"])
def test_what_is_no_name_on_the_hub_is_one_line(hub, here, said, word, name):
    (line,) = said(word, name, "--results", here, fails=True)
    assert line.startswith("wanted the dataset's name on the Hub as ORG/NAME") and hub.requests == []


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (401, "this token has no write access"),
        (403, "this token has no write access"),
        (404, "the Hub answers 404 for dataset"),
        (503, "the Hub answers 503 for dataset"),
        (CUT, "the Hub cannot be reached for dataset"),
    ],
)
@pytest.mark.parametrize("at", ["POST .*/commit/", "GET .*/tree/", "GET .*/revision/", "/resolve/"])
def test_a_hub_that_refuses_is_one_line(hub, pushed, here, said, tmp_path, monkeypatch, status, line, at):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits between its tries
    write(tmp_path / "new", model("four"), weights="f")
    hub.fail(at, status, 10**6, Retry_After="0")
    words = ("pull", REPO, "--results", tmp_path / "back")
    if "commit" in at:
        words = ("push", REPO, "--results", tmp_path / "new")
    last = said(*words, fails=True)[-1]
    assert line in last, last
    assert not (tmp_path / "back").exists() and len(hub.repo(REPO).messages) == 2


def test_a_repository_that_is_not_there_is_one_line(hub, said, tmp_path):
    (line,) = said("pull", "me/none", "--results", tmp_path, fails=True)
    assert line.startswith("dataset me/none does not exist on the Hub, or this token may not see it; check the name")


# The page


PLACE = "me/board"


@pytest.fixture
def site(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site/index.html").write_text("<title>SynRep-Bench</title>")
    return tmp_path / "site"


def board(hub):
    return held(hub, PLACE, "spaces")


def test_the_site_takes_the_place_of_what_the_hub_puts_into_a_new_space(hub, site):
    lines = []
    commit = space.publish_space(site, PLACE, lines.append)
    there = hub.repo(PLACE, "spaces")
    assert there.refs["main"] == commit and len(there.messages) == 2 and lines == [f"sending 2 files to space {PLACE}"]
    files = board(hub)
    assert set(files) == {".gitattributes", "README.md", "index.html"}, "the Hub's own style.css is gone"
    assert files["index.html"] == b"<title>SynRep-Bench</title>"
    head = DatasetCard(files["README.md"].decode()).data
    assert (head.sdk, head.app_file, head.title) == ("static", "index.html", "SynRep-Bench")  # type: ignore[attr-defined]
    assert space.publish_space(site, PLACE, lines.append) == commit and len(there.messages) == 2
    assert lines[-1] == f"space {PLACE} shows this site already; nothing to do"


def test_a_new_site_is_one_commit_and_what_is_gone_goes(hub, site):
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
def test_a_space_of_something_else_is_left_alone(hub, site, tmp_path, files):
    for name, text in files.items():
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / name).write_text(text)
    hub.put(PLACE, tmp_path / "other", "spaces")
    before = board(hub)
    with pytest.raises(UserError, match=r"space me/board holds something else \(.*\); choose another name"):
        space.publish_space(site, PLACE, quiet)
    assert board(hub) == before


def test_a_folder_that_is_no_site_is_one_line(hub, site):
    (site / "secret").symlink_to("index.html")
    with pytest.raises(UserError, match="secret is a link"):
        space.publish_space(site, PLACE, quiet)
    with pytest.raises(UserError, match=r"holds no index\.html; name the folder that `synrep site` wrote"):
        space.publish_space(site / "none", PLACE, quiet)
    assert hub.requests == []


@pytest.mark.parametrize("name", ["index.html", "README.md"])
def test_a_space_that_holds_something_else_afterwards_is_found_out(hub, site, name):
    def before(request):
        hub.corrupt = name if "/commit/" in request.path else "(?!)"

    hub.before = before
    with pytest.raises(UserError, match=f"{name} in space {PLACE} at .* is not what was sent"):
        space.publish_space(site, PLACE, quiet)


@pytest.mark.parametrize(
    ("status", "line"),
    [(403, "no write access to space"), (503, "answers 503"), (CUT, "cannot be reached"), (412, "by")],
)
def test_a_hub_that_refuses_the_site_is_one_line(hub, site, status, line):
    hub.fail("POST .*/commit/", status, 10**6, Retry_After="0")
    with pytest.raises(UserError, match=line) as error:
        space.publish_space(site, PLACE, quiet)
    assert "\n" not in str(error.value) and hub.token not in str(error.value)


def test_a_space_needs_the_network_and_a_token(hub, site, monkeypatch):
    with pytest.raises(UserError, match="wanted the space's name on the Hub as ORG/NAME, found 'board'"):
        space.publish_space(site, "board", quiet)
    with pytest.raises(UserError, match="no write access to space others/board"):
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
