"""Creates the frozen database of the current schema version: ``python tests/data/schemas/freeze.py``.

For every released schema version there is ``schema-vN.db``, a database of that version with data in every table, and
``schema-vN.json`` with its rows. This program adds missing versions and never changes an existing file of these. It
also writes the script by which a new database is made, ``nexus/store/schema.sql``, from what all migrations make.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import tempfile
from pathlib import Path

from nexus.store.connection import connect
from nexus.store.fulltext import OF_INDEX
from nexus.store.migrate import migrate, target_version
from nexus.store.sqlite import SqliteStore

HERE = Path(__file__).parent
NEWEST = HERE.parents[2] / "nexus" / "store" / "schema.sql"
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
EVENT_COLUMNS = "seq, at, kind, subject_kind, subject_id, subject_name, actor, uid, pid, detail"
LAST_SEQ = 7
"""The last number assigned, to an event that was deleted."""
CONFIGS = [
    (1, ".env", "env", '"exec postgres -D \\"$DATA\\""'),
    (2, "conf/app.properties", "properties", '["python","-m","å b"]'),
    (4, None, "env", None),
]
SERVICE_IDS = [f"0b9f4c1e-0000-4000-8000-00000000010{n}" for n in range(3)]
SERVICES: list[dict[str, object]] = [
    {"id": SERVICE_IDS[0], "name": "db", "config_id": 1, "port": 0, "status": "running", "health": "healthy",
     "health_message": "accepts connections", "run_id": "r1", "pid": 4711, "active_port": 35001, "wanted": 1,
     "started_at": AT + 5, "start_environment": '{"A":"1"}', "restarts": 2, "restart_times": f"[{AT},{AT + 1}]",
     "health_tcp": 0, "restart": "always", "autostart": 1, "tags": '["data","å"]', "memory_limit_mib": 512},
    {"id": SERVICE_IDS[1], "name": "api", "config_id": 2, "port": 8080, "status": "failed", "exit_code": 3,
     "reason": "it ended with exit code 3", "environment": '{"TOKEN":"x\\ny","B":""}',
     "environment_names": '["B","TOKEN"]', "directory": "/srv/api", "repo_url": "https://example.org/api.git",
     "repo_path": "/srv/api", "git_branch": "main", "git_auth_type": "token", "git_token_file": "/home/me/token",
     "health_exec": '["true"]', "started_at": AT, "stopped_at": AT + 9, "cpu_limit_percent": 150,
     "lost_dependencies": '["db"]'},
    {"id": SERVICE_IDS[2], "name": "seed.job", "config_id": 4, "type": "oneshot", "exit_signal": 15,
     "health_log": "^ready", "stopped_in_boot": "b00t"},
]  # fmt: skip
SERVICE_DEFAULTS = {
    "created_at": AT, "updated_at": AT + 1, "state_at": AT + 2, "restart_backoff_ms": 1000,
    "restart_backoff_max_ms": 30000, "restart_limit": 5, "restart_window_ms": 60000, "start_window_ms": 250,
    "health_interval_ms": 2000, "health_timeout_ms": 2000, "health_retries": 3, "health_start_period_ms": 0,
    "stop_signal": "SIGTERM", "stop_grace_ms": 10000, "log_limit_mib": 16,
}  # fmt: skip
DEPENDENCIES = [
    (2, SERVICE_IDS[1], SERVICE_IDS[0], 1, "healthy", "restart", 40001, "t1", AT),
    (3, SERVICE_IDS[1], SERVICE_IDS[2], 0, "completed", "ignore", None, None, AT),
]
LEASES = [
    (35001, "service", SERVICE_IDS[0], "run", AT + 2),
    (40001, "dependency", "2", "tunnel", AT),
]
FACTS = [(SERVICE_IDS[0], "022", AT + 3, None), (SERVICE_IDS[1], None, None, "b00t")]
TAGS = [(SERVICE_IDS[0], "data"), (SERVICE_IDS[0], "å")]
REVISIONS = [(SERVICE_IDS[0], 4, 17), (SERVICE_IDS[1], 1, 3)]
DIGEST = bytes(range(16))
OPERATIONS = [
    (1, AT, "CreateVm", b"\x81\xa4name\xa3web", "for the tour", "k-1", None, "cli", 1000, 4242),
    (2, AT + 9, "process.exited", None, None, None, 1, "nexusd", 1000, 1),
]
IMAGES = [
    (2, 1, "vms", VMS[0][0], 1, None, b"\x81\xa4name\xa3web"),
    (5, 2, "settings", "flag", None, b"\x80", b"\x81\xa5value\x81\xa6secret\xc4\x10" + DIGEST),
]
REASON_CODES = [(SERVICE_IDS[1], "exited")]
PROJECT_IDS = [f"0b9f4c1e-0000-4000-8000-00000000020{n}" for n in range(2)]
PROJECTS = [
    (PROJECT_IDS[0], "shop", "sells å", "evolution", "in_progress", "/srv/shop", "https://example.org/shop.git",
     '{"a":1}', AT, AT + 7, None, 2, 5),
    (PROJECT_IDS[1], "tools-2", None, "genesis", "completed", None, None, "{}", AT, AT, AT + 8, 1, 1),
]  # fmt: skip
# Dependencies do not cross projects: all services are of one.
PLACES = [(one, PROJECT_IDS[0], "nexus.toml") for one in SERVICE_IDS[:2]] + [(SERVICE_IDS[2], PROJECT_IDS[0], None)]
VM_PLACES = [(VMS[0][0], PROJECT_IDS[0], "nexus.toml"), (VMS[1][0], PROJECT_IDS[1], "vms/nexus.toml"),
             (VMS[2][0], PROJECT_IDS[1], None)]  # fmt: skip

JOB_IDS = [f"0b9f4c1e-0000-4000-8000-00000000030{n}" for n in range(6)]
GROUP = ("0b9f4c1e-0000-4000-8000-000000000310", "builds", "nexus.toml", 2, 1, AT, AT + 1, 2, 1)
SCHEDULE_ID = "0b9f4c1e-0000-4000-8000-000000000320"
JOB_DEFAULTS = {"directory": "/srv/shop", "created_at": AT, "updated_at": AT + 1, "project_id": PROJECT_IDS[0]}
JOBS: list[dict[str, object]] = [
    {"number": 1, "command": "make å", "place": 1 << 20, "status": "completed", "exit_code": 0, "duration": 41,
     "stdout": "done å\n", "output_bytes": 8, "started_at": AT + 2, "completed_at": AT + 43,
     "conversation_id": "c1", "message_id": "m1", "schedule_id": SCHEDULE_ID},
    {"number": 2, "command": "git push", "argv": '["git","push"]', "tool": "git", "place": 2 << 20,
     "status": "failed", "exit_signal": 9, "reason": "killed by SIGKILL", "reason_code": "killed", "attempt": 3,
     "retries": 2, "retry_of": JOB_IDS[0], "started_at": AT + 2, "completed_at": AT + 9, "stderr": "x"},
    {"number": 3, "command": "sleep 9", "place": 3 << 20, "status": "queued", "attempt": 2, "retries": 4,
     "reason": "attempt 1 failed: exited with 1", "reason_code": "retrying", "exit_code": 1,
     "environment": '{"TOKEN":"x"}', "operation_id": 2, "service_id": SERVICE_IDS[0],
     "tty": 1, "memory_limit_mib": 64},
    {"number": 4, "command": "true", "place": 4 << 20, "status": "queued", "waits_for": 1, "group_name": "builds",
     "after": '[{"job_id":"' + JOB_IDS[2] + '","number":3,"condition":"any"}]', "priority": -5, "label": "later",
     "tags": '["ci"]', "metadata": '{"a":[1,null]}', "stdin_data": b"in\x00put"},
    {"number": 5, "command": "true", "place": 5 << 20, "status": "stashed", "not_before": AT + 60_000,
     "timeout_ms": 1000, "stdin_path": "/srv/in"},
    {"number": 1, "command": "uptime", "place": 6 << 20, "status": "cancelled", "completed_at": AT + 3,
     "reason": "cancelled on demand", "reason_code": "cancelled", "project_id": PROJECT_IDS[1]},
]  # fmt: skip
SCHEDULE = {
    "id": SCHEDULE_ID, "project_id": PROJECT_IDS[0], "managed_by": "nexus.toml", "name": "nightly",
    "cron": "30 2 * * *", "timezone": "Europe/Berlin", "overlap": "replace", "missed": "skip", "command": "make å",
    "directory": "/srv/shop", "environment": '{"A":"1"}', "group_name": "builds", "next_at": AT + 86_400_000,
    "last_at": AT, "last_job_id": JOB_IDS[0], "created_at": AT, "updated_at": AT,
}  # fmt: skip

CONVERSATION_IDS = [f"0b9f4c1e-0000-4000-8000-00000000040{n}" for n in range(2)]
MESSAGE_IDS = [f"0b9f4c1e-0000-4000-8000-00000000041{n}" for n in range(3)]
BLOB = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
CONVERSATIONS: list[dict[str, object]] = [
    {"id": CONVERSATION_IDS[0], "number": 1, "project_id": PROJECT_IDS[0], "title": "Deploy å", "created_at": AT,
     "updated_at": AT + 9, "metadata": '{"tags":["prod"],"archived":false,"n":null}', "tags": '["prod"]', "pinned": 0,
     "folder": "/srv/shop", "tool": "claude-code", "source": "claude-code", "source_id": "s1",
     "source_title": "Deploy", "messages": 2,
     "last_number": 3, "tokens": 45, "state_revision": 4, "doc": 15},
    {"id": CONVERSATION_IDS[1], "number": 2, "project_id": None, "title": "gone", "created_at": AT, "updated_at": AT,
     "hidden": "deleted", "messages": 1, "last_number": 1, "doc": 16},
]  # fmt: skip
MESSAGES: list[dict[str, object]] = [
    {"id": MESSAGE_IDS[0], "conversation_id": CONVERSATION_IDS[0], "number": 1, "role": "user",
     "content": "Deploy to all å", "created_at": AT, "updated_at": AT, "size_bytes": 16, "doc": 17},
    {"id": MESSAGE_IDS[1], "conversation_id": CONVERSATION_IDS[0], "number": 3, "role": "assistant", "status": "open",
     "content": "", "created_at": AT + 9, "updated_at": AT + 9, "metadata": '{"duration":1234}', "model": "m-1",
     "parent_id": MESSAGE_IDS[0], "tokens": 45, "size_bytes": 10, "operation_id": 1, "doc": 18, "revision": 2},
    {"id": MESSAGE_IDS[2], "conversation_id": CONVERSATION_IDS[1], "number": 1, "role": "tool", "content": "x",
     "created_at": AT, "updated_at": AT, "source": "codex", "source_id": "u9", "source_form": "1:ab",
     "size_bytes": 1, "doc": 19},
]  # fmt: skip
PARTS: list[dict[str, object]] = [
    {"message_id": MESSAGE_IDS[0], "number": 1, "kind": "text", "start": 0, "length": 15},
    {"message_id": MESSAGE_IDS[0], "number": 2, "kind": "image", "name": "a.png", "media_type": "image/png",
     "blob": BLOB},
    {"message_id": MESSAGE_IDS[0], "number": 3, "kind": "tool_result", "tool": "bash", "call_id": "c0",
     "body": "deployWorker is å", "doc": 20},
    {"message_id": MESSAGE_IDS[1], "number": 1, "kind": "tool_use", "tool": "bash", "call_id": "c1", "body": '{"a":'},
    {"message_id": MESSAGE_IDS[1], "number": 2, "kind": "tool_use", "body": '"b"}', "continues": 1},
]  # fmt: skip
SOURCE: dict[str, object] = {
    "id": "0b9f4c1e-0000-4000-8000-000000000420", "number": 1, "project_id": PROJECT_IDS[0],
    "path": "/home/me/.codex/sessions", "format": "codex", "watched": 1, "redact": "/home/me/patterns",
    "redact_secrets": 1, "created_at": AT, "updated_at": AT, "offset_bytes": 7, "size_bytes": 9, "inode": 11,
    "head": "2:ab", "state": '{"session":"s1"}', "messages": 3, "skipped": '{"told twice":2}', "last_error": "full",
    "read_at": AT,
}  # fmt: skip
MESSAGE_REVISION = (MESSAGE_IDS[1], 1, CONVERSATION_IDS[0], 3, "assistant", "før", '[{"kind":"raw","body":"{"}]',
                    "edited", 4, AT + 8, 1)  # fmt: skip
NODE: dict[str, object] = {
    "id": "build1", "name": "build1", "managed_by": "nexus.toml", "hostname": "10.0.0.7", "user": "ci", "port": 2222,
    "ip_address": "10.0.0.7", "status": "online", "reason": "å", "drained": 1,
    "capabilities": '{"tools":["sh","git"],"versions":{"git":"2.39.5"},"cores":4}', "last_heartbeat": AT + 5,
    "created_at": AT, "updated_at": AT + 1, "revision": 2, "state_revision": 3,
}  # fmt: skip


# The ledger: two features of which one has a part, tasks that wait for each other, one of them claimed, and the rest.
LEDGER_IDS = [f"0b9f4c1e-0000-4000-8000-{number:012d}" for number in range(500, 520)]
FEATURE, SUB_FEATURE, AGENT, CLAIMED, WAITING, LEASE, NOTE, COMMENT, REQUIREMENT, METRIC, SESSION = LEDGER_IDS[:11]
LEDGER: list[tuple[str, dict[str, object]]] = [
    (
        "features",
        {
            "id": FEATURE,
            "number": 1,
            "project_id": PROJECT_IDS[0],
            "name": "Sign in å",
            "description": "with a key",
            "priority": "must",
            "status": "in_progress",
            "complexity": "complex",
            "tags": '["web"]',
            "estimated_tasks": 3,
            "completed_tasks": 0,
            "created_at": AT,
            "updated_at": AT + 2,
            "revision": 2,
            "doc": 21,
        },
    ),
    (
        "sub_features",
        {
            "id": SUB_FEATURE,
            "number": 1,
            "project_id": PROJECT_IDS[0],
            "feature_id": FEATURE,
            "name": "The form",
            "status": "done",
            "created_at": AT,
            "updated_at": AT,
        },
    ),
    (
        "agents",
        {
            "id": AGENT,
            "name": "coder-1",
            "type": "coder",
            "status": "working",
            "model_name": "claude-opus-4",
            "temperature": 0.7,
            "tools": '["bash"]',
            "current_task_id": CLAIMED,
            "branch_name": "task-1",
            "tokens_used": 1200,
            "spawned_at": AT,
            "last_activity_at": AT + 5,
            "created_at": AT,
            "updated_at": AT,
            "state_revision": 2,
        },
    ),
    (
        "tasks",
        {
            "id": CLAIMED,
            "number": 1,
            "project_id": PROJECT_IDS[0],
            "feature_id": FEATURE,
            "sub_feature_id": SUB_FEATURE,
            "name": "Draw it",
            "description": "as in the sketch",
            "type": "tdd",
            "kind": "bug",
            "status": "in_progress",
            "size": "atomic",
            "priority": 1,
            "tags": '["ui"]',
            "assigned_agent": AGENT,
            "branch_name": "task-1",
            "qa_iterations": 2,
            "claimed_at": AT + 3,
            "started_at": AT + 3,
            "created_at": AT,
            "updated_at": AT,
            "state_revision": 1,
            "doc": 22,
        },
    ),
    (
        "tasks",
        {
            "id": WAITING,
            "number": 2,
            "project_id": PROJECT_IDS[0],
            "name": "Ship it",
            "type": "checkpoint",
            "depends_on": f'["{CLAIMED}"]',
            "open_dependencies": 1,
            "created_at": AT,
            "updated_at": AT,
            "doc": 23,
        },
    ),
    ("task_dependency", {"task_id": WAITING, "depends_on_id": CLAIMED}),
    ("task_note", {"id": NOTE, "task_id": CLAIMED, "kind": "red", "text": "fails", "at": AT + 4, "agent_id": AGENT}),
    ("task_comment", {"id": COMMENT, "task_id": CLAIMED, "text": "is it done?", "at": AT + 4, "actor": "me"}),
    (
        "requirements",
        {
            "id": REQUIREMENT,
            "number": 1,
            "project_id": PROJECT_IDS[0],
            "category": "ui_ux",
            "description": "It is quick",
            "source": "interview",
            "linked_features": f'["{FEATURE}"]',
            "validated": 1,
            "confidence": 0.5,
            "created_at": AT,
            "updated_at": AT,
            "doc": 24,
        },
    ),
    ("requirement_feature", {"requirement_id": REQUIREMENT, "feature_id": FEATURE}),
    (
        "metrics",
        {
            "id": METRIC,
            "project_id": PROJECT_IDS[0],
            "agent_id": AGENT,
            "task_id": CLAIMED,
            "type": "token_usage",
            "value": 1200.0,
            "source": "m1",
            "timestamp": AT + 5,
        },
    ),
    (
        "sessions",
        {
            "id": SESSION,
            "number": 1,
            "project_id": PROJECT_IDS[0],
            "type": "interview",
            "status": "paused",
            "data": '{"asked":["why"]}',
            "started_at": AT,
            "created_at": AT,
            "updated_at": AT,
        },
    ),
    (
        "lease",
        {
            "id": LEASE,
            "resource_kind": "task",
            "resource_id": CLAIMED,
            "project_id": PROJECT_IDS[0],
            "epoch": 3,
            "holder": AGENT,
            "host": "local",
            "granted_at": AT + 3,
            "ttl_ms": 120000,
            "renewed_at": AT + 4,
            "state": "live",
            "boot_id": "b1",
            "created_at": AT + 3,
            "updated_at": AT + 3,
        },
    ),
    ("fence", {"resource_kind": "task", "resource_id": CLAIMED, "epoch": 3}),
]

CHECKPOINT, POINT, EPISODE, CHUNK = (f"c{n}c0c0c0-1111-4111-8111-111111111111" for n in range(4))
EMBEDDING = b"\0\0\x80?\0\0\0\0"
MEMORY: list[tuple[str, dict[str, object]]] = [
    (
        "checkpoints",
        {
            "id": CHECKPOINT, "number": 1, "project_id": PROJECT_IDS[0], "name": "before the move", "automatic": 0,
            "state": b"\x00\x01", "size": 2, "counts": '{"tasks":2}', "git_commit": "a" * 40,
            "created_at": AT, "updated_at": AT,
        },
    ),
    (
        "continue_points",
        {
            "id": POINT, "number": 1, "project_id": PROJECT_IDS[0], "task_id": CLAIMED, "last_action": "drew the form",
            "file": "form.py", "line": 12, "function_name": "draw", "next_steps": '["test it"]', "agent_id": AGENT,
            "iteration_count": 1, "saved_at": AT, "created_at": AT, "updated_at": AT,
        },
    ),
    (
        "episodes",
        {
            "id": EPISODE, "number": 1, "project_id": PROJECT_IDS[0], "type": "decision",
            "content": "forms have no script", "summary": "plain forms",
            "embedding": EMBEDDING, "context": '{"file":"form.py"}', "task_id": CLAIMED,
            "agent_id": AGENT, "importance": 2.0, "tags": '["ui"]', "access_count": 1, "last_accessed_at": AT,
            "created_at": AT, "updated_at": AT, "doc": 25,
        },
    ),
    (
        "kept_embedding",
        {"episode_id": LEASE, "project_id": PROJECT_IDS[0], "embedding": EMBEDDING, "deleted_at": AT},
    ),
    (
        "code_chunks",
        {
            "id": CHUNK, "project_id": PROJECT_IDS[0], "file": "form.py", "start_line": 1, "end_line": 2,
            "content": "def draw():\n    pass\n", "embedding": EMBEDDING, "symbols": '["draw"]',
            "chunk_type": "function",
            "language": "python", "complexity": 1, "hash": "b" * 64, "indexed_at": AT, "doc": 26,
        },
    ),
    ("chunk_symbol", {"chunk_id": CHUNK, "project_id": PROJECT_IDS[0], "folded": "draw", "symbol": "draw"}),
    *(
        ("vector_collection",
         {"project_id": PROJECT_IDS[0], "collection": name, "dimension": 2, "generation": 1, "changed_at": AT})
        for name in ("chunks", "episodes")
    ),
    *(
        ("vector_change",
         {"project_id": PROJECT_IDS[0], "collection": name, "generation": 1, "record_id": id_, "changed_at": AT})
        for name, id_ in (("chunks", CHUNK), ("episodes", EPISODE))
    ),
]  # fmt: skip


def plain(row: sqlite3.Row) -> dict[str, object]:
    """A row as JSON can represent it: bytes in hexadecimal, after ``0x``."""
    return {
        name: f"0x{value.hex()}" if isinstance(value, bytes) else value
        for name, value in zip(row.keys(), row, strict=True)
    }


def insert(connection: sqlite3.Connection, table: str, row: dict[str, object]) -> None:
    """Insert a row; the other columns have their defaults."""
    connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", (*row.values(),))


def newest_schema() -> str:
    """The script that makes what all migrations make, but for the rows of ``schema_meta``."""
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.closing(connect(Path(directory) / "new.db", isolation_level=None)) as made,
    ):
        migrate(made, 0, target_version(), by_steps=True)
        named = made.execute(
            "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' "
            "AND name NOT IN (SELECT name FROM pragma_table_list WHERE type = 'shadow') ORDER BY rowid"
        ).fetchall()
        assert made.execute("SELECT count(*) FROM sqlite_sequence").fetchone() == (0,)
        rows = []
        for table in (name for type_, name, sql in named if sql.startswith("CREATE TABLE") and name != "schema_meta"):
            columns = [column for (column,) in made.execute("SELECT name FROM pragma_table_info(?)", (table,))]
            quoted = " || ', ' || ".join(f"quote({column})" for column in columns)
            rows += [
                f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})"
                for (values,) in made.execute(f"SELECT {quoted} FROM {table} ORDER BY 1")
            ]
    # Triggers come last: the rows that they would write are among those inserted.
    triggers = [sql for type_, _, sql in named if type_ == "trigger"]
    others = [sql for type_, _, sql in named if type_ != "trigger"]
    statements = "".join(f"{statement};\n" for statement in (*others, *rows, *triggers))
    return (
        f"-- The schema of version {target_version()}, of a new database.\n"
        f"-- Written by tests/data/schemas/freeze.py from the migrations.\n\n{statements}"
    )


def freeze(version: int) -> None:
    """Create the two files of one schema version."""
    target = HERE / f"schema-v{version}.db"
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "nexus.db"
        store = SqliteStore(path, Path(directory) / "backups")
        store.init(target=version)
        store.close_now()
        with contextlib.closing(connect(path)) as connection:
            connection.executemany("INSERT INTO settings VALUES (?, ?, ?)", SETTINGS)
            if version >= 2:
                connection.executemany(f"INSERT INTO vms ({VM_COLUMNS}) VALUES ({', '.join('?' * 12)})", VMS)
                connection.execute("UPDATE vms SET config_json = '{\"a\":1}', socket_path = '/x' WHERE name = 'gate'")
            if version >= 3:
                connection.executemany(
                    f"INSERT INTO journal ({EVENT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", EVENTS
                )
                connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'journal'", (LAST_SEQ,))
                connection.execute("INSERT INTO schema_meta VALUES ('journal_pruned_seq', '1')")
            if version >= 4:
                connection.executemany("INSERT INTO service_config VALUES (?, ?, ?, ?)", CONFIGS)
                for service in SERVICES:
                    row = SERVICE_DEFAULTS | service
                    connection.execute(
                        f"INSERT INTO service ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", (*row.values(),)
                    )
                columns = (
                    "id, service_id, dependent_service_id, tunnel_enabled, condition, when_lost, tunnel_port, "
                    "tunnel_run_id, created_at"
                )
                connection.executemany(
                    f"INSERT INTO service_dependency ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", DEPENDENCIES
                )
            if version >= 5:
                connection.executemany("INSERT INTO port_lease VALUES (?, ?, ?, ?, ?)", LEASES)
                connection.executemany("UPDATE service SET reason_code = ?2 WHERE id = ?1", REASON_CODES)
            if version >= 6:
                connection.executemany(
                    "UPDATE service SET umask = ?2, unknown_since = ?3, ended_in_boot = ?4 WHERE id = ?1", FACTS
                )
            if version >= 7:
                connection.executemany("INSERT INTO tag (kind, record_id, tag) VALUES ('service', ?, ?)", TAGS)
                connection.executemany("UPDATE service SET revision = ?2, state_revision = ?3 WHERE id = ?1", REVISIONS)
                connection.execute("UPDATE vms SET revision = 3, state_revision = 2 WHERE name = 'gate'")
            if version >= 8:
                columns = "id, at, command, args, why, key, cause, actor, uid, pid"
                connection.executemany(
                    f"INSERT INTO operation ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", OPERATIONS
                )
                connection.executemany(
                    "UPDATE journal SET operation_id = ?2, row_table = ?3, row_key = ?4, revision = ?5, before = ?6, "
                    "after = ?7 WHERE seq = ?1",
                    IMAGES,
                )
                connection.execute("INSERT INTO secret_value VALUES (?, 'true', 5)", (DIGEST,))
                connection.execute(
                    "INSERT INTO request_key VALUES ('k-1', ?, 2, 'done', ?, ?)", (DIGEST, b"\x80", AT + 604_800_000)
                )
                connection.execute("UPDATE service SET operation_id = 2 WHERE id = ?", (SERVICE_IDS[0],))
            if version >= 9:
                connection.executemany(f"INSERT INTO projects VALUES ({', '.join('?' * 13)})", PROJECTS)
                connection.executemany("UPDATE service SET project_id = ?2, managed_by = ?3 WHERE id = ?1", PLACES)
                connection.executemany("UPDATE vms SET project_id = ?2, managed_by = ?3 WHERE id = ?1", VM_PLACES)
                connection.execute(
                    "UPDATE service SET restart_pending_since = ? WHERE id = ?", (AT + 6, SERVICE_IDS[0])
                )
                connection.execute("UPDATE operation SET project_id = ? WHERE id = 1", (PROJECT_IDS[0],))
                connection.execute("UPDATE journal SET project_id = ? WHERE seq = 2", (PROJECT_IDS[0],))
            if version >= 10:
                connection.execute("UPDATE service SET tty = 1, stdin = 'open' WHERE id = ?", (SERVICE_IDS[1],))
                connection.execute(f"INSERT INTO job_group VALUES ({', '.join('?' * len(GROUP))})", GROUP)
                for id_, job in zip(JOB_IDS, JOBS, strict=True):
                    seq = int(str(job["place"])) >> 20
                    row = JOB_DEFAULTS | {"id": id_, "seq": seq} | job
                    if version >= 11:
                        row |= {"doc": seq, "conversation_id": None, "message_id": None}
                    insert(connection, "jobs", row)
                insert(connection, "schedules", SCHEDULE)
                connection.execute("INSERT INTO job_after VALUES (?, ?, 'any')", (JOB_IDS[3], JOB_IDS[2]))
                connection.execute("INSERT INTO tag (kind, record_id, tag) VALUES ('job', ?, 'ci')", (JOB_IDS[3],))
                connection.executemany(
                    "INSERT INTO record_number VALUES (?, ?, ?)",
                    [("", "job.place", 6), (PROJECT_IDS[0], "job", 7), (PROJECT_IDS[1], "job", 1)],
                )
            if version >= 11:
                for conversation in CONVERSATIONS:
                    insert(connection, "conversations", conversation)
                for message in MESSAGES:
                    insert(connection, "messages", message)
                connection.execute("INSERT INTO blobs VALUES (?, 4, ?)", (BLOB, AT))
                insert(connection, "conversation_sources", SOURCE)
                for part in PARTS:
                    insert(connection, "message_parts", part)
                columns = (
                    "message_id, revision, conversation_id, number, role, content, parts, change, size_bytes, "
                    "changed_at, operation_id"
                )
                connection.execute(
                    f"INSERT INTO message_revision ({columns}) VALUES ({', '.join('?' * 11)})", MESSAGE_REVISION
                )
                connection.execute(
                    "UPDATE jobs SET conversation_id = ?, message_id = ? WHERE id = ?",
                    (CONVERSATION_IDS[0], MESSAGE_IDS[0], JOB_IDS[0]),
                )
                connection.execute("UPDATE service SET doc = 6 + rowid")
                connection.execute("UPDATE vms SET doc = 9 + rowid")
                connection.execute(
                    "INSERT INTO tag (kind, record_id, tag) VALUES ('conversation', ?, 'prod')", (CONVERSATION_IDS[0],)
                )
                connection.executemany(
                    "INSERT INTO record_number VALUES (?, ?, ?)",
                    [("", "doc", 20), (PROJECT_IDS[0], "conversation", 2), (PROJECT_IDS[0], "conversation_source", 1)],
                )
            if version >= 12:
                insert(connection, "nodes", NODE)
                connection.execute("UPDATE jobs SET node_id = 'build1' WHERE id = ?", (JOB_IDS[0],))
            if version >= 13:
                for table, row in LEDGER:
                    insert(connection, table, row)
                connection.execute("UPDATE operation SET lease_id = ?, epoch = 3 WHERE id = 1", (LEASE,))
                connection.execute("UPDATE record_number SET last = 24 WHERE kind = 'doc'")
                connection.executemany(
                    "INSERT INTO tag (kind, record_id, tag) VALUES (?, ?, ?)",
                    [("feature", FEATURE, "web"), ("task", CLAIMED, "ui")],
                )
                connection.executemany(
                    "INSERT INTO record_number VALUES (?, ?, ?)",
                    [
                        (PROJECT_IDS[0], kind, last)
                        for kind, last in (
                            ("feature", 1),
                            ("sub_feature", 1),
                            ("task", 2),
                            ("requirement", 1),
                            ("session", 1),
                        )
                    ],
                )
            if version >= 14:
                for table, row in MEMORY:
                    insert(connection, table, row)
                connection.execute("UPDATE record_number SET last = 26 WHERE kind = 'doc'")
                connection.execute("INSERT INTO tag (kind, record_id, tag) VALUES ('episode', ?, 'ui')", (EPISODE,))
                connection.executemany(
                    "INSERT INTO record_number VALUES (?, ?, 1)",
                    [(PROJECT_IDS[0], kind) for kind in ("checkpoint", "continue_point", "episode")],
                )
            connection.commit()
        save(path, target)


def save(path: Path, target: Path) -> None:
    """Copy a database to ``target``, and write its rows beside it."""
    with contextlib.closing(connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.row_factory = sqlite3.Row
        tables = [
            name
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
            )
            if name != "schema_meta" and not name.startswith(OF_INDEX)
        ]
        rows = {
            table: [plain(row) for row in connection.execute(f'SELECT * FROM "{table}" ORDER BY 1')]
            for table in sorted(tables)
        }
    text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    target.with_suffix(".json").write_text(text, encoding="utf-8")
    target.write_bytes(path.read_bytes())


def main() -> None:
    """Freeze every version that is not frozen yet, and write the script of the newest."""
    NEWEST.write_text(newest_schema(), encoding="utf-8")
    for version in range(1, target_version() + 1):
        if not (HERE / f"schema-v{version}.db").exists():
            freeze(version)
            print(f"made schema-v{version}.db", file=sys.stderr)


if __name__ == "__main__":
    main()
