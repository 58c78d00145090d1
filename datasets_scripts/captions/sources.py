"""A source of captions: how it is distributed, under which terms, and its files on this machine or on the Hub."""

import fnmatch
import importlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from benchmark import plugins
from benchmark.errors import UserError
from benchmark.files import file_sha256
from datasets_scripts.recipe import revision_of
from datasets_scripts.text_to_image import Terms

SUFFIXES = (".parquet", ".csv", ".tsv", ".json", ".zip")
"""Of files that can hold captions; `captions.files` reads them."""


@dataclass(frozen=True)
class Source:
    """A collection of captions and how it is distributed."""

    name: str
    caption_columns: tuple[str, ...]
    """Names that the column of captions has, in different releases."""
    terms: Terms
    row_id: tuple[str, ...] = ()
    """Names of the column that identifies a row; without one it is the row's number."""
    headerless: tuple[str, ...] = ()
    """Columns of its TSV, in order, where that has no header."""
    suffixes: tuple[str, ...] = (".parquet", ".csv", ".tsv")
    repo: str | None = None
    """Dataset on the Hub that holds the captions."""
    revision: str | None = None
    files: str = "*"
    """Pattern of its files in `repo`."""
    folder: str | None = None
    """Below the data folder, where its files lie that are fetched by hand."""
    paper_before: int | None = None
    """Captions whose image the StableRep paper had (arXiv 2306.00984): never the whole list."""
    paper_after: int | None = None
    """Of those, captions that it counts after de-duplication."""


def custom_source(name: str, column: str) -> Source:
    """A source for any Parquet, CSV or TSV with a header, or any dataset of such files on the Hub."""
    text = "Captions that whoever built this dataset supplied: their own terms hold, and are not known here."
    terms = Terms(subject=f"captions: {name}", licence="other", text=text, url="", commercial=False)
    return Source(name=name, caption_columns=(column,), terms=terms)


def sources() -> dict[str, Source]:
    """Name -> a source that a file of `datasets_scripts` declares in its SOURCES."""
    modules = [importlib.import_module(f"datasets_scripts.{name}") for name in plugins.names("datasets_scripts")]
    return {source.name: source for module in modules for source in getattr(module, "SOURCES", ())}


def manual_folder(source: Source, root: Path) -> str | None:
    """Where the files of a source lie that nobody distributes; None for a source without such a place.

    Raises:
        UserError: nothing is there.
    """
    if source.folder and not (root / source.folder).exists():
        raise UserError(
            f"no folder {root / source.folder}; put the tars of real images there (WebDataset: <key>.jpg with "
            "<key>.txt or <key>.json, as img2dataset writes them), or link it, or give --data"
        )
    return str(root / source.folder) if source.folder else None


def parse_origin(text: str) -> Path | str:
    """Where captions are: ORG/NAME on the Hub (str) where `text` is one and no file's name, else a file or folder."""
    path = Path(text)
    is_file = text.count("/") != 1 or path.suffix.lower() in SUFFIXES or path.exists()
    return path if is_file else text


@dataclass(frozen=True)
class SourceFiles:
    """Files of a source in their order, and what identifies them."""

    files: tuple[Path, ...]
    origin: dict[str, Any]


def same_origin(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two origins are the same commit, or the same bytes read alike, whatever the files are called."""
    return one == other or _contents(one) == _contents(other) != []


def _contents(origin: dict[str, Any]) -> list[tuple[str, str]]:
    """Suffix and sha256 of local files, in order; nothing for a dataset on the Hub."""
    files = {} if "repo" in origin else origin["files"]
    return [(PurePosixPath(name).suffix.lower(), digest) for name, digest in files.items()]


def origin_name(origin: dict[str, Any]) -> str:
    """An origin in a message: repo and commit, or a file and its sha256."""
    if "repo" in origin:
        return f"{origin['repo']} at commit {origin['commit'][:12]}"
    (name, digest), *others = origin["files"].items()
    if not others:
        return f"{name} with sha256 {digest[:12]}"
    return f"{1 + len(others)} files from {name} on, with hash {revision_of(origin['files'])[:12]}"


def local(source: Source, path: Path) -> SourceFiles:
    """A file, or all files of a folder.

    Raises:
        UserError: absent, or nothing there is a file of this source.
    """
    if not path.exists():
        raise UserError(f"no file or folder {path}; wanted captions of {source.name} ({_kinds(source)})")
    below = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    names = _of_one_kind(source, str(path), [str(file) for file in below])
    files = tuple(Path(name) for name in names)
    try:
        digests = {str(file.relative_to(path.parent)): file_sha256(file) for file in files}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return SourceFiles(files, {"files": digests})


def hub(source: Source, repo: str) -> SourceFiles:
    """Files of a dataset on the Hub at the commit that its revision is now; what is in the Hub's cache stays there.

    Raises:
        UserError: no such dataset, closed, not reachable, or nothing in it is a file of this source.
    """
    from huggingface_hub import HfApi, hf_hub_download

    from benchmark.hub.errors import friendly_errors

    own = repo == source.repo
    revision = source.revision if own else None
    with friendly_errors(f"dataset {repo}", revision or "main", "give a local file with --origin"):
        info = HfApi().dataset_info(repo, revision=revision)
        listed = sorted(sibling.rfilename for sibling in info.siblings or ())
        names = _of_one_kind(source, repo, fnmatch.filter(listed, source.files) if own else listed)
        names = names if own else _of_one_split(repo, names)
        files = [hf_hub_download(repo, name, repo_type="dataset", revision=info.sha) for name in names]
    return SourceFiles(tuple(Path(file) for file in files), {"repo": repo, "commit": info.sha, "files": names})


def _kinds(source: Source) -> str:
    return " or ".join(source.suffixes)


def _of_one_kind(source: Source, place: str, names: list[str]) -> list[str]:
    """Names with a suffix of the source."""
    fitting = [name for name in names if PurePosixPath(name).suffix.lower() in source.suffixes]
    if not fitting:
        found = ", ".join(PurePosixPath(name).name for name in names[:5]) or "nothing"
        raise UserError(
            f"{place}: wanted {_kinds(source)} for captions of {source.name}, found {found}; for another table run "
            "`synrep data captions FILE --column NAME`"
        )
    kinds = sorted({PurePosixPath(name).suffix.lower() for name in fitting})
    if len(kinds) > 1:
        raise UserError(f"{place}: wanted files of one kind, found {', '.join(kinds)}; give one file, or a folder")
    return fitting


def _of_one_split(repo: str, names: list[str]) -> list[str]:
    """The training split where there is one; several configurations are several datasets."""
    folders = sorted({str(PurePosixPath(name).parent) for name in names})
    if len(folders) > 1:
        raise UserError(
            f"{repo}: wanted one folder of captions, found {', '.join(folders)}; download one with `hf download "
            f"--repo-type dataset {repo} --include '{folders[0]}/*'` and give that folder"
        )
    training = [name for name in names if PurePosixPath(name).name.startswith("train")]
    return training or names
