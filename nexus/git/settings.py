"""The settings of a repository, by who has set them, and how git is run so that it runs none of their programs.

Settings of the scopes local and worktree (``.git/config``, and the files that it includes) belong to the repository:
anyone who can write to it can set them. Settings of the user and the system are trusted. This module runs no program.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from nexus.git.remote import mask_url

__all__ = ["HARMLESS", "Settings", "TooManySettings"]

HARMLESS = (
    ("core.alternateRefsCommand", "false"),
    ("core.editor", ":"),
    ("core.fsmonitor", "false"),
    ("core.hooksPath", os.devnull),
    ("core.pager", "cat"),
    ("core.sshCommand", "false"),
    ("diff.external", ""),
    ("gc.auto", "0"),
    ("log.showSignature", "false"),
    ("maintenance.auto", "false"),
    ("status.submoduleSummary", "false"),
)
"""What overrides settings of fixed names for a git that runs no program of the repository.

For a git that contacts a remote over ssh, ``GIT_SSH_COMMAND`` with the user's own command overrides core.sshCommand.
"""

MAX_ENTRIES = 10_000
MAX_BYTES = 4 * 1024 * 1024
_MAX_PROGRAMS = 1000

_OWN_SCOPES = ("local", "worktree")
_FILTER = ("clean", "smudge", "process", "required")
_PROGRAMS = {
    "filter": _FILTER,
    "diff": ("command", "textconv"),
    "merge": ("driver",),
    "trailer": ("cmd", "command"),
    "gpg": ("program", "defaultkeycommand"),
}
"""Settings whose middle part is a name of the repository's own."""

_SAFE_HTTP = frozenset(
    {
        "emptyauth", "extraheader", "lowspeedlimit", "lowspeedtime", "maxrequests", "minsessions", "noepsv",
        "postbuffer", "useragent", "version",
    }
)  # fmt: skip
"""The ``http`` settings that change neither where the token goes nor who can read it on its way."""


class TooManySettings(Exception):
    """The configuration exceeds a bound; the message says which."""


class Settings:
    """What ``git config --list -z --show-scope`` gives; where a setting occurs several times, the last value wins."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._trusted: dict[str, str] = {}
        self._own: dict[str, None] = {}
        self._remotes: dict[str, None] = {}
        self._count = self._bytes = 0

    def add(self, record: list[str]) -> None:
        """Add a record: the scope, and the key and value with a newline between.

        Raises:
            TooManySettings: there are too many.
        """
        scope, entry = record
        if scope == "command":
            return  # given by ``operation`` itself
        self._count += 1
        self._bytes += len(entry)
        if self._count > MAX_ENTRIES:
            raise TooManySettings(f"its configuration has more than {MAX_ENTRIES:,} settings")
        if self._bytes > MAX_BYTES:
            raise TooManySettings("its configuration is larger than 4 MiB")
        key, _, value = entry.partition("\n")
        if scope in _OWN_SCOPES:
            self._own[key] = None
        else:
            self._trusted[key] = value
        section, name, variable = _parts(key)
        if section == "remote" and name:
            self._remotes[name] = None
            if variable == "url" and key in self._values:
                # Git fetches from the first URL.
                return
        self._values[key] = value

    def get(self, key: str) -> str | None:
        """The value of a setting: section and variable in lower case."""
        return self._values.get(key)

    def trusted(self, key: str) -> str | None:
        """The value that the user or the system has set."""
        return self._trusted.get(key)

    def is_own(self, key: str) -> bool:
        """Whether the repository itself sets it."""
        return key in self._own

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

    def without_programs(self) -> list[tuple[str, str]]:
        """What overrides the repository's settings of programs: with the user's own value, else with none.

        Raises:
            TooManySettings: there are too many.
        """
        overrides: dict[str, str] = {}
        for key in self._own:
            section, name, variable = _parts(key)
            if not name or variable not in _PROGRAMS.get(section, ()):
                continue
            value = self._trusted.get(key)
            overrides[key] = ("false" if variable == "required" else "") if value is None else value
            if section == "filter" and value is None:
                # Without its program a filter that is required would be an error.
                overrides[f"filter.{name}.required"] = "false"
            if len(overrides) > _MAX_PROGRAMS:
                raise TooManySettings(f"its configuration names more than {_MAX_PROGRAMS:,} programs")
        return list(overrides.items())

    def senders(self) -> Iterator[str]:
        """The repository's settings of the program that sends a remote's objects, which runs here if that is local.

        Of these the first value wins, so that they cannot be overridden.
        """
        for key in self._own:
            section, _, variable = _parts(key)
            if section == "remote" and variable == "uploadpack":
                yield mask_url(key)[:200]

    def redirecting(self) -> Iterator[str]:
        """The repository's settings that change the way of a token, or who can read it there; without credentials."""
        for key in self._own:
            section, _, variable = _parts(key)
            if (section == "http" and variable not in _SAFE_HTTP) or (
                section == "remote" and variable in ("proxy", "proxyauthmethod")
            ):
                yield mask_url(key)[:200]


def _parts(key: str) -> tuple[str, str, str]:
    """Section, subsection and variable; the subsection may have dots."""
    section, _, rest = key.partition(".")
    name, _, variable = rest.rpartition(".")
    return section, name, variable
