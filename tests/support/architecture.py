"""The rules between the layers, as functions over source text: who may import whom, where SQL is, that no circle is.

They take the sources as a mapping, so that a test can add a file that breaks a rule and see it found. They know no
test and import nothing of the project.
"""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "CONTRACT_KINDS",
    "Source",
    "Violation",
    "circles",
    "kind_of",
    "imports_of",
    "nodes_of",
    "read_sources",
    "violations",
]


class Source(NamedTuple):
    """A module: its dotted name and its text."""

    module: str
    text: str


class _Contents(NamedTuple):
    """What the rules look at in a module."""

    imports: list[tuple[str, str | None]]
    """The modules that it imports, or from which it imports the name that is beside it."""
    texts: list[str]
    """Its string constants; what documents a name is none."""


class Violation(NamedTuple):
    """A rule that a module breaks, and with what: an imported module, a circle, a statement."""

    rule: str
    module: str
    what: str


def read_sources(root: Path) -> dict[str, Source]:
    """Every module of ``nexus`` and ``nexus_protocol`` below the root of a checkout, by name."""
    found: dict[str, Source] = {}
    for base, package in ((root, "nexus"), (root / "protocol", "nexus_protocol")):
        for path in sorted((base / package).rglob("*.py")):
            name = ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")
            found[name] = Source(name, path.read_text(encoding="utf-8"))
    return found


def nodes_of(tree: ast.AST) -> list[ast.AST]:
    """As ``ast.walk``, in a third of the time: all nodes of a tree, each after the one that holds it."""
    nodes = [tree]
    for node in nodes:
        for value in vars(node).values():
            if isinstance(value, list):
                nodes += [each for each in value if isinstance(each, ast.AST)]
            elif isinstance(value, ast.AST) and not isinstance(value, _MARKS):
                nodes.append(value)
    return nodes


_MARKS = (ast.expr_context, ast.operator, ast.boolop, ast.unaryop)
"""Nodes that hold nothing, and are the same in all trees."""


@functools.cache
def _contents(text: str) -> _Contents:
    tree = ast.parse(text)
    imports: list[tuple[str, str | None]] = []
    documentation: set[int] = set()
    texts: list[ast.Constant] = []
    for node in nodes_of(tree):
        if isinstance(node, ast.Import):
            imports += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            imports += [(module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            documentation.add(id(node.value))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node)
    return _Contents(imports, [str(node.value) for node in texts if id(node) not in documentation])


def imports_of(module: Source, known: Container[str]) -> Iterator[str]:
    """Every module that one imports, anywhere in it, ``TYPE_CHECKING`` blocks included.

    ``from nexus import journal`` is ``nexus.journal``, if that is one of ``known``.
    """
    for name, inner in _contents(module.text).imports:
        yield f"{name}.{inner}" if inner is not None and f"{name}.{inner}" in known else name


# Kinds of files

CONTRACT_KINDS = ("commands", "records", "errors", "states")

_BASE = {"msgspec", "nexus_protocol", "nexus.hints"}
_SHARED = {
    *("nexus.caller", "nexus.capability", "nexus.records", "nexus.graph", "nexus.streams", "nexus.tasks"),
    *("nexus.trust", "nexus.attaching", "nexus.durations"),
    *("nexus.store", "nexus.journal"),
}
_WORLD = {"nexus.runtime", "nexus.remote", "nexus.git", "nexus.supervision"}
_OWN_CONTRACT = {f"{{own}}.{kind}" for kind in CONTRACT_KINDS}

_CONTRACT_PARTS = {
    *("nexus.records.fields", "nexus.records.errors", "nexus.records.events", "nexus.records.processes"),
    "nexus.records.known_settings",
}
_CHANGES = {"nexus.journal.operation", "nexus.journal.rows"}
"""By which every change is written."""

_KINDS: dict[str, set[str]] = {
    "commands": _BASE | _CONTRACT_PARTS | _OWN_CONTRACT | {"nexus.git.errors"},
    "records": _BASE | _CONTRACT_PARTS | {"{own}.states"},
    "errors": _BASE | _CONTRACT_PARTS,
    "states": _BASE,
    "store": _BASE
    | _OWN_CONTRACT
    | {"nexus.caller", "nexus.runtime.loopback", "{own}.settings"}
    | {"nexus.store", "nexus.supervision.store", "nexus.records"}
    | _CHANGES,
    "handlers": _BASE | _SHARED | {"{own}", "nexus", "nexus.runtime.procfs", "nexus.supervision.nodes"},
    "manager": _BASE | _SHARED | _WORLD | {"{own}", "nexus"},
    "manifest": _BASE
    | _CONTRACT_PARTS
    | _OWN_CONTRACT
    | {"nexus.cli.app", "nexus.cli.apply", "nexus.cli.records", "nexus.graph", "{own}.cli", "{own}.validation"},
    "part": _BASE | _SHARED | _WORLD | {"{own}", "nexus.envfile"},
    "cli": _BASE
    | _CONTRACT_PARTS
    | _OWN_CONTRACT
    | {"click", "nexus", "nexus.address", "nexus.cli", "nexus.client", "nexus.envfile", "{own}.cli", "{own}.importing"}
    | {"{own}.chunking"},
    # Readers of other programs' files, which clients use: they know no daemon.
    "importing": _BASE | _CONTRACT_PARTS | _OWN_CONTRACT | {"nexus.graph"},
    # Readers of code, as well; they ask git which files there are.
    "chunking": _BASE | {"nexus.git", "nexus.terminal"},
}
"""What each kind of file of a capability may import beside the standard library. A file of no kind is a part."""

_PLAN_FILES = {
    *("nexus.cli", "nexus.ledger.features.commands", "nexus.ledger.files.commands", "nexus.ledger.files.records"),
    *("nexus.ledger.importing", "nexus.ledger.requirements.commands", "nexus.ledger.tasks.commands"),
    *("nexus.paths", "nexus.projects.commands", *_BASE, "click"),
}

_LAYERS: dict[str, set[str]] = {
    "nexus_protocol": {"msgpack", "msgspec"},
    "nexus.paths": {"platformdirs", "nexus_protocol.errors"},
    "nexus.locks": {"nexus.runtime.procfs"},
    "nexus.trust": {"nexus_protocol.errors", "nexus.hints"},
    "nexus.address": {"nexus.runtime.procfs"},
    "nexus.hints": set(),
    "nexus.graph": set(),
    "nexus.durations": set(),
    "nexus.envfile": set(),
    "nexus.tasks": set(),
    "nexus.terminal": {"click"},
    "nexus.config": {"nexus.address", "nexus.paths", "nexus.trust", "nexus_protocol.errors"},
    "nexus.capabilities": set(),
    "nexus.caller": set(),
    "nexus.capability": _BASE
    | _CHANGES
    | {"nexus.caller", "nexus.records.scope", "nexus.store", "nexus.runtime", "nexus.supervision"},
    "nexus.records": _BASE | {"nexus.caller", "nexus.capability", "nexus.journal", "nexus.store"},
    "nexus.streams": _BASE | {"nexus.capability"},
    "nexus.attaching": _BASE
    | {"nexus.capability", "nexus.records.processes", "nexus.runtime", "nexus.streams", "nexus.tasks"},
    "nexus.store": _BASE | {"nexus.locks", "nexus.paths", "nexus.runtime.procfs", "nexus.tasks", "nexus.trust"},
    "nexus.runtime": _BASE,
    "nexus.git": _BASE | {"nexus.runtime"},
    "nexus.remote": _BASE | {"nexus.runtime", "nexus.tasks"},
    "nexus.supervision": _BASE
    | {"nexus.caller", "nexus.store", "nexus.journal", "nexus.runtime", "nexus.tasks"}
    | {"nexus.records.errors", "nexus.records.processes", "nexus.records.scope"},
    "nexus.client": {
        *("msgpack", "nexus_protocol", "nexus", "nexus.config", "nexus.hints", "nexus.paths", "{contracts}"),
    },
    # The words at the top that are about what runs, whatever it is.
    "nexus.cli.running": {
        *("nexus.cli", "nexus.jobs.cli", "nexus.jobs.commands", "nexus.jobs.records", "nexus.services.commands"),
        *(*_BASE, "click"),
    },
    # What begins an agent as a job is of tasks and of jobs.
    "nexus.cli.task_run": {
        *("nexus.cli", "nexus.client.errors", "nexus.jobs.cli", "nexus.jobs.commands", "nexus.jobs.records"),
        *("nexus.ledger.agents.commands", "nexus.ledger.leases.commands", "nexus.ledger.states"),
        *("nexus.ledger.tasks.commands", "nexus.ledger.tasks.records", *_BASE, "click"),
    },
    # What agents are told, and hear of their tasks.
    "nexus.cli.task_guide": {
        *("nexus.cli", "nexus.journal.commands", "nexus.ledger.leases.commands", "nexus.ledger.pages.commands"),
        *("nexus.ledger.tasks.commands", "nexus.ledger.tasks.records", *_BASE, "click"),
    },
    # The pages of a project, which are verbs of several nouns.
    "nexus.cli.pages": {
        *("nexus.cli", "nexus.client.errors", "nexus.journal.commands", "nexus.ledger.pages.commands"),
        *("nexus.ledger.pages.records", "nexus.terminal", *_BASE, "click"),
    },
    # The verbs of tasks about where their work is, which is kept by another capability.
    "nexus.cli.resuming": {
        *("nexus.cli", "nexus.memory.continue_points.commands", "nexus.memory.continue_points.records"),
        *("nexus.ledger.tasks.records", *_BASE, "click"),
    },
    # The files that hold the plan of a project, with records of several nouns.
    "nexus.cli.plan_files": _PLAN_FILES,
    "nexus.cli.plan_sync": _PLAN_FILES | {"nexus.git.stages", "nexus.records.errors"},
    # The files beside the database, whatever they are.
    "nexus.cli.db_files": {
        *("nexus.cli", "nexus.capabilities", "nexus.conversations.commands", "nexus.conversations.records"),
        *("nexus.paths", "nexus.store", *_BASE, "click"),
    },
    "nexus.cli": {
        *_BASE,
        *("click", "tomli_w"),
        *("nexus", "nexus.capabilities", "nexus.client", "nexus.config", "nexus.locks", "nexus.paths"),
        *("nexus.runtime.procfs", "nexus.store", "nexus.system.commands", "nexus.terminal", "nexus.trust"),
        *(
            "nexus.envfile",
            "nexus.journal.commands",
            "nexus.projects.commands",
            "nexus.search.commands",
            "nexus.records.fields",
            "nexus.graph",
        ),
        *("nexus.records.processes", "nexus.durations"),
    },
    "nexus.daemon": {
        *_BASE,
        *(
            "nexus",
            "nexus.address",
            "nexus.capabilities",
            "nexus.caller",
            "nexus.capability",
            "nexus.config",
            "nexus.locks",
            "nexus.paths",
            "nexus.terminal",
            "nexus.trust",
        ),
        *("nexus.journal", "nexus.runtime", "nexus.supervision", "nexus.store", "nexus.streams"),
        *("nexus.records.scope", "nexus.records.leases"),
        *("nexus.plugins.host", "nexus.system.commands", "nexus.system.settings", "nexus.system.store"),
    },
    "nexus.docs": _BASE | {"nexus.daemon.dispatch"},
}
"""What each layer may import beside itself and the standard library; ``{contracts}`` are all capabilities' commands."""

_STANDS_ON: dict[str, set[str]] = {
    "nexus.checkpoints": {"nexus.ledger.recovery"},
    "nexus.memory": {
        *("nexus.ledger.agents.errors", "nexus.ledger.agents.records", "nexus.ledger.agents.store"),
        *("nexus.ledger.tasks.errors", "nexus.ledger.tasks.records", "nexus.ledger.tasks.store"),
        *("nexus.ledger.leases.store", "nexus.ledger.recovery", "nexus.ledger.states"),
    },
}
"""What a capability knows of another one, which does not know it."""

_LIBRARIES = {
    "nexus.services.health": {"re2"},
    "nexus.jobs.schedules": {"cronsim"},
    "nexus.plugins": {"pluggy", "lupa"},
    "nexus.memory.vectors.numpy_engine": {"numpy"},
    "nexus.conversations.importing": {"re2"},
}
"""Libraries that one folder or file alone uses."""


def kind_of(module: str) -> str:
    """What a file of a capability is: ``nexus.services.cli.tree`` is of the kind cli, ``port_store`` a store."""
    *folders, stem = module.split(".")[2:] or [""]
    for folder in ("cli", "importing", "chunking"):
        if folder in [*folders, stem]:
            return folder
    kinds = [kind for kind in _KINDS if kind != "part"]
    before = [kind for kind in kinds if f"{stem}_".startswith(f"{kind}_")]
    after = [kind for kind in kinds if f"_{stem}".endswith(f"_{kind}")]
    return next(iter(before + after), "part")


_FOREIGN_DATABASES = {"nexus.conversations.importing.opencode_store"}
"""What reads a database of another program, and opens none of ours."""

# The rules

_SQL = re.compile(r"\b(SELECT .+ FROM|INSERT (OR \w+ )?INTO|UPDATE \w+ SET|DELETE FROM)\b", re.DOTALL)
_DIALECT = re.compile(
    r"\?[0-9]|\bGLOB\b|\bjulianday\b|\bINSERT OR\b|\bsqlite_sequence\b|\browid\b"
    r"|\b(?:max|min)\s*\([^()]*,|\bIS (?:NOT )?\?"
)
"""What is SQLite's alone, and not in the SQL that other databases know."""
_PROC = re.compile(r"^/proc\b")
_RUNS_SSH = "nexus.client.ssh"
"""Of the clients, which have no runtime: ssh ends with the connection that it carries."""
_STARTS_PROCESSES = ("subprocess", "multiprocessing", "pty")
_ENGINE_FORBIDDEN = {"socket", "asyncio", "threading", "selectors", "os"}


def violations(
    sources: Mapping[str, Source], capabilities: Iterable[str], journaled: Iterable[str] = ()
) -> set[Violation]:
    """Everything that breaks a rule.

    ``capabilities`` are the names of the folders that hold one each, ``journaled`` the tables whose rows have images.
    """
    names = list(capabilities)
    writes = _writes_of(journaled)
    imports = {name: set(imports_of(module, sources)) for name, module in sources.items()}
    found: set[Violation] = set()
    for name, module in sources.items():
        found |= _imports(name, imports[name], sources, names)
        found |= _texts(module)
        found |= _writes(module, writes)
    found |= {Violation("circle", circle[0], " ".join(circle)) for circle in circles(imports)}
    return found


def _imports(name: str, imported: set[str], sources: Mapping[str, Source], capabilities: list[str]) -> set[Violation]:
    allowed = _allowed(name, sources, capabilities)
    if allowed is None:
        return {Violation("layer", name, "the file belongs to no layer")}
    found = {
        Violation("import", name, module)
        for module in imported
        if module.split(".")[0] not in sys.stdlib_module_names and not _is_allowed(module, allowed)
    }
    own_layer = name.split(".")[0]
    if own_layer == "nexus_protocol":
        found |= {Violation("import", name, module) for module in imported & _ENGINE_FORBIDDEN}
    if not name.startswith("nexus.store.") and name not in _FOREIGN_DATABASES and "sqlite3" in imported:
        found.add(Violation("database", name, "sqlite3"))
    if _in_process_layer(name) or name == _RUNS_SSH:
        return found
    return found | {Violation("process", name, module) for module in imported & set(_STARTS_PROCESSES)}


def _is_allowed(module: str, allowed: set[str]) -> bool:
    return any(module == known or (known != "nexus" and module.startswith(f"{known}.")) for known in allowed)


def _allowed(name: str, sources: Mapping[str, Source], capabilities: list[str]) -> set[str] | None:
    libraries = {library for folder, its in _LIBRARIES.items() if _below(name, folder) for library in its}
    parts = name.split(".")
    if parts[0] == "nexus" and len(parts) > 1 and parts[1] in capabilities:
        return libraries | _allowed_in_capability(name, sources)
    if name == "nexus":
        return set()
    for layer, allowed in _LAYERS.items():
        if _below(name, layer):
            contracts = {f"nexus.{capability}.commands" for capability in capabilities}
            return (
                libraries | (allowed - {"{contracts}"}) | {layer} | (contracts if "{contracts}" in allowed else set())
            )
    return None


def _allowed_in_capability(name: str, sources: Mapping[str, Source]) -> set[str]:
    """What the kind allows, and the files of its own folder whose kinds it may use."""
    own = ".".join(name.split(".")[:2])
    kind = kind_of(name)
    allowed = {pattern.replace("{own}", own) for pattern in _KINDS[kind]} | _STANDS_ON.get(own, set())
    for other in sources:
        if _below(other, own) and (kind_of(other) == kind or f"{own}.{kind_of(other)}" in allowed):
            allowed.add(other)
    return allowed


def _below(name: str, package: str) -> bool:
    return f"{name}.".startswith(f"{package}.")


def _in_process_layer(name: str) -> bool:
    """Whether a module may start processes and read ``/proc``: only the runtime may."""
    return _below(name, "nexus.runtime")


@functools.cache
def _texts(module: Source) -> set[Violation]:
    name = module.module
    parts = name.split(".")
    may_hold_sql = (
        _below(name, "nexus.store")
        or name in ("nexus.records.table", "nexus.records.lookup", "nexus.records.scope")
        or name in ("nexus.records.project_settings", "nexus.records.leases")
        or (_below(name, "nexus.journal") and kind_of(name) == "part")
        or parts[-1] == "store"
        or parts[-1].endswith("_store")
    )
    found: set[Violation] = set()
    for text in _contents(module.text).texts:
        if not may_hold_sql and _SQL.search(text):
            found.add(Violation("sql", name, text))
        if may_hold_sql and not _is_sqlite(name) and _DIALECT.search(text):
            found.add(Violation("dialect", name, text))
        if not _in_process_layer(name) and _PROC.search(text):
            found.add(Violation("process", name, text))
    return found


def _writes_of(journaled: Iterable[str]) -> re.Pattern[str]:
    """A statement that writes one of these tables, or one whose table is not in the text: it may be any."""
    table = rf"(?:[\"'`\[]?(?:{'|'.join(map(re.escape, sorted(journaled))) or '(?!)'})\b|\Z)"
    conflict = r"(?:\s+OR\s+\w+)?"
    return re.compile(
        rf"\b(?:(?i:INSERT{conflict}\s+INTO|REPLACE\s+INTO|DELETE\s+FROM)\s+{table}|UPDATE{conflict}\s+{table}"
        rf"|(?i:UPDATE{conflict}\s+{table}\s+SET)\b)"
    )


@functools.cache
def _writes(module: Source, writes: re.Pattern[str]) -> set[Violation]:
    """The journal alone writes the tables whose rows have images: a write beside it would have none."""
    if _below(module.module, "nexus.journal"):
        return set()
    return {Violation("image", module.module, text) for text in _contents(module.text).texts if writes.search(text)}


def _is_sqlite(name: str) -> bool:
    """Whether a module belongs to the implementation of the store by SQLite."""
    return _below(name, "nexus.store") and name != "nexus.store.lookup"


def circles(imports: Mapping[str, set[str]]) -> list[list[str]]:
    """The groups of modules that import each other, directly or through others; each sorted (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(imports[node] & imports.keys()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1 or node in imports[node]:
                found.append(sorted(group))

    for node in sorted(imports):
        if node not in index:
            visit(node)
    return found
