"""What the readers give: features and tasks in the words of the ledger, with the ids that they have in their source."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from nexus_protocol.command import WireEnum
from nexus_protocol.errors import InvalidArgument

from nexus.ledger.states import FeatureStatus, TaskKind, TaskStatus

__all__ = [
    "DEFAULT_PRIORITY",
    "MAX_BYTES",
    "MAX_TASKS",
    "Gathered",
    "Outline",
    "ReadComment",
    "ReadFeature",
    "ReadTask",
    "TrackerFormat",
    "TrackerUnreadable",
    "as_dict",
    "as_list",
    "as_text",
    "bounded_text",
    "comments_of",
    "decode_json",
    "one_line",
    "read_bytes",
    "source_id",
    "tags_of",
]

MAX_BYTES = 64 * 1024 * 1024
"""The largest file that is read, and the most of a folder."""
MAX_TASKS = 50_000
_NAME = 200
_DESCRIPTION = 32_768
_COMMENT = 16_384
_COMMENTS = 1000
_TAG = 64
_TAGS = 64
_ID = 200
DEFAULT_PRIORITY = 5

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_CONTROL_IN_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_NO_TAG = re.compile(r"[^A-Za-z0-9._:/-]+")


class TrackerFormat(WireEnum):
    """Whose files they are."""

    BEADS = "beads"
    """A file of JSON Lines, or the folder ``.beads`` with it."""
    BACKLOG = "backlog"
    """The folder of Backlog.md: a Markdown file with front matter for each task."""
    CHECKLIST = "checklist"
    """A Markdown file with items that can be checked off."""
    GITHUB = "github"
    """A JSON file of issues, as GitHub's API and ``gh issue list --json`` give them."""


class TrackerUnreadable(InvalidArgument):
    """The file is none of a tracker that is known, or is too large."""

    type = "tracker.unreadable"


class ReadFeature(NamedTuple):
    """A feature: an epic, a milestone, or a section."""

    source_id: str
    name: str
    description: str | None = None
    status: FeatureStatus = FeatureStatus.BACKLOG
    tags: Sequence[str] = ()


class ReadComment(NamedTuple):
    """A comment on a task."""

    author: str
    text: str
    at: int | None = None
    """Milliseconds since 1970, if its source tells."""


class ReadTask(NamedTuple):
    """A task."""

    source_id: str
    name: str
    description: str | None = None
    status: TaskStatus = TaskStatus.PENDING
    reason: str | None = None
    """Why it is blocked or failed, if its source tells."""
    kind: TaskKind = TaskKind.FEATURE
    priority: int = DEFAULT_PRIORITY
    """1 is the highest."""
    tags: Sequence[str] = ()
    depends_on: Sequence[str] = ()
    """The ``source_id`` of other tasks of the outline."""
    feature: str | None = None
    """The ``source_id`` of its feature."""
    parent: str | None = None
    """The ``source_id`` of the task that it is a part of."""
    comments: Sequence[ReadComment] = ()


class Outline(NamedTuple):
    """What was read: every id that a task names is one of these."""

    format: TrackerFormat
    features: list[ReadFeature]
    tasks: list[ReadTask]
    skipped: dict[str, int]
    """What was left out, in words, and how often."""


class Gathered:
    """Gathers an outline. Of two with the same id the later one counts, in the place of the first."""

    def __init__(self, format_: TrackerFormat) -> None:
        self.format = format_
        self.skipped: Counter[str] = Counter()
        self._features: dict[str, ReadFeature] = {}
        self._tasks: dict[str, ReadTask] = {}

    def skip(self, what: str) -> None:
        """Note that something was left out."""
        self.skipped[one_line(what) or "nothing"] += 1

    def has_feature(self, source_id: str) -> bool:
        """Whether there is a feature with an id."""
        return source_id in self._features

    def feature(self, feature: ReadFeature) -> None:
        """Add a feature.

        Raises:
            TrackerUnreadable: there are too many.
        """
        self._add(self._features, feature.source_id, feature)

    def task(self, task: ReadTask) -> None:
        """Add a task.

        Raises:
            TrackerUnreadable: there are too many.
        """
        self._add(self._tasks, task.source_id, task)

    def _add(self, to: dict[str, Any], source_id: str, what: Any) -> None:
        if source_id in to:
            self.skip("given twice")
        elif len(self._features) + len(self._tasks) >= MAX_TASKS:
            raise TrackerUnreadable(f"cannot read it: it has more than {MAX_TASKS} tasks")
        to[source_id] = what

    def outline(self) -> Outline:
        """What was gathered, without references to what is not there."""
        tasks = [self._cleaned(task) for task in self._tasks.values()]
        return Outline(self.format, list(self._features.values()), tasks, dict(self.skipped))

    def _cleaned(self, task: ReadTask) -> ReadTask:
        wanted = [each for each in dict.fromkeys(task.depends_on) if each != task.source_id]
        kept = [each for each in wanted if each in self._tasks]
        for each in wanted:
            if each in self._features:
                self.skip("dependency on a feature")
            elif each not in self._tasks:
                self.skip("dependency on what is not there")
        return task._replace(
            depends_on=kept,
            feature=task.feature if task.feature in self._features else None,
            parent=task.parent if task.parent in self._tasks and task.parent != task.source_id else None,
        )


def read_bytes(path: Path, most: int = MAX_BYTES) -> bytes:
    """The content of a file.

    Raises:
        TrackerUnreadable: it is larger than ``most``.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise TrackerUnreadable(f"cannot read {path}: it is larger than {most // 1024} KiB")
    return data


def decode_json(data: bytes) -> Any:
    """The value of a JSON document; None where it is malformed."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def as_dict(value: Any) -> dict[str, Any]:
    """The value if it is a map, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def as_text(value: Any) -> str:
    """The value if it is text or a number, as text, else nothing."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    return str(value)


def one_line(value: Any, most: int = _NAME) -> str:
    """Text as one line without control characters, cut where it is too long."""
    text = " ".join(_CONTROL.sub(" ", as_text(value)).split())
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def source_id(value: Any) -> str:
    """An id of the source, as one line."""
    return one_line(value, _ID)


def bounded_text(value: Any, most: int = _DESCRIPTION) -> str | None:
    """Text of several lines, cut where it is too long; None where it is empty."""
    text = _CONTROL_IN_TEXT.sub("", as_text(value)).strip()
    return (text if len(text) <= most else f"{text[: most - 1].rstrip()}…") or None


def comments_of(values: Iterable[Any], text: str, author: str, at: str) -> list[ReadComment]:
    """Comments from maps, whose text, author and time have these keys; an author may be a map with a ``login``."""
    found: list[ReadComment] = []
    for value in map(as_dict, values):
        words = bounded_text(value.get(text), _COMMENT)
        by = value.get(author)
        if words is not None and len(found) < _COMMENTS:
            found.append(ReadComment(one_line(as_dict(by).get("login") or by), words, _time(value.get(at))))
    return found


def _time(value: Any) -> int | None:
    """A time in ms since 1970, from the form of ISO 8601."""
    try:
        when = datetime.datetime.fromisoformat(as_text(value))
        ms = int((when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None
    return ms if ms >= 0 else None


def tags_of(values: Iterable[Any]) -> list[str]:
    """Words as tags of the ledger: what a tag cannot have becomes a dash."""
    found = (_NO_TAG.sub("-", as_text(value).strip()).lstrip("._:/-")[:_TAG].rstrip("-") for value in values)
    return list(dict.fromkeys(tag for tag in found if tag))[:_TAGS]
