"""The records of projects through a real daemon: names, ids, folders, revisions, bounds, and what default refuses."""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from typing import Any

import pytest
from nexus_protocol import InvalidArgument, NexusError
from nexus_protocol.context import ProjectRoot
from support.daemon import DaemonProcess
from support.projects import Speaker, events_of, project

from nexus.journal.commands import GetOperation, ListOperations
from nexus.projects.commands import (
    CreateProject,
    DeleteProject,
    GetProject,
    GetProjectHoldings,
    ListProjects,
    ProjectAmbiguous,
    ProjectChanged,
    ProjectCursorInvalid,
    ProjectFixed,
    ProjectIdTaken,
    ProjectNameTaken,
    ProjectNotFound,
    ProjectRootTaken,
    UpdateProject,
)
from nexus.projects.states import ProjectMode, ProjectStatus
from nexus.records.scope import DEFAULT_ID
from nexus.vms.commands import CreateVm

ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def names(nexus: Speaker, **fields: Any) -> list[str]:
    return [each.name for each in nexus.call(ListProjects(**fields)).projects]


def test_default_always_exists(nexus: Speaker) -> None:
    default = nexus.call(GetProject())
    assert (default.id, default.name, default.root_path, default.revision) == (DEFAULT_ID, "default", None, 1)
    assert nexus.call(GetProject("default")) == nexus.call(GetProject(DEFAULT_ID)) == default
    assert names(nexus) == ["default"]


@pytest.mark.parametrize("name", ["a", "7", "A.b_c-d", "x" * 64, "web.1", "0-0", "deadbeef", "Default", "a" * 31 + "g"])
def test_valid_names_are_accepted_unchanged(nexus: Speaker, name: str) -> None:
    made = project(nexus, name)
    assert made.call(GetProject()).name == nexus.at(name).call(GetProject()).name == name
    assert nexus.call(GetProject(name)).id == made.named


BAD_NAMES = [
    "", "x" * 65, "-a", ".a", "_a", "a b", " a", "a ", "a\n", "\n", "a\x00", "a/b", "../a", "..", "ä", "a\u202e",
    "*", "a*", "a:b", ID, ID.upper(), ID.replace("-", ""),
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_invalid_names_are_refused_with_the_field(nexus: Speaker, name: str) -> None:
    nexus.call(CreateProject("good"))
    for command in (CreateProject(name), UpdateProject("good", name=name)):
        error = nexus.error(command)
        assert isinstance(error, InvalidArgument)
        assert error.details["path"] == "name"
    assert names(nexus) == ["default", "good"]


def test_names_are_unique(nexus: Speaker) -> None:
    one = nexus.call(CreateProject("one"))
    nexus.call(CreateProject("two"))
    for command in (CreateProject("one"), UpdateProject("two", name="one")):
        error = nexus.error(command)
        assert isinstance(error, ProjectNameTaken)
        assert error.details == {"name": "one", "id": one.id}
    assert isinstance(nexus.error(CreateProject("default")), ProjectNameTaken)
    assert isinstance(nexus.error(UpdateProject("two", name="default")), ProjectNameTaken)
    assert nexus.call(UpdateProject("two", name="two")).revision == 1


def test_a_create_with_an_id_can_be_repeated(nexus: Speaker) -> None:
    command = CreateProject("shop", id=ID, root_path="/srv/shop", settings={"a": [1, {"b": None}]}, description="")
    made = nexus.call(command)
    assert nexus.call(command) == made
    assert made.settings == {"a": [1, {"b": None}]}
    for other in (
        CreateProject("shop", id=ID),
        CreateProject("other", id=ID, root_path="/srv/shop"),
        CreateProject("shop", id=ID, root_path="/srv/other", settings=made.settings, description=""),
        CreateProject("shop", id=ID, root_path="/srv/shop", settings={"a": 1}, description=""),
        CreateProject("default", id=DEFAULT_ID, mode=ProjectMode.EVOLUTION),
    ):
        assert isinstance(nexus.error(other), ProjectIdTaken)
    assert nexus.call(CreateProject("default", id=DEFAULT_ID)).id == DEFAULT_ID
    nexus.call(UpdateProject(ID, description="more"))
    assert isinstance(nexus.error(command), ProjectIdTaken)
    assert len(events_of(nexus.at(ID), kinds=["project.created"])) == 1


@pytest.mark.parametrize("id_", ["", "abc", ID.upper(), ID + "\n", ID.replace("-", ""), f"{ID}0"])
def test_a_malformed_id_is_refused(nexus: Speaker, id_: str) -> None:
    error = nexus.error(CreateProject("x", id=id_))
    assert isinstance(error, InvalidArgument)
    assert error.details["path"] == "id"


def test_folders_are_unique_where_set(nexus: Speaker) -> None:
    one = nexus.call(CreateProject("one", root_path="/srv/one"))
    nexus.call(CreateProject("two"))
    nexus.call(CreateProject("three"))
    for command in (CreateProject("four", root_path="/srv/one"), UpdateProject("two", root_path="/srv/one")):
        error = nexus.error(command)
        assert isinstance(error, ProjectRootTaken)
        assert error.details == {"id": one.id, "name": "one", "root_path": "/srv/one"}
        assert "nexusctl project inspect one" in (error.hint or "")
    assert nexus.call(UpdateProject("one", root_path="/srv/one")).revision == 1
    nexus.call(UpdateProject("one", root_path="/srv/moved"))
    nexus.call(UpdateProject("two", root_path="/srv/one"))
    assert names(nexus) == ["default", "one", "three", "two"]


@pytest.mark.parametrize(
    "path", ["", "srv", "./srv", "~", "/a\x00b", "/" + "x" * 4096, "/srv/", "/srv//x", "/srv/./x", "/srv/../x", "//srv"]
)
def test_folders_that_no_client_resolves_to_are_refused(nexus: Speaker, path: str) -> None:
    nexus.call(CreateProject("two"))
    for command in (CreateProject("one", root_path=path), UpdateProject("two", root_path=path)):
        error = nexus.error(command)
        assert isinstance(error, InvalidArgument)
        assert error.details["path"] == "root_path"


@pytest.mark.parametrize("path", ["/", "/srv/ä b", "/srv/*", "/srv/%", "/a\nb", "/..a/b..", "/" + "x" * 4095])
def test_any_folder_can_have_a_project(nexus: Speaker, path: str) -> None:
    made = nexus.call(CreateProject("one", root_path=path))
    assert made.root_path == path
    if len(path) < 4000:
        assert nexus.at(ProjectRoot(path)).call(GetProject()) == made
        assert isinstance(nexus.at(ProjectRoot(path + "x")).error(GetProject()), ProjectNotFound)


def test_default_is_fixed(nexus: Speaker) -> None:
    for reference in ("default", DEFAULT_ID, DEFAULT_ID.upper(), DEFAULT_ID[:12]):
        for command in (
            UpdateProject(reference, name="other"),
            UpdateProject(reference, root_path="/srv/x"),
            UpdateProject(reference, description="x", root_path="/srv/x"),
            DeleteProject(reference),
            DeleteProject(reference, cascade=True),
        ):
            assert isinstance(nexus.error(command), ProjectFixed), command
    changed = nexus.call(UpdateProject("default", name="default", description="all the rest"))
    assert changed.description == "all the rest"
    nexus.call(UpdateProject("default", description=""))


def test_revisions_guard_updates_and_deletes(nexus: Speaker) -> None:
    made = nexus.call(CreateProject("shop"))
    changed = nexus.call(UpdateProject("shop", description="x", if_revision=1))
    assert (changed.revision, changed.state_revision) == (2, 0)
    for command in (
        UpdateProject("shop", name="other", if_revision=1),
        DeleteProject("shop", if_revision=3),
        DeleteProject("shop", if_state_revision=1),
        DeleteProject("shop", cascade=True, if_revision=1),
    ):
        error = nexus.error(command)
        assert isinstance(error, ProjectChanged)
        assert (error.details["revision"], error.details["id"]) == (2, made.id)
    deleted = nexus.call(DeleteProject("shop", if_revision=2, if_state_revision=0))
    assert (deleted.project, deleted.records) == (changed, [])
    assert isinstance(nexus.error(DeleteProject("shop")), ProjectNotFound)


def test_prefixes_of_ids(nexus: Speaker) -> None:
    one = nexus.call(CreateProject("one", id="abcd0001" + ID[8:]))
    nexus.call(CreateProject("two", id="abcd0002" + ID[8:]))
    assert nexus.call(GetProject("ABCD0001")) == one
    assert isinstance(nexus.error(GetProject("abcd")), ProjectAmbiguous)
    for reference in ("abc", "default/one", "one/one", "*", "on%", "/one", "one/"):
        assert isinstance(nexus.error(GetProject(reference)), ProjectNotFound)
    # The context takes no prefix: it would depend on what other projects there are.
    assert isinstance(nexus.at("abcd0001").error(GetProject()), ProjectNotFound)


@pytest.mark.parametrize(
    ("settings", "accepted"),
    [
        ({"x": "y" * 16_000}, True),
        ({"x": "y" * 16_384}, False),
        ({"a": {"a": {"a": {"a": {"a": {"a": {"a": 1}}}}}}}, True),
        ({"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {}}}}}}}}}, False),
        ({"a": [[[[[[[[1]]]]]]]]}, False),
        ({"": None, "b": 2**63 - 1, "c": -1.5, "d": "\0ä", "e": []}, True),
    ],
)
def test_bounds_of_settings(nexus: Speaker, settings: dict[str, Any], accepted: bool) -> None:
    nexus.call(CreateProject("two"))
    for command in (CreateProject("one", settings=settings), UpdateProject("two", settings=settings)):
        if accepted:
            made = nexus.call(command)
            assert made.settings == nexus.call(GetProject(made.id)).settings == settings
        else:
            error = nexus.error(command)
            assert isinstance(error, InvalidArgument)
            assert error.details["path"] == "settings"


def test_nothing_to_change_is_refused(nexus: Speaker) -> None:
    nexus.call(CreateProject("shop"))
    assert isinstance(nexus.error(UpdateProject("shop")), InvalidArgument)
    assert isinstance(nexus.error(UpdateProject("shop", if_revision=1)), InvalidArgument)


def test_lists_are_pages_by_name(nexus: Speaker) -> None:
    for number in range(12):
        nexus.call(CreateProject(f"p{number:02}"))
    found: list[str] = []
    cursor = None
    while True:
        page = nexus.call(ListProjects(limit=5, cursor=cursor))
        found += [each.name for each in page.projects]
        cursor = page.next_cursor
        if cursor is None:
            break
        nexus.call(CreateProject(f"aa{len(found)}"))  # before the place of the cursor
    assert found == ["default", *(f"p{number:02}" for number in range(12))]
    assert names(nexus, status=ProjectStatus.PAUSED) == []
    page = nexus.call(ListProjects(limit=1))
    for other in (ListProjects(status=ProjectStatus.CREATED, cursor=page.next_cursor), ListProjects(cursor="x")):
        assert isinstance(nexus.error(other), ProjectCursorInvalid)


@pytest.mark.parametrize("named", [None, "default", "one", "gone", "*"])
def test_all_projects_are_listed_whatever_the_request_names(nexus: Speaker, named: str | None) -> None:
    one = nexus.call(CreateProject("one"))
    there = nexus.at(named)
    assert names(there) == ["default", "one"]
    if named == "*":
        return
    assert there.call(GetProject("one")) == one
    assert there.call(GetProjectHoldings("one")).project == one
    made = there.call(CreateProject("three"))
    assert there.call(UpdateProject("three", description="x")).id == made.id
    assert there.call(DeleteProject("three")).project.id == made.id


def test_holdings_count_and_name_the_records(nexus: Speaker) -> None:
    shop = project(nexus, "shop")
    empty = shop.call(GetProjectHoldings())
    assert (empty.project.name, empty.counts, empty.records) == ("shop", {}, [])
    shop.service("b", None)
    shop.service("a", "exit 0")
    shop.call(CreateVm("v"))
    nexus.call(CreateVm("elsewhere"))
    held = nexus.call(GetProjectHoldings("shop"))
    assert held.counts == {"service": {"stopped": 2}, "vm": {"created": 1}}
    assert [(each.kind, each.name, each.state) for each in held.records] == [
        ("service", "a", "stopped"),
        ("service", "b", "stopped"),
        ("vm", "v", "created"),
    ]


def test_events_and_operations_of_a_project_are_its_own(nexus: Speaker) -> None:
    shop = project(nexus, "shop", root_path="/srv/shop")
    shop.at("shop").call(UpdateProject("shop", name="store"))
    nexus.call(DeleteProject("store"))
    found = events_of(nexus, subject=shop.named)
    assert [(each.kind, each.subject_name, each.project_id) for each in found] == [
        ("project.created", "shop", shop.named),
        ("project.updated", "store", shop.named),
        ("project.deleted", "store", shop.named),
    ]
    assert found[0].detail == {"root_path": "/srv/shop", "mode": "genesis"}
    assert found[2].detail == {"root_path": "/srv/shop"}
    for each in found:
        operation = nexus.call(GetOperation(each.operation)).operation
        assert operation.project_id == shop.named
    listed = nexus.call(ListOperations(subject=shop.named)).operations
    assert [each.command for each in listed] == ["DeleteProject", "UpdateProject", "CreateProject"]


def test_the_schema_refuses_two_projects_of_a_folder_and_records_without_a_project(daemon: DaemonProcess) -> None:
    assert daemon.stop() == 0
    with contextlib.closing(sqlite3.connect(daemon.database)) as database:
        database.execute("PRAGMA foreign_keys = ON")
        insert = "INSERT INTO projects (id, name, root_path, created_at, updated_at) VALUES (?, ?, ?, 0, 0)"
        database.execute(insert, ("1", "one", "/srv/x"))
        database.executemany(insert, [("2", "two", None), ("3", "three", None)])
        for values in (("4", "four", "/srv/x"), ("5", "one", None)):
            with pytest.raises(sqlite3.IntegrityError):
                database.execute(insert, values)
        for table in ("vms", "service"):
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            assert "project_id" in columns
            keys = [(row[2], row[3], row[6]) for row in database.execute(f"PRAGMA foreign_key_list({table})")]
            assert ("projects", "project_id", "NO ACTION") in keys


def test_random_ids_and_references_never_meet_a_bug(nexus: Speaker) -> None:
    for reference in (str(uuid.uuid4()), "x" * 255, "'; DROP TABLE projects; --", "\u0000", "ä", "\U0001f600"):
        for command in (GetProject(reference), UpdateProject(reference, name="x"), DeleteProject(reference)):
            error: NexusError = nexus.error(command)
            assert error.code in ("not_found", "invalid_argument"), (reference, error)
