"""The real clients, each in a process of its own, against `tests.fixtures.fake_hub`."""

import io
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard
from PIL import Image

from benchmark import schema
from benchmark.errors import UserError
from benchmark.files import file_sha256, write_bytes, write_json
from benchmark.hub import cards
from datasets_scripts.generation import shards
from datasets_scripts.generation.generate import COLUMNS
from datasets_scripts.publishing import card, publish
from datasets_scripts.text_to_image import Terms
from tests.fixtures.fake_hub import CUT, Hub

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
REPO = "synrep-bench/made-up"
TERMS = (Terms("captions: made up", "other", "Free.", "https://example.org"),)
ROWS, IMAGES = 4, 3

CLIENT = """
import json, sys
from pathlib import Path
from benchmark.errors import UserError
from datasets_scripts.publishing import publish

what, *arguments = json.loads(sys.argv[1])
lines = []
try:
    if what == "publish":
        folder, repo, private = arguments
        done = publish.publish(Path(folder), repo, private=private, log=lines.append)
    else:
        repo, revision, data = arguments
        done = publish.download(repo, revision, Path(data), lines.append)
    print(json.dumps([str(done), lines]))
except UserError as error:
    print(error)
    sys.exit(2)
"""


def made(folder, shards=3, version=0, extra=0):
    """A small dataset in its documented layout, with what a build leaves beside it."""
    for i in range(shards):
        write_shard(folder, i, shards, version)
    for i in range(extra):
        write_bytes(folder / f"extra/{i:05d}.bin", f"{version} {i}".encode() * 20)
    write_bytes(folder / schema.SHEET, jpeg(0, 0, version))
    write_json(folder / "recipe.json", {"version": version})
    statistics = {"captions": shards * ROWS, "images": shards * ROWS * IMAGES - shards, "failed": {"black": shards}}
    statistics |= {"bytes": 1, "guidance": {"2.0": 1}, "nsfw_above_zero": 0, "nsfw_scored": 0, "seconds": 1.0}
    statistics |= {"device": {"cpu": 1}, "software": {"made up 1.0": 1}}
    write_json(folder / schema.STATISTICS, statistics)
    write_manifest(folder, statistics)
    write_bytes(folder / "build" / "unit.arrow", b"of no use to others")
    return folder


def write_manifest(folder, statistics):
    rows = {"train": ROWS * len(list(folder.glob("data/*")))}
    manifest = schema.Manifest(REPO, "ab" * 20, rows, IMAGES, {schema.SHEET: ""}, {"version": 1})
    write_bytes(folder / schema.CARD, card.card(manifest, statistics, TERMS, ["a caption"]).encode())
    apart = ("recipe.json", schema.STATISTICS, schema.CARD)
    paths = [p for p in folder.rglob("*") if p.is_file() and p.name not in apart]
    files = {p.relative_to(folder).as_posix(): file_sha256(p) for p in paths}
    write_json(folder / schema.MANIFEST, manifest.as_json() | {"files": files})


def jpeg(row, image, version):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (row * 10, image * 50, version * 90)).save(buffer, "JPEG")
    return buffer.getvalue() + os.urandom(400)


def write_shard(folder, index, total, version):
    images = [[jpeg(row, i, version) for i in range(IMAGES)] for row in range(ROWS)]
    images[1][1] = None  # one that could not be drawn
    stored = [[i and {"bytes": i, "path": None} for i in row] for row in images]
    rows = [{schema.CAPTION: f"caption {index} {row}", schema.IMAGES: of} for row, of in enumerate(stored)]
    table = pa.Table.from_pylist(rows, schema=shards.with_features(COLUMNS))
    path = folder / schema.shard_name("train", index, total)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="none", use_dictionary=[schema.CAPTION])
    content = path.read_bytes()
    places = [[(content.index(i), len(i)) if i else (0, 0) for i in row] for row in images]
    (folder / "index").mkdir(exist_ok=True)
    np.save(folder / schema.index_name("train", index), np.array(places, np.int64))


@pytest.fixture(params=[True, False], ids=["xet", "lfs"])
def hub(request, tmp_path):
    with Hub(tmp_path / "hub", xet=request.param) as hub:
        yield hub


@pytest.fixture
def lfs(tmp_path):
    with Hub(tmp_path / "hub", xet=False) as hub:
        yield hub


def start(hub, *what, home, code=CLIENT, **environment):
    command = [sys.executable, "-c", code, json.dumps([str(w) if isinstance(w, Path) else w for w in what])]
    env = hub.environment(home, **environment)
    return subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(client):
    """What it returned and reported."""
    out, err = client.communicate(timeout=100)
    assert client.returncode == 0, out + err
    return json.loads(out.splitlines()[-1])


def refused(client):
    """The one line."""
    out, err = client.communicate(timeout=100)
    assert client.returncode == 2, out + err
    assert "Traceback" not in err and "hf_loopback" not in out + err
    (line,) = out.splitlines()
    return line


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def published(hub, repo=REPO, revision="main"):
    at = hub.repo(repo).refs.get(revision, revision)
    return {path: hub.read(repo, path, at) for path in hub.repo(repo).revisions[at]}


def test_a_dataset_goes_and_comes_back(hub, tmp_path):
    """All of it and nothing else; again without a commit; a new version leaves nothing of the old one behind."""
    folder, home = made(tmp_path / "old"), tmp_path / "home"
    first, lines = finish(start(hub, "publish", folder, None, False, home=home))
    assert not any(line.startswith("nothing changed") for line in lines)
    wanted = {path: content for path, content in contents(folder).items() if not path.startswith("build/")}
    assert {p: c for p, c in published(hub).items() if p != ".gitattributes"} == wanted
    again, lines = finish(start(hub, "publish", folder, None, False, home=home))
    assert f"nothing changed: {REPO} has this revision of the dataset and its card" in lines
    assert again == first and hub.repo(REPO).messages[1:] == [f"Revision {'ab' * 6} of {REPO}"]

    newer = made(tmp_path / "new", shards=2, version=1)
    second, _ = finish(start(hub, "publish", newer, None, False, home=home))
    assert second == hub.repo(REPO).refs["main"] != first
    assert {p for p in published(hub) if p.startswith(("data/", "index/"))} == {
        *("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"),
        *("index/train-00000.npy", "index/train-00001.npy"),
    }
    data = tmp_path / "mirror"
    came, lines = finish(start(hub, "download", REPO, first, data, home=home, token=None))
    came = Path(came)
    assert came == data / REPO and lines[-1] == "all checksums match the manifest"
    assert {p: c for p, c in contents(came).items() if not p.startswith(".")} == wanted
    line = refused(start(hub, "download", REPO, "main", data, home=home))
    assert f"contains {first}, expected revision {second}" in line


LOAD = """
import json, sys
import datasets
repo, revision = json.loads(sys.argv[1])
def rows(streaming):
    found = datasets.load_dataset(repo, split="train", revision=revision, streaming=streaming)
    assert found.features["images"] == datasets.List(datasets.Image()), found.features
    found = found.cast_column("images", datasets.List(datasets.Image(decode=False)))
    return [[row["caption"], [i and i["bytes"].hex() for i in row["images"]]] for row in found]
print(json.dumps([rows(False), rows(True)]))
"""


def test_datasets_reads_what_was_published(hub, tmp_path):
    folder, home = made(tmp_path / "dataset"), tmp_path / "home"
    commit, _ = finish(start(hub, "publish", folder, None, False, home=home))
    table = pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("data/*")))
    local = [[r["caption"], [i and i["bytes"].hex() for i in r["images"]]] for r in table.to_pylist()]
    assert finish(start(hub, REPO, commit, home=home, code=LOAD)) == [local, local]
    assert any(b"bytes=" in str(r.headers).encode() for r in hub.requests if ".parquet" in r.path)


def test_the_code_of_the_card_runs_and_its_features_are_those_of_the_files(lfs, tmp_path):
    folder, home = made(tmp_path / "dataset"), tmp_path / "home"
    finish(start(lfs, "publish", folder, None, False, home=home))
    (code,) = re.findall(r"```python\n(.*?)```", published(lfs)["README.md"].decode(), re.DOTALL)
    client = start(lfs, home=home, code=code)
    out, err = client.communicate(timeout=100)
    assert client.returncode == 0, err
    assert out.startswith("caption 0 0 [<PIL.") and out.count("PIL.") == IMAGES
    declared = datasets.Features._from_yaml_list(DatasetCard.load(folder / "README.md").data.dataset_info["features"])
    assert declared == datasets.Features.from_arrow_schema(pq.read_schema(folder / "data/train-00000-of-00003.parquet"))


def kill_at(hub, client, pattern, count):
    """SIGKILL the client at the `count`-th request that the pattern finds, which is not answered."""
    seen, lock = [], threading.Lock()

    def before(request):
        with lock:
            seen.extend([1] if pattern in request.line else [])
            if pattern in request.line and len(seen) >= count:
                os.kill(client.pid, signal.SIGKILL)
                raise ConnectionError

    hub.before = before
    assert client.wait(timeout=100) == -signal.SIGKILL
    client.communicate()
    hub.before = lambda request: None


def test_a_killed_upload_sends_only_what_is_missing_by_lfs(lfs, tmp_path):
    folder, home = made(tmp_path / "dataset", extra=40), tmp_path / "home"
    client = start(lfs, "publish", folder, None, False, home=home)
    kill_at(lfs, client, "PUT /objects/", 21)
    sent = {line.split("/")[-1] for line in lfs.lines("^PUT")}
    assert len(sent) >= 20 and lfs.repo(REPO).messages == ["initial commit"]
    lfs.requests.clear()
    finish(start(lfs, "publish", folder, None, False, home=home))
    rest = {line.split("/")[-1] for line in lfs.lines("^PUT")}
    assert rest == {*schema.read_manifest(folder).files.values()} - sent and len(lfs.repo(REPO).messages) == 2


def test_a_killed_upload_commits_only_what_is_missing_by_xet(tmp_path):
    folder, home = made(tmp_path / "dataset", extra=300), tmp_path / "home"
    with Hub(tmp_path / "hub") as hub:
        client = start(hub, "publish", folder, None, False, home=home)
        kill_at(hub, client, "/commit/main", 2)
        there = set(published(hub))
        assert 200 < len(there) < 300 and len(hub.repo(REPO).messages) == 2
        stored = {path for path in hub.cas.rglob("xorbs/*") if path.is_file()}
        hub.requests.clear()
        finish(start(hub, "publish", folder, None, False, home=home))
        (sent,) = [r.body.decode() for r in hub.requests if "/commit/" in r.path]
        paths = {json.loads(line)["value"].get("path") for line in sent.splitlines()} - {None}
        everything = {p for p in contents(folder) if not p.startswith("build/")}
        assert paths == everything - there and paths | there == everything | {".gitattributes"}
        assert stored <= {path for path in hub.cas.rglob("xorbs/*") if path.is_file()}


def test_under_another_name_card_and_manifest_say_so(lfs, tmp_path):
    folder, home = made(tmp_path / "dataset"), tmp_path / "home"
    before = contents(folder)
    finish(start(lfs, "publish", folder, "me/renamed", True, home=home))
    there = published(lfs, "me/renamed")
    text = there[schema.CARD].decode()
    assert REPO not in text and 'load_dataset("me/renamed"' in text and "datasets/me/renamed#terms" in text
    assert json.loads(there[schema.MANIFEST])["repo"] == "me/renamed"
    assert contents(folder) == before
    assert lfs.repo("me/renamed").private
    _, lines = finish(start(lfs, "download", "me/renamed", "main", tmp_path / "data", home=home))
    assert lines[-1] == "all checksums match the manifest"


ISSUES = "\n## Known issues\n\nSome hands have six fingers.\n"


def edit(card):
    card.write_bytes(card.read_bytes() + ISSUES.encode())


def edit_on_hub(hub, repo, change=lambda text: text + ISSUES):
    """Commit another card, as the page of the Hub does."""
    text = change(hub.read(repo, schema.CARD).decode())
    files = dict(hub.repo(repo).revisions[hub.repo(repo).refs["main"]])
    return hub.repo(repo).commit(files | {schema.CARD: hub.keep(schema.CARD, text.encode())}, "Update README.md")


def list_card(folder):
    """Make a folder of an earlier version: no marks, and the manifest lists the card."""
    text = (folder / schema.CARD).read_text()
    for mark in (*cards.HEADER_MARKS, *cards.TEXT_MARKS):
        text = text.replace(f"{mark}\n", "")
    (folder / schema.CARD).write_text(text)
    manifest = json.loads((folder / schema.MANIFEST).read_text())
    manifest["files"][schema.CARD] = file_sha256(folder / schema.CARD)
    write_json(folder / schema.MANIFEST, manifest)


@pytest.mark.parametrize("listed", [False, True], ids=["now", "of an earlier version"])
def test_an_edited_card_is_published_downloaded_and_kept(lfs, tmp_path, listed):
    """Edited in the folder, then on the Hub, then in what was downloaded."""
    folder, home = made(tmp_path / "dataset"), tmp_path / "home"
    if listed:
        list_card(folder)
    edit(folder / schema.CARD)
    finish(start(lfs, "publish", folder, None, False, home=home))
    assert lfs.read(REPO, schema.CARD).decode().endswith(ISSUES)
    commit = edit_on_hub(lfs, REPO, lambda text: text + "On the page.\n")
    came, lines = finish(start(lfs, "download", REPO, commit, tmp_path / "data", home=home, token=None))
    assert lines[-1] == "all checksums match the manifest"
    card = Path(came) / schema.CARD
    assert card.read_text().endswith(f"{ISSUES}On the page.\n")
    edit(card)
    edited = card.read_bytes()
    finish(start(lfs, "download", REPO, commit, tmp_path / "data", home=home, token=None))
    assert card.read_bytes() == edited


def test_what_was_written_on_the_hub_is_kept_by_the_next_version(lfs, tmp_path):
    folder, home = made(tmp_path / "old"), tmp_path / "home"
    finish(start(lfs, "publish", folder, None, False, home=home))
    edit_on_hub(lfs, REPO)
    newer = made(tmp_path / "new", shards=2, version=1)
    for _ in range(2):  # and by the one after
        _, lines = finish(start(lfs, "publish", newer, None, False, home=home))
        text = lfs.read(REPO, schema.CARD).decode()
        assert text.endswith(ISSUES) and "| captions | 8 |" in text and "| captions | 12 |" not in text
        assert "README.md was edited on the Hub: its text is kept, the marked parts are replaced" in lines
    assert len(lfs.repo(REPO).messages) == 4, "the second time nothing has changed"


def test_a_card_of_an_earlier_version_is_replaced_unless_it_was_edited(lfs, tmp_path):
    folder, home = made(tmp_path / "old"), tmp_path / "home"
    list_card(folder)
    lfs.put(REPO, folder, kind="datasets")
    lfs.put("me/edited", folder, kind="datasets")
    edit_on_hub(lfs, "me/edited")
    before = lfs.read("me/edited", schema.CARD)
    newer = made(tmp_path / "new", shards=2, version=1)
    finish(start(lfs, "publish", newer, None, False, home=home))
    finish(start(lfs, "publish", newer, "me/edited", False, home=home))
    assert lfs.read(REPO, schema.CARD) == (newer / schema.CARD).read_bytes()
    assert lfs.read("me/edited", schema.CARD) == before


def test_different_texts_here_and_there_are_refused_until_the_folder_has_both(lfs, tmp_path):
    folder, home = made(tmp_path / "dataset"), tmp_path / "home"
    finish(start(lfs, "publish", folder, None, False, home=home))
    edit_on_hub(lfs, REPO)
    before = published(lfs)
    card = folder / schema.CARD
    card.write_text(card.read_text() + "Of mine.\n")
    line = refused(start(lfs, "publish", folder, None, False, home=home))
    assert "were both edited; copy what is only on the Hub into the file of the folder" in line
    assert published(lfs) == before
    edit(card)
    finish(start(lfs, "publish", folder, None, False, home=home))
    assert lfs.read(REPO, schema.CARD) == card.read_bytes()


def test_private_is_not_put_where_all_can_read(lfs, tmp_path):
    folder, home = made(tmp_path / "dataset"), tmp_path / "home"
    lfs.put(REPO, folder, kind="datasets")
    line = refused(start(lfs, "publish", folder, None, True, home=home))
    assert "it exists and is public" in line and lfs.repo(REPO).messages[1:] == ["put"]


@pytest.mark.parametrize("damaged", ["data/train-00001-of-00003.parquet", "recipe.json", "README.md"])
def test_damaged_upload_is_detected(lfs, tmp_path, damaged):
    folder, home = made(tmp_path / "dataset"), tmp_path / "home"
    lfs.corrupt = damaged
    line = refused(start(lfs, "publish", folder, None, False, home=home))
    assert line.startswith(f"{damaged} in {REPO} at ") and "has sha256" in line
    lfs.corrupt = "(?!)"
    finish(start(lfs, "publish", folder, None, False, home=home))
    assert published(lfs)[damaged] == (folder / damaged).read_bytes()


def test_what_is_read_back_is_the_commit_although_main_moved_on(lfs, tmp_path):
    folder, home = made(tmp_path / "dataset"), tmp_path / "home"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("of somebody else")

    def before(request):
        if "/tree/" in request.path and len(lfs.repo(REPO).messages) == 2:
            lfs.put(REPO, tmp_path / "other", kind="datasets")

    lfs.before = before
    commit, _ = finish(start(lfs, "publish", folder, None, False, home=home))
    assert commit == list(lfs.repo(REPO).revisions)[1] != lfs.repo(REPO).refs["main"]


def test_images_are_read_back_by_their_place(lfs, tmp_path):
    """The checksums that the Hub tells may be right where its bytes are not."""
    folder, home = made(tmp_path / "dataset"), tmp_path / "home"

    def before(request):
        if request.method == "GET" and request.path.endswith("-of-00003.parquet"):
            for name, sha256 in schema.read_manifest(folder).files.items():
                if name.startswith("data/"):
                    (lfs.store / sha256).write_bytes(bytes((folder / name).stat().st_size))

    lfs.before = before
    line = refused(start(lfs, "publish", folder, None, False, home=home))
    assert "has a different image at byte" in line
    asked = [r.headers.get("range") or r.headers.get("Range") for r in lfs.requests if r.path.endswith(".parquet")]
    assert all(asked)


def test_images_that_were_not_drawn_have_no_place(tmp_path):
    folder = made(tmp_path / "dataset")
    found = publish.sample_image_locations(folder, schema.read_manifest(folder), random.Random(0))
    assert len(found) == len(set(found)) == publish.IMAGES_READ_BACK and all(length for _, _, length in found)
    assert len({name for name, _, _ in found}) == 3
    for name, offset, length in found:
        assert (folder / name).read_bytes()[offset : offset + length].startswith(b"\xff\xd8")


def test_a_busy_hub_is_waited_for(lfs, tmp_path):
    folder, home = made(tmp_path / "dataset"), tmp_path / "home"
    lfs.fail("PUT /objects", 429, 2, Retry_After="0")
    lfs.fail("POST .*/preupload/", CUT)
    finish(start(lfs, "publish", folder, None, False, home=home))
    assert len(lfs.repo(REPO).messages) == 2


def test_a_hub_that_stays_away_is_one_line_and_the_next_run_goes_on(hub, tmp_path):
    folder, home = made(tmp_path / "dataset"), tmp_path / "home"
    hub.fail("POST .*/commit/", 503, 10**6, Retry_After="0")
    line = refused(start(hub, "publish", folder, None, False, home=home))
    assert line.startswith(f"the Hub returned HTTP status 503 for dataset {REPO} after several attempts; run again")
    assert len(hub.lines("/commit/")) == (6 if hub.xet else 1)
    hub.faults.clear()
    hub.requests.clear()
    finish(start(hub, "publish", folder, None, False, home=home))
    assert not hub.lines("^PUT") and len(hub.repo(REPO).messages) == 2


def test_hub_refusals_are_one_line(lfs, tmp_path):
    folder, home = made(tmp_path / "dataset"), tmp_path / "home"
    go = ("publish", folder, None, False)
    other = ("publish", folder, "somebody/else", False)
    clients = {
        "needs a token; run `hf auth login` or set HF_TOKEN": start(lfs, *go, home=home, token=None),
        "the Hub rejected this token": start(lfs, *go, home=home, token="hf_wrong"),
        "this token has no access to dataset somebody/else": start(lfs, *other, home=home),
        "set HF_HUB_DISABLE_XET=1": start(lfs, *go, home=home, HF_HUB_DISABLE_XET="0"),
        "HF_HUB_OFFLINE=1": start(lfs, *go, home=home, HF_HUB_OFFLINE="1"),
        "as ORG/NAME, found 'a/b/c'": start(lfs, "publish", folder, "a/b/c", False, home=home),
    }
    for wanted, client in clients.items():
        line = refused(client)
        assert wanted in line and "hf_wrong" not in line
    assert all(repo.messages == ["initial commit"] for repo in lfs.repos.values())


def test_a_card_that_the_hub_refuses_is_one_line(lfs, tmp_path):
    folder, home = made(tmp_path / "dataset"), tmp_path / "home"
    text = (folder / schema.CARD).read_text().replace("license: other", "license: no such licence")
    (folder / schema.CARD).write_text(text)
    line = refused(start(lfs, "publish", folder, None, False, home=home))
    assert f"the Hub rejected the card of dataset {REPO}" in line and '"license" must be' in line


def test_a_hub_out_of_reach_is_one_line(lfs, tmp_path):
    folder, home = made(tmp_path / "dataset"), tmp_path / "home"
    lfs.server.server_close()
    line = refused(start(lfs, "publish", folder, None, False, home=home))
    assert f"the Hub cannot be reached for dataset {REPO}" in line


def damaged(folder, how):
    data = folder / "data" / "train-00000-of-00003.parquet"
    manifest = json.loads((folder / schema.MANIFEST).read_text())
    if how == "no manifest":
        (folder / schema.MANIFEST).unlink()
    elif how == "no file":
        data.unlink()
    elif how == "cut":
        data.write_bytes(data.read_bytes()[:-1])
    elif how == "changed":
        data.write_bytes(data.read_bytes()[:-1] + b"!")
    elif how == "no card":
        (folder / schema.CARD).unlink()
    else:
        manifest["files"]["../secret"] = "0"
    if how == "outside":
        write_json(folder / schema.MANIFEST, manifest)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("no manifest", "build did not finish"),
        ("no file", "is missing; remove .* and build or download it again"),
        ("cut", "the manifest says"),
        ("changed", "the manifest says"),
        ("no card", r"README\.md is not a readable card"),
        ("outside", "outside its folder"),
    ],
)
def test_a_folder_that_is_not_whole_is_not_published(tmp_path, how, says):
    folder = made(tmp_path / "dataset")
    damaged(folder, how)
    with pytest.raises(UserError, match=says):
        publish.publish(folder, None, private=False, log=lambda line: None)


# Downloads


@pytest.fixture
def served(lfs, tmp_path):
    """A Hub with the small dataset, and its commit."""
    commit = lfs.put(REPO, shutil.copytree(made(tmp_path / "made"), tmp_path / "put"), kind="datasets")
    return lfs, commit


def test_download_errors_are_one_line(served, tmp_path):
    hub, commit = served
    home, data = tmp_path / "home", tmp_path / "mirror"
    hub.put("me/gated", tmp_path / "made", kind="datasets")
    hub.repo("me/gated").gated = True
    built = tmp_path / "other"
    shutil.copytree(tmp_path / "made", built / REPO)
    clients = {
        "dataset me/missing does not exist": start(hub, "download", "me/missing", "main", data, home=home),
        f"has no revision {'0' * 40}": start(hub, "download", REPO, "0" * 40, data, home=home),
        "dataset me/gated is gated": start(hub, "download", "me/gated", "main", data, home=home),
        "contains files that were not downloaded": start(hub, "download", REPO, commit, built, home=home),
        "HF_HUB_OFFLINE=1": start(hub, "download", REPO, commit, data, home=home, HF_HUB_OFFLINE="1"),
    }
    for wanted, client in clients.items():
        assert wanted in refused(client)


def test_a_download_reports_its_bytes_and_then_its_verified_files(hub, tmp_path):
    code = CLIENT.replace(
        "Path(data), lines.append)", "Path(data), lines.append, progress=lambda *now: lines.append(now))"
    )
    made(tmp_path / "made")
    commit = hub.put(REPO, tmp_path / "made", kind="datasets")
    _, lines = finish(start(hub, "download", REPO, commit, tmp_path / "mirror", home=tmp_path / "home", code=code))
    seen = [line for line in lines if isinstance(line, list)]
    last = {name: (done, total) for name, done, total, _ in seen}
    size = sum(path.stat().st_size for path in (tmp_path / "made").rglob("*") if path.is_file())
    files = len(schema.read_manifest(tmp_path / "made").data_files)
    assert last == {f"downloading {REPO}": (size, size), f"verifying {REPO}": (files, files)}
    for name in last:
        amounts = [done for known, done, _, _ in seen if known == name]
        assert amounts == sorted(amounts) and len(amounts) > 1


def test_a_download_with_another_checksum_than_the_manifest_is_refused(lfs, tmp_path):
    """The Hub's own checksum is that of the damaged file, so that only the manifest tells."""
    lfs.corrupt = "data/train-00002"
    commit = lfs.put(REPO, made(tmp_path / "made"), kind="datasets")
    line = refused(start(lfs, "download", REPO, commit, tmp_path / "mirror", home=tmp_path / "home"))
    assert "data/train-00002-of-00003.parquet has sha256" in line and "download it again" in line


def test_a_dataset_of_others_is_compared_with_the_hub(lfs, tmp_path):
    folder, home, data = made(tmp_path / "made"), tmp_path / "home", tmp_path / "mirror"
    (folder / schema.MANIFEST).unlink()
    commit = lfs.put(REPO, folder, kind="datasets")
    _, lines = finish(start(lfs, "download", REPO, commit, data, home=home))
    assert lines[-1] == f"no dataset.json in {data / REPO}: verified 7 of 11 files by the checksums of the Hub"
    (data / REPO / schema.SHEET).write_bytes(bytes((folder / schema.SHEET).stat().st_size))
    sheet = lfs.repo(REPO).revisions[commit][schema.SHEET].sha256
    (lfs.store / sheet).write_bytes(bytes((folder / schema.SHEET).stat().st_size))
    assert "the Hub says" in refused(start(lfs, "download", REPO, commit, data, home=home))


def test_a_disk_that_is_too_small_is_said_before_the_download(served, tmp_path):
    hub, commit = served
    files = hub.repo(REPO).revisions[commit]
    file = files[schema.SHEET]
    files[schema.SHEET] = type(file)(file.sha256, 10**18, file.oid, file.large)
    line = refused(start(hub, "download", REPO, commit, tmp_path / "mirror", home=tmp_path / "home"))
    assert "needs 1,000,000,000.0 GB more" in line and not hub.lines("GET .*/resolve/")


def test_killed_download_resumes(served, tmp_path):
    hub, commit = served
    home, data = tmp_path / "home", tmp_path / "mirror"
    client = start(hub, "download", REPO, commit, data, home=home)
    kill_at(hub, client, f"GET /datasets/{REPO}/resolve", 9)
    notes = data / REPO / ".cache" / "huggingface" / "download"
    whole = [path for path in notes.rglob("*.metadata") if path.read_text().count("\n") == 3]
    have = {str(path.relative_to(notes)).removesuffix(".metadata") for path in whole}
    (notes / "cut-off.metadata").touch()
    hub.requests.clear()
    finish(start(hub, "download", REPO, commit, data, home=home))
    asked = {line.split(f"/resolve/{commit}/")[1] for line in hub.lines(f"^GET /datasets/{REPO}/resolve")}
    assert have and asked and not asked & have  # a file that came whole, but was not noted, is not asked for either
    assert {path: (data / REPO / path).read_bytes() for path in published(hub)} == published(hub)
