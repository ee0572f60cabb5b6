"""Merges a file of a plan with the plan of the daemon, field by field, by what both had when they last agreed.

It is pure: it is given what is there, and tells what is to be done. A **version** counts the contents of a record's
line that were written: what an earlier one held is kept, so that a line of another branch is compared with what it came
from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from nexus.ledger.files.records import PLAN_KINDS
from nexus.ledger.importing.plan_file import Key, Lines, Side

__all__ = ["FIELDS", "KEPT", "Base", "Change", "Clash", "Merged", "Prefer", "merge", "values_of"]

FIELDS: dict[str, tuple[str, ...]] = {
    "agents": (),
    "features": (
        *("name", "description", "priority", "status", "complexity", "tags", "metadata"),
        "estimated_tasks",
    ),
    "sub_features": ("name", "description", "status"),
    "tasks": (
        *("name", "description", "kind", "status", "size", "priority", "tags", "metadata", "feature_id"),
        *("sub_feature_id", "depends_on", "max_iterations", "estimated_minutes"),
    ),
    "notes": (),
    "comments": (),
    "requirements": (
        *("category", "description", "priority", "source", "user_stories", "acceptance_criteria"),
        *("linked_features", "validated", "confidence", "tags"),
    ),
}
"""By kind, the fields that are merged. The others are given once, or are the daemon's own."""
KEPT = 10
"""How many versions of a record are remembered."""
_LOOSE = ("worktree_path", "branch_name", "assigned_agent", "blocked_by", "reason_code", "qa_iterations",
          "actual_minutes", "claimed_at", "started_at", "completed_at", "updated_at")  # fmt: skip
"""Fields of a daemon and a machine, which no line has."""
_UNORDERED = ("depends_on", "linked_features")
_SETS = ("tags", "depends_on", "linked_features")
_DELETED = "deleted"
Values = dict[str, Any]
Base = dict[Key, dict[int, Values]]
"""By record and version, what the file and the daemon agreed on."""
Prefer = str | None
"""``file``, ``daemon``, or None: both keep their own."""


class Change(NamedTuple):
    """What the daemon's record is to have."""

    key: Key
    fields: Values
    record: Any
    """As the file has it."""
    present: Any
    """As the daemon has it."""


class Clash(NamedTuple):
    """A field that both sides have changed, or a record that one has changed and the other deleted."""

    key: Key
    field: str | None
    file: Any
    daemon: Any
    other: Any = None
    """Of a conflict in the file: what its other side has and neither keeps; of a record, that it is deleted there."""


class Merged(NamedTuple):
    """What a merge has found."""

    lines: dict[Key, tuple[Any, int]]
    """The records of the new file, with their versions."""
    base: Base
    """What both agree on afterwards."""
    created: dict[str, list[Any]]
    """By kind, the records that the daemon does not have yet."""
    changes: list[Change]
    deleted: list[Key]
    """Records that the file had and has no more; the daemon has not changed them."""
    to_file: list[tuple[Key, list[str]]]
    """Records of which the file gets fields; without fields, all or none of it."""
    clashes: list[Clash]


def values_of(kind: str, record: Any) -> Values:
    """The merged fields of a record, in one form each: no text is as good as an empty one."""
    values: Values = {}
    for name in FIELDS[kind]:
        value = getattr(record, name)
        if isinstance(value, (list, dict)):
            value = msgspec.to_builtins(value)
            if name in _UNORDERED:
                value = sorted(value)
        values[name] = value if isinstance(value, bool) or value not in ("", None) else None
    if values.get("status") == "in_progress" and kind == "tasks":
        # A lease is of one daemon.
        values["status"] = "queued"
    return {name: str(value) if isinstance(value, str) else value for name, value in values.items()}


def merge(lines: Lines, daemon: Mapping[Key, Any], base: Base, prefer: Prefer) -> Merged:
    """Merge the lines of a file with the records of the daemon."""
    merger = _Merger(base, prefer)
    for key in {**lines.ours, **lines.theirs, **daemon}:
        if key[0] not in FIELDS:
            continue
        present = daemon.get(key)
        merger.add(key, merger.side(key, lines, present), present)
    return merger.result


class _Merger:
    """Merges record by record."""

    def __init__(self, base: Base, prefer: Prefer) -> None:
        self._base = dict(base)
        self._prefer = prefer
        self._from: dict[Key, int] = {}
        """Of a record that both sides of a conflict make, the version of what this daemon had agreed on."""
        self._torn: set[tuple[Key, str]] = set()
        """The fields that both sides of a conflict of git have changed: nothing was agreed on."""
        self.result = Merged({}, {}, {}, [], [], [], [])

    def _values(self, key: Key, version: int) -> Values | None:
        """What both agreed on when a line had a version, or the last one before."""
        versions = self._base.get(key)
        if not versions:
            return None
        if version == 0:
            return versions[max(versions)]  # a line that lost its version
        known = [each for each in versions if each <= version]
        return versions[max(known)] if known else None

    # A conflict of git

    def side(self, key: Key, lines: Lines, present: Any) -> Side | None:
        """The one record that both sides of a conflict make; what cannot be merged is told."""
        ours, theirs = lines.ours.get(key), lines.theirs.get(key)
        if ours == theirs:
            return ours
        before = None if lines.ancestors is None else lines.ancestors.get(key)
        if ours is None or theirs is None:
            is_added = lines.ancestors is not None and key not in lines.ancestors
            return self._one_side(key, ours or theirs, before, present, is_added=is_added)
        if ours.record == theirs.record:
            return ours if ours.version >= theirs.version else theirs
        kind = key[0]
        one, two = values_of(kind, ours.record), values_of(kind, theirs.record)
        ancestor = None if before is None else values_of(kind, before.record)
        there = None if present is None else values_of(kind, present)
        merged: Values = {}
        for name in FIELDS[kind]:
            value, is_clash = _three(name, one[name], two[name], ancestor)
            if is_clash and ancestor is None and name in _SETS:
                value, is_clash = _union(one[name] or [], two[name] or [], ()), False
            if is_clash:
                # The daemon keeps its own; the file keeps the other one, so that neither is lost.
                kept, lost = one[name], two[name]
                if there is not None and kept == there[name]:
                    kept, lost = lost, kept
                value = kept
                self._torn.add((key, name))
                if there is None or lost != there[name]:
                    self.result.clashes.append(Clash(key, name, kept, None if there is None else there[name], lost))
            merged[name] = value
        # The side that this user's daemon wrote says what it has agreed on: in a rebase it is the other one.
        versions = self._base.get(key, {})
        is_other = one != versions.get(ours.version) and two == versions.get(theirs.version)
        self._from[key] = (theirs if is_other else ours).version
        # Another content than either version has.
        return Side(_with(kind, ours.record, merged), max(ours.version, theirs.version) + 1, ours.line)

    def _one_side(
        self, key: Key, side: Side | None, before: Side | None, present: Any, *, is_added: bool
    ) -> Side | None:
        """A record that one side of a conflict has: the other has deleted it, unless this one has added it."""
        if side is None or is_added:
            return side
        if before is not None and values_of(key[0], side.record) == values_of(key[0], before.record):
            return None
        if before is not None or key in self._base:
            # It stays: what was changed is not deleted untold.
            self.result.clashes.append(Clash(key, None, side.record, None, _DELETED))
            if present is None:
                self._base.pop(key, None)
        return side

    # A record

    def add(self, key: Key, side: Side | None, present: Any) -> None:
        """Merge a record of the file with that of the daemon; either may be absent."""
        if side is None and present is None:
            return  # a conflict of git had it on one side, and both have deleted it
        if side is None:
            self._only_daemon(key, present)
        elif present is None:
            self._only_file(key, side)
        else:
            self._both(key, side, present)

    def _only_daemon(self, key: Key, present: Any) -> None:
        if key not in self._base:
            self.result.to_file.append((key, []))
            self._write(key, _of_file(key[0], present), 0, values_of(key[0], present))
            return
        versions = self._base[key]
        self.result.base[key] = dict(versions)
        if self._prefer == "daemon":
            self.result.to_file.append((key, []))
            self._write(key, _of_file(key[0], present), max(versions), values_of(key[0], present))
        elif values_of(key[0], present) == versions[max(versions)] or self._prefer == "file":
            self.result.deleted.append(key)
        else:
            self.result.clashes.append(Clash(key, None, None, present))

    def _only_file(self, key: Key, side: Side) -> None:
        kind = key[0]
        if key in self._base and self._prefer != "file":
            # The daemon deleted it.
            if self._prefer == "daemon" or values_of(kind, side.record) == self._values(key, side.version):
                self.result.to_file.append((key, []))
                return
            self.result.clashes.append(Clash(key, None, side.record, None))
            self.result.lines[key] = (side.record, side.version)
            self.result.base[key] = dict(self._base[key])
            return
        self.result.created.setdefault(kind, []).append(side.record)
        self._write(key, side.record, side.version, values_of(kind, side.record))

    def _both(self, key: Key, side: Side, present: Any) -> None:
        kind = key[0]
        of_file, there = values_of(kind, side.record), values_of(kind, present)
        base = self._values(key, self._from.get(key, side.version))
        line: Values = {}
        agreed: Values = {}
        to_daemon: Values = {}
        to_file: list[str] = []
        for name in FIELDS[kind]:
            is_torn = (key, name) in self._torn
            value, is_clash = _three(name, of_file[name], there[name], None if is_torn else base)
            if is_clash and self._prefer is None:
                self.result.clashes.append(Clash(key, name, of_file[name], there[name]))
                line[name] = of_file[name]
                if base is not None and name in base and not is_torn:
                    agreed[name] = base[name]
                continue
            if is_clash:
                value = of_file[name] if self._prefer == "file" else there[name]
            line[name] = agreed[name] = value
            if value != there[name]:
                to_daemon[name] = value
            if value != of_file[name]:
                to_file.append(name)
        record = _with(kind, side.record, line)
        if to_daemon:
            self.result.changes.append(Change(key, to_daemon, record, present))
        if to_file:
            self.result.to_file.append((key, to_file))
        if kind == "tasks" and line.get("status") == there.get("status"):
            record = msgspec.structs.replace(record, reason=present.reason)
        self._write(key, record, side.version, agreed, is_changed=bool(to_file))

    def _write(self, key: Key, record: Any, version: int, agreed: Values, *, is_changed: bool = False) -> None:
        """Keep what both agree on; the version rises where that, or the line, is not what the version had."""
        versions = dict(self._base.get(key, {}))
        highest = max([version, *versions])
        if highest and versions.get(highest) == agreed:
            version = highest
        elif is_changed or version == 0 or version in versions or highest > version:
            version = highest + 1
        versions[version] = agreed
        for old in sorted(versions)[:-KEPT]:
            del versions[old]
        self.result.base[key] = versions
        self.result.lines[key] = (record, version)


def _three(name: str, one: Any, two: Any, base: Values | None) -> tuple[Any, bool]:
    """What two values of a field become, and whether they clash: then it is the first."""
    if one == two:
        return one, False
    if base is None or name not in base:
        return one, True
    if one == base[name]:
        return two, False
    if two == base[name]:
        return one, False
    if name in _SETS:
        return _union(one or [], two or [], base[name] or []), False
    return one, True


def _union(one: Sequence[Any], two: Sequence[Any], base: Sequence[Any]) -> list[Any]:
    """The elements that either side has added to a list, and none that either has taken out."""
    gone = {each for each in base if each not in one or each not in two}
    return [each for each in dict.fromkeys([*one, *two]) if each not in gone]


def _of_file(kind: str, record: Any) -> Any:
    """A record of the daemon without what is its own."""
    loose: Values = {name: None for name in _LOOSE if name in record.__struct_fields__ and name != "qa_iterations"}
    if kind == "tasks":
        loose |= {"qa_iterations": 0}
        if record.status == "in_progress":
            loose |= {"status": type(record.status)("queued")}
    return msgspec.structs.replace(record, **loose)


def _with(kind: str, record: Any, values: Values) -> Any:
    """A record with other values of the merged fields."""
    plain = {name: value for name, value in msgspec.to_builtins(record).items() if name not in FIELDS[kind]}
    given = {name: value for name, value in values.items() if value is not None}
    return msgspec.convert(plain | given, PLAN_KINDS[kind])
