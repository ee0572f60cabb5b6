"""What people call the records of the ledger that others refer to by their ids: ``#12 Log in``."""

from __future__ import annotations

from collections.abc import Iterable

from nexus.records.scope import DEFAULT_ID
from nexus.store import Reader

__all__ = ["names_of"]

_TABLES = {"task": "tasks", "feature": "features", "sub_feature": "sub_features"}
_AT_ONCE = 200
_LONGEST = 60


def names_of(reader: Reader, project_id: str | None, ids: dict[str, Iterable[str | None]]) -> dict[str, str]:
    """The names of records by their ids, of each kind: ``#12 NAME``, ``PROJECT/12 NAME`` elsewhere, of agents the name.

    ``project_id`` is where they are shown. Records that were deleted, and None, are left out.
    """
    found: dict[str, str] = {}
    for kind, given in ids.items():
        wanted = sorted({id_ for id_ in given if id_ is not None})
        for start in range(0, len(wanted), _AT_ONCE):
            part = wanted[start : start + _AT_ONCE]
            marks = ", ".join("?" * len(part))
            if kind == "agent":
                found.update(reader.all(f"SELECT id, name FROM agents WHERE id IN ({marks})", part))
                continue
            table = _TABLES[kind]
            rows = reader.all(
                f"SELECT {table}.id, {table}.number, {table}.name, {table}.project_id, projects.name FROM {table} "
                f"JOIN projects ON projects.id = {table}.project_id WHERE {table}.id IN ({marks})",
                part,
            )
            for id_, number, name, of, project in rows:
                place = "#" if of == (project_id or DEFAULT_ID) else f"{project}/"
                short = name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
                found[id_] = f"{place}{number} {short}"
    return found
