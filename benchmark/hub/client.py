"""Client of a repository on the Hub: listing, download and verified commits of files."""

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    RepoFile,
    constants,
    get_token,
)
from huggingface_hub.utils import disable_progress_bars  # listed by its stub alone
from huggingface_hub.utils.sha import git_hash

from benchmark.errors import UserError
from benchmark.files import file_sha256
from benchmark.hub.errors import friendly_errors

NAME = re.compile(r"(?!.*(\.\.|--|\.git\Z))[A-Za-z0-9]([\w.-]{,94}\w)?/\w([\w.-]{,94}\w)?", re.ASCII)
IGNORED_FILES = {".gitattributes", ".gitignore", "LICENSE", "LICENSE.md"}
"""Repository files that are neither compared nor deleted."""
READ_LIMIT = 2**20
"""Maximum size in bytes of a file that is downloaded to inspect its content."""

Files = dict[str, RepoFile]
"""Path in a repository -> size and checksum of the file, as the Hub lists them."""


@dataclass(frozen=True)
class Repository:
    """Model, dataset or Space repository on the Hub."""

    api: HfApi
    name: str
    kind: str
    """Type of the repository: `model`, `dataset` or `space`."""

    @classmethod
    def open(cls, name: str, kind: str, *, writes: bool) -> Self:
        """Return a client with the user's token, which writing requires; this sends no request.

        Raises:
            UserError: the name is not a valid ORG/NAME, HF_HUB_OFFLINE is set, or a token is required and missing.
        """
        require_name(name, kind)
        if constants.HF_HUB_OFFLINE:
            raise UserError(f"HF_HUB_OFFLINE=1 disables access to {kind} {name}; unset it to use the network")
        token = get_token()
        if writes and not token:
            raise UserError(f"writing to {kind} {name} needs a token; run `hf auth login` or set HF_TOKEN")
        if kind != "model":
            disable_progress_bars()  # thousands of small files would each show a bar
        return cls(HfApi(token=token), name, kind)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    def create(self, *, private: bool = False) -> None:
        """Create the repository if it does not exist; a Space gets the static SDK.

        Raises:
            UserError: `private` is set, but the repository exists and is public.
        """
        sdk = "static" if self.kind == "space" else None
        self.api.create_repo(self.name, repo_type=self.kind, private=private, exist_ok=True, space_sdk=sdk)
        if private and not self.api.repo_info(self.name, repo_type=self.kind).private:
            raise UserError(f"expected {self} to be private, but it exists and is public; choose another name")

    def commit(self, revision: str = "main") -> str:
        """Return the commit hash of a branch, a tag or a commit."""
        return str(self.api.repo_info(self.name, repo_type=self.kind, revision=revision).sha)

    def files(self, commit: str) -> Files:
        """Return all files at a commit."""
        listed = self.api.list_repo_tree(self.name, repo_type=self.kind, revision=commit, recursive=True)
        return {entry.path: entry for entry in listed if isinstance(entry, RepoFile)}

    def is_untouched(self, commit: str) -> bool:
        """Return True if the repository has only its initial commit, which in a new Space contains template files."""
        return len(self.api.list_repo_commits(self.name, repo_type=self.kind, revision=commit)) == 1

    def fetch(self, path: str, commit: str, folder: Path) -> Path:
        """Download a file below `folder`, at its path in the repository, and return the local path."""
        fetched = self.api.hf_hub_download(self.name, path, repo_type=self.kind, revision=commit, local_dir=folder)
        return Path(fetched)

    def write(self, files: Mapping[str, Path], message: str, parent: str, deleted: Iterable[str] = ()) -> str:
        """Write and delete files in one commit on top of `parent`, verify the result and return the commit hash.

        Args:
            files: path in the repository -> local file to upload.
            message: commit message.
            parent: commit hash that the branch must be at.
            deleted: paths to delete.

        Raises:
            UserError: the checksum of a file on the Hub differs from that of the local file.
        """
        operations: list[CommitOperationAdd | CommitOperationDelete] = [*map(CommitOperationDelete, deleted)]
        operations += [CommitOperationAdd(path, file) for path, file in files.items()]
        commit = str(
            self.api.create_commit(
                self.name, operations, repo_type=self.kind, commit_message=message, parent_commit=parent
            ).oid
        )
        remote = self.files(commit)
        for path, file in files.items():
            if path not in remote or not matches_local(remote[path], file):
                raise UserError(
                    f"{path} in {self} at {commit} differs from the uploaded file; run again to upload it again"
                )
        return commit

    def friendly_errors(self, revision: str = "main") -> contextlib.AbstractContextManager[None]:
        """Convert errors of the client to one-line user errors; see `hub.errors.friendly_errors`."""
        return friendly_errors(str(self), revision)


def require_name(name: str, kind: str) -> None:
    """Raise a UserError if `name` is not a valid repository name on the Hub.

    Raises:
        UserError: the name is not ORG/NAME, or has characters that the Hub does not allow.
    """
    if not NAME.fullmatch(name):
        found = " ".join(name.split())
        raise UserError(f"expected the {kind}'s name on the Hub as ORG/NAME, found {found!r}")


def matches_local(remote: RepoFile, file: Path) -> bool:
    """Return True if a file on the Hub has the checksum of a local file."""
    if not remote.lfs:
        return remote.blob_id == git_hash(file.read_bytes())
    return bool(remote.lfs.sha256 == file_sha256(file))
