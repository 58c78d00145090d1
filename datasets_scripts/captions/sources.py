"""Sources of captions: their distribution, terms of use, and files on this machine or on the Hugging Face Hub."""

import fnmatch
import importlib
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from benchmark import plugins
from benchmark.errors import UserError
from benchmark.files import file_sha256
from datasets_scripts.recipe import revision_of
from datasets_scripts.text_to_image import UNDECLARED, Terms

SUFFIXES = (".parquet", ".csv", ".tsv", ".json", ".zip")
"""Suffixes of files that can contain captions; `captions.files` reads them."""


@dataclass(frozen=True)
class Source:
    """A collection of captions and the layout in which it is distributed."""

    name: str
    caption_columns: tuple[str, ...]
    """Names of the caption column, which differ between releases."""
    terms: Terms
    row_id: tuple[str, ...] = ()
    """Names of the row id column. Empty: the id is the row number."""
    headerless: tuple[str, ...] = ()
    """Columns of the TSV, in order, if it has no header."""
    suffixes: tuple[str, ...] = (".parquet", ".csv", ".tsv")
    """Suffixes of its files."""
    repo: str | None = None
    """Dataset on the Hub that contains the captions. None if there is none."""
    revision: str | None = None
    """Revision of `repo`. None means the default branch."""
    files: str = "*"
    """Glob pattern of its files in `repo`."""
    folder: str | None = None
    """Path below the data folder of files that the user has to download. None if there are none."""
    paper_before: int | None = None
    """Captions in the StableRep paper (arXiv 2306.00984), which has only those whose image could be downloaded."""
    paper_after: int | None = None
    """Captions in the StableRep paper after de-duplication."""

    def __post_init__(self) -> None:
        if self.name in {"", ".", ".."} or "/" in self.name:
            raise UserError(
                f"expected a name for the folder of the captions, found {self.name!r}; give the file or folder by its "
                "name, such as ../birds"
            )


def custom_source(name: str, column: str) -> Source:
    """Return a source for any Parquet, CSV or TSV file with a header, or any dataset of such files on the Hub."""
    text = "Captions of the person who built this dataset. Their terms of use apply, but are not declared here."
    terms = Terms(subject=f"captions: {name}", licence=UNDECLARED, text=text, url="", commercial=False)
    return Source(name=name, caption_columns=(column,), terms=terms)


def sources() -> dict[str, Source]:
    """Return name -> source for all sources that the files of `datasets_scripts` declare in `SOURCES`."""
    modules = [importlib.import_module(f"datasets_scripts.{name}") for name in plugins.names("datasets_scripts")]
    declared = (source for module in modules for source in getattr(module, "SOURCES", ()))
    return plugins.by_name("source of captions", ((source.name, source) for source in declared))


def manual_folder(source: Source, root: Path) -> str | None:
    """Return the folder of files that the user has to download; None for a source without such files.

    Raises:
        UserError: the folder does not exist.
    """
    if source.folder and not (root / source.folder).exists():
        raise UserError(
            f"no folder {root / source.folder}; put the tars of real images there (WebDataset: <key>.jpg with "
            "<key>.txt or <key>.json, as written by img2dataset), or link it, or give --data"
        )
    return str(root / source.folder) if source.folder else None


def parse_origin(text: str) -> Path | str:
    """Parse the origin of captions: a dataset ORG/NAME on the Hub (str), or a file or folder (Path).

    Existing paths and names with a suffix of a caption file are never datasets.
    """
    path = Path(text)
    is_file = text.count("/") != 1 or path.suffix.lower() in SUFFIXES or path.exists()
    return path if is_file else text


@dataclass(frozen=True)
class SourceFiles:
    """The files of a source, in order, and their origin."""

    files: tuple[Path, ...]
    origin: dict[str, Any]
    """JSON that identifies the files: repo, commit and names; or the SHA-256 of each local file by name."""


def same_origin(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return True for the same commit, or for local files with the same contents and suffixes under any names."""
    return one == other or _file_contents(one) == _file_contents(other) != []


def _file_contents(origin: dict[str, Any]) -> list[tuple[str, str]]:
    """Return suffix and SHA-256 of local files, in order; empty for a dataset on the Hub."""
    files = {} if "repo" in origin else origin["files"]
    return [(PurePosixPath(name).suffix.lower(), digest) for name, digest in files.items()]


def describe_origin(origin: dict[str, Any]) -> str:
    """Describe an origin in a message: repo and commit, or a file and its SHA-256."""
    if "repo" in origin:
        return f"{origin['repo']} at commit {origin['commit'][:12]}"
    (name, digest), *others = origin["files"].items()
    if not others:
        return f"{name} with sha256 {digest[:12]}"
    return f"{1 + len(others)} files, the first {name}, with hash {revision_of(origin['files'])[:12]}"


def local_files(source: Source, path: Path) -> SourceFiles:
    """Return a local file, or all files of a folder that have a suffix of the source.

    Raises:
        UserError: the path does not exist, or contains no file of this source.
    """
    if not path.exists():
        raise UserError(f"no file or folder {path}; expected captions of {source.name} ({_suffixes(source)})")
    candidates = [path]
    if path.is_dir():
        candidates = sorted(f for f in path.rglob("*") if not f.is_dir() and not is_hidden(f.relative_to(path)))
    names = _select_files(source, str(path), [str(file) for file in candidates])
    files = tuple(Path(name) for name in names)
    if irregular := [file for file in files if not file.is_file()]:
        raise UserError(f"{irregular[0]} is not a regular file, or links to nothing; replace it with the file itself")
    try:
        digests = {str(file.relative_to(path.parent)): file_sha256(file) for file in files}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return SourceFiles(files, {"files": digests})


def is_hidden(path: PurePath) -> bool:
    """Return True for hidden files and for those that macOS adds to folders and archives, such as ._a.jpg."""
    return path.name.startswith(".") or path.parts[:1] == ("__MACOSX",)


def hub_files(source: Source, repo: str) -> SourceFiles:
    """Download the files of a dataset on the Hub, at the current commit of its revision, into the cache of the Hub.

    Raises:
        UserError: the dataset does not exist, is gated, cannot be reached, or contains no file of this source.
    """
    from huggingface_hub import HfApi, hf_hub_download

    from benchmark.hub.errors import friendly_errors

    own = repo == source.repo
    revision = source.revision if own else None
    with friendly_errors(f"dataset {repo}", revision or "main", "give a local file with --origin"):
        info = HfApi().dataset_info(repo, revision=revision)
        listed = sorted(sibling.rfilename for sibling in info.siblings or ())
        names = _select_files(source, repo, fnmatch.filter(listed, source.files) if own else listed)
        names = names if own else _select_training_split(repo, names)
        files = [hf_hub_download(repo, name, repo_type="dataset", revision=info.sha) for name in names]
    return SourceFiles(tuple(Path(file) for file in files), {"repo": repo, "commit": info.sha, "files": names})


def _suffixes(source: Source) -> str:
    return " or ".join(source.suffixes)


def _select_files(source: Source, where: str, names: list[str]) -> list[str]:
    """Return the names that have a suffix of the source; all must have the same suffix."""
    selected = [name for name in names if PurePosixPath(name).suffix.lower() in source.suffixes]
    if not selected:
        found = ", ".join(PurePosixPath(name).name[:80] for name in names[:5]) or "nothing"
        raise UserError(
            f"{where}: expected {_suffixes(source)} for captions of {source.name}, found {found}; for another table "
            "run `synrep data captions FILE --column NAME`"
        )
    suffixes = sorted({PurePosixPath(name).suffix.lower() for name in selected})
    if len(suffixes) > 1:
        raise UserError(
            f"{where}: expected files with one suffix, found {', '.join(suffixes)}; give one file, or another folder"
        )
    return selected


def _select_training_split(repo: str, names: list[str]) -> list[str]:
    """Return the files of the training split, or all files if there is no such split.

    Raises:
        UserError: the dataset has several configurations (folders).
    """
    folders = sorted({str(PurePosixPath(name).parent) for name in names})
    if len(folders) > 1:
        raise UserError(
            f"{repo}: expected one folder of captions, found {', '.join(folders)}; download one with `hf download "
            f"--repo-type dataset {repo} --include '{folders[0]}/*'` and give that folder"
        )
    training = [name for name in names if PurePosixPath(name).name.startswith("train")]
    return training or names
