"""Declarations of commands: codes, result types, secrets, and invalid declarations."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta, field
from nexus_protocol import (
    DEFAULT_MAX_PAYLOAD,
    MAX_PAYLOAD,
    Command,
    Effect,
    Empty,
    Record,
    StreamCommand,
    command,
    declared_commands,
)
from nexus_protocol.command import _COMMANDS, SECRET, Repeat, secret_fields

from nexus.daemon.dispatch import load_capabilities
from nexus.journal.commands import Event, WatchEvents, WatchEventsResult
from nexus.vms.commands import CreateVm, Vm

load_capabilities()


@pytest.fixture
def scratch_registry() -> Iterator[None]:
    """Removes the commands that a test declares."""
    before = dict(_COMMANDS)
    yield
    _COMMANDS.clear()
    _COMMANDS.update(before)


STABLE_CODES = {
    "StartService": 1,
    "StopService": 2,
    "RestartService": 3,
    "GetServiceStatus": 4,
    "AddService": 5,
    "RemoveService": 6,
    "ListServices": 7,
    "GetServiceStdout": 8,
    "UpdateConfig": 10,
    "GetConfig": 11,
    "UpdateService": 12,
    "AddDependency": 20,
    "RemoveDependency": 21,
    "ListDependencies": 22,
    "CheckoutBranch": 30,
    "GetRepoStatus": 31,
    "GitCheckoutCommit": 32,
    "GitPull": 33,
    "GitLog": 34,
    "GitListBranches": 35,
    "GitClone": 36,
    "Shutdown": 40,
    "GetSystemStatus": 41,
    "Ping": 42,
    "Health": 43,
    "Describe": 44,
    "Hello": 45,
    "GetSetting": 46,
    "SetSetting": 47,
    "ListSettings": 48,
    "DeleteSetting": 49,
    "BackupDatabase": 50,
    "WatchEvents": 51,
    "ListPlugins": 52,
    "ReloadPlugins": 53,
    "Batch": 54,
    "GetOperation": 55,
    "ListOperations": 56,
    "BeginOperation": 57,
    "CreateVm": 0x0100,
    "ListVms": 0x0101,
    "GetVm": 0x0102,
    "DeleteVm": 0x0103,
    "UpdateVm": 0x0107,
    "CreateSchedule": 0x0318,
    "ListSchedules": 0x0319,
    "GetSchedule": 0x031A,
    "UpdateSchedule": 0x031B,
    "DeleteSchedule": 0x031C,
    "PauseSchedule": 0x031D,
    "ResumeSchedule": 0x031E,
    "TriggerSchedule": 0x031F,
    "CreateProject": 0x0500,
    "ListProjects": 0x0501,
    "GetProject": 0x0502,
    "DeleteProject": 0x0503,
    "UpdateProject": 0x0504,
    "GetProjectHoldings": 0x0505,
    "Search": 0x0600,
    "RebuildSearchIndex": 0x0601,
    "Extra": 0xFF00,
    "AttachService": 13,
    "SendServiceInput": 14,
    "CreateJob": 0x0300,
    "ListJobs": 0x0301,
    "GetJob": 0x0302,
    "UpdateJob": 0x0303,
    "DeleteJob": 0x0304,
    "CancelJob": 0x0305,
    "RetryJob": 0x0306,
    "MoveJob": 0x0307,
    "StashJob": 0x0308,
    "EnqueueJob": 0x0309,
    "StartJob": 0x030A,
    "PruneJobs": 0x030B,
    "GetJobOutput": 0x030C,
    "WaitJobs": 0x030D,
    "AttachJob": 0x030E,
    "SendJobInput": 0x030F,
    "CreateJobGroup": 0x0310,
    "ListJobGroups": 0x0311,
    "GetJobGroup": 0x0312,
    "UpdateJobGroup": 0x0313,
    "DeleteJobGroup": 0x0314,
    "PauseJobGroup": 0x0315,
    "ResumeJobGroup": 0x0316,
    "AddNode": 0x0320,
    "ListNodes": 0x0321,
    "GetNode": 0x0322,
    "UpdateNode": 0x0323,
    "RemoveNode": 0x0324,
    "DrainNode": 0x0325,
    "UndrainNode": 0x0326,
    "CheckNode": 0x0327,
    "CreateConversation": 0x0400,
    "ListConversations": 0x0401,
    "GetConversation": 0x0402,
    "UpdateConversation": 0x0403,
    "DeleteConversation": 0x0404,
    "ForkConversation": 0x0405,
    "CreateMessage": 0x0408,
    "AppendMessage": 0x0409,
    "GetMessage": 0x040A,
    "ListMessages": 0x040B,
    "EditMessage": 0x040C,
    "DeleteMessage": 0x040D,
    "GetMessageRevisions": 0x040E,
    "PutBlob": 0x0410,
    "GetBlob": 0x0411,
    "SweepBlobs": 0x0412,
    "ImportMessages": 0x0420,
    "AddConversationSource": 0x0421,
    "ListConversationSources": 0x0422,
    "GetConversationSource": 0x0423,
    "RemoveConversationSource": 0x0424,
    "CreateTask": 0x0520,
    "ListTasks": 0x0521,
    "GetTask": 0x0522,
    "UpdateTask": 0x0523,
    "DeleteTask": 0x0524,
    "ListReadyTasks": 0x0525,
    "ExplainTask": 0x0526,
    "CountTasks": 0x0527,
    "ClaimTask": 0x0528,
    "QueueTask": 0x0529,
    "UnqueueTask": 0x052A,
    "SubmitTask": 0x052B,
    "CompleteTask": 0x052C,
    "FailTask": 0x052D,
    "BlockTask": 0x052E,
    "UnblockTask": 0x052F,
    "ResetTask": 0x0530,
    "ApproveTask": 0x0531,
    "RejectTask": 0x0532,
    "AddTaskNote": 0x0533,
    "AddTaskComment": 0x0534,
    "CreateTaskGraph": 0x0535,
    "GetProjectOverview": 0x050A,
    "GetBoard": 0x050B,
    "GetExecution": 0x050C,
    "GetAgentPool": 0x050D,
    "GetTaskGraph": 0x050E,
    "PauseProject": 0x0506,
    "ResumeProject": 0x0507,
    "CompleteProject": 0x0508,
    "FailProject": 0x0509,
    "CreateAgent": 0x0540,
    "ListAgents": 0x0541,
    "GetAgent": 0x0542,
    "UpdateAgent": 0x0543,
    "DeleteAgent": 0x0544,
    "PauseAgent": 0x0545,
    "ResumeAgent": 0x0546,
    "ReportAgentError": 0x0547,
    "TerminateAgent": 0x0548,
    "CreateFeature": 1296,
    "ListFeatures": 1297,
    "GetFeature": 1298,
    "UpdateFeature": 1299,
    "DeleteFeature": 1300,
    "SyncFeatures": 1301,
    "CreateSubFeature": 1304,
    "ListSubFeatures": 1305,
    "GetSubFeature": 1306,
    "UpdateSubFeature": 1307,
    "DeleteSubFeature": 1308,
    "CreateRequirement": 1360,
    "ListRequirements": 1361,
    "GetRequirement": 1362,
    "UpdateRequirement": 1363,
    "DeleteRequirement": 1364,
    "LinkRequirement": 1365,
    "UnlinkRequirement": 1366,
    "ValidateRequirement": 1367,
    "ReadPlan": 0x0578,
    "WritePlan": 0x0579,
    "StartSession": 1368,
    "ListSessions": 1369,
    "GetSession": 1370,
    "UpdateSession": 1371,
    "PauseSession": 1372,
    "ResumeSession": 1373,
    "CompleteSession": 1374,
    "CancelSession": 1375,
    "DeleteSession": 1376,
    "CreateCheckpoint": 1472,
    "ListCheckpoints": 1473,
    "GetCheckpoint": 1474,
    "GetCheckpointState": 1475,
    "UpdateCheckpoint": 1476,
    "DeleteCheckpoint": 1477,
    "DiffCheckpoints": 1478,
    "RestoreCheckpoint": 1479,
    "GetLease": 0x0570,
    "ListLeases": 0x0571,
    "RenewLease": 0x0572,
    "ReleaseLease": 0x0573,
    "RevokeLease": 0x0574,
    "RecordMetric": 0x0568,
    "ListMetrics": 0x0569,
    "SumMetrics": 0x056A,
    "CreateContinuePoint": 0x0580,
    "ListContinuePoints": 0x0581,
    "GetContinuePoint": 0x0582,
    "DeleteContinuePoint": 0x0583,
    "GetResumePoint": 0x0584,
    "CreateEpisode": 0x0588,
    "ListEpisodes": 0x0589,
    "GetEpisode": 0x058A,
    "UpdateEpisode": 0x058B,
    "DeleteEpisode": 0x058C,
    "PruneEpisodes": 0x058D,
    "ListVectorCollections": 0x05A8,
    "ResetVectors": 0x05A9,
    "SearchVectors": 0x05AA,
    "SearchMemory": 0x05B0,
    "IndexChunks": 0x0598,
    "ListChunkHashes": 0x0599,
    "ListChunks": 0x059A,
    "GetChunk": 0x059B,
    "SetChunkEmbeddings": 0x059C,
    "ListUnembeddedChunks": 0x059D,
    "FindSymbols": 0x059E,
    "GetChunkMap": 0x059F,
    "DeleteChunks": 0x05A0,
}
"""Codes never change: lines may be added here, but not changed."""


def test_command_codes_have_not_changed() -> None:
    assert {info.name: info.code for info in declared_commands()} == STABLE_CODES


def test_declared_commands_are_sorted_by_code() -> None:
    codes = [info.code for info in declared_commands()]
    assert codes == sorted(codes)


def test_declaration_has_reply_and_item_types() -> None:
    assert (CreateVm.info.reply, CreateVm.info.item) == (Vm, None)
    assert (WatchEvents.info.reply, WatchEvents.info.item) == (WatchEventsResult, Event)
    assert CreateVm.info.max_payload == DEFAULT_MAX_PAYLOAD


def test_summary_is_the_first_paragraph_of_the_docstring() -> None:
    assert CreateVm.info.summary == "Create a VM record in state created, with a unique vsock CID."


def test_commands_and_records_are_immutable() -> None:
    wanted = CreateVm(name="web")
    with pytest.raises(AttributeError):
        wanted.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("code", [-1, 0, 0xF000, 0xFFE0, 0xFFFF, 0x10000])
def test_code_outside_the_range_of_commands_is_refused(code: int) -> None:
    with pytest.raises(ValueError, match="not a command code"):
        command(code, Effect.READ)


@pytest.mark.parametrize("limit", [-1, MAX_PAYLOAD + 1])
def test_payload_limit_above_that_of_frames_is_refused(limit: int) -> None:
    with pytest.raises(ValueError, match="payload limit"):
        command(1, Effect.READ, max_payload=limit)


def test_stream_cannot_be_declared_as_a_change() -> None:
    with pytest.raises(ValueError, match="is a stream and cannot be a change"):

        @command(0xE100, Effect.CHANGE)
        class Flow(StreamCommand[Empty, Empty]):
            """A stream."""


@pytest.mark.usefixtures("scratch_registry")
def test_code_of_another_command_is_refused() -> None:
    class Intruder(Command[Empty]):
        """Uses the code of another command."""

    with pytest.raises(ValueError, match="belongs to CreateVm"):
        command(0x0100, Effect.READ)(Intruder)


@pytest.mark.usefixtures("scratch_registry")
def test_command_may_have_the_plugin_code_and_options() -> None:
    del _COMMANDS[0xFF00]

    @command(0xFF00, Effect.ACT, max_payload=7, takes_input=True, repeat=Repeat.REFUSE)
    class Extra(StreamCommand[Vm, Empty]):
        """Call a plugin."""

    assert declared_commands()[-1] is Extra.info
    assert (Extra.info.max_payload, Extra.info.takes_input, Extra.info.item) == (7, True, Vm)


@pytest.mark.usefixtures("scratch_registry")
def test_class_without_a_reply_type_cannot_be_declared() -> None:
    class NoReply(Command):  # type: ignore[type-arg]
        """Has no reply type."""

    with pytest.raises(TypeError, match="must derive from"):
        command(0xE100, Effect.READ)(NoReply)


def test_no_item_of_an_input_stream_has_a_field_ack() -> None:
    taking: list[Any] = [info.item for info in declared_commands() if info.takes_input]
    assert not [item.__name__ for item in taking if "ack" in item.__struct_fields__]


class _Secretive(Record):
    """A record with secrets of several types."""

    name: str
    token: Annotated[str, SECRET] | None = None
    variables: Annotated[dict[str, str], SECRET, Meta(max_length=9)] = field(default_factory=dict)
    inner: list[_Secretive] = field(default_factory=list)


def test_repr_hides_secrets() -> None:
    record = _Secretive("a", "hunter2", {"PASSWORD": "hunter2", "B": "c"}, [_Secretive("b", "hunter2")])
    assert secret_fields(_Secretive) == {"token", "variables"}
    assert repr(record) == (
        "_Secretive(name='a', token=<hidden>, variables=<2 hidden>, "
        "inner=[_Secretive(name='b', token=<hidden>, variables=<0 hidden>, inner=[])])"
    )
    assert str(record) == repr(record)
    assert repr(_Secretive("a")) == "_Secretive(name='a', token=None, variables=<0 hidden>, inner=[])"


def test_repr_shows_fields_that_are_not_secret() -> None:
    assert repr(CreateVm(name="web")) == (
        "CreateVm(name='web', role=<VmRole.WORK: 'work'>, vcpu_count=1, mem_size_mib=128, managed_by=None, id=None)"
    )
    assert secret_fields(CreateVm) == frozenset()


def test_schema_marks_secret_fields() -> None:
    properties = msgspec.json.schema(_Secretive)["$defs"]["_Secretive"]["properties"]
    assert properties["token"]["anyOf"][0]["secret"]
    assert properties["variables"]["secret"]
    assert "secret" not in properties["name"]


def test_program_with_every_decoder_exits_without_a_crash() -> None:
    program = (
        "from nexus.daemon.dispatch import load_capabilities; load_capabilities(); "
        "import msgspec; from nexus_protocol import declared_commands as d; [msgspec.json.schema(i.reply) for i in d()]"
    )
    for _ in range(8):  # without gc.freeze at exit, about a quarter of the runs crashed
        assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
