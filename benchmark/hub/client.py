"""A repository on the Hub: its files at a commit, and commits of ours."""

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
MAY_BE_ANYWHERE = {".gitattributes", ".gitignore", "LICENSE", "LICENSE.md"}
"""Files that any repository may have."""
READ_LIMIT = 2**20
"""Bytes of a file that is looked into."""

Files = dict[str, RepoFile]
"""Path in a repository -> what the Hub says of the file."""


@dataclass(frozen=True)
class Repository:
    """A model, a dataset or a Space."""

    api: HfApi
    name: str
    kind: str
    """`model`, `dataset` or `space`."""

    @classmethod
    def open(cls, name: str, kind: str, *, writes: bool) -> Self:
        """With the user's token, which writing needs; nothing is asked of the Hub yet.

        Raises:
            UserError: no ORG/NAME in the Hub's letters, no network wanted, or no token.
        """
        require_name(name, kind)
        if constants.HF_HUB_OFFLINE:
            raise UserError(f"HF_HUB_OFFLINE=1 keeps everything off the network; unset it (wanted: {kind} {name})")
        token = get_token()
        if writes and not token:
            raise UserError(f"writing to {kind} {name} needs a token; run `hf auth login` or set HF_TOKEN")
        if kind != "model":
            disable_progress_bars()  # one bar for each of thousands of small files says nothing
        return cls(HfApi(token=token), name, kind)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    def create(self, *, private: bool = False) -> None:
        """Make it where it is not there; a Space is a static one.

        Raises:
            UserError: it is to be private and is public.
        """
        sdk = "static" if self.kind == "space" else None
        self.api.create_repo(self.name, repo_type=self.kind, private=private, exist_ok=True, space_sdk=sdk)
        if private and not self.api.repo_info(self.name, repo_type=self.kind).private:
            raise UserError(f"{self} is to be private, but it exists and is public; choose another name")

    def commit(self, revision: str = "main") -> str:
        """The commit that a branch, a tag or a commit is."""
        return str(self.api.repo_info(self.name, repo_type=self.kind, revision=revision).sha)

    def files(self, commit: str) -> Files:
        """Path -> what the Hub says of the file."""
        listed = self.api.list_repo_tree(self.name, repo_type=self.kind, revision=commit, recursive=True)
        return {entry.path: entry for entry in listed if isinstance(entry, RepoFile)}

    def is_untouched(self, commit: str) -> bool:
        """Whether nobody has committed since the Hub made the repository, with files of its own in a new Space."""
        return len(self.api.list_repo_commits(self.name, repo_type=self.kind, revision=commit)) == 1

    def fetch(self, path: str, commit: str, folder: Path) -> Path:
        """Bring a file below `folder`, to the path that it has in the repository."""
        fetched = self.api.hf_hub_download(self.name, path, repo_type=self.kind, revision=commit, local_dir=folder)
        return Path(fetched)

    def write(self, files: Mapping[str, Path], message: str, parent: str, deleted: Iterable[str] = ()) -> str:
        """Write and delete files in one commit on top of `parent`, and compare what is there then; the commit.

        Raises:
            UserError: the Hub holds something else afterwards.
        """
        operations: list[CommitOperationAdd | CommitOperationDelete] = [*map(CommitOperationDelete, deleted)]
        operations += [CommitOperationAdd(path, file) for path, file in files.items()]
        commit = str(
            self.api.create_commit(
                self.name, operations, repo_type=self.kind, commit_message=message, parent_commit=parent
            ).oid
        )
        there = self.files(commit)
        for path, file in files.items():
            if path not in there or not matches_local(there[path], file):
                raise UserError(f"{path} in {self} at {commit} is not what was sent; run again to send it anew")
        return commit

    def friendly_errors(self, revision: str = "main") -> contextlib.AbstractContextManager[None]:
        """Turn what the client raises into one line each; see `hub.errors.friendly_errors`."""
        return friendly_errors(str(self), revision)


def require_name(name: str, kind: str) -> None:
    """Refuse what is no name on the Hub.

    Raises:
        UserError: not ORG/NAME in the Hub's letters.
    """
    if not NAME.fullmatch(name):
        found = " ".join(name.split())
        raise UserError(f"wanted the {kind}'s name on the Hub as ORG/NAME, found {found!r}")


def matches_local(there: RepoFile, file: Path) -> bool:
    """Whether the Hub holds a file's content, by the checksum that it lists."""
    if not there.lfs:
        return there.blob_id == git_hash(file.read_bytes())
    return bool(there.lfs.sha256 == file_sha256(file))
