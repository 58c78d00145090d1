import pytest


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """Return an empty folder for `data/` and, for Hub datasets, `hub/`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNREP_DATA", str(tmp_path / "hub"))
    return tmp_path
