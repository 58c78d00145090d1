"""A dataset folder goes to the Hub, and a pinned revision comes back; both end with a comparison of checksums.

Uploads are `HfApi.upload_folder`: resumable, in several commits where there are many files. Until the last of them a
reader of `main` sees a part; that is why datasets are read at a revision. What lies in `data/` and `index/` of an
earlier version goes with the first commit, so that `load_dataset` never mixes two versions.
"""

import hashlib
import random
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
from huggingface_hub import HfFileSystem, snapshot_download

from benchmark import schema
from benchmark.errors import UserError
from benchmark.files import file_sha256, write_bytes, write_json
from benchmark.hub.client import Repository, require_name
from benchmark.progress import LogLine

DELETE_PATTERNS = ["data/*", "index/*"]
"""What belongs to one version of a dataset, and is deleted where a new one has no such file."""
OPTIONAL_FILES = (schema.STARTED, schema.STATISTICS)
"""Published where they are there; not in the manifest, since they differ from build to build."""
IMAGES_READ_BACK = 16


def publish(folder: Path, repo: str | None, *, private: bool, log: LogLine) -> str:
    """Upload a built dataset as `repo`, by default the one that its manifest names, and read it back.

    Returns:
        The commit on the Hub. An unchanged dataset makes no commit.

    Raises:
        UserError: the folder is not whole; the Hub refuses, cannot be reached, or holds something else afterwards.
    """
    manifest = schema.read_manifest(folder)
    repo = repo or manifest.repo
    require_name(repo, "dataset")
    log(f"comparing {len(manifest.files)} files of {folder} with their checksums")
    compare(folder, manifest, f"remove {folder} and build or download it again")
    there = Repository.open(repo, "dataset", writes=True)
    with there.friendly_errors(), tempfile.TemporaryDirectory() as temporary:
        staged = stage(folder, manifest, repo, Path(temporary))
        there.create(private=private)
        log(f"uploading to {repo}")
        commit = there.api.upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=staged,
            delete_patterns=DELETE_PATTERNS,
            commit_message=f"Revision {manifest.revision[:12]} of {manifest.repo}",
        ).oid
        log(f"reading back {repo} at {commit}")
        read_back(there, staged, commit)
    if "extra_gated_prompt:" in (folder / schema.CARD).read_text(encoding="utf-8"):
        log("its terms ask readers to agree: switch on access requests in the dataset's settings")
    return commit


def stage(folder: Path, manifest: schema.Manifest, repo: str, staged: Path) -> Path:
    """Links to exactly the files that are published, with a card and a manifest that name `repo`."""
    beside = [name for name in OPTIONAL_FILES if (folder / name).is_file()]
    for name in [*manifest.files, *beside]:
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        (staged / name).symlink_to((folder / name).resolve())
    files = dict(manifest.files)
    if repo != manifest.repo:
        old = re.compile(rf"(?<![\w.-]){re.escape(manifest.repo)}(?![\w-])")
        card = old.sub(repo, (folder / schema.CARD).read_text(encoding="utf-8"))
        (staged / schema.CARD).unlink()
        write_bytes(staged / schema.CARD, card.encode())
        files[schema.CARD] = file_sha256(staged / schema.CARD)
    write_json(staged / schema.MANIFEST, replace(manifest, repo=repo, files=files).as_json())
    return staged


def compare(folder: Path, manifest: schema.Manifest, hint: str) -> None:
    """Compare every file that the manifest lists with its checksum.

    Raises:
        UserError: a file is missing or another one.
    """
    if schema.CARD not in manifest.files:
        raise UserError(f"{folder / schema.MANIFEST} lists no {schema.CARD}; {hint}")
    for name, wanted in sorted(manifest.files.items()):
        path = schema.file_in(folder, name)
        if not path.is_file():
            raise UserError(f"{path} is missing; {hint}")
        if (found := file_sha256(path)) != wanted:
            raise UserError(f"{path} has sha256 {found[:12]}, the manifest says {wanted[:12]}; {hint}")


def read_back(repository: Repository, folder: Path, commit: str) -> None:
    """Compare what the Hub holds at a commit with a folder: all checksums, and some images by their place.

    Raises:
        UserError: a file is missing, another one, or one too many.
    """
    manifest, repo, api = schema.read_manifest(folder), repository.name, repository.api
    there = repository.files(commit)
    files = HfFileSystem(endpoint=api.endpoint, token=api.token)
    root, hint = f"datasets/{repo}@{commit}", "run again to publish it anew"
    beside = {
        name: file_sha256(folder / name) for name in (*OPTIONAL_FILES, schema.MANIFEST) if (folder / name).is_file()
    }
    for name, wanted in sorted((manifest.files | beside).items()):
        if name not in there:
            raise UserError(f"{name} is not in {repo} at {commit}; {hint}")
        large = there[name].lfs
        found = large.sha256 if large else hashlib.sha256(files.cat_file(f"{root}/{name}")).hexdigest()
        if found != wanted:
            raise UserError(f"{name} in {repo} at {commit} has sha256 {found[:12]}, wanted {wanted[:12]}; {hint}")
    if stale := sorted(name for name in there if name.startswith(("data/", "index/")) and name not in manifest.files):
        raise UserError(f"{repo} at {commit} also holds {stale[0]}, which is of no use to this dataset; {hint}")
    for name, start, length in sample_image_locations(folder, manifest, random.Random(commit)):
        with (folder / name).open("rb") as file:
            file.seek(start)
            image = file.read(length)
        if files.cat_file(f"{root}/{name}", start=start, end=start + length) != image:
            raise UserError(f"{name} in {repo} at {commit} has another image at byte {start}; {hint}")


def sample_image_locations(folder: Path, manifest: schema.Manifest, rng: random.Random) -> list[tuple[str, int, int]]:
    """Up to `IMAGES_READ_BACK` images by file, offset and length, from as many files."""
    found: list[tuple[str, int, int]] = []
    indices = [match for name in sorted(manifest.files) if (match := re.fullmatch(r"index/(.+)-(\d+)\.npy", name))]
    for match in rng.sample(indices, min(IMAGES_READ_BACK, len(indices))):
        (parquet,) = (name for name in manifest.files if name.startswith(f"data/{match[1]}-{match[2]}-of-"))
        images = np.load(folder / match[0]).reshape(-1, 2)
        images = images[images[:, 1] > 0]
        count = min(len(images), -(-IMAGES_READ_BACK // len(indices)))
        found += [(parquet, int(start), int(length)) for start, length in images[rng.sample(range(len(images)), count)]]
    return found[:IMAGES_READ_BACK]


def download(repo: str, revision: str, data: Path, log: LogLine, patterns: Sequence[str] = ("*",)) -> Path:
    """Bring a revision of a dataset into the local mirror, to `data/<org>/<name>`, and compare checksums.

    Of a repository without a manifest only the files that one of `patterns` fits are fetched. A download that was
    interrupted goes on.

    Raises:
        UserError: the folder holds something else, the disk is too small, the Hub refuses or cannot be reached.
    """
    folder = data / repo
    there = Repository.open(repo, "dataset", writes=False)
    with there.friendly_errors(revision):
        commit = there.commit(revision)
        if (held := local_revision(folder)) not in (None, commit):
            raise UserError(f"{folder} holds {held}, wanted revision {commit}; move it away or choose another folder")
        files = {
            path: file
            for path, file in there.files(commit).items()
            if any(fnmatch(path, pattern) for pattern in patterns)
        }
        missing = sum(f.size for f in files.values() if not _has_size(folder / f.path, f.size))
        folder.mkdir(parents=True, exist_ok=True)
        if missing > (free := shutil.disk_usage(folder).free):
            raise UserError(f"{repo} needs {missing / 1e9:,.1f} GB more, {folder} has {free / 1e9:,.1f} GB; free some")
        log(f"downloading {repo} at {commit}: {missing / 1e9:,.1f} GB")
        snapshot_download(repo, repo_type="dataset", revision=commit, local_dir=folder, allow_patterns=list(patterns))
    hint = "remove it and download it again"
    if (folder / schema.MANIFEST).is_file():
        compare(folder, schema.read_manifest(folder), hint)
        log("all checksums are those of the manifest")
        return folder
    large = {name: file.lfs.sha256 for name, file in files.items() if file.lfs}
    for name, wanted in sorted(large.items()):
        if (found := file_sha256(folder / name)) != wanted:
            raise UserError(f"{folder / name} has sha256 {found[:12]}, the Hub says {wanted[:12]}; {hint}")
    log(f"no {schema.MANIFEST} in {repo}: compared {len(large)} of {len(files)} files with the Hub's own checksums")
    return folder


def local_revision(folder: Path) -> str | None:
    """The commit that the Hub's client noted for the files of a folder; None where it has none yet."""
    notes = (folder / ".cache" / "huggingface" / "download").rglob("*.metadata")
    # The client writes notes in place: one that was cut off by a kill is empty, and the client ignores it too.
    lines = {note.read_text().split("\n", 1)[0] for note in notes}
    held = sorted(line for line in lines if re.fullmatch("[0-9a-f]{40}", line))
    if held:
        return f"revision {' and '.join(held)}" if len(held) > 1 else held[0]
    others = folder.is_dir() and any(path.name != ".cache" for path in folder.iterdir())
    return "files that were not downloaded" if others else None


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
