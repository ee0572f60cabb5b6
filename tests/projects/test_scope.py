"""The project of a request: by id, name or folder, of a connection, of a batch, under a key; and what is in two."""

from __future__ import annotations

import uuid
from enum import Enum
from typing import Any, get_type_hints

import msgspec
import pytest
from nexus_protocol import CommandInfo, InvalidArgument
from nexus_protocol.command import Effect, declared_commands, hint_parts
from nexus_protocol.context import ProjectRoot, encode_context
from support.daemon import DaemonProcess
from support.projects import Named, Speaker, events_of, project
from support.raw import RawClient, pack

from nexus.client import BlockingClient
from nexus.daemon.dispatch import load_capabilities
from nexus.journal.commands import GetOperation, ListOperations, WatchEvents
from nexus.journal.keys import RequestKeyReused
from nexus.ledger.tasks.commands import GraphTask
from nexus.memory.chunks.records import ChunkEmbedding
from nexus.projects.commands import (
    CreateProject,
    DeleteProject,
    GetProject,
    ProjectNotFound,
    UpdateProject,
)
from nexus.records.scope import DEFAULT_ID
from nexus.services.commands import (
    AddDependency,
    AddService,
    GetServiceStatus,
    ListDependencies,
    ListServices,
    RemoveDependency,
    RemoveService,
    UpdateService,
)
from nexus.services.errors import ServiceDependencyElsewhere, ServiceNameTaken, ServiceNotFound
from nexus.system.commands import Batch, Hello, SetSetting
from nexus.vms.commands import CreateVm, DeleteVm, GetVm, ListVms, UpdateVm, VmNameTaken, VmNotFound

load_capabilities()  # imports every module that declares a command

COMMANDS = pytest.mark.parametrize("info", declared_commands(), ids=lambda info: info.name)
NO_PROJECT = ProjectRoot("/nowhere/at/all")

ENDS_THE_DAEMON = "Shutdown"
TAKES_NONE = {
    "Ping", "Health", "GetSystemStatus", "Describe", "Hello", "GetSetting", "ListSettings", "ListPlugins", "Extra",
    "ListProjects", "GetOperation", "Batch",
}  # fmt: skip
"""Commands that do not look up a project, beside those that are declared to be the same in every one."""
_ANSWERED_ANYWHERE = ("WatchEvents", "WaitJobs", "Search", "SumMetrics", "CountTasks")
_NAMES_A_PROJECT = (
    *("UpdateProject", "DeleteProject", "PauseProject", "ResumeProject", "CompleteProject"),
    "FailProject",
)


_CHANGES: dict[str, dict[str, Any]] = {
    "UpdateFeature": {"name": "gone"},
    "UpdateSubFeature": {"name": "gone"},
    "UpdateRequirement": {"source": "gone"},
    "UpdateSession": {"title": "gone"},
    "UpdateCheckpoint": {"reason": "gone"},
    "UpdateEpisode": {"summary": "gone"},
    "PruneEpisodes": {"keep": 0},
    "LinkRequirement": {"features": ["gone"]},
    "UnlinkRequirement": {"features": ["gone"]},
    "CreateTaskGraph": {"tasks": [GraphTask(ref="a", name="gone")]},
    "SearchVectors": {"query": [1.0]},
    "SearchMemory": {"text": "gone"},
    "SetChunkEmbeddings": {"embeddings": [ChunkEmbedding(DEFAULT_ID, [1.0])]},
}
"""What a command needs beside one text for each required field."""


def minimal(info: CommandInfo) -> Any:
    """A command with a value for each required field, which refers to no record."""
    hints = get_type_hints(info.request, include_extras=True)
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(info.request):
        extras = [part.extra or {} for part in hint_parts(hints[field.name]) if isinstance(part, msgspec.Meta)]
        if field.required:
            is_number = not {int, float}.isdisjoint(hint_parts(hints[field.name])) or field.name in ("id",)
            values[field.name] = 1 if is_number and field.name != "name" else "gone"
            if any("completes" in extra for extra in extras):
                values[field.name] = "gone"
            for part in hint_parts(hints[field.name]):
                if isinstance(part, type) and issubclass(part, Enum):
                    values[field.name] = next(iter(part))
                elif part is bytes:
                    values[field.name] = b"gone"
            if field.name == "hash":
                values[field.name] = "0" * 64
            if any("path" in extra for extra in extras):
                values[field.name] = "/gone"
    if info.name == "Batch":
        return Batch.of([SetSetting("a", 1)])
    if info.name == "WatchEvents":
        values["follow"] = False
    if info.name == "UpdateVm":
        values["vcpu_count"] = 2
    if info.name in _CHANGES:
        values |= _CHANGES[info.name]
    return info.request(**values)


# Which project


@pytest.mark.parametrize("of", ["id", "upper", "name", "root"])
def test_a_project_is_named_by_its_id_its_name_or_its_folder(nexus: Speaker, of: str) -> None:
    shop = project(nexus, "shop", root_path="/srv/shop")
    assert isinstance(shop.named, str)
    named: dict[str, Named] = {
        "id": shop.named, "upper": shop.named.upper(), "name": "shop", "root": ProjectRoot("/srv/shop"),
    }  # fmt: skip
    there = nexus.at(named[of])
    service, vm = there.service("web"), there.call(CreateVm("web"))
    assert (service.project_id, service.project, vm.project_id, vm.project) == (shop.named, "shop") * 2
    assert there.names() == ["web"]
    assert [each.name for each in there.call(ListVms()).vms] == ["web"]
    assert nexus.names() == []
    assert isinstance(nexus.error(GetVm("web")), VmNotFound)


@pytest.mark.parametrize("named", ["gone", "00000000", "Default", " default", "default/", "d%", DEFAULT_ID[:-1] + "1"])
def test_only_exact_ids_and_names_are_projects(nexus: Speaker, named: str) -> None:
    for command in (ListServices(), ListVms(), AddService("x"), CreateVm("x"), GetProject()):
        error = nexus.at(named).error(command)
        assert isinstance(error, ProjectNotFound)
        assert error.details == {"project": named}


@COMMANDS
def test_a_project_that_does_not_exist(nexus: Speaker, info: CommandInfo) -> None:
    if info.name == ENDS_THE_DAEMON:
        return
    named = "gone-project"
    type_, told = nexus.at(named).outcome(minimal(info))
    if info.in_project and info.name not in TAKES_NONE:
        assert type_ == "project.not_found", told
        assert f'project "{named}" not found' in told
        assert "nexusctl project list" in told
    else:
        assert named not in told


@COMMANDS
def test_a_folder_without_a_project(nexus: Speaker, info: CommandInfo) -> None:
    if info.name == ENDS_THE_DAEMON:
        return
    nexus.service("gone-too")
    command = minimal(info)
    type_, told = nexus.at(NO_PROJECT).outcome(command)
    if not info.in_project or info.name in TAKES_NONE:
        assert type_ != "project.not_found" or info.name in _NAMES_A_PROJECT
    elif info.effect is not Effect.READ or info.name in ("GetProject", "GetProjectHoldings"):
        assert type_ == "project.not_found", told
        assert "/nowhere/at/all" in told
        assert "nexusctl apply" in told
    elif (info.name.startswith("List") and info.name != "ListMessages") or info.name in _ANSWERED_ANYWHERE:
        assert type_ == "ok"
        # A search finds what is in other projects as well, after what is in this one.
        assert ("gone-too" in told) == (info.name == "Search")
    else:
        assert type_.endswith(".not_found")
        assert "nexusctl apply" in told


@COMMANDS
def test_all_projects_at_once_are_for_lists(nexus: Speaker, info: CommandInfo) -> None:
    if info.name == ENDS_THE_DAEMON:
        return
    project(nexus, "shop").service("inside")
    command = minimal(info)
    type_, told = nexus.at("*").outcome(command)
    if info.all_projects:
        assert info.effect is Effect.READ
        assert type_ == "ok"
        if info.name in ("ListServices", "WatchEvents", "ListOperations"):
            assert "inside" in told
    else:
        assert type_ == "invalid_argument"
        assert "context.project" in told


@pytest.mark.parametrize(
    "value",
    [
        "", "x" * 65, "a\nb", 1, None, True, b"shop", [], {}, ["shop"], {"root": ""}, {"root": "srv"},
        {"root": "/srv", "id": "x"}, {"root": None}, {"root": 1}, {"root": "/a\0b"}, {"root": "/" + "x" * 4096},
        {"name": "shop"}, {"root": {"root": "/"}},
    ],
    ids=ascii,
)  # fmt: skip
def test_other_values_are_refused(shared: DaemonProcess, value: Any) -> None:
    with RawClient(shared.socket_path) as client:
        error = None
        sequence = client.begin_raw(CreateVm.info.code, pack({"name": "x"}), pack({"project": value}))
        if value is None:
            client.result(sequence)
            client.call(DeleteVm("x"))
            return
        error = client.error(sequence)
        assert isinstance(error, InvalidArgument)
        assert error.details["path"].startswith("context")
        hello = client.error(client.begin_raw(Hello.info.code, pack({"client": "test", "project": value})))
        assert isinstance(hello, InvalidArgument)


# Of a connection


def test_hello_names_the_project_of_a_connection(nexus: Speaker, shared: DaemonProcess) -> None:
    project(nexus, "shop", root_path="/srv/shop").service("in-shop")
    nexus.service("in-default")

    def names(client: RawClient, context: bytes = b"") -> list[str]:
        return [each["name"] for each in client.result(client.begin(ListServices(), context))["services"]]

    with RawClient(shared.socket_path) as client:
        assert names(client) == ["in-default"]
        for named in ("shop", ProjectRoot("/srv/shop")):
            client.call(Hello(client="test", project=named))
            assert names(client) == ["in-shop"]
            assert client.call(GetServiceStatus("in-shop")).service.project == "shop"
            assert names(client, encode_context(project="default")) == ["in-default"]
            assert names(client, encode_context(project=NO_PROJECT)) == []
            assert names(client, encode_context(project="*")) == ["in-default", "in-shop"]
            assert names(client, encode_context(why="only a why")) == ["in-shop"]
            assert names(client) == ["in-shop"]
        assert client.call(CreateVm("v")).project == "shop"
        client.call(Hello(client="test", actor="someone"))
        assert names(client) == ["in-default"]
        client.call(Hello(client="test", project="gone"))  # it may come
        assert isinstance(client.call_error(ListServices()), ProjectNotFound)
        late = project(nexus, "gone")
        assert names(client) == []
        nexus.call(UpdateProject(late.named, name="renamed"))
        assert isinstance(client.call_error(CreateVm("v")), ProjectNotFound)
        assert isinstance(client.call_error(Hello(client="test", project="*")), InvalidArgument)


def test_clients_take_the_project_from_an_argument_else_from_the_variable(
    nexus: Speaker, shared: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        project(nexus, name)
    monkeypatch.setenv("NEXUS_PROJECT", "one")
    with BlockingClient(shared.socket_path) as client:
        assert client.call(CreateVm("v")).project == "one"
        assert client.call(CreateVm("v"), project="two").project == "two"
        assert client.call(CreateVm("v"), project="default").project == "default"
    with BlockingClient(shared.socket_path, project="two") as client:
        assert client.call(GetVm("v")).project == "two"


# Names


def test_two_projects_have_records_of_the_same_names(nexus: Speaker) -> None:
    one, two = project(nexus, "one"), project(nexus, "two")
    for speaker in (nexus, one, two):
        service, vm = speaker.service("web"), speaker.call(CreateVm("web"))
        assert speaker.call(GetServiceStatus("web")).service.id == service.id
        assert speaker.call(GetVm("web")).id == vm.id
        assert isinstance(speaker.error(AddService("web")), ServiceNameTaken)
        assert isinstance(speaker.error(CreateVm("web")), VmNameTaken)
        speaker.service("other")
        speaker.call(CreateVm("other"))
        assert isinstance(speaker.error(UpdateService("other", name="web")), ServiceNameTaken)
        assert isinstance(speaker.error(UpdateVm("other", name="web")), VmNameTaken)
    cids = [vm.cid for vm in nexus.at("*").call(ListVms()).vms]
    assert len(set(cids)) == len(cids) == 6


@pytest.mark.parametrize("name", ["one/web", "/web", "web/", "one//web", "*"])
def test_new_names_take_no_project(nexus: Speaker, name: str) -> None:
    one = project(nexus, "one")
    one.service("other")
    one.call(CreateVm("other"))
    for command in (
        AddService(name), CreateVm(name), UpdateService("other", name=name), UpdateVm("other", name=name),
    ):  # fmt: skip
        error = one.error(command)
        assert isinstance(error, InvalidArgument)
        assert error.details["path"] == "name"


def test_a_record_of_another_project_is_changed_by_its_reference_and_stays_there(nexus: Speaker) -> None:
    one, two = project(nexus, "one"), project(nexus, "two")
    made = one.service("web")
    for reference in (made.id, "one/web", made.id[:18]):
        changed = two.call(UpdateService(reference, tags=[reference[:4]]))
        assert (changed.id, changed.project) == (made.id, "one")
    renamed = two.call(UpdateService("one/web", name="api"))
    assert (renamed.project, two.names(), one.names()) == ("one", [], ["api"])
    error = two.error(UpdateService(made.id, name="api", if_revision=1))
    assert "nexusctl service status one/api" in (error.hint or "")


def test_a_create_with_an_id_of_another_project_is_no_repetition(nexus: Speaker) -> None:
    one, two = project(nexus, "one"), project(nexus, "two")
    id_ = str(uuid.uuid4())
    for command in (AddService("web", id=id_), CreateVm("web", id=id_)):
        made = one.call(command)
        assert one.call(command) == made
        assert two.error(command).type.endswith(".id_taken")
        assert nexus.error(command).type.endswith(".id_taken")


# Dependencies


def test_dependencies_are_within_a_project(nexus: Speaker) -> None:
    one, two = project(nexus, "one"), project(nexus, "two")
    for speaker in (nexus, one, two):
        speaker.service("web")
        speaker.service("db")
    there = two.get("db")
    for reference in (there.id, "two/db", there.id[:18]):
        for speaker in (one, nexus):
            error = speaker.error(AddDependency("web", reference))
            assert isinstance(error, ServiceDependencyElsewhere)
            assert error.details["dependency_project"] == "two"
    # The name of the dependency is looked up beside the dependent, wherever the request speaks.
    for speaker in (nexus, one, two, nexus.at(NO_PROJECT)):
        made = speaker.call(AddDependency("two/web", "db"))
        assert (made.dependency_id, made.project) == (there.id, "two")
        assert speaker.call(RemoveDependency(made.service_id, "db")).dependency_id == there.id
    one.call(AddDependency("web", "db"))
    two.call(AddDependency("web", "db"))
    assert [each.project for each in one.call(ListDependencies()).dependencies] == ["one"]
    assert nexus.call(ListDependencies()).dependencies == []
    assert {each.project for each in nexus.at("*").call(ListDependencies()).dependencies} == {"one", "two"}
    assert nexus.at(NO_PROJECT).call(ListDependencies()).dependencies == []
    assert [each.project for each in one.call(ListDependencies("two/web")).dependencies] == ["two"]
    assert isinstance(one.error(AddDependency("web", "gone")), ServiceNotFound)


# Batches and keys


def test_a_batch_speaks_in_one_project(nexus: Speaker) -> None:
    one = project(nexus, "one", root_path="/srv/one")
    nexus.service("db")
    for speaker in (one, nexus.at("one"), nexus.at(ProjectRoot("/srv/one"))):
        results = speaker.call(
            Batch.of([AddService("web"), AddService("db"), AddDependency("web", "db"), CreateVm("v")])
        ).results
        assert len(results) == 4
        assert sorted(one.names()) == ["db", "web"]
        nexus.call(DeleteProject("one", cascade=True))
        one = project(nexus, "one", root_path="/srv/one")
    error = nexus.at("gone").error(Batch.of([SetSetting("a", 1), AddService("web")]))
    assert (error.type, error.details["index"]) == ("project.not_found", 1)
    error = nexus.at("*").error(Batch.of([AddService("web")]))
    assert isinstance(error, InvalidArgument)


def test_a_batch_creates_a_project_and_what_is_in_it(nexus: Speaker) -> None:
    there = nexus.at(ProjectRoot("/srv/new"))
    commands = [CreateProject("new", root_path="/srv/new"), AddService("web"), CreateVm("v")]
    first = there.call(Batch.of(commands), key="new")
    assert there.names() == ["web"]
    assert there.call(GetProject()).name == "new"
    assert events_of(there)[-1].project == "new"
    del first
    everything = [UpdateProject("new", name="newer"), DeleteProject("newer", cascade=True)]
    assert len(nexus.at("new").call(Batch.of(everything)).results) == 2
    assert isinstance(nexus.error(GetProject("newer")), ProjectNotFound)


def test_a_key_is_of_one_project(nexus: Speaker) -> None:
    one, two = project(nexus, "one", root_path="/srv/one"), project(nexus, "two")
    key = str(uuid.uuid4())
    made = one.call(CreateVm("v"), key=key)
    for speaker in (two, nexus, nexus.at(NO_PROJECT)):
        error = speaker.error(CreateVm("v"), key=key)
        assert isinstance(error, RequestKeyReused)
    for named in (one.named, "one", ProjectRoot("/srv/one")):
        assert nexus.at(named).call(CreateVm("v"), key=key) == made
    nexus.call(UpdateProject("one", name="renamed"))
    for named in (one.named, "renamed", ProjectRoot("/srv/one")):
        assert nexus.at(named).call(CreateVm("v"), key=key).id == made.id
    assert isinstance(nexus.at("one").error(CreateVm("v"), key=key), ProjectNotFound)
    assert len(one.call(ListVms()).vms) == 1


def test_a_key_of_an_act_is_of_one_project(nexus: Speaker) -> None:
    one, two = project(nexus, "one", root_path="/srv/one"), project(nexus, "two")
    for speaker in (one, two):
        speaker.service("web", None)  # its reply has no secret, and is kept
    key = str(uuid.uuid4())
    one.call(RemoveService("web"), key=key)
    assert isinstance(two.error(RemoveService("web"), key=key), RequestKeyReused)
    nexus.call(UpdateProject("one", name="renamed"))
    assert nexus.at(ProjectRoot("/srv/one")).call(RemoveService("web"), key=key).name == "web"
    assert (one.names(), two.names()) == ([], ["web"])


@pytest.mark.parametrize("named", ["id", "name", "root"])
def test_a_request_under_a_key_may_rename_move_and_delete_its_project(nexus: Speaker, named: str) -> None:
    shop = project(nexus, "shop", root_path="/srv/shop")
    shop.service("web")
    there = nexus.at({"id": shop.named, "name": "shop", "root": ProjectRoot("/srv/shop")}[named])
    for number, command in enumerate(
        (
            UpdateProject(shop.named, name="store"),
            UpdateProject(shop.named, root_path="/srv/store"),
            DeleteProject(shop.named, cascade=True),
        )
    ):
        first = there.call(command, key=f"{shop.named}.{number}")
        assert there.call(command, key=f"{shop.named}.{number}") == first
    again = nexus.error(DeleteProject(shop.named), key=f"{shop.named}.2")
    assert isinstance(again, RequestKeyReused)


def test_the_project_of_a_folder_is_made_under_a_key_in_it(nexus: Speaker) -> None:
    there = nexus.at(ProjectRoot("/srv/shop"))
    key = str(uuid.uuid4())
    command = CreateProject("shop", root_path="/srv/shop")
    made = there.call(command, key=key)
    assert there.call(command, key=key) == nexus.call(command, key=key) == made
    batch = Batch.of([UpdateProject("shop", root_path="/srv/moved"), CreateProject("beside", root_path="/srv/shop")])
    first = there.call(batch, key=f"{key}.b")
    assert there.call(batch, key=f"{key}.b") == nexus.call(batch, key=f"{key}.b") == first


# What happened


def test_events_and_operations_are_of_the_project_of_what_changed(nexus: Speaker) -> None:
    one, two = project(nexus, "one"), project(nexus, "two")
    service = one.service("web")
    two.call(UpdateService(service.id, tags=["x"]))  # of the project one, though it spoke in two
    two.service("web")
    nexus.call(SetSetting("project.test", str(uuid.uuid4())))
    for speaker, kinds in (
        (one, ["project.created", "service.added", "service.updated"]),
        (two, ["project.created", "service.added"]),
    ):
        found = events_of(speaker)
        assert [each.kind for each in found] == kinds
        assert {each.project_id for each in found} == {speaker.named}
        commands = [each.command for each in speaker.call(ListOperations()).operations]
        assert sorted(commands) == sorted(
            {"project.created": "CreateProject", "service.added": "AddService", "service.updated": "UpdateService"}[k]
            for k in kinds
        )
        for event in found:
            assert nexus.call(GetOperation(event.operation)).operation.project_id == speaker.named
    setting = [each for each in events_of(nexus, kinds=["setting.*"]) if each.subject_id == "project.test"]
    assert setting == [] or setting[-1].project_id is None


@pytest.mark.parametrize("reference", ["web", "one/web", "two/web", "id"])
def test_events_and_operations_of_a_subject(nexus: Speaker, reference: str) -> None:
    one, two = project(nexus, "one"), project(nexus, "two")
    ids = {each.named: each.service("web").id for each in (one, two)}
    nexus.at("one").call(UpdateProject("one", description="x"))
    given = ids[one.named] if reference == "id" else reference
    anywhere = (None, one.named, two.named, NO_PROJECT)
    expected = {
        "web": {None: set(ids.values()), one.named: {ids[one.named]}, two.named: {ids[two.named]}, NO_PROJECT: set()},
        "one/web": dict.fromkeys(anywhere, frozenset({ids[one.named]})),
        "two/web": dict.fromkeys(anywhere, frozenset({ids[two.named]})),
        "id": dict.fromkeys(anywhere, frozenset({ids[one.named]})),
    }[reference]
    start, first = events_of(one)[0].seq, events_of(one)[0].operation
    assert first is not None
    for named, wanted in expected.items():
        speaker = nexus.at(named)
        assert {each.subject_id for each in events_of(speaker, subject=given, after=start)} == wanted
        listed = [each for each in speaker.call(ListOperations(subject=given)).operations if each.id > first]
        assert {each.project_id for each in listed} == {project_id for project_id, id_ in ids.items() if id_ in wanted}


def test_records_of_default_are_of_its_id(nexus: Speaker) -> None:
    service = nexus.service("web")
    assert (service.project_id, service.project) == (DEFAULT_ID, "default")
    assert {each.project_id for each in events_of(nexus.at("default"), subject="web")} == {DEFAULT_ID}


# Streams of events


def begin(client: RawClient, named: Named, **fields: Any) -> int:
    return client.begin(WatchEvents(**fields), b"" if named is None else encode_context(project=named))


def next_of(client: RawClient, sequence: int) -> tuple[str, str]:
    """The kind and the subject of the next event of a stream."""
    for item in client.items(sequence):
        if "kind" in item:
            return item["kind"], item.get("subject_name")
    raise AssertionError("the stream ended")


def newest(nexus: Speaker) -> int:
    with nexus.client.stream(WatchEvents(follow=False), project=None) as stream:
        return max(each.seq for each in stream)


def test_a_watched_folder_gets_its_project_loses_it_and_gets_another(nexus: Speaker, shared: DaemonProcess) -> None:
    root = ProjectRoot("/srv/watched")
    nexus.service("elsewhere")
    with RawClient(shared.socket_path) as client:
        watch = begin(client, root, after=newest(nexus))
        nexus.service("elsewhere-too")
        for name in ("first", "second"):
            made = project(nexus, name, root_path=root.root)
            nexus.service(f"beside-{name}")
            nexus.at(root).service("web")
            nexus.call(DeleteProject(made.named, cascade=True))
        # Both in one transaction: the watcher sees them at once.
        third = project(nexus, "third", root_path=root.root)
        commands = [DeleteProject(third.named), CreateProject("fourth", root_path=root.root)]
        nexus.call(Batch.of(commands))
        expected = [
            *[("project.created", "first"), ("service.added", "web"), ("service.removed", "web")],
            *[("project.deleted", "first"), ("project.created", "second"), ("service.added", "web")],
            *[("service.removed", "web"), ("project.deleted", "second"), ("project.created", "third")],
            *[("project.deleted", "third"), ("project.created", "fourth")],
        ]
        assert [next_of(client, watch) for _ in expected] == expected
        nexus.service("after")
        nexus.at(root).service("at-last")
        assert next_of(client, watch) == ("service.added", "at-last")


@pytest.mark.parametrize("named", ["id", "name"])
def test_a_watched_project_is_renamed_and_deleted(nexus: Speaker, shared: DaemonProcess, named: str) -> None:
    shop = project(nexus, "shop")
    assert isinstance(shop.named, str)
    with RawClient(shared.socket_path) as client:
        watch = begin(client, {"id": shop.named, "name": "shop"}[named], after=newest(nexus))
        shop.service("web")
        assert next_of(client, watch) == ("service.added", "web")
        nexus.call(UpdateProject("shop", name="store"))
        assert next_of(client, watch) == ("project.updated", "store")
        other = project(nexus, "shop")  # another one of that name
        other.service("web")
        shop.service("db")
        assert next_of(client, watch) == ("service.added", "db")
        nexus.call(DeleteProject("shop", cascade=True))
        nexus.call(DeleteProject("store", cascade=True))
        assert {next_of(client, watch) for _ in range(3)} == {
            ("service.removed", "web"), ("service.removed", "db"), ("project.deleted", "store"),
        }  # fmt: skip
        assert isinstance(client.error(watch), ProjectNotFound)


def test_a_project_that_does_not_exist_is_not_watched(nexus: Speaker, shared: DaemonProcess) -> None:
    with RawClient(shared.socket_path) as client:
        for follow in (True, False):
            assert isinstance(client.error(begin(client, "gone", follow=follow)), ProjectNotFound)


def test_a_stream_of_all_projects_tells_each_project(nexus: Speaker, shared: DaemonProcess) -> None:
    start = newest(nexus) if events_of(nexus) else 0
    one = project(nexus, "one")
    one.service("web")
    nexus.service("web")
    with RawClient(shared.socket_path) as client:
        for named in (None, "*"):
            watch = begin(client, named, after=start, follow=False)
            found = [(item.get("project"), item["kind"]) for item in client.items(watch) if "kind" in item]
            assert found == [("one", "project.created"), ("one", "service.added"), ("default", "service.added")]
