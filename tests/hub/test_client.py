"""Tests of `tests.fixtures.fake_hub` with the unmodified clients, in separate processes."""

import subprocess
import sys

import pytest

from tests.fixtures.fake_hub import Hub

pytestmark = pytest.mark.slow

DATASETS = """
import datasets, numpy, os
from PIL import Image
image = Image.fromarray(numpy.random.default_rng(0).integers(0, 255, (64, 64, 3), numpy.uint8))
features = datasets.Features({"text": datasets.Value("string"), "images": datasets.List(datasets.Image())})
rows = {"text": ["a", "b", "c"], "images": [[image, image], [image], []]}
made = datasets.Dataset.from_dict(rows, features=features)
made.push_to_hub("me/pushed", num_shards=2)
found = datasets.load_dataset("me/pushed", split="train")
assert found.features == features and found["text"] == rows["text"]
streamed = list(datasets.load_dataset("me/pushed", split="train", streaming=True))
assert [len(row["images"]) for row in streamed] == [2, 1, 0]
assert numpy.array_equal(numpy.asarray(streamed[1]["images"][0]), numpy.asarray(image))
"""

CLIENT = """
import os, sys, tempfile
from pathlib import Path
from huggingface_hub import CommitOperationDelete, HfApi, HfFileSystem, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError,
)

api, folder = HfApi(), Path(tempfile.mkdtemp())
(folder / "data").mkdir()
large = os.urandom(300_000)
(folder / "data" / "a.bin").write_bytes(large)
(folder / "README.md").write_text("---\\nlicense: mit\\n---\\n")
(folder / "config.json").write_text("{}")

def fails(error, call, *arguments, **more):
    try:
        call(*arguments, **more)
    except error as raised:
        assert type(raised) is error, raised
        return raised
    raise AssertionError(f"no {error.__name__}")

assert api.whoami()["name"] == "me"
api.create_repo("me/new", repo_type="dataset")
api.create_repo("me/new", repo_type="dataset", exist_ok=True)
assert fails(HfHubHTTPError, api.create_repo, "me/new", repo_type="dataset").response.status_code == 409
new = dict(repo_id="me/new", repo_type="dataset")
first = api.upload_folder(folder_path=folder, **new).oid
assert api.upload_folder(folder_path=folder, **new).oid == first
api.create_tag(tag="v1", **new)
delete = CommitOperationDelete("data/", is_folder=True)
second = api.create_commit(operations=[delete], commit_message="less", **new).oid
assert api.list_repo_files(**new) == [".gitattributes", "README.md", "config.json"]
assert "data/a.bin" in api.list_repo_files(revision="v1", **new)
assert api.dataset_info("me/new").sha == second and api.dataset_info("me/new", revision="v1").sha == first
(info,) = api.get_paths_info(paths=["data/a.bin"], revision="v1", **new)
assert info.lfs.size == info.size == len(large)
assert [f.path for f in api.list_repo_tree(path_in_repo="data", revision=first, **new)] == ["data/a.bin"]
assert HfFileSystem().cat_file(f"datasets/me/new@{first}/data/a.bin", start=1000, end=1010) == large[1000:1010]
assert Path(hf_hub_download(filename="data/a.bin", revision=first, **new)).read_bytes() == large
fails(RevisionNotFoundError, api.dataset_info, "me/new", revision="0" * 40)
fails(RepositoryNotFoundError, api.dataset_info, "me/missing")
stale = fails(HfHubHTTPError, api.create_commit, operations=[delete], commit_message="x", parent_commit=first, **new)
assert stale.response.status_code == 412

assert Path(snapshot_download("me/model", revision=sys.argv[1]), "unet", "weights.bin").read_bytes() == b"weights"
assert api.model_info("me/model").sha == sys.argv[1]
fails(GatedRepoError, hf_hub_download, "me/gated", "config.json")
fails(RevisionNotFoundError, snapshot_download, "me/model", revision="gone")
fails(RepositoryNotFoundError, snapshot_download, "me/nothing")
"""


@pytest.fixture(params=[True, False], ids=["xet", "lfs"])
def hub(request, tmp_path):
    with Hub(tmp_path / "hub", xet=request.param) as hub:
        yield hub


def run(hub, code, tmp_path, *arguments, **environment):
    command = [sys.executable, "-c", code, *arguments]
    env = hub.environment(tmp_path / "home", **environment)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_datasets_are_pushed_loaded_and_streamed(hub, tmp_path):
    run(hub, DATASETS, tmp_path)
    assert hub.repo("me/pushed").messages == ["initial commit", "Upload dataset"]
    assert bool(hub.lines("^PUT /objects/")) is not hub.xet
    assert bool(hub.lines("xet-write-token")) is hub.xet and bool(hub.lines("xet-read-token")) is hub.xet


def test_huggingface_hub_client_works_with_the_fake_hub(hub, tmp_path):
    model = tmp_path / "model"
    (model / "unet").mkdir(parents=True)
    (model / "unet" / "weights.bin").write_bytes(b"weights")
    (model / "config.json").write_text("{}")
    sha = hub.put("me/model", model)
    hub.put("me/gated", model)
    hub.repo("me/gated", "models").gated = True
    run(hub, CLIENT, tmp_path, sha)
    assert len(hub.repo("me/new").messages) == 3


def test_reading_needs_no_token_unless_the_repository_is_private(tmp_path):
    code = "import sys; from huggingface_hub import HfApi; print(HfApi().model_info('me/model').sha)"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with Hub(tmp_path / "hub") as hub:
        sha = hub.put("me/model", tmp_path / "model")
        assert run(hub, code, tmp_path, token=None).strip() == sha
        hub.repo("me/model", "models").private = True
        with pytest.raises(AssertionError, match="RepositoryNotFoundError"):
            run(hub, code, tmp_path, token=None)
        assert run(hub, code, tmp_path).strip() == sha
        with pytest.raises(AssertionError, match="Invalid credentials"):
            run(hub, code, tmp_path, token="hf_wrong")


def test_faults_occur_the_given_number_of_times(tmp_path):
    code = "from huggingface_hub import HfApi; print(HfApi().whoami()['name'])"
    with Hub(tmp_path / "hub") as hub:
        hub.fail("whoami", 503)
        hub.fail("whoami", 0)
        with pytest.raises(AssertionError, match="503"):
            run(hub, code, tmp_path)
        with pytest.raises(AssertionError, match="RemoteProtocolError"):
            run(hub, code, tmp_path)
        assert run(hub, code, tmp_path).strip() == "me"
        assert len(hub.lines("GET /api/whoami-v2")) == 3


def test_a_corrupted_file_has_another_checksum(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("good.bin", "bad.bin"):
        (tmp_path / "data" / name).write_bytes(b"content")
    hub = Hub(tmp_path / "hub")
    hub.corrupt = "bad"
    sha = hub.put("a/b", tmp_path / "data")
    files = hub.repo("a/b", "models").revisions[sha]
    assert files["good.bin"].sha256 != files["bad.bin"].sha256
    assert hub.read("a/b", "good.bin", kind="models") == b"content" != hub.read("a/b", "bad.bin", kind="models")
    hub.server.server_close()
