import pytest

from benchmark.errors import MissingDataset, UserError
from benchmark.mirror import dataset_folder, missing_mirror, roots
from datasets_scripts import recipe


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYNREP_DATA", raising=False)
    return tmp_path


def make(root, repo):
    (root / repo).mkdir(parents=True)
    return root / repo


def test_builds_are_found_in_data(machine):
    made = make(machine / "data", "org/name")
    assert dataset_folder("org/name", "r").resolve() == made


def test_mirror_is_searched_after_builds(machine, monkeypatch):
    monkeypatch.setenv("SYNREP_DATA", str(machine / "hub"))
    mirrored = make(machine / "hub", "org/name")
    assert dataset_folder("org/name", "r") == mirrored
    built = make(machine / "data", "org/name")
    assert dataset_folder("org/name", "r").resolve() == built
    assert len(roots()) == 2


def test_empty_variable_is_ignored(machine, monkeypatch):
    monkeypatch.setenv("SYNREP_DATA", "")
    make(machine, "org/name")
    assert len(roots()) == 1
    with pytest.raises(MissingDataset):
        dataset_folder("org/name", "r")


def test_a_file_is_not_a_dataset_folder(machine):
    (machine / "data" / "org").mkdir(parents=True)
    (machine / "data" / "org" / "name").write_text("")
    with pytest.raises(MissingDataset):
        dataset_folder("org/name", "r")


def test_mirror_that_is_no_folder_is_named_without_its_path(machine, monkeypatch):
    """The message is recorded as the reason of a skipped dataset."""
    assert missing_mirror() is None
    monkeypatch.setenv("SYNREP_DATA", str(machine / "wrong"))
    assert missing_mirror() == machine / "wrong"
    with pytest.raises(MissingDataset, match=r"not in data/, and \$SYNREP_DATA is not a folder; run `synrep") as raised:
        dataset_folder("org/name", "r")
    assert str(machine) not in str(raised.value)
    made = make(machine / "data", "org/name")
    assert dataset_folder("org/name", "r").resolve() == made


def test_missing_dataset_says_how_to_get_it(machine):
    with pytest.raises(MissingDataset, match=r"org/name is neither in data/ nor in \$SYNREP_DATA") as raised:
        dataset_folder("org/name", "0123abc")
    assert "`synrep data download org/name --revision 0123abc`" in str(raised.value)
    assert isinstance(raised.value, UserError) and "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["toy-2k-l1", "toy-real", "cc12m-10k-w2", "cc3m-real-1m"])
def test_missing_datasets_of_a_recipe_name_the_build_command(machine, name):
    with pytest.raises(MissingDataset, match=rf"build it with `synrep data build {name}`"):
        dataset_folder(recipe.find(name).repo, "r")


@pytest.mark.parametrize("name", ["scenes-toy", "scenes-objects"])
def test_missing_scenes_name_the_build_command(machine, name):
    """One command builds the training set and the evaluation sets; finished ones are kept."""
    with pytest.raises(MissingDataset, match=r"build it with `synrep data build toy scenes-evaluation`"):
        dataset_folder(f"synrep-bench/{name}", "r")


def test_originals_are_found_in_the_mirror_and_downloaded_by_hand(machine, monkeypatch):
    with pytest.raises(
        MissingDataset, match=r"originals/flowers is neither.*download its files by hand: `synrep data download -"
    ):
        dataset_folder("originals/flowers", "")
    monkeypatch.setenv("SYNREP_DATA", str(machine / "hub"))
    made = make(machine / "hub", "originals/flowers")
    assert dataset_folder("originals/flowers", "") == made


def test_a_given_hint_replaces_the_default_one(machine):
    with pytest.raises(MissingDataset, match=r"nor in \$SYNREP_DATA; ask Ann$"):
        dataset_folder("org/name", "r", "ask Ann")
