"""The rules between the rooms, read off the source: who may import whom, and that what is declared is alive."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from nexus_protocol import CommandInfo, declared_commands
from support.vectors import good_vectors

from nexus.capabilities import CAPABILITIES
from nexus.daemon.dispatch import load_capabilities

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    **dict.fromkeys(sorted((ROOT / "nexus").rglob("*.py")), "nexus"),
    **dict.fromkeys(sorted((ROOT / "protocol" / "nexus_protocol").rglob("*.py")), "protocol/nexus_protocol"),
}
NAMES = [capability.name for capability in CAPABILITIES]
DISPATCH = load_capabilities()

CONTRACT = {"msgspec", "nexus_protocol"}
OWN_CONTRACT = {"{own}.commands", "{own}.records", "{own}.errors", "{own}.states"}
SHAPE: dict[str, set[str]] = {
    "commands": CONTRACT | {"{own}.records", "{own}.errors", "{own}.states"},
    "records": CONTRACT | {"{own}.states"},
    "errors": CONTRACT,
    "states": CONTRACT,
    "store": CONTRACT | {"nexus.store", "{own}.settings"} | OWN_CONTRACT,
    "handlers": CONTRACT | {"{own}", "nexus", "nexus.handling", "nexus.paging", "nexus.store", "nexus.journal"},
    "manager": CONTRACT | {"{own}", "nexus", "nexus.handling", "nexus.store", "nexus.journal", "nexus.runtime"},
    "cli": CONTRACT | {"click", "nexus", "nexus.cli", "nexus.client"} | OWN_CONTRACT,
}
"""What each file of a capability may import beside the standard library; a capability may have several of a kind."""

EXCEPTIONS = {
    ("nexus.journal.store", "nexus.handling"),  # an event's row holds its Origin
    ("nexus.services.git_handlers", "nexus.runtime.git"),  # the repository is the only truth, there is no record
    ("nexus.services.cli_records", "dotenv.parser"),  # --env-file is read where the person is
}

NO_VERB = {
    "Describe": "for programs; people read COMMANDS.md",
    "Hello": "the clients send it when they connect",
    "Ping": "for programs; people have status",
}
"""Commands without a verb of their own on the command line, and why."""


def module_name(path: Path) -> str:
    base = ROOT / ("protocol" if SOURCES[path] != "nexus" else "")
    return ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it; ``from nexus import journal`` is ``nexus.journal``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


MODULES = {module_name(path) for path in SOURCES}


def foreign(path: Path, allowed: set[str]) -> list[str]:
    """What a file imports that is neither of the standard library nor allowed (with everything below it)."""
    name = module_name(path)
    return [
        module
        for module in imports(path)
        if module.split(".")[0] not in sys.stdlib_module_names
        and not any(module == known or (known != "nexus" and module.startswith(known + ".")) for known in allowed)
        and (name, module) not in EXCEPTIONS
    ]


def below(*packages: str) -> list[Path]:
    return [path for path in SOURCES if any(f"{module_name(path)}.".startswith(f"{name}.") for name in packages)]


def kind_of(path: Path) -> str | None:
    """What a file of a capability is: ``cli_git.py`` is of the kind cli, ``port_store.py`` of the kind store."""
    before = [kind for kind in SHAPE if f"{path.stem}_".startswith(f"{kind}_")]
    after = [kind for kind in SHAPE if f"_{path.stem}".endswith(f"_{kind}")]
    return next(iter(before + after), None)


def capability_files(*kinds: str) -> list[Path]:
    return [path for path in SOURCES if path.parent.name in NAMES and kind_of(path) in (kinds or SHAPE)]


@pytest.mark.parametrize("path", capability_files(), ids=module_name)
def test_each_file_of_a_capability_imports_only_what_its_kind_may(path: Path) -> None:
    own = f"nexus.{path.parent.name}"
    kind = kind_of(path)
    assert kind is not None
    allowed = {name.replace("{own}", own) for name in SHAPE[kind]}
    # What is allowed as a kind is allowed as each file of it, and so are others of its own kind.
    others = [other for other in capability_files() if other.parent == path.parent]
    allowed |= {
        module_name(other) for other in others if kind_of(other) == kind or f"{own}.{kind_of(other)}" in allowed
    }
    assert foreign(path, allowed) == []


SQL = re.compile(r"\b(SELECT .+ FROM|INSERT (OR \w+ )?INTO|UPDATE \w+ SET|DELETE FROM)\b", re.DOTALL)


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.parent.name in NAMES and kind_of(path) != "store"], ids=module_name
)
def test_sql_is_in_stores_alone(path: Path) -> None:
    texts = [
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert [text for text in texts if SQL.search(text)] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_capability_has_its_contract_its_handlers_and_its_words(name: str) -> None:
    folder = ROOT / "nexus" / name
    for kind in ("__init__", "commands", "handlers", "cli"):
        assert (folder / f"{kind}.py").is_file()


def test_handlers_and_stores_are_never_imported_by_the_command_line_or_the_clients() -> None:
    forbidden = {module_name(path) for path in capability_files("handlers", "store", "manager")}
    for path in below("nexus.cli", "nexus.client") + capability_files("cli"):
        assert not forbidden & set(imports(path)), path
        assert "sqlite3" not in set(imports(path)), path


@pytest.mark.parametrize("path", below("nexus.client"), ids=module_name)
def test_a_client_knows_the_protocol_the_contracts_and_where_the_socket_is(path: Path) -> None:
    contracts = {f"nexus.{name}.commands" for name in NAMES}
    places = {"nexus", "nexus.config", "nexus.paths"}
    assert foreign(path, {"msgpack", "nexus_protocol", "nexus.client"} | places | contracts) == []


@pytest.mark.parametrize("path", below("nexus_protocol"), ids=module_name)
def test_the_protocol_engine_knows_no_capability_and_opens_no_socket(path: Path) -> None:
    assert foreign(path, {"msgpack", "msgspec", "nexus_protocol"}) == []
    assert not {"socket", "asyncio", "threading", "selectors", "os"} & set(imports(path))


def test_only_the_store_opens_databases() -> None:
    assert {path.parent.name for path in SOURCES if "sqlite3" in set(imports(path))} == {"store"}


@pytest.mark.parametrize("path", below("nexus.store"), ids=module_name)
def test_the_store_knows_no_capability_and_no_daemon(path: Path) -> None:
    assert foreign(path, {"nexus", "nexus.store", "nexus.locks", "nexus.paths", "nexus_protocol", "msgspec"}) == []


@pytest.mark.parametrize("path", list(SOURCES), ids=module_name)
def test_every_module_says_what_it_is_and_what_is_public_in_it(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
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
    module = importlib.import_module(module_name(path))
    if defined:
        assert hasattr(module, "__all__"), f"__all__ is missing; it may hold {sorted(defined)}"
    names = list(getattr(module, "__all__", []))
    assert len(set(names)) == len(names)
    assert [name for name in names if not hasattr(module, name)] == []


# What is declared is alive

COMMANDS = pytest.mark.parametrize("info", declared_commands(), ids=lambda info: info.name)


def words(folders: list[Path]) -> str:
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
    text = words([ROOT / "tests" / "e2e", ROOT / "tests" / "cli"])
    assert f"{info.name}(" in text or f"({constant(info.name)}" in text


@COMMANDS
def test_every_command_has_a_verb_or_a_reason_for_none(info: CommandInfo) -> None:
    files = sorted((ROOT / "nexus" / "cli").glob("*.py")) + capability_files("cli")
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    tree = ast.parse(text.replace("from __future__ import annotations", ""))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert (info.name in used) != (info.name in NO_VERB)
