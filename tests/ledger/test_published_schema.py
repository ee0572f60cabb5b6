"""The tables of the ledger have the columns, types, defaults, enumerations and indexes of the published schema.

``tests/data/ledger/tables.json`` has its lists: of each column the type, whether it is required, and the default.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nexus_protocol.command import declared_commands

from nexus.daemon.dispatch import load_capabilities
from nexus.store.connection import connect
from nexus.store.migrate import migrate, target_version

TABLES: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "ledger" / "tables.json").read_text())
ROWS = {("tasks", "notes"): "task_note"}
"""Columns with lists that are the rows of a table."""
AS_BYTES = {("checkpoints", "state"), ("episodes", "embedding")}
"""Columns of JSON text there, which are packed here."""
OF_PROJECT = (
    *("features", "tasks", "requirements", "metrics", "sessions"),
    *("checkpoints", "episodes", "continue_points"),
)

USE_CASES = {
    "Dashboard: Project listing, status overview": "ListProjects GetProjectOverview",
    "Project page: Full project details": "GetProject GetProjectHoldings",
    "Navigation: Project selector": "ListProjects",
    "Kanban board: Feature columns or grouping": "GetBoard",
    "Progress tracking: Feature completion percentage": "GetFeature ListFeatures",
    "Planning: Feature prioritization": "UpdateFeature",
    "Task breakdown: Sub-feature grouping": "ListSubFeatures",
    "Progress tracking: Granular completion status": "SyncFeatures",
    "Kanban board: Task cards in status columns": "GetBoard",
    "Agent assignment: Show which agent is working": "GetAgentPool GetTask",
    "Progress tracking: QA iterations, time estimates": "GetTask GetExecution",
    "Dependencies: Visualize task dependencies": "GetTaskGraph",
    "Agent pool: Show all agents and their status": "GetAgentPool ListAgents",
    "Agent details: Configuration, current task, metrics": "GetAgent",
    "Real-time monitoring: Live status updates": "WatchEvents",
    "Cost tracking: Token usage per agent": "SumMetrics",
    "Interview page: Extracted requirements panel": "ListRequirements",
    "Requirements list: Full requirements view": "ListRequirements",
    "Feature linking: Connect requirements to features": "UpdateRequirement",
    "Validation: User can validate extracted requirements": "ValidateRequirement",
    "Dashboard: Usage statistics": "GetProjectOverview",
    "Cost tracking: Token consumption over time": "SumMetrics",
    "Performance analysis: Task duration charts": "SumMetrics",
    "Reports: Project metrics summary": "SumMetrics",
    "Interview page: Load/resume interview sessions": "GetSession ResumeSession",
    "Session history: View past sessions": "ListSessions",
    "Planning page: Load planning sessions": "ListSessions",
    "Memory view: Show learned patterns": "ListEpisodes",
    "Context search: Find relevant episodes": "Search",
    "Debugging: See what AI learned": "GetEpisode",
    "Checkpoint timeline: Visual history of checkpoints": "ListCheckpoints",
    "Restore functionality: Load previous state": "RestoreCheckpoint",
    "Git integration: Show commit associations": "GetCheckpoint",
    "Code search: Semantic code search results": "SearchVectors SearchMemory",
    "Memory view: Repository map visualization": "GetChunkMap",
    "Symbol lookup: Find symbols across codebase": "FindSymbols",
    "Resume work: Continue from where left off": "GetResumePoint",
    "Work history: See what was being worked on": "ListContinuePoints",
    "Crash recovery: Restore state after failure": "ClaimTask GetResumePoint",
}
"""By what a page is for, the commands that it needs."""


@pytest.fixture(scope="module")
def schema() -> Iterator[sqlite3.Connection]:
    """An empty database of the newest schema."""
    with contextlib.closing(connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, 0, target_version())
        yield connection


def _default(text: str | None) -> str | None:
    return None if text is None else text.strip("'")


@pytest.mark.parametrize("table", TABLES)
def test_columns_have_their_types_and_defaults(schema: sqlite3.Connection, table: str) -> None:
    present = {row[1]: row for row in schema.execute(f"PRAGMA table_info({table})")}
    for name, (type_, required, default) in TABLES[table]["columns"].items():
        if (rows := ROWS.get((table, name))) is not None:
            assert schema.execute(f"SELECT count(*) FROM {rows}").fetchone() == (0,)
            continue
        _, _, found_type, not_null, found_default, key = present[name]
        assert found_type == ("BLOB" if (table, name) in AS_BYTES else type_), name
        # A project may be without a folder here.
        assert not required or not_null or key or (table, name) == ("projects", "root_path"), name
        if default is not None:
            expected = float(default) if type_ in ("REAL", "INTEGER") else default
            assert (float(found_default) if type_ in ("REAL", "INTEGER") else _default(found_default)) == expected, name


@pytest.mark.parametrize("table", TABLES)
def test_enumerations_are_checked(schema: sqlite3.Connection, table: str) -> None:
    (sql,) = schema.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    text = " ".join(sql.split())
    for column, values in TABLES[table]["enums"].items():
        listed = ", ".join(f"'{value}'" for value in values)
        assert f"CHECK ({column} IN ({listed}))" in text, column


@pytest.mark.parametrize("table", TABLES)
def test_indexes_are_there(schema: sqlite3.Connection, table: str) -> None:
    for index, column in TABLES[table]["indexes"].items():
        columns = [row[2] for row in schema.execute(f"PRAGMA index_info({index})")]
        assert columns[:1] == [column], index


@pytest.mark.parametrize("table", OF_PROJECT)
def test_relations_are_foreign_keys(schema: sqlite3.Connection, table: str) -> None:
    keys = {(row[2], row[3], row[6]) for row in schema.execute(f"PRAGMA foreign_key_list({table})")}
    assert ("projects", "project_id", "NO ACTION") in keys
    if table == "tasks":
        assert {("features", "feature_id", "NO ACTION"), ("sub_features", "sub_feature_id", "NO ACTION")} <= keys


def test_chunks_of_code_refer_to_nothing(schema: sqlite3.Connection) -> None:
    assert schema.execute("PRAGMA foreign_key_list(code_chunks)").fetchall() == []


def test_every_use_has_its_command() -> None:
    load_capabilities()
    names = {info.name for info in declared_commands()}
    uses = {use for table in TABLES.values() for use in table["use_cases"]}
    assert uses == set(USE_CASES)
    assert {command for commands in USE_CASES.values() for command in commands.split()} <= names
