"""How the frozen databases here were made, and how the next one is: ``python tests/data/schemas/freeze.py``.

For every released schema version there is ``schema-vN.db``, a database of that version with data in every table, and
``schema-vN.json``, the rows that it holds. They are evidence, so this program adds the one of today's schema if it is
not there yet, and never touches one that is.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import tempfile
from pathlib import Path

from nexus.store.migrate import target_version
from nexus.store.sqlite import SqliteStore

HERE = Path(__file__).parent
AT = 1_767_225_600_000
"""The first millisecond of 2026."""

LAST_CID = 4_294_967_294

SETTINGS = [
    ("journal.keep_days", "90", "int"),
    ("ui.colour", "blå", "string"),
    ("flag", "true", "bool"),
    ("list", '[1,"two",null]', "json"),
]
VM_COLUMNS = "id, name, role, state, cid, vcpu_count, mem_size_mib, created_at, updated_at, started_at, stopped_at, pid"
VMS = [
    ("0b9f4c1e-0000-4000-8000-000000000001", "web", "work", "created", 3, 1, 128, AT, AT, None, None, None),
    ("0b9f4c1e-0000-4000-8000-000000000002", "gate", "portal", "running", 4, 2, 512, AT, AT + 9, AT + 9, None, 4711),
    ("0b9f4c1e-0000-4000-8000-000000000003", "db.old", "service", "stopped", LAST_CID, 32, 16, AT, AT, AT, AT, None),
    ("0b9f4c1e-0000-4000-8000-000000000004", "twin-1", "work", "crashed", 6, 1, 128, AT, AT, AT, AT, None),
    ("0b9f4c1e-0000-4000-8000-000000000005", "twin-2", "work", "failed", 7, 1, 128, AT, AT, AT, AT, None),
]  # fmt: skip
# Number 3 is missing, as after an insert that was rolled back, and 1 was pruned.
EVENTS = [
    (2, AT, "vm.created", "vm", VMS[0][0], "web", "cli", 1000, 4242, '{"cid":3,"role":"work"}'),
    (4, AT + 9, "vm.started", "vm", VMS[1][0], "gate", None, 0, 1, "{}"),
    (5, AT + 9, "setting.set", "setting", "flag", "flag", "agent é", 1000, 4242, '{"type":"bool"}'),
]
LAST_SEQ = 7
"""Given out at last, to an event that is not there any more."""


def freeze(version: int) -> None:
    """Make the two files for one schema version."""
    target = HERE / f"schema-v{version}.db"
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "nexus.db"
        store = SqliteStore(path, Path(directory) / "backups")
        store.init(target=version)
        store.close_now()
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.executemany("INSERT INTO settings VALUES (?, ?, ?)", SETTINGS)
            if version >= 2:
                connection.executemany(f"INSERT INTO vms ({VM_COLUMNS}) VALUES ({', '.join('?' * 12)})", VMS)
                connection.execute("UPDATE vms SET config_json = '{\"a\":1}', socket_path = '/x' WHERE name = 'gate'")
            if version >= 3:
                connection.executemany("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", EVENTS)
                connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'journal'", (LAST_SEQ,))
                connection.execute("INSERT INTO schema_meta VALUES ('journal_pruned_seq', '1')")
            connection.commit()
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.row_factory = sqlite3.Row
            tables = [
                name
                for (name,) in connection.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
                )
                if name != "schema_meta"
            ]
            rows = {
                table: [dict(row) for row in connection.execute(f'SELECT * FROM "{table}" ORDER BY 1')]
                for table in sorted(tables)
            }
        text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
        target.with_suffix(".json").write_text(text, encoding="utf-8")
        target.write_bytes(path.read_bytes())


def main() -> None:
    """Freeze the versions that are not frozen yet."""
    for version in range(1, target_version() + 1):
        if not (HERE / f"schema-v{version}.db").exists():
            freeze(version)
            print(f"made schema-v{version}.db", file=sys.stderr)


if __name__ == "__main__":
    main()
