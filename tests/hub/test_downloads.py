"""Notes of downloaded files."""

from pathlib import Path

from benchmark.hub import downloads


def test_notes_name_the_commit_and_the_checksum_of_each_file(tmp_path: Path) -> None:
    folder = tmp_path / downloads.NOTES
    (folder / "data").mkdir(parents=True)
    (folder / "data/a.parquet.metadata").write_text(f"{'a' * 40}\netag\n1790000000.5\n")
    (folder / "README.md.metadata").write_text("b" * 40)  # without a checksum
    assert downloads.notes(tmp_path) == {"data/a.parquet": ("a" * 40, "etag"), "README.md": ("b" * 40, "")}


def test_notes_of_a_killed_download_are_ignored(tmp_path: Path) -> None:
    folder = tmp_path / downloads.NOTES
    folder.mkdir(parents=True)
    for name, content in (("empty", b""), ("damaged", b"\xff\xfe\n"), ("branch", b"main\netag\n")):
        (folder / f"{name}.metadata").write_bytes(content)
    assert downloads.notes(tmp_path) == {}
    assert downloads.notes(tmp_path / "missing") == {}
