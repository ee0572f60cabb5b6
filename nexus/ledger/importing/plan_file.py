"""The file of a plan: JSON Lines, a record a line, sorted by kind and id, so that git merges its lines.

It reads and writes the records of ``ReadPlan`` and ``WritePlan`` and knows no daemon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from nexus_protocol.errors import InvalidArgument

from nexus.graph import any_cycle, in_order
from nexus.ledger.files.commands import PART_BYTES, PART_RECORDS, WritePlan
from nexus.ledger.files.records import PLAN_KINDS

__all__ = [
    "FORMAT",
    "Lines",
    "Plan",
    "PlanUnreadable",
    "Side",
    "check_cycles",
    "format_line",
    "format_plan",
    "is_plan",
    "key_of",
    "parse_plan",
    "parts_of",
    "read_lines",
    "size_of",
    "sort_key",
]

FORMAT = 1
"""The version of the form; a file of a later one is refused."""
_MOST = 256 * 1024 * 1024
_LINE_BYTES = 4 * 1024 * 1024
_HEADER = "project"
_WORDS = {kind.removesuffix("s"): kind for kind in PLAN_KINDS}
_ORDER = {kind: place for place, kind in enumerate(PLAN_KINDS)}
_HEADER_KEYS = ("record", "format", "name", "description", "mode", "repository_url", "settings", "numbers")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_SEEN = 80
_MARKERS = (b"<<<<<<<", b"|||||||", b"=======", b">>>>>>>")
"""How the lines begin by which git marks a conflict."""
Key = tuple[str, str]
"""The kind of a record, and its id; of an agent its name."""


class PlanUnreadable(InvalidArgument):
    """The file of a plan cannot be used; the message names the line."""

    type = "plan.unreadable"


class Side(NamedTuple):
    """A record as a line has it."""

    record: Any
    version: int
    """Counts the contents that ``project sync`` has written of it; 0 where the line has none."""
    line: int


class Lines(NamedTuple):
    """What the lines of a file say; where git left a conflict, of each of its sides."""

    header: dict[str, Any]
    ours: dict[Key, Side]
    theirs: dict[Key, Side]
    ancestors: dict[Key, Side | None] | None
    """What both sides of the conflicts had before, None for a record of which that is not certain; None in place of
    all where neither git's index nor the markers tell it."""
    has_conflicts: bool


class Plan(NamedTuple):
    """The records of a plan by kind, and what its first line says of the project."""

    header: dict[str, Any]
    records: dict[str, list[Any]]

    def total(self) -> int:
        """How many records it has."""
        return sum(map(len, self.records.values()))


def key_of(kind: str, record: Any) -> Key:
    """What identifies a record in a plan."""
    return kind, record.name if kind == "agents" else record.id


def sort_key(key: Key) -> tuple[int, str]:
    """The place of a record among the lines."""
    return _ORDER[key[0]], key[1]


def format_line(kind: str, record: Any, version: int = 0) -> bytes:
    """The line of a record, with its end. Fields that have their default are left out."""
    value: dict[str, Any] = {"record": kind.removesuffix("s")}
    if version:
        value["v"] = version
    return _encode(value | msgspec.to_builtins(record)) + b"\n"


def format_header(header: Mapping[str, Any]) -> bytes:
    """The first line."""
    return _encode({"record": _HEADER, "format": FORMAT, **header}) + b"\n"


def format_plan(header: Mapping[str, Any], lines: Mapping[Key, bytes]) -> bytes:
    """The content of a file, from the lines of its records."""
    return format_header(header) + b"".join(lines[key] for key in sorted(lines, key=sort_key))


def is_plan(head: bytes) -> bool:
    """Whether a file begins as one of a plan does."""
    first = head.lstrip().partition(b"\n")[0]
    try:
        value = _decode(first)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return first.startswith((b"<<<<<<<", b'{"record":'))
    return isinstance(value, dict) and isinstance(value.get("record"), str)


# Reading


def read_file(path: Path) -> bytes:
    """The content of a file.

    Raises:
        PlanUnreadable: it is too large.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(_MOST + 1)
    if len(data) > _MOST:
        raise PlanUnreadable(f"cannot read {path}: it is larger than {_MOST // 1024 // 1024} MiB")
    return data


def parse_plan(path: Path) -> Plan:
    """The plan that a file has.

    Raises:
        PlanUnreadable: a line is malformed, or git left a conflict in it.
        OSError: it cannot be read.
    """
    lines = read_lines(path)
    if lines.has_conflicts:
        raise PlanUnreadable(
            f"cannot read {path}: git left a conflict in it",
            hint="Merge both sides with the plan of the project: nexusctl project sync FILE",
        )
    records: dict[str, list[Any]] = {kind: [] for kind in PLAN_KINDS}
    for (kind, _id), side in lines.ours.items():
        records[kind].append(side.record)
    return Plan(lines.header, records)


def read_lines(path: Path, before: Callable[[], bytes | None] = lambda: None) -> Lines:
    """What the lines of a file say. ``before`` reads what git's index has as the ancestor of a file in conflict.

    Raises:
        PlanUnreadable: a line is malformed, or a record is given twice.
        OSError: it cannot be read.
    """
    header: dict[str, Any] = {}
    sides: tuple[dict[Key, Side], dict[Key, Side]] = ({}, {})
    shown: list[bytes] | None = None
    """The ancestors that the markers show."""
    # To which sides a line belongs: outside of a conflict to both.
    both = (0, 1)
    where: tuple[int, ...] = both
    has_conflicts = False
    for number, line in enumerate(read_file(path).split(b"\n"), 1):
        marker = line[:7]
        # An ancestor that git has merged itself may have a conflict of its own, with longer markers.
        if marker in _MARKERS and line[7:8] not in (b"<", b"|", b"=", b">"):
            has_conflicts = True
            where = {b"<<<<<<<": (0,), b"|||||||": (), b"=======": (1,), b">>>>>>>": both}[marker]
            if not where and shown is None:
                shown = []
            continue
        if not where and shown is not None:
            shown.append(line)
            continue
        if not line.strip():
            continue
        value = _value(path, number, line)
        version = value.pop("v", 0)
        word = value.get("record")
        if type(version) is not int or not 0 <= version < 2**53:
            raise _wrong(path, number, "v is no whole number")
        if word == _HEADER:
            if 0 in where or not header:
                header = _header(path, number, value)
            continue
        kind, record = _record(path, number, value)
        key = key_of(kind, record)
        for place in where:
            present = sides[place].get(key)
            if present is not None and not (has_conflicts and present.record == record):
                raise _wrong(path, number, f"the {word} {key[1]} is given twice, first in line {present.line}")
            sides[place][key] = Side(record, version, number)
    if where != both:
        raise PlanUnreadable(f"cannot read {path}: it ends within a conflict of git", hint="Restore its end.")
    if not has_conflicts:
        return Lines(header, *sides, None, has_conflicts)
    found = before()
    base = shown if found is None else found.split(b"\n")
    return Lines(header, *sides, None if base is None else _ancestors(path, base), has_conflicts)


def _ancestors(path: Path, lines: Sequence[bytes]) -> dict[Key, Side | None] | None:
    """The records that both sides of a conflict come from; None where the lines are not those of a plan."""
    found: dict[Key, Side | None] = {}
    try:
        for number, line in enumerate(lines, 1):
            if not line.strip() or line[:7] in _MARKERS:
                continue
            value = _value(path, number, line)
            version = value.pop("v", 0)
            if value.get("record") == _HEADER:
                continue
            kind, record = _record(path, number, value)
            key = key_of(kind, record)
            present = found.get(key)
            is_certain = key not in found or (present is not None and present.record == record)
            found[key] = Side(record, version, number) if is_certain else None
    except PlanUnreadable:
        return None
    return found


def _wrong(path: Path, number: int, why: str) -> PlanUnreadable:
    return PlanUnreadable(f"cannot read {path}: line {number}: {why}", details={"line": number})


def _value(path: Path, number: int, line: bytes) -> dict[str, Any]:
    if len(line) > _LINE_BYTES:
        raise _wrong(path, number, f"it is longer than {_LINE_BYTES // 1024} KiB")
    try:
        value = _decode(line.decode())
    except UnicodeDecodeError:
        raise _wrong(path, number, "it is not UTF-8") from None
    except RecursionError:
        raise _wrong(path, number, "it is nested too deep") from None
    except msgspec.DecodeError as error:
        raise _wrong(path, number, f"it is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise _wrong(path, number, "it is no object")
    return value


def _shown(value: Any) -> str:
    text = _encode(value).decode()
    return text if len(text) <= _SEEN else f"{text[:_SEEN]}…"


def _header(path: Path, number: int, value: dict[str, Any]) -> dict[str, Any]:
    unknown = next((key for key in value if key not in _HEADER_KEYS), None)
    if unknown is not None:
        raise _wrong(path, number, f"a project has no field {_shown(unknown)}")
    version = value.get("format")
    if version != FORMAT:
        raise _wrong(path, number, f"it is of format {_shown(version)}, and this program knows {FORMAT}")
    numbers = value.get("numbers", {})
    if not isinstance(numbers, dict) or not all(type(each) is int and 0 <= each < 10**9 for each in numbers.values()):
        raise _wrong(path, number, "numbers is no object with whole numbers")
    return {key: value[key] for key in _HEADER_KEYS[2:] if key in value}


def _record(path: Path, number: int, value: dict[str, Any]) -> tuple[str, Any]:
    word = value.pop("record", None)
    kind = _WORDS.get(word) if isinstance(word, str) else None
    if kind is None:
        raise _wrong(path, number, f"{_shown(word)} is no kind of record; these are {', '.join(_WORDS)}")
    of = PLAN_KINDS[kind]
    unknown = next((key for key in value if key not in of.__struct_fields__), None)
    if unknown is not None:
        raise _wrong(path, number, f"{_article(word)} has no field {_shown(unknown)}")
    try:
        return kind, msgspec.convert(value, of)
    except msgspec.ValidationError as error:
        why, _, at = str(error).partition(" - at `$.")
        raise _wrong(path, number, f"{at.rstrip('`') + ': ' if at else ''}{why}") from None
    except ValueError as error:
        raise _wrong(path, number, str(error)) from None


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word.replace('_', '-')}"


# Writing to the daemon


def check_cycles(path: Path, records: Mapping[str, Sequence[Any]]) -> None:
    """Refuse tasks that would wait for each other.

    Raises:
        PlanUnreadable: some would.
    """
    tasks = {task.id: task for task in records.get("tasks", ())}
    cycle = any_cycle({id_: [on for on in task.depends_on if on in tasks] for id_, task in tasks.items()})
    if cycle is not None:
        names = [tasks[id_].name for id_ in cycle]
        shown = names if len(names) <= 8 else [*names[:4], "…", *names[-3:]]
        raise PlanUnreadable(
            f"cannot read {path}: tasks would wait for each other: {' → '.join(shown)}",
            hint="Take one of these dependencies out.",
        )


def parts_of(records: Mapping[str, Sequence[Any]], numbers: Mapping[str, int] | None = None) -> Iterator[WritePlan]:
    """The requests that add records: each refers to itself and earlier ones alone. The last one has the numbers."""
    part: dict[str, list[Any]] = {}
    count = size = 0
    for kind, record in _ordered(records):
        length = size_of(record)
        if count and (count == PART_RECORDS or size + length > PART_BYTES):
            yield msgspec.structs.replace(WritePlan(), **part)
            part, count, size = {}, 0, 0
        part.setdefault(kind, []).append(record)
        count, size = count + 1, size + length
    if count or numbers:
        yield msgspec.structs.replace(WritePlan(numbers=dict(numbers or {})), **part)


def _ordered(records: Mapping[str, Sequence[Any]]) -> Iterable[tuple[str, Any]]:
    for kind in PLAN_KINDS:
        found = list(records.get(kind, ()))
        if kind == "tasks":
            # By number, so that those without one get theirs in this order; then each after what it depends on.
            by_id = {task.id: task for task in found}
            graph = {id_: [on for on in task.depends_on if on in by_id] for id_, task in by_id.items()}
            found = [by_id[id_] for id_ in in_order(by_id, graph)]
        yield from ((kind, record) for record in found)


def size_of(record: Any) -> int:
    """How many bytes a record takes in a request."""
    return len(msgspec.msgpack.encode(record))
