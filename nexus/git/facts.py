"""Records of what git reports about a repository, and parsers of its output. It runs nothing."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Branch", "Budget", "Commit", "PullResult", "RepoState", "ahead_and_behind", "milliseconds", "refs", "short"]

TEXT_CHARS = 1000
"""The longest subject, name or URL that is passed on."""

ANSWER_CHARS = 8 * 1024 * 1024
"""The texts of all commits or branches of one answer."""

REFS_OF_A_COMMIT = 100


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
    uninitialized_submodules: list[str]
    """The paths of submodules that have no repository, 100 at most."""


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


class Budget:
    """Bounds the texts of one answer together: a repository decides how many there are, and how long."""

    def __init__(self) -> None:
        self._left = ANSWER_CHARS

    def spend(self, *texts: str | None) -> bool:
        """Count texts; False once they are too many."""
        self._left -= sum(len(text) for text in texts if text) + len(texts)
        return self._left >= 0


def short(text: str) -> str:
    """At most 1,000 characters of a text."""
    return text if len(text) <= TEXT_CHARS else text[: TEXT_CHARS - 1] + "\u2026"


def milliseconds(seconds: str) -> int:
    """Seconds since 1970, which the author of a commit may have made up, in ms; 0 for what is no number."""
    return int(seconds) * 1000 if re.fullmatch(r"-?[0-9]{1,15}", seconds) else 0


def refs(decoration: str) -> list[str]:
    """The first 100 names in what ``%D`` gives, such as ``HEAD -> main, tag: v1``."""
    parts = decoration.split(", ", REFS_OF_A_COMMIT)[:REFS_OF_A_COMMIT]
    return [short(name) for part in parts for name in part.split(" -> ", 1) if name]


def ahead_and_behind(track: str) -> tuple[int | None, int | None]:
    """The numbers in what ``%(upstream:track,nobracket)`` gives; None for both where the upstream is gone."""
    if track == "gone":
        return None, None
    numbers = dict(part.split(" ", 1) for part in track.split(", ") if " " in part)
    return int(numbers.get("ahead", 0)), int(numbers.get("behind", 0))
