"""Reads the folder of Backlog.md: a Markdown file with front matter for each task, milestones as features."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from nexus.ledger.importing.parsed import (
    DEFAULT_PRIORITY,
    MAX_BYTES,
    MAX_TASKS,
    Gathered,
    Outline,
    ReadFeature,
    ReadTask,
    TrackerFormat,
    TrackerUnreadable,
    bounded_text,
    one_line,
    read_bytes,
    source_id,
    tags_of,
)
from nexus.ledger.states import TaskStatus

__all__ = ["front_matter", "home", "read"]

_FILE_BYTES = 1024 * 1024
_FOLDERS = ("tasks", "completed")
_STATUS = {
    "to do": TaskStatus.PENDING,
    "todo": TaskStatus.PENDING,
    "ready": TaskStatus.QUEUED,
    "in progress": TaskStatus.IN_PROGRESS,
    "doing": TaskStatus.IN_PROGRESS,
    "review": TaskStatus.IN_REVIEW,
    "in review": TaskStatus.IN_REVIEW,
    "blocked": TaskStatus.BLOCKED,
    "done": TaskStatus.COMPLETED,
}
_PRIORITIES = {"critical": 1, "high": 3, "medium": DEFAULT_PRIORITY, "low": 7}
_COMMENT = re.compile(r"^<!--[^\n]*-->[ \t]*\n?", re.MULTILINE)
_KEY = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*):(?:[ \t]+(.*))?$")

Value = str | list[str]


def home(path: Path) -> Path | None:
    """The folder of Backlog.md that a path is, or has; None without one."""
    for folder in (path, path / "backlog", path / ".backlog"):
        if (folder / "tasks").is_dir() and any(_is_task(file) for file in _files(folder / "tasks", 50)):
            return folder
    return None


def _is_task(path: Path) -> bool:
    with path.open("rb") as file:
        return front_matter(file.read(4096).decode(errors="replace"), whole=False) is not None


def _files(folder: Path, most: int) -> list[Path]:
    if not folder.is_dir():
        return []
    found = (each for each in folder.iterdir() if each.suffix == ".md" and each.is_file() and not each.is_symlink())
    return sorted(itertools.islice(found, most), key=lambda each: _natural(each.name))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts task-2 before task-10."""
    parts = re.split(r"([0-9]{1,18})", name)
    return [(int(part), "") if part.isascii() and part.isdigit() else (-1, part) for part in parts]


def front_matter(text: str, *, whole: bool = True) -> tuple[dict[str, Value], str] | None:
    """The values before a document, which has an ``id`` or a ``title``, and its body; None where there are none.

    It reads what is written there: scalars, and lists in brackets or a line each. Where ``whole`` is False the values
    may be cut off.
    """
    lines = text.removeprefix("\ufeff").splitlines()
    if not lines or lines[0].rstrip() != "---":
        return None
    end = next((at for at, line in enumerate(lines[1:], 1) if line.rstrip() in ("---", "...")), None)
    if end is None and whole:
        return None
    values: dict[str, Value] = {}
    key: str | None = None
    for line in lines[1:end]:
        found = _KEY.match(line)
        if found is not None:
            key, given = found[1], (found[2] or "").strip()
            values[key] = _value(given)
        elif key is not None and line.strip().startswith("- "):
            present = values[key]
            item = _scalar(line.strip()[2:].strip())
            values[key] = [*present, item] if isinstance(present, list) else [item]
        elif key is not None and line[:1] in (" ", "\t") and line.strip():
            present = values[key]  # a scalar that goes on
            if isinstance(present, str):
                values[key] = " ".join([present.removeprefix(">-").removeprefix(">"), line.strip()]).strip()
    if not {"id", "title"} & values.keys():
        return None
    return values, "" if end is None else "\n".join(lines[end + 1 :])


def _value(text: str) -> Value:
    if text.startswith("[") and text.endswith("]"):
        words = re.findall(r"\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^,\s][^,]*", text[1:-1])
        return [_scalar(word.strip()) for word in words]
    return _scalar(text)


def _scalar(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return "" if text in ("null", "~") else text


def read(path: Path) -> Outline:
    """The outline of a folder: its tasks and those that are completed, without drafts and the archive.

    Raises:
        TrackerUnreadable: it is too large.
        OSError: it cannot be read.
    """
    gathered = Gathered(TrackerFormat.BACKLOG)
    folder = home(path) or path
    left = MAX_BYTES
    for file in [each for name in _FOLDERS for each in _files(folder / name, MAX_TASKS)]:
        data = read_bytes(file, _FILE_BYTES)
        left -= len(data)
        if left < 0:
            raise TrackerUnreadable(f"cannot read {folder}: its tasks are larger than {MAX_BYTES // 1024} KiB")
        found = front_matter(data.decode(errors="replace"))
        if found is None:
            gathered.skip("file without front matter")
            continue
        _add(gathered, file, *found)
    return gathered.outline()


def _text(values: dict[str, Value], key: str) -> str:
    value = values.get(key, "")
    return value if isinstance(value, str) else ""


def _list(values: dict[str, Value], key: str) -> list[str]:
    value = values.get(key, [])
    return value if isinstance(value, list) else [value] if value else []


def _id(text: str) -> str:
    """An id, which is written in either case."""
    return source_id(text).lower()


def _add(gathered: Gathered, file: Path, values: dict[str, Value], body: str) -> None:
    id_ = _id(_text(values, "id") or file.stem.partition(" - ")[0])
    status = _text(values, "status").casefold()
    if status == "draft":
        gathered.skip("draft")
        return
    if status and status not in _STATUS:
        gathered.skip(f"status: {status}")
    milestone = one_line(_text(values, "milestone"))
    feature = f"milestone:{milestone}" if milestone else None
    if feature is not None and not gathered.has_feature(feature):
        gathered.feature(ReadFeature(feature, milestone))
    text = _COMMENT.sub("", body).strip().removeprefix("## Description").strip()
    gathered.task(
        ReadTask(
            id_,
            one_line(_text(values, "title")) or id_,
            bounded_text(text),
            _STATUS.get(status, TaskStatus.PENDING),
            priority=_PRIORITIES.get(_text(values, "priority").casefold(), DEFAULT_PRIORITY),
            tags=tags_of(_list(values, "labels")),
            depends_on=[_id(each) for each in _list(values, "dependencies") if each],
            feature=feature,
            parent=_id(_text(values, "parent_task_id") or _text(values, "parent")) or None,
        )
    )
