"""Secrets of requests and records are in ``secret_value`` and in no other place of the history; they undo a removal."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from nexus_protocol import Command, NexusError
from nexus_protocol.command import Effect
from support.git import GitWorld
from support.raw import wait_until
from support.replay import changes, check, restored_row
from support.services import ServiceWorld
from support.stores import look_at

from nexus.journal.commands import Event, GetOperation, ListOperations, OperationDetail, WatchEvents
from nexus.journal.rows import journaled_tables
from nexus.plugins.commands import Extra
from nexus.services.commands import (
    AddDependency,
    AddService,
    GetConfig,
    GitClone,
    GitPull,
    RemoveService,
    RestartService,
    StartService,
    StopService,
    UpdateConfig,
    UpdateService,
)
from nexus.services.states import RestartPolicy, ServiceHealth, ServiceState, WhenLost
from nexus.store.connection import connect
from nexus.system.commands import DeleteSetting, SetSetting
from nexus.vms.commands import CreateVm

R = TypeVar("R")

MARK = "hunter2"
"""In every secret."""


class World(ServiceWorld):
    """Services, and a new secret for each place."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._count = itertools.count()

    def call(self, command: Command[R]) -> R:
        """Send a request, with a key where it changes something: its reply may be kept."""
        key = None if command.info.effect is Effect.READ else f"key-{next(self._count)}"
        with self.client() as client:
            return client.call(command, key=key)

    def secret(self, place: str) -> str:
        """A secret that tells where it was planted."""
        return f"{MARK}-{place}-{next(self._count)}"

    def env(self, place: str) -> dict[str, str]:
        """An environment with a secret."""
        return {"PASSWORD": self.secret(place)}

    def shell(self, place: str, then: str = "exec sleep 600") -> list[str]:
        """A program with a secret among its arguments."""
        return ["/bin/sh", "-c", then, self.secret(place)]

    def refused(self, command: Command[Any]) -> None:
        """Send a request that has to fail; its error is the client's alone."""
        with pytest.raises(NexusError):
            self.call(command)

    def details(self) -> list[OperationDetail]:
        """Every operation, with all that GetOperation tells of it."""
        found, cursor = [], None
        while True:
            page = self.call(ListOperations(limit=20, cursor=cursor))
            assert MARK not in msgspec.json.encode(page).decode()
            found += [self.call(GetOperation(operation.id, limit=1000)) for operation in page.operations]
            cursor = page.next_cursor
            if cursor is None:
                return found

    def all_events(self) -> list[Event]:
        """What WatchEvents gives at most."""
        command = WatchEvents(after=0, kinds=["*", "*.written"], follow=False)
        with self.client() as client, client.stream(command) as stream:
            return [event for event in stream if event.kind is not None]


@pytest.fixture
def world(root: Path) -> Iterator[World]:
    """A running daemon."""
    with World(root) as world:
        world.daemon.start()
        yield world


def found_in(database: sqlite3.Connection, table: str) -> list[str]:
    """The columns of a table in which a secret is."""
    columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
    return [
        f"{table}.{column}: {value!r}"
        for column in columns
        for (value,) in database.execute(f"SELECT {column} FROM {table}")
        if MARK in (value.decode("latin-1") if isinstance(value, bytes) else str(value))
    ]


def assert_hidden(world: World) -> None:
    """No secret is in the journal, the operations and the keys, in what clients are given of them, and in the log."""
    with look_at(world.daemon.database) as database:
        for table in ("operation", "journal", "request_key", "schema_meta"):
            assert found_in(database, table) == []
        assert check(database) == []
    events = world.all_events()
    shown = [*events, *world.details()]
    assert [each for each in shown if MARK in msgspec.json.encode(each).decode()] == []
    assert MARK not in world.daemon.log()


def plant_in_records(world: World) -> None:
    world.add(
        "web",
        world.shell("run"),
        environment=world.env("environment"),
        health_exec=world.shell("health", "true"),
        start_window_ms=0,
        health_interval_ms=100,
    )
    world.call(UpdateService("web", environment=world.env("update")))
    world.call(
        UpdateService("web", set_environment=world.env("set"), run_command=f": {world.secret('text')}; sleep 600")
    )
    world.call(UpdateService("web", health_exec=f": {world.secret('health-text')}"))
    world.call(UpdateService("web", unset_environment=["PASSWORD"]))
    world.call(UpdateConfig("web", run_command=world.shell("config")))
    with world.client() as client:
        client.batch(
            [
                AddService("batched", run_command=world.shell("batch"), environment=world.env("batch-environment")),
                SetSetting("from.batch", world.secret("batch-setting")),
            ],
            key="batch",
        )
    world.call(RemoveService("batched"))


def plant_in_runs(world: World) -> None:
    world.call(StartService("web", environment=world.env("start")))
    world.call(RestartService("web", environment=world.env("restart")))
    world.wait_for("web", lambda service: service.health is ServiceHealth.HEALTHY, "to be healthy")
    world.refused(StartService("web", environment=world.env("start-other")))
    world.daemon.kill()
    world.daemon.start()
    world.call(StopService("web"))
    # Starts that fail: for want of a program, of a directory, by their exit, by their check.
    failing: dict[str, dict[str, Any]] = {
        "no-program": {"run_command": ["/nowhere/program", world.secret("argument")]},
        "no-directory": {"run_command": world.shell("directory"), "directory": "/nowhere"},
        "exits": {"run_command": world.shell("exits", "exit 3"), "start_window_ms": 1000},
        "sick": {
            "run_command": world.shell("sick"),
            "health_exec": ["/nowhere/check", world.secret("check")],
            "health_interval_ms": 100,
            "health_retries": 1,
            "start_window_ms": 0,
        },
        "fails-check": {
            "run_command": world.shell("fails-check"),
            "health_exec": world.shell("check", "exit 1"),
            "health_interval_ms": 100,
            "health_retries": 1,
            "start_window_ms": 0,
        },
    }
    for name, fields in failing.items():
        world.call(AddService(name, environment=world.env(name), **fields))
        with contextlib.suppress(NexusError):
            # What stays unhealthy would be waited for as long as it is up.
            world.call(StartService(name, environment=world.env(f"start-{name}"), wait=True, timeout_ms=3000))
    for name in failing:
        world.call(RemoveService(name, stop=True))


def plant_in_settings(world: World) -> None:
    for value in (world.secret("setting"), [world.secret("json")], {world.secret("key"): 1}, world.secret("last")):
        world.call(SetSetting("own.setting", value))
    world.call(SetSetting("gone", world.secret("gone")))
    world.call(DeleteSetting("gone"))


def plant_in_git(world: World) -> None:
    git = GitWorld(world.root)
    source = git.repository("source", commits=2)
    bare = git.bare("remote.git", source)
    world.add("clone", world.shell("clone"), repo_url=str(bare), repo_path=str(world.root / "clone"))
    # A local repository takes no token: the requests are refused, or go on without it.
    for command in (
        GitClone("clone", token=world.secret("token")),
        GitClone("clone"),
        GitPull("clone", token=world.secret("pull")),
    ):
        with contextlib.suppress(NexusError), world.client() as client:
            if command.info.item is None:
                client.call(command)  # type: ignore[arg-type]
            else:
                with client.stream(command) as stream:  # type: ignore[arg-type,var-annotated]
                    list(stream)


def plant_in_refusals(world: World) -> None:
    world.call(CreateVm("plain"))
    name = "web"
    world.refused(AddService(name, run_command=world.shell("taken"), environment=world.env("taken")))
    world.refused(AddService("x", run_command=world.shell("port"), environment=world.env("port"), restart_limit=-1))
    world.refused(
        AddService("x", run_command="true", repo_url=f"https://a:{world.secret('url')}@host/x", repo_path="/tmp/x")
    )
    world.refused(UpdateService("nothing", environment=world.env("nothing")))
    world.refused(UpdateService(name, environment=world.env("stale"), if_revision=9999))
    world.refused(UpdateService(name, set_environment={f"{world.secret('name')} =": "x"}))
    world.refused(UpdateConfig("nothing", run_command=world.shell("nothing")))
    world.refused(StartService("nothing", environment=world.env("nothing")))
    world.refused(StartService(name, environment=world.env("stale"), if_state_revision=9999))
    world.refused(RestartService("nothing", environment=world.env("nothing")))
    world.refused(SetSetting("journal.keep_days", world.secret("setting")))
    world.refused(
        SetSetting("journal.nothing", world.secret("setting")) if False else Extra("none", body=world.secret("x"))
    )
    with world.client() as client, pytest.raises(NexusError):
        client.batch(
            [
                AddService("y", run_command=world.shell("batch"), environment=world.env("batch")),
                UpdateService("nothing", environment=world.env("batch")),
            ]
        )


@pytest.mark.slow
def test_secrets_are_in_no_place_of_the_history_but_their_own(world: World) -> None:
    plants: tuple[Callable[[World], None], ...] = (
        plant_in_records,
        plant_in_runs,
        plant_in_settings,
        plant_in_git,
        plant_in_refusals,
    )
    for plant in plants:
        plant(world)
        assert_hidden(world)
    assert {"service.written", "service.removed"} <= {event.kind for event in world.all_events()}
    with look_at(world.daemon.database) as database:
        replies = database.execute("SELECT count(*), count(reply) FROM request_key").fetchone()
        assert replies[0] > 20, "the requests had keys"
        assert replies[1] > 0, "replies without secrets are kept"
        kept = "\n".join(str(value) for (value,) in database.execute("SELECT value FROM secret_value"))
    for place in ("run", "environment", "update", "start", "restart", "health", "config", "setting", "json", "batch"):
        assert f"{MARK}-{place}-" in kept, "the secret was never written, so it proves nothing"
    for place in ("taken", "nothing", "stale", "token", "pull", "start-other"):
        assert f"{MARK}-{place}-" not in kept, "what was refused is kept"
    assert world.daemon.stop() == 0
    assert MARK not in world.daemon.log()


# Undo


def insert_again(database: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    """Insert the image of a row: that of the joined table first."""
    rows = journaled_tables()[table]
    own = {column: value for column, value in row.items() if "." not in column}
    if rows.joined is not None:
        other, column = rows.joined
        joined = {name.partition(".")[2]: value for name, value in row.items() if name.startswith(f"{other}.")}
        insert_again_plain(database, other, {"id": own[column], **joined})
    insert_again_plain(database, table, own)


def insert_again_plain(database: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    names = ", ".join(row)
    database.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(row))})", list(row.values()))


def test_removed_service_comes_back_from_its_images_with_its_environment(world: World) -> None:
    out = world.root / "out"
    world.puppet("db", start_window_ms=0, port=0)
    world.add(
        "web",
        ["/bin/sh", "-c", f'echo "$PASSWORD $GIVEN" >{out}; exec sleep 600', world.secret("run")],
        environment={"PASSWORD": world.secret("environment"), "OTHER": "x"},
        health_exec=world.shell("health", "true"),
        health_interval_ms=100,
        tags=["red", "blue"],
        start_window_ms=0,
        port=0,
        restart=RestartPolicy.ON_FAILURE,
        config_filename=None,
        umask="027",
    )
    world.call(AddDependency("web", "db", tunnel_enabled=True, when_lost=WhenLost.STOP))
    world.call(StartService("web", environment={"GIVEN": world.secret("start")}, wait=True))
    printed = wait_until(lambda: out.read_text() if out.exists() and out.read_text() else None, "the output of web")
    world.call(StopService("web"))
    before, config = world.service("web"), world.call(GetConfig("web", reveal=True))
    with look_at(world.daemon.database) as database:
        stored = dict_of(database, "service", before.id)
        edges = database.execute("SELECT * FROM service_dependency").fetchall()
    out.unlink()
    world.call(RemoveService("web"))
    world.refused(StartService("web"))
    assert world.daemon.stop() == 0

    with look_at(world.daemon.database) as database:
        removal = max(change.operation or 0 for change in changes(database) if change.kind == "service.removed")
        deletions = [change for change in changes(database) if change.operation == removal and change.table]
    # The dependents of a row were deleted before it: it comes back first.
    assert [change.table for change in deletions] == ["service_dependency", "service"]
    with contextlib.closing(connect(world.daemon.database)) as database, database:
        database.execute("PRAGMA foreign_keys = ON")
        for change in reversed(deletions):
            assert change.table is not None
            insert_again(database, change.table, restored_row(change))
        for tag in before.tags:
            database.execute("INSERT INTO tag (kind, record_id, tag) VALUES ('service', ?, ?)", (before.id, tag))
        database.execute(
            "INSERT INTO port_lease SELECT tunnel_port, 'dependency', CAST(id AS TEXT), 'tunnel', 0 "
            "FROM service_dependency WHERE tunnel_port IS NOT NULL"
        )

    world.daemon.start()
    with look_at(world.daemon.database) as database:
        # What no image has is NULL again: the operation of the present state, and the number for the search index.
        assert dict_of(database, "service", before.id) == stored | {"operation_id": None, "doc": None}
        assert database.execute("SELECT * FROM service_dependency").fetchall() == edges
    assert world.service("web") == before
    assert world.call(GetConfig("web", reveal=True)) == config
    # The next start has the environment of the record; a restart that of the last start as well.
    world.call(RestartService("web", wait=True))
    assert wait_until(lambda: out.read_text() if out.exists() and out.read_text() else None, "its output") == printed
    assert world.service("web").state is ServiceState.RUNNING
    assert world.call(StopService("db", cascade=True)).stopped == ["web", "db"]
    assert MARK not in world.daemon.log()


def dict_of(database: sqlite3.Connection, table: str, id_: str) -> dict[str, Any]:
    """A row by its id."""
    cursor = database.execute(f"SELECT * FROM {table} WHERE id = ?", (id_,))
    (row,) = cursor.fetchall()
    return dict(zip([column[0] for column in cursor.description], row, strict=True))
