"""Captions from the Hub, or from the file or dataset that the command names."""

from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors

from benchmark.errors import UserError
from datasets_scripts.captions.prepare import PreparedCaptions, prepare
from datasets_scripts.captions.sources import custom_source
from datasets_scripts.cc3m import SOURCE as CC3M
from datasets_scripts.cc12m import SOURCE as CC12M
from datasets_scripts.laion_50m import SOURCE as LAION
from datasets_scripts.redcaps import SOURCE as REDCAPS
from tests.cli.test_main import assert_one_line, synrep
from tests.fixtures.caption_files import TABLE, assert_stays, cc3m, kept, parquet, refused, silent, tar

__all__ = ["synrep"]


# The Hub

COMMIT = "5ecc0c80db882861e8e161c0a9504500826a2a0d"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder of files that replaces every dataset on the Hub, and the recorded calls."""
    folder, calls = tmp_path / "hub", []
    folder.mkdir()

    def dataset_info(self, repo, revision=None):
        calls.append((repo, revision))
        names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        return SimpleNamespace(sha=COMMIT, siblings=[SimpleNamespace(rfilename=name) for name in names])

    def download(repo, name, *, repo_type, revision):
        assert (repo_type, revision) == ("dataset", COMMIT)
        calls.append(name)
        return str(folder / name)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return SimpleNamespace(folder=folder, calls=calls)


def test_cc3m_from_the_hub_uses_training_split_and_records_commit(tmp_path, hub):
    (hub.folder / "unlabeled").mkdir()
    (hub.folder / "labeled").mkdir()
    for name, text in (("train-00001-of-00002", "a cat"), ("train-00000-of-00002", "a dog"), ("validation-0", "no")):
        parquet(hub.folder / f"unlabeled/{name}.parquet", {"image_url": ["u"], "caption": [text]})
    parquet(hub.folder / "labeled/train-00000-of-00001.parquet", {"image_url": ["u"], "caption": ["no"]})
    report = prepare(CC3M, CC3M.repo, tmp_path / "out", silent)
    assert kept(tmp_path / "out") == [("a dog", "u"), ("a cat", "u")]
    files = [f"unlabeled/train-0000{n}-of-00002.parquet" for n in range(2)]
    assert report["origin"] == {"repo": CC3M.repo, "commit": COMMIT, "files": files}
    assert hub.calls == [(CC3M.repo, None), *files]
    assert prepare(CC3M, CC3M.repo, tmp_path / "out", silent) == report
    assert len(hub.calls) == 3  # no request for captions that are already prepared


@pytest.mark.parametrize(
    ("source", "revision", "name", "columns"),
    [
        (CC12M, "refs/convert/parquet", "default/train/0000.parquet", {"image_url": ["u"], "caption": ["a dog"]}),
        (REDCAPS, "refs/pr/5", "all/train-00000-of-00007.parquet", {"image_id": ["u"], "caption": ["a dog"]}),
        (LAION, None, "part-00000.parquet", {"URL": ["u"], "TEXT": ["a dog"]}),
    ],
)
def test_hub_revision_and_files_of_each_source(tmp_path, hub, source, revision, name, columns):
    (hub.folder / name).parent.mkdir(parents=True, exist_ok=True)
    parquet(hub.folder / name, columns)
    prepare(source, source.repo, tmp_path / "out", silent)
    assert kept(tmp_path / "out") == [("a dog", "u")]
    assert hub.calls[0] == (source.repo, revision)


def test_any_hub_dataset_uses_its_training_split(tmp_path, hub):
    (hub.folder / "data").mkdir()
    for name in ("train-0", "test-0"):
        parquet(hub.folder / f"data/{name}.parquet", {"text": [name]})
    prepare(TABLE, "org/name", tmp_path / "out", silent)
    assert kept(tmp_path / "out") == [("train-0", "0")]
    assert hub.calls[0] == ("org/name", None)


def test_hub_dataset_with_configurations_or_without_tables_is_refused(tmp_path, hub):
    (hub.folder / "README.md").write_text("x")
    refused(TABLE, "org/name", tmp_path, r"org/name: expected \.parquet or \.csv or \.tsv .*, found README\.md")
    for name in ("a", "b"):
        (hub.folder / name).mkdir()
        parquet(hub.folder / name / "train.parquet", {"text": ["a dog"]})
    refused(TABLE, "org/name", tmp_path, r"expected one folder of captions, found a, b; .*`hf download")


def hub_error(kind):
    """Return an error of the client without calling its constructor, which needs an HTTP response."""
    error = kind.__new__(kind)
    error.args = ("first line\nsecond line",)
    return error


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (
            errors.GatedRepoError,
            r"dataset org/name is gated; request access on .*/datasets/org/name, then .*`hf auth login`",
        ),
        (errors.RepositoryNotFoundError, r"dataset org/name does not exist on the Hub"),
        (errors.RevisionNotFoundError, r"dataset org/name has no revision"),
        (errors.HFValidationError, r"dataset org/name is not a valid name on the Hub"),
        (
            errors.OfflineModeIsEnabled,
            r"dataset org/name is not in the cache and HF_HUB_OFFLINE is set; unset it, or give a local",
        ),
        (errors.LocalEntryNotFoundError, r"dataset org/name is not in the cache and the Hub cannot be reached"),
        (errors.HTTPError, r"the Hub cannot be reached for dataset org/name"),
        (ConnectionError, r"the Hub cannot be reached for dataset org/name"),
    ],
)
def test_an_error_of_the_hub_is_one_line(tmp_path, monkeypatch, kind, match):
    def fail(self, repo, revision=None):
        raise hub_error(kind)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", fail)
    refused(TABLE, "org/name", tmp_path, match)


def test_offline_mode_is_one_line(tmp_path):
    """The variable HF_HUB_OFFLINE is set in conftest.py."""
    refused(CC3M, "org/name", tmp_path, r"HF_HUB_OFFLINE is set")


def test_a_folder_from_the_hub_is_not_replaced_by_another_dataset_or_a_file(tmp_path, hub):
    parquet(hub.folder / "train.parquet", {"text": ["a dog"]})
    prepare(TABLE, "org/name", tmp_path / "out", silent)
    calls = list(hub.calls)
    assert_stays(
        tmp_path / "out", TABLE, "other/name", rf"org/name at commit {COMMIT[:12]}; expected other/name; remove"
    )
    assert hub.calls == calls  # without any download
    path = hub.folder / "train.parquet"
    assert_stays(
        tmp_path / "out", TABLE, path, rf"org/name at commit {COMMIT[:12]}; expected train\.parquet with sha256"
    )


# The command


def birds(folder, text):
    folder.mkdir()
    (folder / "birds.csv").write_text(f"text\n{text}\n")
    return folder / "birds.csv"


def test_two_files_of_one_name_do_not_replace_each_other(tmp_path, synrep):
    first, second = birds(tmp_path / "a", "a robin"), birds(tmp_path / "b", "a wren")
    words = ("--column", "text", "--data", tmp_path)
    assert synrep("data", "captions", first, *words)[0] == 0
    assert_one_line(synrep("data", "captions", second, *words), "captions of another origin", "remove the folder")
    assert [caption.text for caption in PreparedCaptions(custom_source("birds", "text"), root=tmp_path)] == ["a robin"]
    assert synrep("data", "captions", first, *words)[0] == 0


def test_file_with_the_name_of_a_source_is_refused(tmp_path, synrep):
    path = birds(tmp_path / "a", "a robin").rename(tmp_path / "cc3m.csv")
    answer = synrep("data", "captions", path, "--column", "text", "--data", tmp_path)
    assert_one_line(answer, "rename the file", f"`synrep data captions cc3m --origin {path}`")
    assert not (tmp_path / "captions").exists()


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".json", ".zip", ".CSV"])
def test_missing_file_is_not_searched_on_the_hub(tmp_path, synrep, hub, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    name = f"cap/typo{suffix}"
    assert_one_line(synrep("data", "captions", name, "--column", "text"), f"no file or folder {name}")
    assert_one_line(synrep("data", "captions", "cc3m", "--origin", name), f"no file or folder {name}")
    assert hub.calls == []


def test_hub_dataset_and_local_folder_are_distinguished(tmp_path, synrep, hub, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parquet(hub.folder / "train.parquet", {"text": ["a dog"]})
    assert synrep("data", "captions", "org/name", "--column", "text")[0] == 0
    assert hub.calls[0] == ("org/name", None)
    (tmp_path / "org" / "other").mkdir(parents=True)
    parquet(tmp_path / "org" / "other" / "a.parquet", {"text": ["a cat"]})
    assert synrep("data", "captions", "org/other", "--column", "text")[0] == 0
    assert kept(tmp_path / "data" / "captions" / "other") == [("a cat", "0")]


def test_an_option_that_would_be_ignored_is_refused(tmp_path, synrep):
    path = cc3m(tmp_path / "list.tsv", ["a dog"])
    answer = synrep("data", "captions", "cc3m", "--origin", path, "--column", "title", "--data", tmp_path)
    assert_one_line(answer, "--column is not for cc3m, whose captions are in caption; leave it out")
    answer = synrep("data", "captions", path, "--origin", path, "--column", "caption", "--data", tmp_path)
    assert_one_line(answer, "--origin is for one of", "leave it out")
    assert not (tmp_path / "captions").exists()


@pytest.mark.parametrize("name", [".", "..", "../..", "a/..", "/", "./"])
def test_a_name_that_leaves_the_folder_of_captions_is_refused(tmp_path, synrep, monkeypatch, name):
    folder = tmp_path / "a" / "b"
    birds(tmp_path / "a", "a robin")
    birds(folder, "a wren")
    monkeypatch.chdir(folder)
    answer = synrep("data", "captions", name, "--column", "text", "--data", "out")
    assert_one_line(answer, "expected a name for the folder of the captions", "give the file or folder by its name")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "birds.csv", "birds.csv"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/a"])
def test_the_name_of_a_source_is_the_name_of_a_folder(name):
    with pytest.raises(UserError, match="expected a name for the folder of the captions"):
        custom_source(name, "text")


def test_the_name_of_a_dataset_gives_the_name_of_its_captions(tmp_path, synrep):
    folder = ("--data", tmp_path)
    answer = synrep("data", "captions", "laion-50m", *folder)
    assert_one_line(answer, "a dataset of captions of laion", f"run `synrep data captions laion --data {tmp_path}`")
    assert_one_line(synrep("data", "captions", "cc3m-real-10k"), "run `synrep data captions cc3m-real`")
    assert_one_line(synrep("data", "captions", "toy-10k"), "need no preparation; run `synrep data build toy-10k`")


def test_dropped_rows_of_a_tar_are_printed_with_advice(tmp_path, synrep):
    tar(tmp_path / "0.tar", [("0.jpg", b""), ("0.txt", b"a dog"), ("1.txt", b"a cat")])
    code, out, _ = synrep("data", "captions", "cc3m-real", "--origin", tmp_path / "0.tar", "--data", tmp_path)
    assert code == 0
    assert "1 caption of 2 rows, dropped: 1 no image (an image (.jpg, .jpeg" in out and "`tar --sort=name`" in out


def test_markup_in_a_file_name_is_text(tmp_path, synrep, monkeypatch):
    """On a terminal, the progress bar has the name of the file."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    path = birds(tmp_path / "a", "a robin").rename(tmp_path / "[red]x.csv")
    code, _, error = synrep("data", "captions", path, "--column", "text", "--data", tmp_path)
    assert code == 0 and "captions of [red]x" in error


def test_a_file_name_with_control_characters_is_printed_on_one_line(tmp_path, synrep):
    path = birds(tmp_path / "a", "a robin").rename(tmp_path / "x\n\x1b[31m.csv")
    code, out, _ = synrep("data", "captions", path, "--column", "text", "--data", tmp_path)
    assert (
        code == 0 and all(line.isprintable() for line in out.split("\n")) and r"captions/x \x1b[31m: 1 caption" in out
    )


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_name_that_is_not_utf8_is_one_line(tmp_path, synrep, suffix):
    path = parquet(tmp_path / "x.parquet", {"text": ["a robin"]}).rename(tmp_path / f"caf\udce9{suffix}")
    path.write_bytes(path.read_bytes() if suffix == ".parquet" else b"text\na robin\n")
    for words in ((path, "--column", "text"), ("laion" if suffix == ".parquet" else "cc3m", "--origin", path)):
        answer = synrep("data", "captions", *words, "--data", tmp_path)
        assert_one_line(answer, r"expected a path in UTF-8, found", r"caf\udce9", "; rename the file or folder")
