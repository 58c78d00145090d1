"""Upload of dataset folders to the Hub, and download of pinned revisions, both verified by checksums.

Uploads use `HfApi.upload_folder`: resumable, with several commits for many files. Until the last commit, `main` is
incomplete; therefore datasets are read at a pinned revision. The first commit deletes the files of an earlier version
in `data/` and `index/`, so that `load_dataset` never mixes two versions.

A card is prose: no checksum covers it, and text that people wrote, in the folder or on the Hub, is never overwritten.
"""

import contextlib
import functools
import hashlib
import random
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfFileSystem, snapshot_download

from benchmark import schema
from benchmark.errors import UserError, check_open_files
from benchmark.files import describe_bytes, file_sha256, regular_stat, write_bytes, write_json
from benchmark.hub import cards, downloads
from benchmark.hub.client import READ_LIMIT, Files, Repository, require_name
from benchmark.progress import LogLine, NamedProgress, Progress, silent
from benchmark.verified import verified_sha256

DELETE_PATTERNS = ["data/*", "index/*"]
"""Patterns of files that are deleted on the Hub if the new version of the dataset does not have them."""
OPTIONAL_FILES = (schema.STARTED, schema.STATISTICS)
"""Files that are published if present; not in the manifest, since they differ between equal builds."""
IMAGES_READ_BACK = 16
"""Number of images whose bytes are compared after an upload."""


def publish(folder: Path, repo: str | None, *, private: bool, log: LogLine, progress: NamedProgress = silent) -> str:
    """Upload a built dataset to the Hub and verify it by reading it back.

    Args:
        folder: Folder of a finished dataset.
        repo: ORG/NAME on the Hub. None uses the name in the manifest.
        private: Create the repository as private.
        log: Callback for log lines.
        progress: Progress callback in verified files.

    Returns:
        The commit on the Hub; for an unchanged dataset, the existing one.

    Raises:
        UserError: the folder is incomplete, the Hub refuses or is unreachable, or the uploaded files differ.
    """
    manifest = schema.read_manifest(folder)
    repo = repo or manifest.repo
    require_name(repo, "dataset")
    log(f"verifying the checksums of {len(manifest.data_files)} files in {folder}")
    hint = f"remove {folder} and build or download it again"
    verify_files(folder, manifest, hint, functools.partial(progress, "verifying"))
    _read_card(folder)
    repository = Repository.open(repo, "dataset", writes=True)
    with repository.friendly_errors(), tempfile.TemporaryDirectory() as temporary:
        repository.create(private=private)
        card = card_to_publish(folder, manifest, repository, log)
        staged = stage(folder, replace(manifest, repo=repo, files=manifest.data_files), card, Path(temporary))
        before = repository.commit()
        log(f"uploading to {repo}")
        commit = repository.api.upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=staged,
            delete_patterns=DELETE_PATTERNS,
            commit_message=f"Revision {manifest.revision[:12]} of {manifest.repo}",
        ).oid
        if commit == before:
            log(f"nothing changed: {repo} has this revision of the dataset and its card")
        log(f"reading back {repo} at {commit}")
        verify_upload(repository, staged, commit)
    if "extra_gated_prompt:" in card:
        log("its terms require readers to agree: enable access requests in the settings of the dataset on the Hub")
    return commit


def stage(folder: Path, manifest: schema.Manifest, card: str, staged: Path) -> Path:
    """Fill `staged` with links to the files to publish, and with the card and the manifest; return `staged`."""
    optional = [name for name in OPTIONAL_FILES if (folder / name).is_file()]
    for name in [*manifest.files, *optional]:
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        (staged / name).symlink_to((folder / name).resolve())
    write_bytes(staged / schema.CARD, card.encode())
    write_json(staged / schema.MANIFEST, manifest.as_json())
    return staged


def card_to_publish(folder: Path, manifest: schema.Manifest, repository: Repository, log: LogLine) -> str:
    """Return the card of a folder, naming `repository`, with the text that people wrote in the card on the Hub.

    Raises:
        UserError: people wrote different texts in both cards.
    """
    local = _read_card(folder)
    here = _written_by_people(local, manifest)
    old = re.compile(rf"(?<![\w.-]){re.escape(manifest.repo)}(?![\w-])")
    local = cards.change_generated(local, lambda part: old.sub(repository.name, part))
    commit = repository.commit()
    on_hub = repository.files(commit)
    if schema.CARD not in on_hub:
        return local
    with tempfile.TemporaryDirectory() as temporary:
        for name in {schema.CARD, schema.MANIFEST} & on_hub.keys():
            repository.fetch(name, commit, Path(temporary))
        published, listed = _read_card(Path(temporary)), None
        with contextlib.suppress(UserError):  # another kind of dataset
            listed = schema.read_manifest(Path(temporary))
    there = _written_by_people(published, listed)
    if there <= here:
        return local
    if not here <= there:
        raise UserError(
            f"{folder / schema.CARD} and {schema.CARD} of {repository.name} on the Hub were both edited; copy what is "
            "only on the Hub into the file of the folder and publish again"
        )
    log(f"{schema.CARD} was edited on the Hub: its text is kept, the marked parts are replaced")
    return cards.merge(published, local)


def _read_card(folder: Path) -> str:
    path = folder / schema.CARD
    try:
        if regular_stat(path).st_size > READ_LIMIT:
            raise ValueError(f"it is larger than {READ_LIMIT:,} bytes")
        return path.read_bytes().decode()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable card ({error}); write one or restore it") from None


def _written_by_people(card: str, manifest: schema.Manifest | None) -> set[str]:
    """Return the lines of a card that people wrote: none if it is unedited, by its manifest."""
    unedited = manifest and manifest.files.get(schema.CARD) == hashlib.sha256(card.encode()).hexdigest()
    return set() if unedited else cards.written_by_people(card)


def verify_files(folder: Path, manifest: schema.Manifest, hint: str, progress: Progress = silent) -> None:
    """Verify the checksum of every file that the manifest lists, except the card; `hint` ends the error message.

    Progress is counted in files.

    Raises:
        UserError: a file is missing or differs.
    """
    for done, (name, expected) in enumerate(sorted(manifest.data_files.items()), start=1):
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path} is missing; {hint}")
        if (found := file_sha256(path)) != expected:
            raise UserError(f"{path} has sha256 {found[:12]}, the manifest says {expected[:12]}; {hint}")
        progress(done, len(manifest.data_files), "")


def verify_upload(repository: Repository, folder: Path, commit: str) -> None:
    """Compare a commit on the Hub with a folder: the checksums of all files, and the bytes of some images.

    Raises:
        UserError: a file is missing, differs, or is left over from another version.
    """
    manifest, repo, api = schema.read_manifest(folder), repository.name, repository.api
    uploaded = repository.files(commit)
    files = HfFileSystem(endpoint=api.endpoint, token=api.token)
    root, hint = f"datasets/{repo}@{commit}", "publish it again"
    unlisted = {
        name: file_sha256(folder / name)
        for name in (*OPTIONAL_FILES, schema.CARD, schema.MANIFEST)
        if (folder / name).is_file()
    }
    for name, expected in sorted((manifest.files | unlisted).items()):
        if name not in uploaded:
            raise UserError(f"{name} is not in {repo} at {commit}; {hint}")
        large = uploaded[name].lfs
        found = large.sha256 if large else hashlib.sha256(files.cat_file(f"{root}/{name}")).hexdigest()
        if found != expected:
            raise UserError(f"{name} in {repo} at {commit} has sha256 {found[:12]}, expected {expected[:12]}; {hint}")
    if stale := sorted(
        name for name in uploaded if name.startswith(("data/", "index/")) and name not in manifest.files
    ):
        raise UserError(f"{repo} at {commit} also contains {stale[0]}, which is not part of this dataset; {hint}")
    for name, start, length in sample_image_locations(folder, manifest, random.Random(commit)):
        with (folder / name).open("rb") as file:
            file.seek(start)
            image = file.read(length)
        if files.cat_file(f"{root}/{name}", start=start, end=start + length) != image:
            raise UserError(f"{name} in {repo} at {commit} has a different image at byte {start}; {hint}")


def sample_image_locations(folder: Path, manifest: schema.Manifest, rng: random.Random) -> list[tuple[str, int, int]]:
    """Return file, offset and length of up to `IMAGES_READ_BACK` random images, spread over the files."""
    found: list[tuple[str, int, int]] = []
    indices = [match for name in sorted(manifest.files) if (match := re.fullmatch(r"index/(.+)-(\d+)\.npy", name))]
    for match in rng.sample(indices, min(IMAGES_READ_BACK, len(indices))):
        parquet = next((name for name in manifest.files if name.startswith(f"data/{match[1]}-{match[2]}-of-")), None)
        if parquet is None:
            raise UserError(f"{folder / schema.MANIFEST} lists {match[0]} without its Parquet file; build it again")
        try:
            rows = pq.read_metadata(folder / parquet).num_rows
        except (pa.ArrowException, OSError) as error:
            check_open_files(folder / parquet, error)
            raise UserError(f"{folder / parquet} is not readable Parquet ({error}); build it again") from None
        images = schema.read_index(folder / match[0], manifest.images_per_row, folder / parquet, rows).reshape(-1, 2)
        images = images[images[:, 1] > 0]
        count = min(len(images), -(-IMAGES_READ_BACK // len(indices)))
        found += [(parquet, int(start), int(length)) for start, length in images[rng.sample(range(len(images)), count)]]
    return found[:IMAGES_READ_BACK]


def download(
    repo: str,
    revision: str,
    data: Path,
    log: LogLine,
    patterns: Sequence[str] = ("*",),
    progress: NamedProgress = silent,
) -> Path:
    """Download a revision of a dataset to `data/<org>/<name>` and verify checksums; an interrupted download resumes.

    Args:
        repo: ORG/NAME on the Hub.
        revision: Commit, branch or tag.
        data: Folder for datasets.
        log: Callback for log lines.
        patterns: Glob patterns of the files to download.
        progress: Progress callback in bytes, then in verified files.

    Returns:
        The folder of the dataset.

    Raises:
        UserError: the folder contains other files, the disk is too small, or the Hub refuses or is unreachable.
    """
    folder = data / repo
    repository = Repository.open(repo, "dataset", writes=False)
    with repository.friendly_errors(revision):
        commit = repository.commit(revision)
        if (found := local_revision(folder)) not in (None, commit):
            raise UserError(f"{folder} contains {found}, expected revision {commit}; move it or choose another folder")
        files = {
            path: file
            for path, file in repository.files(commit).items()
            if any(fnmatch(path, pattern) for pattern in patterns)
        }
        missing = sum(f.size for f in files.values() if not _has_size(folder / f.path, f.size))
        folder.mkdir(parents=True, exist_ok=True)
        if missing > (free := shutil.disk_usage(folder).free):
            raise UserError(
                f"{repo} needs {describe_bytes(missing)} more, {folder} has {describe_bytes(free)}; free some space"
            )
        log(f"downloading {repo} at {commit}: {describe_bytes(missing)}")
        edited = [schema.CARD] if (folder / schema.CARD).exists() else []  # people may have edited it
        snapshot_download(
            repo,
            repo_type="dataset",
            revision=commit,
            local_dir=folder,
            allow_patterns=list(patterns),
            ignore_patterns=edited,
            tqdm_class=downloads.reporting_bar(missing, functools.partial(progress, f"downloading {repo}")),
        )
    _verify_download(folder, files, log, functools.partial(progress, f"verifying {repo}"))
    return folder


def _verify_download(folder: Path, files: Files, log: LogLine, progress: Progress) -> None:
    """Verify the checksums of the manifest or, without one, those of the Hub.

    Args:
        folder: Folder of the dataset.
        files: Files as the Hub lists them.
        log: Callback for log lines.
        progress: Progress callback in verified files.

    Raises:
        UserError: a file is missing or differs.
    """
    hint = "remove it and download it again"
    if (folder / schema.MANIFEST).is_file():
        verify_files(folder, schema.read_manifest(folder), hint, progress)
        log("all checksums match the manifest")
        return
    large = {name: file.lfs.sha256 for name, file in files.items() if file.lfs}
    for done, (name, expected) in enumerate(sorted(large.items()), start=1):
        if (found := verified_sha256(folder / name, folder)) != expected:
            raise UserError(f"{folder / name} has sha256 {found[:12]}, the Hub says {expected[:12]}; {hint}")
        progress(done, len(large), "")
    log(f"no {schema.MANIFEST} in {folder}: verified {len(large)} of {len(files)} files by the checksums of the Hub")


def local_revision(folder: Path) -> str | None:
    """Return the commit of a downloaded folder; None for a new folder.

    A folder with several commits or with other files returns their description, for an error message.
    """
    if commits := sorted({note.commit for note in downloads.notes(folder).values()}):
        return f"revisions {' and '.join(commits)}" if len(commits) > 1 else commits[0]
    others = folder.is_dir() and any(path.name != ".cache" for path in folder.iterdir())
    return "files that were not downloaded" if others else None


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
