"""Migration 9 over random settings of apply: forward and back is the identity."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from support.projects_schema import FROZEN, Contents, dependency, lists, services_with, setting, without

from nexus.store import migrate as migrations


class Applied(NamedTuple):
    """What the file of one project made, as numbers of services and VMs."""

    services: frozenset[int]
    vms: frozenset[int]
    restarts: dict[int, int]


APPLIED = st.dictionaries(
    st.sampled_from(["default", "a", "b", "b-2", "B"]),
    st.builds(
        Applied,
        st.frozensets(st.integers(0, 5)),
        st.frozensets(st.integers(0, 2)),
        st.dictionaries(st.integers(0, 5), st.integers(1, 3), max_size=4),
    ),
)
EDGES = st.frozensets(
    st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(lambda edge: edge[0] < edge[1]), max_size=4
)


@given(applied=APPLIED, edges=EDGES)
def test_settings_are_the_same_after_the_way_forward_and_back(
    applied: dict[str, Applied], edges: frozenset[tuple[int, int]]
) -> None:
    services = [f"0b9f4c1e-0000-4000-8000-{number:012d}" for number in range(6)]
    vms = [f"0b9f4c1e-0000-4000-8000-{number:012d}" for number in range(100, 103)]
    listed = {
        name: [
            *(f"s:{services[number]}" for number in sorted(one.services)),
            *(f"v:{vms[number]}" for number in sorted(one.vms)),
            *(f"r:{services[number]}:{at}" for number, at in sorted(one.restarts.items())),
        ]
        for name, one in applied.items()
    }
    listed = {name: entries for name, entries in listed.items() if entries}
    statements = [
        *services_with(services),
        *(
            ("INSERT INTO vms (id, name, role, state, cid) VALUES (?, ?, 'work', 'created', ?)", (id_, f"v{cid}", cid))
            for cid, id_ in enumerate(vms, 3)
        ),
        *(dependency(services[dependent], services[on]) for dependent, on in edges),
        *(setting(f"apply.{name}", json.dumps(entries, separators=(",", ":"))) for name, entries in listed.items()),
    ]
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        with contextlib.closing(sqlite3.connect(FROZEN / "projects-empty.db")) as empty:
            empty.backup(connection)
        connection.execute("PRAGMA foreign_keys = ON")
        for text, values in statements:
            connection.execute(text, (*values,))
        before = all_rows(connection)
        for _ in range(2):
            migrations.migrate(connection, 8, 9)
            check_projects(all_rows(connection), listed)
            migrations.migrate(connection, 9, 8)
            assert without(all_rows(connection), settings=False) == before


def all_rows(connection: sqlite3.Connection) -> Contents:
    """The rows of every table but schema_meta."""
    found: Contents = {}
    for (table,) in connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT IN ('schema_meta', 'sqlite_sequence')"
    ).fetchall():
        cursor = connection.execute(f'SELECT * FROM "{table}" ORDER BY 1')
        columns = [column for column, *_ in cursor.description]
        found[table] = [dict(zip(columns, row, strict=True)) for row in cursor]
    return found


def check_projects(rows: Contents, listed: dict[str, list[str]]) -> None:
    """Check that each record is in one project, and that each entry of a project's settings is somewhere."""
    names = {row["id"]: row["name"] for row in rows["projects"]}
    assert set(names.values()) == {"default", *listed}
    assert lists(rows) == {}
    owners = {f"s:{row['id']}": names[row["project_id"]] for row in rows["service"]}
    owners |= {f"v:{row['id']}": names[row["project_id"]] for row in rows["vms"]}
    managed = {f"{prefix}:{row['id']}" for prefix, table in (("s", "service"), ("v", "vms")) for row in rows[table]
               if row["managed_by"]}  # fmt: skip
    assert {entry for entry, owner in owners.items() if owner != "default"} <= managed
    for row in rows["service_dependency"]:
        assert owners[f"s:{row['service_id']}"] == owners[f"s:{row['dependent_service_id']}"]
    for row in rows["projects"]:
        entries = {entry for entry in listed.get(row["name"], ()) if entry[0] != "r"}
        kept = json.loads(row["settings"])
        own = {entry for entry in managed if owners[entry] == row["name"]}
        assert own <= entries
        assert kept.get("shared") == (sorted(entries - own) or None)
        assert all(owners[entry] == "default" for entry in entries - own)
        for id_, at in kept.get("shared_restarts", {}).items():
            assert f"r:{id_}:{at}" in listed[row["name"]]
    for row in rows["service"]:
        times = [
            int(one.split(":")[2]) for entries in listed.values() for one in entries if one[:-2] == f"r:{row['id']}"
        ]
        assert row["restart_pending_since"] == max(times, default=None)
