"""Creates the frozen databases for the migration to projects: ``python tests/data/schemas/freeze_projects.py``.

Each is ``projects-NAME.db``, of schema 8, with its rows in ``projects-NAME.json``. This program adds missing ones and
never changes an existing file. The settings are as ``nexusctl apply`` of schema 8 writes them.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from freeze import AT, HERE, SERVICE_DEFAULTS, save

from nexus.store.sqlite import SqliteStore

VERSION = 8


class Scenario(NamedTuple):
    """Records by name, and the settings of each project: the names that its file made, and the restarts due."""

    services: tuple[str, ...] = ()
    vms: tuple[str, ...] = ()
    needs: tuple[tuple[str, str], ...] = ()
    """Dependents with their dependencies."""
    applied: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Projects with ``s:NAME``, ``v:NAME`` and ``r:NAME``."""


SCENARIOS = {
    "empty": Scenario(),
    # shop-2 is a project, and not the second setting of shop. The service adhoc and the VM box are of no file.
    "two-files": Scenario(
        services=("adhoc", "api", "db", "worker", "queue"),
        vms=("box", "gate", "web"),
        needs=(("api", "db"), ("worker", "queue")),
        applied=(
            ("shop", ("s:api", "s:db", "v:web", "r:api", "r:db")),
            ("shop-2", ("s:queue", "s:worker", "v:gate", "r:worker")),
        ),
    ),
    # The service log and the VM box are in both lists. api (left) depends on db (right), and page (left) on api:
    # none of them can leave default. cron (right) depends on hand, which is of no file.
    "shared": Scenario(
        services=("api", "cron", "db", "hand", "log", "page", "solo", "lone"),
        vms=("box", "gate"),
        needs=(("api", "db"), ("page", "api"), ("cron", "hand")),
        applied=(
            ("left", ("s:api", "s:log", "s:page", "s:solo", "v:box", "v:gate", "r:api")),
            ("right", ("s:cron", "s:db", "s:lone", "s:log", "v:box", "r:lone")),
        ),
    ),
}


def ids_of(scenario: Scenario) -> dict[str, str]:
    """The id of each record, by its name."""
    return {
        name: f"0b9f4c1e-0000-4000-8000-{number:012d}"
        for number, name in enumerate(scenario.services + scenario.vms, 1)
    }


def fill(connection: sqlite3.Connection, scenario: Scenario) -> None:
    """Insert the rows of a scenario."""
    ids = ids_of(scenario)
    for number, name in enumerate(scenario.services, 1):
        connection.execute("INSERT INTO service_config (id, run_command) VALUES (?, '\"sleep 9\"')", (number,))
        row = SERVICE_DEFAULTS | {"id": ids[name], "name": name, "config_id": number, "operation_id": 1}
        row |= {"revision": number, "state_revision": 2 * number, "umask": "022"}
        connection.execute(
            f"INSERT INTO service ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", (*row.values(),)
        )
    for number, name in enumerate(scenario.vms, 3):
        connection.execute(
            "INSERT INTO vms (id, name, role, state, cid, created_at, updated_at, revision) "
            "VALUES (?, ?, 'work', 'created', ?, ?, ?, 4)",
            (ids[name], name, number, AT + number, AT + number),
        )
    for dependent, dependency in scenario.needs:
        connection.execute(
            "INSERT INTO service_dependency (service_id, dependent_service_id, created_at) VALUES (?, ?, ?)",
            (ids[dependent], ids[dependency], AT),
        )
    if scenario.needs:  # the last dependency was removed: its number must not be used again
        connection.execute("UPDATE sqlite_sequence SET seq = 9 WHERE name = 'service_dependency'")
    for project, names in scenario.applied:
        entries = sorted((name[:2] + ids[name[2:]] for name in names), key=lambda entry: ("svr".index(entry[0]), entry))
        entries = [f"{entry}:{AT + 5}" if entry[0] == "r" else entry for entry in entries]
        text = json.dumps(entries, separators=(",", ":"))
        connection.execute("INSERT INTO settings VALUES (?, ?, 'json')", (f"apply.{project}", text))


def main() -> None:
    """Freeze every scenario that is not frozen yet."""
    for name, scenario in SCENARIOS.items():
        target = HERE / f"projects-{name}.db"
        if target.exists():
            continue
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "nexus.db"
            store = SqliteStore(path, Path(directory) / "backups")
            store.init(target=VERSION)
            store.close_now()
            with contextlib.closing(sqlite3.connect(path)) as connection, connection:
                fill(connection, scenario)
            save(path, target)
        print(f"made {target.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
