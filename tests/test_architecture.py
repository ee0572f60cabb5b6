"""The rules between the layers, read off the source: who may import whom, and that what is declared is alive."""

from __future__ import annotations

import ast
import functools
import importlib
from pathlib import Path

import pytest
from nexus_protocol import CommandInfo, declared_commands
from support.architecture import Source, Violation, kind_of, read_sources, violations
from support.vectors import good_vectors

from nexus.capabilities import CAPABILITIES
from nexus.daemon.dispatch import load_capabilities
from nexus.journal.rows import journaled_tables

ROOT = Path(__file__).resolve().parents[1]
NAMES = [capability.name for capability in CAPABILITIES]
SOURCES = read_sources(ROOT)
DISPATCH = load_capabilities()
JOURNALED = {
    table
    for name, rows in journaled_tables().items()
    for table in (name, *(() if rows.joined is None else rows.joined[:1]))
}
"""The tables whose rows have images in the journal."""

EXCEPTIONS: set[Violation] = {
    Violation("import", "nexus.plugins.host", "nexus.config"),
    Violation("import", "nexus.services.git.handlers", "nexus.git.errors"),
    Violation("import", "nexus.services.git.handlers", "nexus.git.repository"),
    Violation("import", "nexus_protocol.codec", "threading"),  # a lock for callers with threads; it starts none
    Violation("process", "nexus.cli.daemon", "subprocess"),
}
"""What breaks a rule today. The list only shrinks: an entry that no longer applies fails the test."""

NO_VERB = {
    "AppendMessage": "for programs, whose text comes in pieces; people have message add",
    "Batch": "for programs; the clients have batch()",
    "Describe": "for programs; people read COMMANDS.md",
    "Hello": "the clients send it when they connect",
    "Ping": "for programs; people have status",
}
"""Commands without a verb of their own on the command line, and why."""


FOUND = violations(SOURCES, NAMES, JOURNALED)


def test_no_module_breaks_a_rule_of_the_layers() -> None:
    assert sorted(FOUND - EXCEPTIONS) == []


def test_every_exception_is_still_needed() -> None:
    assert sorted(EXCEPTIONS - FOUND) == []


# The test of the test: each mutant is a module more, or another text of one, that breaks one rule.

MUTANTS = {
    "runtime imports a capability": ("nexus.runtime.mutant", "from nexus.services.records import Service", "import"),
    "git imports a capability": ("nexus.git.mutant", "from nexus.vms.commands import Vm", "import"),
    "the supervision imports a capability": ("nexus.supervision.mutant", "import nexus.services.store", "import"),
    "a file of no kind imports another capability": (
        "nexus.services.health.check.mutant",
        "from nexus.vms.states import VmState",
        "import",
    ),
    "a verb in a subfolder imports the store": (
        "nexus.services.cli.mutant",
        "from nexus.services import store",
        "import",
    ),
    "a file in a subfolder opens the daemon": ("nexus.services.lifecycle.mutant", "import nexus.daemon.main", "import"),
    "a section imports handlers": ("nexus.vms.manifest_mutant", "from nexus.vms import handlers", "import"),
    "a section imports another capability": (
        "nexus.vms.manifest_mutant",
        "from nexus.services.commands import AddService",
        "import",
    ),
    "apply imports a capability": ("nexus.cli.apply.mutant", "import nexus.services.commands", "import"),
    "a record imports the store": ("nexus.services.git.records", "from nexus.store import Reader", "import"),
    "SQL outside of stores": ("nexus.services.health.check.mutant", 'QUERY = "SELECT name FROM service"', "sql"),
    "SQL in a handler": ("nexus.vms.handlers_mutant", 'QUERY = f"DELETE FROM tag {1}"', "sql"),
    "a numbered parameter": ("nexus.vms.mutant_store", 'QUERY = "SELECT 1 FROM vms WHERE id = ?1"', "dialect"),
    "a scalar maximum": ("nexus.vms.mutant_store", 'QUERY = "SELECT max(cid, 3) FROM vms"', "dialect"),
    "a pattern of SQLite": ("nexus.vms.mutant_store", 'QUERY = "SELECT 1 FROM vms WHERE name GLOB ?"', "dialect"),
    "a conflict clause of SQLite": ("nexus.vms.mutant_store", 'QUERY = "INSERT OR IGNORE INTO tag (kind)"', "dialect"),
    "a table of SQLite": ("nexus.vms.mutant_store", 'QUERY = "SELECT seq FROM sqlite_sequence"', "dialect"),
    "the row's number": ("nexus.vms.mutant_store", 'QUERY = "SELECT rowid FROM vms"', "dialect"),
    "a time of SQLite": ("nexus.vms.mutant_store", "QUERY = \"SELECT julianday('now') FROM vms\"", "dialect"),
    "a comparison with NULL": ("nexus.vms.mutant_store", 'QUERY = "SELECT 1 FROM vms WHERE pid IS NOT ?"', "dialect"),
    "a database outside of the store": ("nexus.journal.mutant", "import sqlite3", "database"),
    "a process outside of the runtime": ("nexus.services.health.check.mutant", "import subprocess", "process"),
    "/proc outside of the runtime": ("nexus.services.health.check.mutant", 'PATH = f"/proc/{1}/stat"', "process"),
    "a row that is inserted without an image": (
        "nexus.vms.mutant_store",
        'SQL = "INSERT INTO vms (id) VALUES (?)"',
        "image",
    ),
    "a row that is changed without an image": (
        "nexus.services.mutant_store",
        'SQL = "UPDATE service SET name = ? WHERE id = ?"',
        "image",
    ),
    "a row that is deleted without an image": ("nexus.store.mutant", 'SQL = "DELETE FROM settings"', "image"),
    "a joined row that is changed without an image": (
        "nexus.services.mutant_store",
        'SQL = "UPDATE OR FAIL service_config SET format = ?"',
        "image",
    ),
    "a quoted table": ("nexus.services.mutant_store", "SQL = 'DELETE FROM \"service\" WHERE id = ?'", "image"),
    "a statement in small letters": ("nexus.vms.mutant_store", 'SQL = "update vms set name = ?"', "image"),
    "a statement on several lines": (
        "nexus.services.mutant_store",
        'SQL = """DELETE\n  FROM\n  service_dependency"""',
        "image",
    ),
    "a table that only the run tells": (
        "nexus.records.table_mutant_store",
        'SQL = f"DELETE FROM {1} WHERE id = ?"',
        "image",
    ),
    "a file of no layer": ("nexus.mutant", "", "layer"),
    "the engine opens sockets": ("nexus_protocol.mutant", "import socket", "import"),
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=list(MUTANTS))
def test_a_mutant_is_found(mutant: str) -> None:
    name, text, rule = MUTANTS[mutant]
    found = violations({**SOURCES, name: Source(name, text)}, NAMES, JOURNALED) - FOUND
    assert [(violation.rule, violation.module) for violation in found] == [(rule, name)]


def test_the_journaled_tables_are_known() -> None:
    assert {"vms", "service", "service_config", "service_dependency", "settings"} <= JOURNALED


@pytest.mark.parametrize("text", ["{}", "if TYPE_CHECKING:\n    {}", "def late():\n    {}"])
def test_a_circle_is_found_wherever_the_import_is(text: str) -> None:
    name = "nexus.services.states"
    grown = SOURCES[name].text + text.format("from nexus.services.records import Service")
    found = violations({**SOURCES, name: Source(name, grown)}, NAMES, JOURNALED) - FOUND
    assert Violation("circle", "nexus.services.records", "nexus.services.records nexus.services.states") in found


@pytest.mark.parametrize("name", NAMES)
def test_every_capability_has_its_contract_its_handlers_and_its_words(name: str) -> None:
    assert {f"nexus.{name}"} | {f"nexus.{name}.{kind}" for kind in ("commands", "handlers", "cli")} <= SOURCES.keys()


@pytest.mark.parametrize("name", list(SOURCES))
def test_every_module_says_what_it_is_and_what_is_public_in_it(name: str) -> None:
    tree = ast.parse(SOURCES[name].text)
    assert ast.get_docstring(tree), "a module begins with a sentence about it"
    defined = {
        name
        for node in tree.body
        for name in (
            [node.name]
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            else [target.id for target in node.targets if isinstance(target, ast.Name)]
            if isinstance(node, ast.Assign)
            else []
        )
        if not name.startswith("_")
    }
    module = importlib.import_module(name)
    if defined:
        assert hasattr(module, "__all__"), f"__all__ is missing; it may hold {sorted(defined)}"
    public = list(getattr(module, "__all__", []))
    assert len(set(public)) == len(public)
    assert [each for each in public if not hasattr(module, each)] == []


# What is declared is alive

COMMANDS = pytest.mark.parametrize("info", declared_commands(), ids=lambda info: info.name)


@functools.cache
def words(*folders: Path) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for folder in folders for path in sorted(folder.rglob("*.py")))


def constant(name: str) -> str:
    """CreateVm as tests without the project's classes write it: CREATE_VM."""
    return "".join("_" + c if c.isupper() else c for c in name).lstrip("_").upper()


@COMMANDS
def test_every_command_has_a_handler_and_a_documentation(info: CommandInfo) -> None:
    assert DISPATCH.entries[info.code].info is info
    assert (info.request.__doc__ or "").strip().endswith(".")
    assert info.summary.endswith(".")


@COMMANDS
def test_every_command_has_a_good_vector(info: CommandInfo) -> None:
    assert any(vector.command == info.name for vector in good_vectors())


@COMMANDS
def test_every_command_is_used_from_end_to_end(info: CommandInfo) -> None:
    text = words(ROOT / "tests" / "e2e", ROOT / "tests" / "cli", ROOT / "tests" / "ledger", ROOT / "tests" / "memory")
    assert any(use in text for use in (f"{info.name}(", f"{info.name}.of(", f"({constant(info.name)}"))


@functools.cache
def names_in_verbs() -> set[str]:
    verbs = [module for name, module in SOURCES.items() if name.startswith("nexus.cli.") or kind_of(name) == "cli"]
    return {node.id for module in verbs for node in ast.walk(ast.parse(module.text)) if isinstance(node, ast.Name)}


@COMMANDS
def test_every_command_has_a_verb_or_a_reason_for_none(info: CommandInfo) -> None:
    assert (info.name in names_in_verbs()) != (info.name in NO_VERB)
