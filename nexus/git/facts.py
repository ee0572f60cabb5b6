"""Records of what git reports about a repository, and parsers of its output. It runs nothing."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Branch", "Commit", "Config", "PullResult", "RepoState", "ahead_and_behind", "milliseconds", "refs", "short"]

TEXT_CHARS = 1000
"""The longest subject or name that is passed on."""


class RepoState(NamedTuple):
    """What is checked out, and what has changed since."""

    branch: str | None
    """None where HEAD is detached."""
    commit: str | None
    """None before the first commit."""
    upstream: str | None
    """The remote branch that the branch follows, such as ``origin/main``."""
    ahead: int | None
    """Commits that the upstream, as it was last fetched, does not have; None without one."""
    behind: int | None
    dirty: bool
    """Whether tracked files differ from the commit. Untracked files and submodules at another commit do not count."""
    changed: int
    staged: int
    untracked: int
    """Files, and folders that have nothing but untracked files."""
    conflicted: int
    remote_url: str | None
    """The URL of the remote that the branch follows, else of ``origin``, else of the only one; without credentials."""
    in_progress: str | None
    """merge, rebase, cherry-pick, revert or bisect."""


class PullResult(NamedTuple):
    """What a pull changed."""

    before: str | None
    """The commit before; None where there was none."""
    after: str | None
    commits: int


class Commit(NamedTuple):
    """One commit; texts are cut at 1,000 characters."""

    id: str
    author_name: str
    author_email: str
    at: int
    """When it was written, in ms since 1970."""
    subject: str
    refs: list[str]
    """``HEAD``, branches, and tags as ``tag: NAME``."""


class Branch(NamedTuple):
    """A local branch, or a branch of a remote as last fetched."""

    name: str
    commit: str
    current: bool
    remote: bool
    upstream: str | None
    ahead: int | None
    behind: int | None
    at: int
    """When its last commit was made, in ms since 1970."""


class Config:
    """The git settings that are used here; where one is set several times, the last value wins."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._remotes: list[str] = []

    def add(self, entry: str) -> None:
        key, _, value = entry.partition("\n")
        if key.startswith("remote."):
            name = key.removeprefix("remote.").rpartition(".")[0]
            if name not in self._remotes:
                self._remotes.append(name)
            if key.endswith(".url") and key in self._values:
                # Git fetches from the first URL.
                return
        self._values[key] = value

    def get(self, key: str) -> str | None:
        return self._values.get(key)

    def remotes(self) -> list[str]:
        """The names of the remotes that have a URL."""
        return [name for name in self._remotes if f"remote.{name}.url" in self._values]

    def main_remote(self, branch: str | None) -> str | None:
        """The remote that a branch follows, else ``origin``, else the only one."""
        remotes = self.remotes()
        followed = self.get(f"branch.{branch}.remote") if branch is not None else None
        if followed in remotes:
            return followed
        if "origin" in remotes:
            return "origin"
        return remotes[0] if len(remotes) == 1 else None


def short(text: str) -> str:
    """At most 1,000 characters of a text."""
    return text if len(text) <= TEXT_CHARS else text[: TEXT_CHARS - 1] + "\u2026"


def milliseconds(seconds: str) -> int:
    """Seconds since 1970, which the author of a commit may have made up, in ms; 0 for what is no number."""
    return int(seconds) * 1000 if re.fullmatch(r"-?\d{1,15}", seconds) else 0


def refs(decoration: str) -> list[str]:
    """The names in what ``%D`` gives, such as ``HEAD -> main, tag: v1``."""
    return [name for part in decoration.split(", ") for name in part.split(" -> ") if name]


def ahead_and_behind(track: str) -> tuple[int | None, int | None]:
    """The numbers in what ``%(upstream:track,nobracket)`` gives; None for both where the upstream is gone."""
    if track == "gone":
        return None, None
    numbers = dict(part.split(" ", 1) for part in track.split(", ") if " " in part)
    return int(numbers.get("ahead", 0)), int(numbers.get("behind", 0))
