"""The formats: where their programs keep files, how these are known, and how a session goes on in its program."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from nexus.conversations.states import SourceFormat

__all__ = ["FORMATS", "Format", "default_places", "detect", "files_in", "format_of", "resume_command"]

_HEAD_BYTES = 64 * 1024
_MAX_DEPTH = 8


class Format(NamedTuple):
    """The files and the program of one format."""

    patterns: tuple[str, ...]
    """How its files are called."""
    places: Callable[[Mapping[str, str]], list[Path]]
    """Where its program keeps them, by the environment."""
    resume: tuple[str, ...] | None
    """The command line that goes on with a session, before its id; None: its program has none."""


def _home(environment: Mapping[str, str]) -> Path:
    return Path(environment["HOME"]) if environment.get("HOME") else Path.home()


def _data(environment: Mapping[str, str]) -> Path:
    data = environment.get("XDG_DATA_HOME")
    return Path(data) if data else _home(environment) / ".local" / "share"


def _claude(environment: Mapping[str, str]) -> list[Path]:
    folder = environment.get("CLAUDE_CONFIG_DIR")
    return [(Path(folder) if folder else _home(environment) / ".claude") / "projects"]


def _codex(environment: Mapping[str, str]) -> list[Path]:
    folder = environment.get("CODEX_HOME")
    home = Path(folder) if folder else _home(environment) / ".codex"
    return [home / "sessions", home / "archived_sessions"]


FORMATS: dict[SourceFormat, Format] = {
    SourceFormat.NEXUS: Format(("*.jsonl",), lambda _environment: [], None),
    SourceFormat.CLAUDE_CODE: Format(("*.jsonl",), _claude, ("claude", "--resume")),
    SourceFormat.CODEX: Format(("rollout-*.jsonl",), _codex, ("codex", "resume")),
    SourceFormat.GEMINI: Format(
        ("session-*.json",), lambda environment: [_home(environment) / ".gemini" / "tmp"], ("gemini", "--resume")
    ),
    SourceFormat.OPENCODE: Format(
        ("opencode*.db",),
        lambda environment: [_data(environment) / "opencode" / "opencode.db"],
        ("opencode", "--session"),
    ),
    SourceFormat.AIDER: Format((".aider.chat.history.md",), lambda _environment: [], None),
}


def default_places(
    format_: SourceFormat, environment: Mapping[str, str] = os.environ
) -> list[tuple[Path, SourceFormat]]:
    """Where the programs of a format, by default of all formats, keep their files; only places that exist."""
    wanted = [format_] if format_ is not SourceFormat.AUTO else list(FORMATS)
    return [(path, each) for each in wanted for path in FORMATS[each].places(environment) if path.exists()]


def files_in(path: Path, format_: SourceFormat) -> Iterator[Path]:
    """The files of a format below a folder, in order; the path itself, if it is a file. Links are not followed.

    What cannot be looked at is left out.
    """
    if not path.is_dir():
        yield path
        return
    wanted = [FORMATS[format_]] if format_ is not SourceFormat.AUTO else list(FORMATS.values())
    yield from _walk(path, tuple({pattern for each in wanted for pattern in each.patterns}), _MAX_DEPTH)


def _walk(folder: Path, patterns: tuple[str, ...], depth: int) -> Iterator[Path]:
    import fnmatch

    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                if depth > 0:
                    yield from _walk(Path(entry.path), patterns, depth - 1)
            elif entry.is_file(follow_symlinks=False) and any(fnmatch.fnmatch(entry.name, each) for each in patterns):
                yield Path(entry.path)
        except OSError:
            continue


def format_of(path: Path, wanted: SourceFormat) -> SourceFormat | None:
    """The format of a file: the wanted one, unless its content is of another; None where it is of none, or of another.

    Raises:
        OSError: it cannot be read.
    """
    if wanted is SourceFormat.AUTO:
        return detect(path)
    return wanted if detect(path, by_name=False) in (None, wanted) else None


def detect(path: Path, *, by_name: bool = True) -> SourceFormat | None:
    """The format of a file by its name and its beginning, or by that alone; None where it is of none.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(b"SQLite format 3\0"):
        return SourceFormat.OPENCODE
    if (by_name and path.name == ".aider.chat.history.md") or b"# aider chat started at " in head[:4096]:
        return SourceFormat.AIDER
    if by_name and path.name.startswith("session-") and path.suffix == ".json":
        return SourceFormat.GEMINI
    found = next((each for line in head.split(b"\n")[:50] if (each := _of_line(line)) is not None), None)
    if found is None and path.suffix == ".json" and b'"sessionId"' in head and b'"messages"' in head:
        return SourceFormat.GEMINI
    if found is None and by_name and path.name.startswith("rollout-"):
        return SourceFormat.CODEX
    return found


def _of_line(line: bytes) -> SourceFormat | None:
    try:
        entry = msgspec.json.decode(line)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    if not isinstance(entry, dict):
        return None
    if entry.get("nexus") in ("conversation", "message", "blob"):
        return SourceFormat.NEXUS
    if entry.get("type") in ("session_meta", "response_item", "event_msg", "turn_context"):
        return SourceFormat.CODEX
    if "sessionId" in entry and isinstance(entry.get("messages"), list):
        return SourceFormat.GEMINI
    if "sessionId" in entry or "leafUuid" in entry or ("uuid" in entry and "parentUuid" in entry):
        return SourceFormat.CLAUDE_CODE
    return None


def resume_command(source: str, source_id: str) -> list[str] | None:
    """The words of the command line that goes on with a session in its program; None where there is none."""
    found = next((each for format_, each in FORMATS.items() if format_.value == source), None)
    if found is None or found.resume is None:
        return None
    return [*found.resume, source_id.partition("/")[0]]  # a sub-agent goes on within its session
