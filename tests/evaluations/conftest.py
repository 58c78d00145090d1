import pytest


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """An empty machine: the folder in which `data/` and, for Hub sets, `hub/` are written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNREP_DATA", str(tmp_path / "hub"))
    return tmp_path
