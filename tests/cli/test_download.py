"""`synrep data download` of evaluation datasets, from a fake Hub on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark.errors import UserError
from benchmark.evaluations.datasets.catalog import DATASETS, FILES
from tests.cli.test_main import Synrep, assert_one_line, synrep
from tests.fixtures import evaluation_sets
from tests.fixtures.fake_hub import CUT, Hub

pytestmark = pytest.mark.slow

__all__ = ["synrep"]

SYNREP = Path(sys.executable).with_name("synrep")
ROWS = {row.repo: row for row in DATASETS.values() if row.revision}


@pytest.fixture
def hub(tmp_path):
    """Every repository of the catalogue at its pinned revision, with a later commit on main."""
    with Hub(tmp_path / "hub", xet=False) as hub:
        for repo, row in ROWS.items():
            folder = tmp_path / "repos" / repo
            folder.mkdir(parents=True)
            (folder / "README.md").write_text(f"{repo} as pinned")
            pin(hub, repo, row.revision, folder)
            (folder / "README.md").write_text("a later commit")
            hub.put(repo, folder, kind="datasets", message="later")
        yield hub


def pin(hub, repo, revision, folder):
    """Put the folder's files as the commit that the catalogue pins."""
    sha = hub.put(repo, folder, kind="datasets", message="pinned")
    there = hub.repo(repo)
    there.revisions[revision] = there.revisions.pop(sha)


def download(hub, tmp_path, *words, token=None):
    """Exit code, output and error of the command, as a user with a network runs it."""
    command = [SYNREP, "data", "download", *words, "--data", tmp_path / "mirror"]
    env = hub.environment(tmp_path / "home", token=token) | {"SYNREP_DATA": str(tmp_path / "mirror")}
    env.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    return done.returncode, done.stdout, done.stderr


def test_all_available_datasets_are_downloaded_and_the_others_reported(hub, tmp_path):
    hub.repo("mteb/wds_imagenet1k").gated = True
    del hub.repos["datasets", "mteb/dtd"]
    hub.fail("resolve/09ffe9bc.*README", CUT, 40)  # cars: the connection is cut, also when tried again
    code, shown, error = download(hub, tmp_path, "--all-evaluations")
    failed = {"mteb/wds_imagenet1k", "mteb/dtd", "mteb/StanfordCars"}
    assert_one_line((code, shown, error), f"3 of {len(ROWS)} datasets could not be downloaded, run again to retry;")
    assert "imagenet: dataset mteb/wds_imagenet1k is gated; request access on http" in error
    assert "/datasets/mteb/wds_imagenet1k, then run `hf auth login`" in error
    assert "dtd-mteb: dataset mteb/dtd does not exist" in error
    assert "cars: the Hub cannot be reached" in error
    assert "Retrying" not in error and "does not exist" not in shown, "each failure is told once, in the last line"
    for repo in ROWS:
        card = tmp_path / "mirror" / repo / "README.md"
        assert card.is_file() is (repo not in failed)
        assert repo in failed or card.read_text() == f"{repo} as pinned"
    for name, row in evaluation_sets.CATALOGUE.items():
        assert (f"{name} wants in originals/" in shown) is (row.kind == FILES)
    assert "caltech101 wants in originals/caltech101/: train.txt, test.txt, 101_ObjectCategories/; they come" in shown

    hub.faults.clear()
    hub.requests.clear()
    hub.repo("mteb/wds_imagenet1k").gated = False
    code, shown, error = download(hub, tmp_path, "--all-evaluations")
    assert_one_line(
        (code, shown, error),
        f"1 of {len(ROWS)} datasets could not be downloaded",
        "dtd-mteb: dataset mteb/dtd does not exist",
    )
    assert {line.split("/resolve/")[0] for line in hub.lines("^GET .*resolve")} == {
        "GET /datasets/mteb/wds_imagenet1k",
        "GET /datasets/mteb/StanfordCars",
    }


def test_a_dataset_by_its_name_is_opened_afterwards(hub, tmp_path, monkeypatch):
    """FairFace lies in one repository with both its margins; their files then open without a network."""
    for name in ("fairface-0.25", "fairface-1.25"):
        folder = evaluation_sets.write(name, tmp_path / "made")
    pin(hub, "HuggingFaceM4/FairFace", ROWS["HuggingFaceM4/FairFace"].revision, folder)
    code, shown, error = download(hub, tmp_path, "fairface-1.25")
    assert (code, error) == (0, "") and shown.splitlines()[-1] == str(
        tmp_path / "mirror" / "HuggingFaceM4" / "FairFace"
    )
    evaluation_sets.use(["fairface-0.25", "fairface-1.25"], monkeypatch, tmp_path / "mirror")
    from benchmark.evaluations.datasets.splits import open_split

    assert open_split("fairface-1.25", "test").read(27).shape == (8, 8, 3)
    assert open_split("fairface-1.25", "test").identity.provenance == "verified"
    with pytest.raises(UserError, match=r"0.25/validation-\*.parquet, found none"):
        open_split("fairface-0.25", "test")
    assert download(hub, tmp_path, "fairface-0.25")[0] == 0  # the same repository at the same revision
    assert open_split("fairface-0.25", "test").read(27).shape == (8, 8, 3)


def test_only_the_files_that_are_read_are_fetched(hub, tmp_path):
    folder = evaluation_sets.write("flickr30k", tmp_path / "made")
    (folder / "train").mkdir()
    (folder / "train" / "0.tar").write_bytes(b"large")
    pin(hub, "clip-benchmark/wds_flickr30k", ROWS["clip-benchmark/wds_flickr30k"].revision, folder)
    assert download(hub, tmp_path, "flickr30k")[0] == 0
    mirror = tmp_path / "mirror" / "clip-benchmark" / "wds_flickr30k"
    assert sorted(path.name for path in mirror.iterdir() if path.name != ".cache") == ["test"]


def test_a_gated_dataset_asks_for_a_token(hub, tmp_path):
    hub.repo("mteb/cifar10").gated = True
    answer = download(hub, tmp_path, "cifar10")
    assert_one_line(answer, "dataset mteb/cifar10 is gated; request access", "`hf auth login` or set HF_TOKEN")
    assert not (tmp_path / "mirror" / "mteb" / "cifar10" / "README.md").exists()


def test_datasets_that_are_not_on_the_hub(synrep: Synrep, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNREP_DATA", str(tmp_path))
    words = ("data", "download")
    assert synrep(*words, "digits") == (0, "digits is part of scikit-learn; nothing to download\n", "")
    assert_one_line(synrep(*words, "scenes-shape"), "run `synrep data build toy scenes-evaluation`")
    assert_one_line(
        synrep(*words, "flowers"), "flowers wants in originals/flowers/: flowers-102/setid.mat", "robots.ox"
    )
    evaluation_sets.write("flowers", tmp_path)
    assert synrep(*words, "flowers") == (0, f"{tmp_path}/originals/flowers has the files of flowers\n", "")
    (tmp_path / "originals" / "flowers" / "flowers-102" / "setid.mat").unlink()
    assert_one_line(synrep(*words, "flowers"), "originals/flowers has no flowers-102/setid.mat; flowers wants")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected either a dataset or --all-evaluations"),
        (["cifar10", "--all-evaluations"], "expected either a dataset or --all-evaluations"),
        (["cifar11"], "unknown dataset 'cifar11'; did you mean cifar10 or cifar100?"),
        (["cifar10", "--revision", "main"], "cifar10 has a pinned revision"),
        (["org/name"], "Missing option '--revision'"),
        (["cifar10"], "HF_HUB_OFFLINE=1 disables access to"),
        (["--all-evaluations"], "HF_HUB_OFFLINE=1 disables network access; unset it to download"),
    ],
)
def test_download_errors_are_one_line(synrep: Synrep, tmp_path, words, message):
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    answer = synrep("data", "download", *words, "--data", tmp_path)
    assert_one_line(answer, message)
    assert answer[2].count("HF_HUB_OFFLINE=1") <= 1  # the same reason is printed once
