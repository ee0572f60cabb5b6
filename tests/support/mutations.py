"""Random commands of every kind that changes something, over a small pool of names, so that many meet and many fail.

``MAKERS`` has a function for each such command. A test compares them with what ``Describe`` names.
"""

from __future__ import annotations

import contextlib
import functools
import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nexus_protocol import Command, NexusError
from nexus_protocol.context import ProjectRoot
from nexus_protocol.errors import DeadlineExceeded, Internal

from nexus.client import BlockingClient
from nexus.client.errors import ConnectionFailure
from nexus.conversations.commands import (
    AppendMessage,
    CreateConversation,
    CreateMessage,
    DeleteConversation,
    DeleteMessage,
    EditMessage,
    ForkConversation,
    PutBlob,
    SweepBlobs,
    UpdateConversation,
)
from nexus.conversations.import_commands import AddConversationSource, ImportMessages, RemoveConversationSource
from nexus.conversations.import_records import ImportedConversation, ImportedMessage
from nexus.conversations.records import MessagePart
from nexus.conversations.states import PartKind, Role
from nexus.jobs.commands import (
    AttachJob,
    CancelJob,
    CreateJob,
    CreateJobGroup,
    DeleteJob,
    DeleteJobGroup,
    EnqueueJob,
    MoveJob,
    PauseJobGroup,
    PruneJobs,
    ResumeJobGroup,
    RetryJob,
    SendJobInput,
    StartJob,
    StashJob,
    UpdateJob,
    UpdateJobGroup,
)
from nexus.jobs.schedules.commands import (
    CreateSchedule,
    DeleteSchedule,
    PauseSchedule,
    ResumeSchedule,
    TriggerSchedule,
    UpdateSchedule,
)
from nexus.jobs.states import Missed, Overlap
from nexus.journal.commands import BeginOperation
from nexus.memory.vectors.commands import ResetVectors
from nexus.memory.vectors.states import Collection
from nexus.nodes.commands import AddNode, CheckNode, DrainNode, RemoveNode, UndrainNode, UpdateNode
from nexus.plugins.commands import Extra, ReloadPlugins
from nexus.projects.commands import CreateProject, DeleteProject, UpdateProject
from nexus.projects.states import ProjectMode
from nexus.search.commands import RebuildSearchIndex
from nexus.services.commands import (
    AddDependency,
    AddService,
    AttachService,
    CheckoutBranch,
    GitCheckoutCommit,
    GitClone,
    GitPull,
    RemoveDependency,
    RemoveService,
    RestartService,
    SendServiceInput,
    StartService,
    StopService,
    UpdateConfig,
    UpdateService,
)
from nexus.services.states import DependencyCondition, RestartPolicy, ServiceType, WhenLost
from nexus.system.commands import BackupDatabase, Batch, DeleteSetting, SetSetting
from nexus.vms.commands import CreateVm, DeleteVm, UpdateVm
from nexus.vms.states import VmRole
from support.agent_mutations import AGENT_MAKERS
from support.chunk_mutations import CHUNK_MAKERS
from support.git import GitWorld
from support.memory_mutations import MEMORY_MAKERS
from support.plan_mutations import PLAN
from support.task_mutations import TASK_MAKERS

__all__ = ["BATCH", "EXCEPTIONS", "MAKERS", "Maker", "Mutator", "Pool", "make_repository", "random_command"]

EXCEPTIONS = {
    "Shutdown": "the test ends the daemon itself",
    **dict.fromkeys(
        ("RenewLease", "ReleaseLease", "RevokeLease"),
        "its lease has an id that the reply to a claim has; tests/ledger/test_leases.py has these commands",
    ),
}
"""Commands that change something and are not made here, with the reason."""

CALL_S = 3.0
"""The time limit of a command: under faults it may wait for longer than a test does."""

_PROGRAMS: list[str | list[str]] = [
    *[["/bin/sh", "-c", "exec sleep 600"]] * 5,
    ["/bin/sh", "-c", "sleep 0.05; exit 3"],
    ["/bin/sh", "-c", "sleep 0.03; exit 0"],
    "exec sleep 600",
    ["/nowhere/program"],
]


Sent = tuple[Command[Any], str, str | ProjectRoot | None]
"""A command, its key, and the project of its context."""


class Pool:
    """The names that commands are made of; ``repository`` is the remote of the services with a repository.

    ``sent`` are commands that were sent with a key in a project, and may come again; pools may share them.
    """

    def __init__(
        self,
        chance: random.Random,
        root: Path,
        repository: Path | None = None,
        sent: list[Sent] | None = None,
    ) -> None:
        self.chance = chance
        self.root = root
        self.sent: list[Sent] = [] if sent is None else sent
        self.repository = repository

    def service(self) -> str:
        """A reference to a service that may exist."""
        return self._elsewhere(self.service_name())

    def service_name(self) -> str:
        """The name of a service that may exist."""
        return f"s{self.chance.randrange(6)}"

    def vm(self) -> str:
        """A reference to a VM that may exist."""
        return self._elsewhere(self.vm_name())

    def vm_name(self) -> str:
        """The name of a VM that may exist."""
        return f"v{self.chance.randrange(6)}"

    def schedule(self) -> str:
        """A reference to a schedule that may exist."""
        return self._elsewhere(self.schedule_name())

    def schedule_name(self) -> str:
        """The name of a schedule that may exist."""
        return f"t{self.chance.randrange(4)}"

    def job(self) -> str:
        """A reference to a job that may exist; as jobs come, the later ones are named."""
        return self._elsewhere(str(self.chance.randint(1, 12)))

    def conversation(self) -> str:
        """A reference to a conversation that may exist."""
        return self._elsewhere(str(self.chance.randint(1, 4)))

    def message(self) -> str:
        """A reference to a message that may exist."""
        return f"{self.conversation()}:{self.chance.randint(1, 3)}"

    def known_id(self) -> str:
        """An id that a client chose for a conversation or a message."""
        return f"00000000-0000-4000-8000-{self.chance.randrange(6):012x}"

    def words(self) -> str:
        """Some text, which may be long."""
        return "word " * self.chance.choice([1, 20, 5000])

    def group(self) -> str:
        """The name of a group of jobs that may exist."""
        return self.chance.choice(["default", "default", "g0", "g1"])

    def node(self) -> str:
        """The name of a node that may exist, and that refuses connections."""
        return f"n{self.chance.randrange(3)}"

    def _elsewhere(self, name: str) -> str:
        return f"{self.project()}/{name}" if self.chance.random() < 0.05 else name

    def project(self) -> str:
        """The name of a project that may exist."""
        return f"p{self.chance.randrange(4)}"

    def folder(self) -> str:
        """A folder that a project may have."""
        return f"/srv/{self.chance.randrange(4)}"

    def context(self) -> str | ProjectRoot | None:
        """The project that a request names; most name none, so that much meets in one."""
        drawn = self.chance.random()
        return None if drawn < 0.85 else self.project() if drawn < 0.95 else ProjectRoot(self.folder())

    def setting(self) -> str:
        """The key of a setting that may exist."""
        return f"k.{self.chance.randrange(4)}"

    def secret(self) -> dict[str, str]:
        """An environment."""
        return {f"NAME_{self.chance.randrange(3)}": f"value-{self.chance.randrange(4)}"}

    def tags(self) -> list[str]:
        """Some tags, which may repeat."""
        return self.chance.choices(["red", "green", "blue"], k=self.chance.randrange(4))


Maker = Callable[[Pool], Command[Any]]


def _add_service(pool: Pool) -> AddService:
    chance, name = pool.chance, pool.service_name()
    fields: dict[str, Any] = {}
    if pool.repository is not None and chance.random() < 0.3:
        fields |= {
            "repo_url": str(pool.repository),
            "repo_path": str(pool.root / "clones" / name),
            "directory": str(pool.root),
        }
    if chance.random() < 0.4:
        fields["port"] = 0
    if chance.random() < 0.3:
        fields |= {"health_exec": chance.choice([["true"], ["false"]]), "health_interval_ms": 100, "health_retries": 1}
        fields["restart_unhealthy"] = chance.random() < 0.5
    return AddService(
        name,
        run_command=chance.choice(_PROGRAMS),
        type=chance.choice([ServiceType.SIMPLE, ServiceType.SIMPLE, ServiceType.ONESHOT]),
        tags=pool.tags(),
        environment=pool.secret(),
        autostart=chance.random() < 0.3,
        start_window_ms=chance.choice([0, 10]),
        stop_grace_ms=100,
        restart=chance.choice(list(RestartPolicy)),
        restart_backoff_ms=50,
        restart_backoff_max_ms=100,
        restart_limit=chance.choice([0, 3]),
        log_limit_mib=1,
        **fields,
    )


def _update_service(pool: Pool) -> UpdateService:
    chance = pool.chance
    fields: dict[str, Any] = chance.choice(
        [
            {"name": pool.service_name()},
            {"tags": pool.tags()},
            {"environment": pool.secret()},
            {"set_environment": pool.secret()},
            {"unset_environment": ["NAME_0"]},
            {"run_command": chance.choice(_PROGRAMS)},
            {"clear": ["health_exec"]},
            {"clear": ["tags"]},
            {"health_exec": ["true"], "health_interval_ms": 100},
            {"port": chance.choice([0, 0, 18080])},
            {"restart": chance.choice(list(RestartPolicy)), "autostart": chance.random() < 0.5},
            {"log_limit_mib": 2, "umask": "027"},
            {"config_filename": "app.env", "start_window_ms": 5},
            {"config_filename": ["?app.env", "/etc/app.env"]},
        ]
    )
    return UpdateService(pool.service(), **fields)


def _update_config(pool: Pool) -> UpdateConfig:
    fields: dict[str, Any] = pool.chance.choice(
        [{"filename": "x.env"}, {"run_command": "exec sleep 500"}, {"clear": ["filename"]}]
    )
    return UpdateConfig(pool.service(), **fields)


def _start(pool: Pool) -> StartService:
    return StartService(pool.service(), environment=pool.chance.choice([None, None, pool.secret()]), timeout_ms=2000)


def _restart(pool: Pool) -> RestartService:
    return RestartService(pool.service(), environment=pool.chance.choice([None, pool.secret()]), timeout_ms=2000)


def _add_dependency(pool: Pool) -> AddDependency:
    chance = pool.chance
    return AddDependency(
        pool.service(),
        pool.service(),
        condition=chance.choice([DependencyCondition.STARTED] * 4 + list(DependencyCondition)),
        tunnel_enabled=chance.random() < 0.5,
        when_lost=chance.choice(list(WhenLost)),
    )


def _update_vm(pool: Pool) -> UpdateVm:
    chance = pool.chance
    fields: dict[str, Any] = chance.choice(
        [{"name": pool.vm_name()}, {"vcpu_count": chance.randint(1, 8)}, {"mem_size_mib": chance.choice([128, 256])}]
    )
    return UpdateVm(pool.vm(), **fields)


def _create_job(pool: Pool) -> CreateJob:
    chance = pool.chance
    fields: dict[str, Any] = chance.choice(
        [
            {},
            {"after": [pool.job()]},
            {"after": [f"{pool.job()}:any"]},
            {"delay_ms": chance.choice([10, 100_000])},
            {"retries": 2, "retry_backoff_ms": 10},
            {"stdin_data": b"typed", "timeout_ms": 300},
            {"stashed": True},
            {"service": pool.service()},
            {"stdin_open": True},
            {"conversation_id": pool.known_id()},
            {"conversation_id": pool.known_id(), "message_id": pool.known_id()},
        ]
    )
    return CreateJob(
        chance.choice(["exit 0", "echo out; echo err >&2; exit 1", "exec sleep 600", ["/nowhere/program"], ["true"]]),
        environment=chance.choice([None, pool.secret()]),
        group=pool.group(),
        priority=chance.randrange(3),
        tags=pool.tags(),
        directory="/",
        stop_grace_ms=100,
        log_limit_mib=1,
        **fields,
    )


def _update_job(pool: Pool) -> UpdateJob:
    fields: dict[str, Any] = pool.chance.choice(
        [{"label": "x"}, {"tags": pool.tags()}, {"command": "exit 0"}, {"priority": 3}, {"group": pool.group()}]
    )
    return UpdateJob(pool.job(), **fields)


def _retry_job(pool: Pool) -> RetryJob:
    return RetryJob(pool.job(), in_place=pool.chance.random() < 0.5, environment=pool.secret())


def _move_job(pool: Pool) -> MoveJob:
    return MoveJob(pool.job(), before=pool.chance.choice([None, pool.job()]))


def _create_schedule(pool: Pool) -> CreateSchedule:
    chance = pool.chance
    when: dict[str, Any] = chance.choice([{"cron": "@daily"}, {"cron": "* * * * *"}, {"every_ms": 300}])
    return CreateSchedule(
        pool.schedule_name(),
        command=chance.choice(["exit 0", "sleep 0.5", ["/bin/sh", "-c", "exit 1"]]),
        overlap=chance.choice(list(Overlap)),
        missed=chance.choice(list(Missed)),
        environment=chance.choice([None, pool.secret()]),
        variables=pool.secret(),
        tags=pool.tags(),
        directory="/",
        **when,
    )


def _update_schedule(pool: Pool) -> UpdateSchedule:
    fields: dict[str, Any] = pool.chance.choice(
        [
            {"name": pool.schedule_name()},
            {"cron": "30 2 * * *", "timezone": "UTC"},
            {"every_ms": 500},
            {"command": "exit 0", "tags": pool.tags()},
            {"variables": pool.secret(), "environment": pool.secret()},
            {"clear": ["variables", "environment", "tags"]},
            {"overlap": pool.chance.choice(list(Overlap)), "priority": pool.chance.randrange(9)},
        ]
    )
    return UpdateSchedule(pool.schedule(), **fields)


def _create_project(pool: Pool) -> CreateProject:
    chance = pool.chance
    return CreateProject(
        pool.project(),
        root_path=chance.choice([None, pool.folder(), pool.folder()]),
        mode=chance.choice(list(ProjectMode)),
        settings=chance.choice([None, {"a": [1, {"b": None}]}]),
    )


def _update_project(pool: Pool) -> UpdateProject:
    chance = pool.chance
    texts: list[dict[str, Any]] = [{"description": f"{chance.randrange(9)}"}, {"settings": {"a": chance.randrange(9)}}]
    if chance.random() < 0.5:
        return UpdateProject("default", **chance.choice(texts))
    names: list[dict[str, Any]] = [{"name": pool.project()}, {"root_path": pool.folder()}]
    return UpdateProject(pool.project(), **chance.choice(texts + names))


def _create_conversation(pool: Pool) -> CreateConversation:
    chance = pool.chance
    fields: dict[str, Any] = chance.choice([{}, {"title": "t", "pinned": True}, {"folder": "/srv", "tool": "x"}])
    return CreateConversation(tags=pool.tags() or None, id=chance.choice([None, pool.known_id()]), **fields)


def _update_conversation(pool: Pool) -> UpdateConversation:
    fields: dict[str, Any] = pool.chance.choice(
        [{"title": "u"}, {"tags": pool.tags()}, {"archived": True}, {"metadata": {"n": pool.chance.randrange(3)}}]
    )
    return UpdateConversation(pool.conversation(), **fields)


def _create_message(pool: Pool) -> CreateMessage:
    chance = pool.chance
    parts = [MessagePart(PartKind.TOOL_USE, pool.words(), tool="bash", call_id="1"), MessagePart(PartKind.TEXT, "x")]
    fields: dict[str, Any] = chance.choice([{"content": pool.words()}, {"parts": parts}])
    return CreateMessage(
        pool.conversation(), chance.choice(list(Role)), id=chance.choice([None, pool.known_id()]), **fields
    )


def _edit_message(pool: Pool) -> EditMessage:
    fields: dict[str, Any] = pool.chance.choice([{"content": pool.words()}, {"tokens": 5}, {"metadata": {"a": 1}}])
    return EditMessage(pool.message(), **fields)


def _import_messages(pool: Pool) -> ImportMessages:
    chance = pool.chance
    conversation = ImportedConversation(
        source="x", source_id=f"c{chance.randrange(3)}", title=f"t{chance.randrange(3)}"
    )
    messages = [
        ImportedMessage(source_id=f"m{chance.randrange(9)}", role=Role.USER, content=pool.words(), tokens=2)
        for _ in range(chance.randrange(4))
    ]
    return ImportMessages(conversation, messages)


MAKERS: dict[str, tuple[int, Maker]] = {
    "AddService": (14, _add_service),
    "UpdateService": (10, _update_service),
    "UpdateConfig": (3, _update_config),
    "RemoveService": (3, lambda pool: RemoveService(pool.service(), stop=pool.chance.random() < 0.7)),
    "StartService": (12, _start),
    "StopService": (7, lambda pool: StopService(pool.service(), cascade=pool.chance.random() < 0.7, timeout_ms=2000)),
    "RestartService": (5, _restart),
    "AddDependency": (9, _add_dependency),
    "RemoveDependency": (3, lambda pool: RemoveDependency(pool.service(), pool.service())),
    "GitClone": (2, lambda pool: GitClone(pool.service())),
    "GitPull": (1, lambda pool: GitPull(pool.service())),
    "CheckoutBranch": (1, lambda pool: CheckoutBranch(pool.service(), pool.chance.choice(["main", "other"]))),
    "GitCheckoutCommit": (1, lambda pool: GitCheckoutCommit(pool.service(), "HEAD~1")),
    "SetSetting": (
        6,
        lambda pool: SetSetting(f"k.{pool.chance.randrange(4)}", pool.chance.choice([1, "x", [2], True])),
    ),
    "DeleteSetting": (3, lambda pool: DeleteSetting(f"k.{pool.chance.randrange(4)}")),
    "BeginOperation": (2, lambda pool: BeginOperation("work", {"n": pool.chance.randrange(4)})),
    "BackupDatabase": (1, lambda pool: BackupDatabase(keep_days=1, with_files=pool.chance.random() < 0.3)),
    "ResetVectors": (1, lambda pool: ResetVectors(pool.chance.choice(list(Collection)))),
    "SweepBlobs": (1, lambda pool: SweepBlobs(grace_ms=0)),
    "ReloadPlugins": (1, lambda pool: ReloadPlugins()),
    "Extra": (1, lambda pool: Extra("nothing", body=1)),
    "CreateVm": (8, lambda pool: CreateVm(pool.vm_name(), role=pool.chance.choice([VmRole.WORK, VmRole.PORTAL]))),
    "DeleteVm": (4, lambda pool: DeleteVm(pool.vm())),
    "UpdateVm": (5, _update_vm),
    "CreateJob": (14, _create_job),
    "UpdateJob": (4, _update_job),
    "DeleteJob": (3, lambda pool: DeleteJob(pool.job())),
    "CancelJob": (6, lambda pool: CancelJob(pool.job(), now=pool.chance.random() < 0.3)),
    "RetryJob": (4, _retry_job),
    "MoveJob": (2, _move_job),
    "StashJob": (2, lambda pool: StashJob(pool.job())),
    "EnqueueJob": (3, lambda pool: EnqueueJob(pool.job())),
    "StartJob": (3, lambda pool: StartJob(pool.job())),
    "PruneJobs": (1, lambda pool: PruneJobs(successful=True)),
    "AttachJob": (1, lambda _pool: AttachJob("none")),
    "SendJobInput": (1, lambda pool: SendJobInput(pool.job(), b"x\n")),
    "CreateJobGroup": (2, lambda pool: CreateJobGroup(f"g{pool.chance.randrange(2)}", slots=2)),
    "UpdateJobGroup": (2, lambda pool: UpdateJobGroup(pool.group(), slots=pool.chance.randint(1, 4))),
    "DeleteJobGroup": (1, lambda pool: DeleteJobGroup(pool.group())),
    "PauseJobGroup": (1, lambda pool: PauseJobGroup(pool.group())),
    "ResumeJobGroup": (3, lambda pool: ResumeJobGroup(pool.group())),
    "AttachService": (1, lambda _pool: AttachService("none")),
    "SendServiceInput": (1, lambda pool: SendServiceInput(pool.service(), b"x\n")),
    "CreateSchedule": (5, _create_schedule),
    "UpdateSchedule": (4, _update_schedule),
    "DeleteSchedule": (3, lambda pool: DeleteSchedule(pool.schedule())),
    "PauseSchedule": (1, lambda pool: PauseSchedule(pool.schedule())),
    "ResumeSchedule": (1, lambda pool: ResumeSchedule(pool.schedule())),
    "TriggerSchedule": (2, lambda pool: TriggerSchedule(pool.schedule())),
    "AddNode": (2, lambda pool: AddNode(pool.node(), hostname="127.0.0.1", port=1)),
    "UpdateNode": (1, lambda pool: UpdateNode(pool.node(), port=pool.chance.choice([1, 2]))),
    "RemoveNode": (1, lambda pool: RemoveNode(pool.node())),
    "DrainNode": (1, lambda pool: DrainNode(pool.node())),
    "UndrainNode": (1, lambda pool: UndrainNode(pool.node())),
    "CheckNode": (1, lambda pool: CheckNode(pool.node())),
    "CreateConversation": (12, _create_conversation),
    "UpdateConversation": (4, _update_conversation),
    "DeleteConversation": (1, lambda pool: DeleteConversation(pool.conversation())),
    "ForkConversation": (2, lambda pool: ForkConversation(pool.conversation())),
    "CreateMessage": (16, _create_message),
    "EditMessage": (4, _edit_message),
    "DeleteMessage": (2, lambda pool: DeleteMessage(pool.message())),
    "AppendMessage": (1, lambda _pool: AppendMessage("none", Role.USER)),
    "ImportMessages": (5, _import_messages),
    "AddConversationSource": (2, lambda pool: AddConversationSource(f"/srv/{pool.chance.randrange(3)}")),
    "RemoveConversationSource": (2, lambda pool: RemoveConversationSource(f"/srv/{pool.chance.randrange(3)}")),
    "RebuildSearchIndex": (1, lambda _pool: RebuildSearchIndex()),
    "PutBlob": (1, lambda pool: PutBlob(pool.words().encode())),
    "CreateProject": (5, _create_project),
    "UpdateProject": (6, _update_project),
    "DeleteProject": (3, lambda pool: DeleteProject(pool.project(), cascade=pool.chance.random() < 0.8)),
    **AGENT_MAKERS,
    **MEMORY_MAKERS,
    **PLAN,
    **CHUNK_MAKERS,
    **TASK_MAKERS,
}
"""For each command how often it is made, and how."""

_IN_BATCHES = (
    *("CreateVm", "DeleteVm", "UpdateVm", "SetSetting", "DeleteSetting"),
    *("AddService", "UpdateService", "UpdateConfig", "AddDependency"),
    *("CreateProject", "UpdateProject", "DeleteProject"),
    *PLAN,
    *MEMORY_MAKERS,
    *("CreateConversation", "UpdateConversation", "DeleteConversation"),
    *("CreateMessage", "EditMessage", "DeleteMessage"),
    *("AddNode", "UpdateNode", "RemoveNode", "DrainNode", "UndrainNode"),
    *("CreateJob", "UpdateJob", "DeleteJob", "RetryJob", "MoveJob", "StashJob", "EnqueueJob", "CreateJobGroup"),
)
BATCH = "Batch"
"""The command that is made of others, by ``Mutator``."""


def random_command(pool: Pool) -> Command[Any]:
    """One command of any kind but a batch."""
    names = list(MAKERS)
    (name,) = pool.chance.choices(names, [MAKERS[each][0] for each in names])
    return MAKERS[name][1](pool)


class Mutator(threading.Thread):
    """A client that sends random commands until it has sent ``count``, its connection ends, or it is told to stop."""

    def __init__(self, socket_path: Path, pool: Pool, count: int, done: Callable[[], None] = lambda: None) -> None:
        super().__init__(name="mutator")
        self.socket_path = socket_path
        self.pool = pool
        self.count = count
        self.done = done
        self.outcomes: Counter[tuple[str, str]] = Counter()
        """How often each command, by name, ended with ``ok`` or a code."""
        self.problem: BaseException | None = None
        self._sent = pool.sent
        """Commands that were sent with a key."""

    def run(self) -> None:
        try:
            with BlockingClient(self.socket_path, actor="mutator") as client:
                for _ in range(self.count):
                    self._one(client)
                    self.done()
        except ConnectionFailure:
            pass
        except BaseException as problem:
            self.problem = problem

    def _one(self, client: BlockingClient) -> None:
        chance = self.pool.chance
        if self._sent and chance.random() < 0.1:
            # A request that may have been carried out, by this client or an earlier daemon, comes again with its key.
            command, key, project = chance.choice(self._sent)
        elif chance.random() < 0.06:
            commands = [MAKERS[chance.choice(_IN_BATCHES)][1](self.pool) for _ in range(chance.randint(1, 4))]
            command, key, project = Batch.of(commands), self._new_key(), self.pool.context()
        else:
            command = random_command(self.pool)
            key = None if command.info.item is not None else self._new_key()
            project = self.pool.context()
        if key is not None:
            self._sent.append((command, key, project))
        if command.info.item is None:
            call = functools.partial(client.call, command, timeout_s=CALL_S, key=key, why="because", project=project)
        else:
            call = functools.partial(self._stream, client, command, project)
        self._note(type(command).__name__, call)

    def _new_key(self) -> str | None:
        chance = self.pool.chance
        return f"{chance.randrange(2**40):x}" if chance.random() < 0.4 else None

    def _stream(self, client: BlockingClient, command: Any, project: str | ProjectRoot | None) -> None:
        with client.stream(command, project=project) as stream:
            for _ in stream:
                pass

    def _note(self, name: str, call: Callable[[], object]) -> None:
        try:
            call()
        except (Internal, ConnectionFailure):
            raise
        except (NexusError, DeadlineExceeded) as error:
            self.outcomes[name, error.code] += 1
        else:
            self.outcomes[name, "ok"] += 1


def make_repository(root: Path) -> Path:
    """A bare repository with two commits and the branches ``main`` and ``other``."""
    git = GitWorld(root)
    source = git.repository("source", commits=2)
    git.git(source, "branch", "other")
    bare = git.bare("remote.git", source)
    with contextlib.suppress(FileExistsError):
        (root / "clones").mkdir()
    return bare
