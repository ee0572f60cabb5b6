"""Reads a Markdown file with items that can be checked off: sections as features, items below others as their parts."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path

from nexus.ledger.importing.parsed import (
    Gathered,
    Outline,
    ReadFeature,
    ReadTask,
    TrackerFormat,
    bounded_text,
    one_line,
    read_bytes,
    tags_of,
)
from nexus.ledger.states import TaskStatus

__all__ = ["has_items", "read"]

_MOST = 4 * 1024 * 1024
_LINE = 4096
"""The longest item or heading, in characters."""
_ITEM = re.compile(r"^([ \t]*)(?:[-*+]|[0-9]{1,9}[.)])[ \t]+\[([ xX/~-])\][ \t]+(\S.*)$")
_HEADING = re.compile(r"^(#{1,6})[ \t]+(\S.*?)[ \t]*#*[ \t]*$")
_FENCE = re.compile(r"^[ \t]*(```|~~~)")
_TAG = re.compile(r"(?<!\S)#([A-Za-z][A-Za-z0-9_./-]{0,63})")
_STATUS = {
    " ": TaskStatus.PENDING,
    "/": TaskStatus.IN_PROGRESS,
    "~": TaskStatus.IN_PROGRESS,
    "x": TaskStatus.COMPLETED,
}
_DROPPED = "-"


def has_items(text: str) -> bool:
    """Whether a text has an item that can be checked off."""
    return any(len(line) <= _LINE and _ITEM.match(line) for line in text.splitlines())


def read(path: Path) -> Outline:
    """The outline of a file. The id of an item is made of its section, its text, and which one with these it is.

    Raises:
        TrackerUnreadable: it is too large.
        OSError: it cannot be read.
    """
    gathered = Gathered(TrackerFormat.CHECKLIST)
    reader = _Reader(gathered)
    for line in read_bytes(path, _MOST).decode("utf-8-sig", errors="replace").splitlines():
        reader.line(line)
    reader.end_task()
    return gathered.outline()


class _Reader:
    """Reads line by line."""

    def __init__(self, gathered: Gathered) -> None:
        self._gathered = gathered
        self._seen: Counter[str] = Counter()
        self._headings: list[tuple[int, str]] = []
        """The sections that the line is in, with their levels."""
        self._above: list[tuple[int, str]] = []
        """The items that the next one may be a part of, with their indents."""
        self._task: ReadTask | None = None
        self._text: list[str] = []
        self._indent = 0
        self._in_code = False

    def line(self, line: str) -> None:
        """Read a line."""
        if _FENCE.match(line):
            self._in_code = not self._in_code
            self._more(line)
            return
        is_text = self._in_code or len(line) > _LINE
        item = None if is_text else _ITEM.match(line)
        heading = None if is_text else _HEADING.match(line)
        if item is not None:
            self.end_task()
            self._item(len(item[1].expandtabs(4)), item[2].lower(), item[3])
        elif heading is not None:
            self.end_task()
            self._above.clear()
            level = len(heading[1])
            self._headings = [each for each in self._headings if each[0] < level]
            self._headings.append((level, one_line(heading[2])))
        else:
            self._more(line)

    def _more(self, line: str) -> None:
        """A line that goes on with an item, if it is indented further, or in a block of code of it."""
        if self._task is None:
            return
        indent = len(line.expandtabs(4)) - len(line.expandtabs(4).lstrip())
        if not line.strip() or indent > self._indent or self._in_code:
            self._text.append(line.strip() if not self._in_code else line.rstrip())
        else:
            self.end_task()

    def _item(self, indent: int, mark: str, text: str) -> None:
        while self._above and self._above[-1][0] >= indent:
            self._above.pop()
        if mark == _DROPPED:
            self._gathered.skip("item that was dropped")
            return
        section = " / ".join(name for _level, name in self._headings)
        feature = None
        if self._headings:
            feature = f"section:{_digest(section)}"
            if not self._gathered.has_feature(feature):
                self._gathered.feature(ReadFeature(feature, self._headings[-1][1]))
        name = one_line(text)
        key = f"{section}\n{text}"
        self._seen[key] += 1
        id_ = f"item:{_digest(f'{key}{chr(10)}{self._seen[key]}')}"
        parent = self._above[-1][1] if self._above else None
        tags = tags_of(_TAG.findall(text))
        self._task = ReadTask(id_, name, status=_STATUS[mark], tags=tags, feature=feature, parent=parent)
        self._indent = indent
        self._above.append((indent, id_))

    def end_task(self) -> None:
        """The item is over."""
        if self._task is not None:
            self._gathered.task(self._task._replace(description=bounded_text("\n".join(self._text))))
        self._task = None
        self._text.clear()


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
