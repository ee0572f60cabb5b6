"""Rows of schemas 8 and 9 for the tests of the migration to projects."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["FROZEN", "Contents", "Statement", "dependency", "frozen", "lists", "services_with", "setting", "without"]

FROZEN = Path(__file__).parents[1] / "data" / "schemas"
ADDED = {"project_id", "managed_by", "restart_pending_since"}

Contents = dict[str, list[dict[str, Any]]]
Statement = tuple[str, Iterable[Any]]


def frozen(name: str) -> Contents:
    """The rows of a frozen database."""
    rows: Contents = json.loads((FROZEN / f"{name}.json").read_text("utf-8"))
    return rows


def without(rows: Contents, *, settings: bool = True) -> Contents:
    """The rows as schema 8 has them, without the barrier, and without settings of apply."""
    kept = {
        table: [{column: value for column, value in row.items() if column not in ADDED} for row in found]
        for table, found in rows.items()
        if table != "projects"
    }
    kept["journal"] = [row for row in kept["journal"] if row["kind"] != "schema.migrated"]
    if settings:
        kept["settings"] = [row for row in kept["settings"] if not row["key"].startswith("apply.")]
    return kept


def lists(rows: Contents) -> dict[str, list[str]]:
    """The entries of each setting of apply, with names for ids."""
    names = {row["id"]: row["name"] for table in ("service", "vms") for row in rows[table]}
    found = {}
    for row in rows["settings"]:
        if row["key"].startswith("apply."):
            assert row["type"] == "json"
            parts = [entry.split(":") for entry in json.loads(row["value"])]
            found[row["key"]] = [":".join([part[0], names.get(part[1], part[1]), *part[2:]]) for part in parts]
    return found


def setting(key: str, value: str | bytes, type_: str = "json") -> Statement:
    return "INSERT INTO settings VALUES (?, ?, ?)", (key, value, type_)


def services_with(ids: Sequence[str]) -> list[Statement]:
    """Statements that insert services s0000, s0001 and so on into a database of schema 8 without any."""
    template = frozen("projects-two-files")["service"][0]
    statements: list[Statement] = []
    for number, id_ in enumerate(ids):
        row = template | {"id": id_, "name": f"s{number:04}", "config_id": number + 1}
        statements.append(("INSERT INTO service_config (id) VALUES (?)", (number + 1,)))
        statements.append(
            (f"INSERT INTO service ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", row.values())
        )
    return statements


def dependency(dependent: str, on: str) -> Statement:
    return "INSERT INTO service_dependency (service_id, dependent_service_id, created_at) VALUES (?, ?, 1)", (
        dependent,
        on,
    )
