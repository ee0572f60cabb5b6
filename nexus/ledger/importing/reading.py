"""Finds out whose files they are, and reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nexus.ledger.importing import backlog, beads, checklist, github
from nexus.ledger.importing.parsed import (
    MAX_BYTES,
    Outline,
    TrackerFormat,
    TrackerUnreadable,
    decode_json,
    read_bytes,
)

__all__ = ["detect", "read"]

_HEAD_BYTES = 4 * 1024 * 1024
_BEADS = ("issues.jsonl", "beads.jsonl")

_READERS: dict[TrackerFormat, Callable[[Path], Outline]] = {
    TrackerFormat.BEADS: beads.read,
    TrackerFormat.BACKLOG: backlog.read,
    TrackerFormat.CHECKLIST: checklist.read,
    TrackerFormat.GITHUB: github.read,
}


def _beads_file(path: Path) -> Path | None:
    """The file of beads that a path is, or has."""
    if path.is_file():
        return path
    found = (path / folder / name for folder in (".beads", ".") for name in _BEADS)
    return next((file for file in found if file.is_file()), None)


def detect(path: Path) -> TrackerFormat | None:
    """Whose file or folder it is, by what is in it; None where it is of no tracker that is known.

    Raises:
        OSError: it cannot be read.
    """
    if path.is_dir():
        if (file := _beads_file(path)) is not None and detect(file) is TrackerFormat.BEADS:
            return TrackerFormat.BEADS
        return TrackerFormat.BACKLOG if backlog.home(path) is not None else None
    with path.open("rb") as opened:
        head = opened.read(_HEAD_BYTES)
    first = head.lstrip().partition(b"\n")[0]
    if first.startswith(b"{") and beads.is_issue(decode_json(first)):
        return TrackerFormat.BEADS
    if head.lstrip()[:1] in (b"{", b"["):
        size = path.stat().st_size
        value = decode_json(head if size <= _HEAD_BYTES else read_bytes(path)) if size <= MAX_BYTES else None
        return TrackerFormat.GITHUB if github.issues_in(value) is not None else None
    if b"\0" not in head and checklist.has_items(head.decode(errors="replace")):
        return TrackerFormat.CHECKLIST
    return None


def read(path: Path, format_: TrackerFormat | None = None) -> Outline:
    """The outline of a file or folder, of a format that is found out by default.

    Raises:
        TrackerUnreadable: it is of no tracker that is known, or too large.
        OSError: it cannot be read.
    """
    wanted = format_ or detect(path)
    if wanted is None:
        formats = ", ".join(each.value for each in TrackerFormat)
        raise TrackerUnreadable(
            f"cannot read {path}: it is of no tracker that is known", hint=f"What can be read: {formats}."
        )
    if wanted is not TrackerFormat.BEADS:
        return _READERS[wanted](path)
    file = _beads_file(path)
    if file is None:
        raise TrackerUnreadable(f"cannot read {path}: it has no {' or '.join(_BEADS)}")
    return beads.read(file)
