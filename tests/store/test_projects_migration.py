"""Migration 9: what apply kept as settings becomes projects, and back, over frozen databases and by hand."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from support.projects_schema import (
    FROZEN,
    Contents,
    Statement,
    dependency,
    frozen,
    lists,
    services_with,
    setting,
    without,
)
from support.stores import contents, files_of, look_at, make_store, schema_of

from nexus.store import InitError
from nexus.store import migrate as migrations
from nexus.store.maintenance import check_database, migrate_database, plan_migration
from nexus.store.sqlite import SqliteStore

AT = 1_767_225_600_000
DEFAULT = "00000000-0000-4000-8000-000000000000"
UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

Placed = dict[str, tuple[str, str | None]]


def thaw(root: Path, name: str) -> SqliteStore:
    """Make a store on a copy of a frozen database; it is not opened yet."""
    store = make_store(root)
    store.path.parent.mkdir(exist_ok=True)
    shutil.copy(FROZEN / f"{name}.db", store.path)
    return store


def go(store: SqliteStore, version: int) -> Contents:
    """Migrate, check the database, and return its rows."""
    migrate_database(store.path, store.backup_directory, version)
    assert check_database(store.path).problems == []
    return contents(store.path)


def execute(store: SqliteStore, *statements: Statement) -> None:
    """Run statements with foreign keys enforced."""
    with contextlib.closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("PRAGMA foreign_keys = ON")
        for text, values in statements:
            connection.execute(text, (*values,))


def placed(rows: Contents, table: str = "service") -> Placed:
    """Each record's project and file, by its name."""
    names = {row["id"]: row["name"] for row in rows["projects"]}
    return {row["name"]: (names[row["project_id"]], row["managed_by"]) for row in rows[table]}


def due(rows: Contents) -> dict[str, int]:
    """The services with a restart that is due, with the time."""
    since = {row["name"]: row["restart_pending_since"] for row in rows["service"]}
    return {name: at for name, at in since.items() if at is not None}


def dependency_sequence(path: Path) -> list[int]:
    with look_at(path) as connection:
        return [
            row[0] for row in connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'service_dependency'")
        ]


MANAGED = "nexus.toml"
IN_DEFAULT = ("default", None)
SERVICES: dict[str, Placed] = {
    "projects-empty": {},
    "projects-two-files": {
        "adhoc": IN_DEFAULT,
        "api": ("shop", MANAGED),
        "db": ("shop", MANAGED),
        "queue": ("shop-2", MANAGED),
        "worker": ("shop-2", MANAGED),
    },
    "projects-shared": {
        **dict.fromkeys(("api", "cron", "db", "hand", "log", "page"), IN_DEFAULT),
        "solo": ("left", MANAGED),
        "lone": ("right", MANAGED),
    },
}
VMS: dict[str, Placed] = {
    "projects-empty": {},
    "projects-two-files": {"box": IN_DEFAULT, "web": ("shop", MANAGED), "gate": ("shop-2", MANAGED)},
    "projects-shared": {"box": IN_DEFAULT, "gate": ("left", MANAGED)},
}
DUE: dict[str, dict[str, int]] = {
    "projects-empty": {},
    "projects-two-files": {"api": AT + 5, "db": AT + 5, "worker": AT + 5},
    "projects-shared": {"api": AT + 5, "lone": AT + 5},
}
# What each project keeps of the records that its file listed and that stay in default.
SHARED: dict[str, dict[str, dict[str, Any]]] = {
    "projects-empty": {"default": {}},
    "projects-two-files": {"default": {}, "shop": {}, "shop-2": {}},
    "projects-shared": {
        "default": {},
        "left": {"shared": ["s:api", "s:log", "s:page", "v:box"], "shared_restarts": {"api": AT + 5}},
        "right": {"shared": ["s:cron", "s:db", "s:log", "v:box"]},
    },
}


def shared(rows: Contents) -> dict[str, dict[str, Any]]:
    """The settings of each project, with names for ids."""
    names = {row["id"]: row["name"] for table in ("service", "vms") for row in rows[table]}
    found: dict[str, dict[str, Any]] = {}
    for row in rows["projects"]:
        kept = found[row["name"]] = json.loads(row["settings"])
        assert kept.get("shared", [""]) == sorted(set(kept.get("shared", [""])))
        if "shared" in kept:
            kept["shared"] = [entry[:2] + names[entry[2:]] for entry in kept["shared"]]
        if "shared_restarts" in kept:
            kept["shared_restarts"] = {names[id_]: at for id_, at in kept["shared_restarts"].items()}
    return found


@pytest.mark.parametrize("name", list(SERVICES))
def test_frozen_database_migrates_to_projects_and_back(root: Path, name: str) -> None:
    store = thaw(root, name)
    before = contents(store.path)
    assert before == frozen(name)
    sequence = dependency_sequence(store.path)
    old_schema = schema_of(store.path)
    for _ in range(2):  # the second time from the rows that the first one brought back
        new = go(store, 9)
        assert placed(new) == SERVICES[name]
        assert placed(new, "vms") == VMS[name]
        assert due(new) == DUE[name]
        assert shared(new) == SHARED[name]
        assert lists(new) == {}
        assert without(new) == without(before)
        assert dependency_sequence(store.path) == sequence
        projects = {row["name"]: row for row in new["projects"]}
        assert set(projects) == {"default"} | {project for project, _ in SERVICES[name].values()}
        assert projects["default"]["id"] == DEFAULT
        assert all(UUID4.fullmatch(row["id"]) and row["root_path"] is None for row in projects.values())
        old = go(store, 8)
        assert schema_of(store.path) == old_schema
        assert without(old, settings=False) == before
        assert dependency_sequence(store.path) == sequence


@pytest.mark.parametrize("name", list(SERVICES))
def test_frozen_database_goes_back_to_schema_4_and_up_again(root: Path, name: str) -> None:
    store = thaw(root, name)
    go(store, 9)
    old = go(store, 4)
    assert old["settings"] == frozen(name)["settings"]
    new = go(store, 9)
    assert placed(new) == SERVICES[name]
    assert placed(new, "vms") == VMS[name]
    assert shared(new) == SHARED[name]


def test_new_project_has_the_time_of_the_migration_and_defaults(root: Path) -> None:
    store = thaw(root, "projects-two-files")
    rows = go(store, 9)
    (barrier,) = [row for row in rows["journal"] if row["kind"] == "schema.migrated"]
    assert barrier["detail"] == '{"from": 8, "to": 9}'
    for row in rows["projects"]:
        if row["name"] != "default":
            assert 0 <= barrier["at"] - row["created_at"] < 600_000
            row["created_at"] = row["updated_at"] = 0 if row["created_at"] == row["updated_at"] else None
        assert row | {"id": "", "name": ""} == {
            "id": "", "name": "", "description": None, "mode": "genesis", "status": "created", "root_path": None,
            "repository_url": None, "settings": "{}", "created_at": 0, "updated_at": 0, "completed_at": None,
            "revision": 1, "state_revision": 0,
        }  # fmt: skip
    ids = [row["id"] for row in rows["projects"]]
    assert len(set(ids)) == 3


def records(rows: Contents) -> dict[str, str]:
    """The id of each service and VM by its name."""
    return {row["name"]: row["id"] for table in ("service", "vms") for row in rows[table]}


def test_settings_that_apply_did_not_write_stay_and_change_nothing(root: Path) -> None:
    store = thaw(root, "projects-two-files")
    id_ = records(contents(store.path))["adhoc"]
    service = json.dumps([f"s:{id_}"])
    settings = {
        "apply.text": ("[", "json"),
        "apply.blob": (service.encode(), "json"),
        "apply.string": (service, "string"),
        "apply.map": (json.dumps({"a": f"s:{id_}"}), "json"),
        "apply.number": ("1", "json"),
        "apply.null": ("null", "json"),
        "apply.none": ("[]", "json"),
        "apply.mixed": (json.dumps([f"s:{id_}", 1]), "json"),
        "apply.nested": (json.dumps([[f"s:{id_}"]]), "json"),
        "apply.prefix": (json.dumps([f"x:{id_}"]), "json"),
        "apply.bare": (json.dumps([id_]), "json"),
        "apply.colon": (json.dumps([f"s:{id_}:"]), "json"),
        "apply.timed": (json.dumps([f"v:{id_}:1"]), "json"),
        "apply.timeless": (json.dumps([f"r:{id_}"]), "json"),
        "apply.empty": (json.dumps([f"r:{id_}:"]), "json"),
        "apply.sign": (json.dumps([f"r:{id_}:-1"]), "json"),
        "apply.long": (json.dumps([f"r:{id_}:{'1' * 19}"]), "json"),
        "apply.gone": (json.dumps(["s:0b9f4c1e-0000-4000-8000-999999999999"]), "json"),
        "apply.kind": (json.dumps([f"v:{id_}"]), "json"),
        "apply.shop.x": (service, "json"),
        "apply.shop.": (service, "json"),
        "apply.shop.1.2": (service, "json"),
        "apply.": (service, "json"),
        "apply.-a": (service, "json"),
        f"apply.{'a' * 65}": (service, "json"),
        "apply": (service, "json"),
        "Apply.shop": (service, "json"),
        "other.shop": (service, "json"),
    }
    execute(store, *(setting(key, *value) for key, value in settings.items()))
    new = go(store, 9)
    assert {row["key"] for row in new["settings"]} == set(settings)
    assert placed(new) == SERVICES["projects-two-files"]
    assert {row["name"] for row in new["projects"]} == {"default", "shop", "shop-2"}
    old = go(store, 8)
    # Apply reads the settings of shop that stayed, though it does not write such: a new one has another number.
    kept = {row["key"]: (row["value"], row["type"]) for row in old["settings"]}
    blob = "0x" + service.encode().hex()
    assert {key: kept[key] for key in settings} == settings | {"apply.blob": (blob, "json")}
    assert kept.keys() - settings.keys() == {"apply.shop.2", "apply.shop-2"}


def test_settings_of_one_project_are_read_together(root: Path) -> None:
    store = thaw(root, "projects-two-files")
    ids = records(contents(store.path))
    gone = "0b9f4c1e-0000-4000-8000-999999999999"
    execute(
        store,
        setting("apply.shop.1", json.dumps([f"s:{ids['adhoc']}", f"s:{gone}", f"s:{ids['db']}"])),
        setting("apply.shop.12", json.dumps([f"r:{ids['db']}:{AT + 99}"])),
        setting("apply.shop.13", json.dumps([f"s:{gone}"])),
        setting("apply.default", json.dumps([f"v:{ids['box']}"])),
    )
    new = go(store, 9)
    assert placed(new) == SERVICES["projects-two-files"] | {"adhoc": ("shop", MANAGED)}
    assert placed(new, "vms")["box"] == ("default", MANAGED)
    assert due(new)["db"] == AT + 99, "the latest change"
    assert lists(new) == {}
    assert len(new["projects"]) == 3
    old = lists(go(store, 8))
    assert list(old) == ["apply.default", "apply.shop", "apply.shop-2"]
    assert old["apply.default"] == ["v:box"]
    assert f"r:db:{AT + 99}" in old["apply.shop"]


def test_shared_records_of_default_are_kept_by_default(root: Path) -> None:
    store = thaw(root, "projects-two-files")
    ids = records(contents(store.path))
    entries = [f"s:{ids['adhoc']}", f"s:{ids['api']}", f"v:{ids['web']}", f"r:{ids['adhoc']}:{AT + 1}"]
    execute(store, setting("apply.default", json.dumps(entries, separators=(",", ":"))))
    before = contents(store.path)
    new = go(store, 9)
    assert placed(new)["adhoc"] == ("default", MANAGED)
    assert placed(new)["api"] == placed(new, "vms")["web"] == IN_DEFAULT
    assert shared(new) == {
        "default": {"shared": ["s:api", "v:web"]},
        # db depends on nothing, but api, which stays in default, depends on it.
        "shop": {"shared": ["s:api", "s:db", "v:web"], "shared_restarts": {"api": AT + 5, "db": AT + 5}},
        "shop-2": {},
    }
    assert without(go(store, 8), settings=False) == before


def test_shared_records_may_need_more_than_a_setting_holds(root: Path) -> None:
    store = thaw(root, "projects-empty")
    ids = [f"0b9f4c1e-0000-4000-8000-{number:012d}" for number in range(1000)]
    vms = [
        (
            "INSERT INTO vms (id, name, role, state, cid) VALUES (?, ?, 'work', 'created', ?)",
            (id_, f"v{number}", number),
        )
        for number, id_ in enumerate(ids, 3)
    ]
    parts = {"" if not part else f".{part}": ids[part * 200 :][:200] for part in range(5)}
    listed = [
        setting(f"apply.{project}{part}", json.dumps([f"v:{id_}" for id_ in entries], separators=(",", ":")))
        for part, entries in parts.items()
        for project in ("a", "b")
    ]
    execute(store, *vms, *listed)
    before = contents(store.path)
    new = go(store, 9)
    kept = {row["name"]: row["settings"] for row in new["projects"]}
    assert json.loads(kept["a"]) == json.loads(kept["b"]) == {"shared": [f"v:{id_}" for id_ in ids]}
    assert len(kept["a"]) > 16 * 1024
    assert without(go(store, 8), settings=False) == before


def test_records_that_are_shared_no_more_are_not_listed_on_the_way_back(root: Path) -> None:
    store = thaw(root, "projects-shared")
    new = go(store, 9)
    ids = records(new)
    (left,) = [row["id"] for row in new["projects"] if row["name"] == "left"]
    execute(
        store,
        ("UPDATE service SET project_id = ?, managed_by = 'nexus.toml' WHERE name = 'log'", (left,)),
        ("UPDATE vms SET project_id = ?, managed_by = 'nexus.toml' WHERE name = 'box'", (left,)),
        ("DELETE FROM service_dependency WHERE service_id = ?", (ids["cron"],)),
        ("DELETE FROM service WHERE name = 'cron'", ()),
        ("UPDATE service SET restart_pending_since = NULL WHERE name = 'api'", ()),
    )
    assert lists(go(store, 8)) == {
        "apply.left": ["s:api", "s:log", "s:page", "s:solo", "v:box", "v:gate"],
        "apply.right": ["s:db", "s:lone", f"r:lone:{AT + 5}"],
    }


def test_record_that_the_file_of_default_took_over_is_listed_once_by_each(root: Path) -> None:
    store = thaw(root, "projects-shared")
    box = records(contents(store.path))["box"]
    execute(store, setting("apply.default", json.dumps([f"v:{box}"])))
    go(store, 9)
    execute(store, ("UPDATE vms SET managed_by = 'nexus.toml' WHERE name = 'box'", ()))
    old = lists(go(store, 8))
    assert {key: entries.count("v:box") for key, entries in old.items()} == dict.fromkeys(old, 1)
    assert set(old) == {"apply.default", "apply.left", "apply.right"}


def test_restart_of_a_shared_service_is_listed_as_it_was_until_another_change(root: Path) -> None:
    store = thaw(root, "projects-shared")
    ids = records(contents(store.path))
    left, right = (row["value"] for row in contents(store.path)["settings"])
    execute(
        store,
        ("UPDATE settings SET value = ? WHERE key = 'apply.left'", (f'{left[:-1]},"r:{ids["log"]}:{AT + 7}"]',)),
        (
            "UPDATE settings SET value = ? WHERE key = 'apply.right'",
            (right.replace('"r:', f'"r:{ids["log"]}:{AT}","r:'),),
        ),
    )
    before = contents(store.path)
    new = go(store, 9)
    assert due(new)["log"] == AT + 7, "the latest"
    assert shared(new)["right"]["shared_restarts"] == {"log": AT}
    assert without(go(store, 8), settings=False) == before
    go(store, 9)
    execute(store, ("UPDATE service SET restart_pending_since = ? WHERE name = 'log'", (AT + 9,)))
    old = lists(go(store, 8))
    assert all(f"r:log:{AT + 9}" in entries for entries in old.values())


@pytest.mark.parametrize("text", [
    "{", "[]", "null", '{"shared":null}', '{"shared":7,"shared_restarts":7}', '{"shared":"s:"}',
    '{"shared":[1,null,["s:ID"],{"s:ID":"s:ID"},"ID","r:ID:1","x:ID","v:ID","s:","","s:ID "],"shared_restarts":["ID"]}',
    '{"shared_restarts":{"ID":"1"}}', '{"shared_restarts":{"ID":-1}}', '{"shared_restarts":{"ID":1.5}}',
    '{"shared_restarts":{"ID":[1]}}', '{"shared_restarts":{"ID":1000000000000000000}}',
])  # fmt: skip
def test_other_values_of_a_projects_settings_list_nothing(root: Path, text: str) -> None:
    store = thaw(root, "projects-two-files")
    ids = records(contents(store.path))
    go(store, 9)
    execute(
        store,
        ("UPDATE projects SET settings = ? WHERE name = 'shop'", (text.replace("ID", ids["adhoc"]),)),
        ("UPDATE service SET restart_pending_since = 1 WHERE name = 'adhoc'", ()),
    )
    assert lists(go(store, 8)) == lists(frozen("projects-two-files"))


def test_restart_that_alone_is_listed_belongs_to_no_file_and_is_listed_again(root: Path) -> None:
    store = thaw(root, "projects-two-files")
    id_ = records(contents(store.path))["adhoc"]
    execute(store, setting("apply.third", json.dumps([f"r:{id_}:{AT}"])))
    new = go(store, 9)
    assert placed(new)["adhoc"] == IN_DEFAULT
    assert due(new)["adhoc"] == AT
    assert "third" in {row["name"] for row in new["projects"]}
    assert lists(go(store, 8))["apply.third"] == [f"r:adhoc:{AT}"]


def test_long_chain_of_dependencies_stays_in_default_when_its_end_crosses(root: Path) -> None:
    store = thaw(root, "projects-empty")
    count = 2000
    ids = [f"0b9f4c1e-0000-4000-8000-{number:012d}" for number in range(count)]
    inserts = services_with(ids)
    # Services 0 to 999 are a chain of project a, whose last one needs 1000 of project b; 1001 to 1999 are one of b.
    for number in [*range(1000), *range(1001, count - 1)]:
        inserts.append(dependency(ids[number], ids[number + 1]))
    parts = {"apply.a": ids[:200], **{f"apply.a.{part}": ids[part * 200 :][:200] for part in range(1, 5)}}
    parts |= {f"apply.b.{part}": ids[1000 + part * 200 :][:200] for part in range(1, 5)} | {"apply.b": ids[1000:1200]}
    inserts += [setting(key, json.dumps([f"s:{id_}" for id_ in entries])) for key, entries in parts.items()]
    execute(store, *inserts)
    where = placed(go(store, 9))
    assert {name for name, place in where.items() if place == IN_DEFAULT} == {f"s{number:04}" for number in range(1001)}
    assert set(where.values()) == {IN_DEFAULT, ("b", MANAGED)}
    old = go(store, 8)
    assert {key: len(entries) for key, entries in lists(old).items()} == dict.fromkeys(parts, 200)
    entries = [entry for key, found in sorted(lists(old).items()) for entry in found]
    assert entries == [f"s:s{number:04}" for number in range(count)]
    assert max(len(row["value"]) for row in old["settings"]) < 16 * 1024 - 200


def project(name: str, id_: str) -> Statement:
    return "INSERT INTO projects (id, name, created_at, updated_at) VALUES (?, ?, 1, 1)", (id_, name)


REFUSAL = (
    'cannot revert migration 9 (projects): the VM "web" is in the projects default, shop; '
    'the service "db" is in the projects shop, third'
)


def test_going_back_is_refused_where_projects_share_a_name(root: Path) -> None:
    store = thaw(root, "projects-two-files")
    go(store, 9)
    execute(
        store,
        project("third", "p3"),
        ("UPDATE service SET name = 'db', project_id = 'p3' WHERE name = 'adhoc'", ()),
        ("UPDATE vms SET name = 'web' WHERE name = 'box'", ()),
    )
    before, files, backups = contents(store.path), files_of(store.path.parent), files_of(store.backup_directory)
    with pytest.raises(InitError) as caught:
        migrate_database(store.path, store.backup_directory, 4)
    assert str(caught.value) == REFUSAL
    hint = "Start the daemon, change or delete these records, and migrate again."
    assert caught.value.hint == f"The database is unchanged. {hint}"
    with pytest.raises(InitError) as caught:
        plan_migration(store.path, 4)
    assert (str(caught.value), caught.value.hint) == (REFUSAL, f"The database is unchanged. {hint}")
    assert files_of(store.path.parent) == files
    assert files_of(store.backup_directory) == backups
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as connection:
        with pytest.raises(InitError) as caught:
            migrations.migrate(connection, 9, 4)
        assert not connection.in_transaction
    assert (str(caught.value), caught.value.hint) == (REFUSAL, f"The database is as it was before this step. {hint}")
    assert contents(store.path) == before
    execute(
        store,
        ("UPDATE service SET name = 'db3' WHERE project_id = 'p3'", ()),
        ("UPDATE vms SET name = 'web3' WHERE project_id = ?", (DEFAULT,)),
    )
    old = go(store, 8)
    assert {"db", "db3"} <= {row["name"] for row in old["service"]}


def test_refusal_counts_the_names_that_it_leaves_out(root: Path) -> None:
    store = thaw(root, "projects-empty")
    go(store, 9)
    vms = [
        (
            "INSERT INTO vms (id, name, role, state, cid, project_id) VALUES (?, ?, 'work', 'created', ?, ?)",
            (f"{number}-{owner}", f"vm-{number:02}", 3 + 2 * number + (owner == "p"), owner),
        )
        for number in range(23)
        for owner in (DEFAULT, "p")
    ]
    execute(store, project("other", "p"), *vms)
    with pytest.raises(InitError, match=r'"vm-19" is in the projects default, other; and 3 more$'):
        migrate_database(store.path, store.backup_directory, 8)


def test_project_whose_name_no_file_can_have_gets_no_setting(root: Path) -> None:
    store = thaw(root, "projects-two-files")
    go(store, 9)
    execute(store, ("UPDATE projects SET name = 'shop.1' WHERE name = 'shop-2'", ()))
    assert list(lists(go(store, 8))) == ["apply.shop"]


def test_plan_of_going_back_tells_that_projects_are_dropped(root: Path) -> None:
    store = thaw(root, "schema-v9")
    plan = plan_migration(store.path, 8)
    assert (plan.current, plan.drops) == (9, {"projects": 3})
    assert lists(go(store, 8)) == {
        "apply.shop": ["s:db", "s:api", "v:web", f"r:db:{AT + 6}"],
        "apply.tools-2": ["v:gate"],
    }


@pytest.mark.parametrize(("name", "target"), [("projects-shared", 9), ("schema-v9", 8)])
def test_error_at_any_statement_leaves_every_row(
    root: Path, monkeypatch: pytest.MonkeyPatch, name: str, target: int
) -> None:
    path = root / "nexus.db"
    shutil.copy(FROZEN / f"{name}.db", path)
    steps = migrations.available_migrations()
    schema, rows = schema_of(path), contents(path)
    up, down = steps[8].up, steps[8].down
    bad = ("INSERT INTO nowhere VALUES (1)",)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        for count in range(len(up if target == 9 else down) + 1):
            broken = steps[8]._replace(up=up[:count] + bad, down=down[:count] + bad)
            monkeypatch.setattr(migrations, "available_migrations", lambda broken=broken: [*steps[:8], broken])
            with pytest.raises(InitError, match="no such table: nowhere"):
                migrations.migrate(connection, 17 - target, target)
            assert not connection.in_transaction
    assert (schema_of(path), contents(path)) == (schema, rows)


def test_names_are_unique_within_a_project_alone(root: Path) -> None:
    store = thaw(root, "projects-two-files")
    go(store, 9)
    execute(store, ("UPDATE service SET name = 'worker' WHERE name = 'api'", ()))
    for statement in (
        "UPDATE service SET name = 'worker' WHERE name = 'db'",
        "UPDATE vms SET project_id = 'nowhere' WHERE name = 'box'",
        "DELETE FROM projects WHERE name = 'shop'",
        "UPDATE projects SET name = 'shop' WHERE name = 'shop-2'",
        "UPDATE projects SET root_path = '/srv' WHERE name <> 'default'",
    ):
        with pytest.raises(sqlite3.IntegrityError):
            execute(store, (statement, ()))


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("SELECT 1 FROM vms WHERE project_id = ? ORDER BY created_at DESC, id DESC", "idx_vms_project_created"),
        ("SELECT 1 FROM vms WHERE project_id = ? AND role = 'work' ORDER BY created_at, id", "idx_vms_project_role"),
        ("SELECT 1 FROM vms WHERE project_id = ? AND state = 'x' ORDER BY created_at, id", "idx_vms_project_state"),
        ("SELECT 1 FROM vms WHERE ? ORDER BY created_at DESC, id DESC", "idx_vms_created"),
        ("SELECT 1 FROM vms WHERE role = ? ORDER BY created_at DESC, id DESC", "idx_vms_role"),
        ("SELECT 1 FROM vms WHERE state = ? ORDER BY created_at DESC, id DESC", "idx_vms_state"),
        ("SELECT 1 FROM service WHERE project_id = ? ORDER BY name", "sqlite_autoindex_service"),
        (
            "SELECT 1 FROM service WHERE project_id = ? AND status = 'running' ORDER BY name",
            "idx_service_project_status",
        ),
        ("SELECT 1 FROM service WHERE ? ORDER BY name, id", "idx_service_name"),
        ("SELECT 1 FROM service WHERE status = ? ORDER BY name", "idx_service_status"),
    ],
)
def test_lists_of_a_project_and_of_all_have_their_index(root: Path, query: str, index: str) -> None:
    store = thaw(root, "schema-v9")
    with look_at(store.path) as connection:
        plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", (DEFAULT,)))
    assert f"INDEX {index}" in plan
    assert "TEMP B-TREE" not in plan
