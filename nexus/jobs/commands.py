"""The commands of jobs, groups and schedules, and the kinds of their events."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from nexus_protocol.command import SECRET, UNRECORDED, Command, Effect, Empty, Repeat, StreamCommand, command
from nexus_protocol.events import cause, event

from nexus.jobs.errors import (
    JobAmbiguous,
    JobChanged,
    JobCursorInvalid,
    JobGroupAmbiguous,
    JobGroupChanged,
    JobGroupCursorInvalid,
    JobGroupFixed,
    JobGroupIdTaken,
    JobGroupInUse,
    JobGroupNameTaken,
    JobGroupNotFound,
    JobIdTaken,
    JobInvalid,
    JobNeeded,
    JobNodeNotFound,
    JobNodeUnavailable,
    JobNotFound,
    JobStatusWrong,
)
from nexus.jobs.records import (
    GroupReference,
    Job,
    JobEnvironment,
    JobGroup,
    JobGroupPage,
    JobPage,
    JobReference,
    JobsPruned,
    JobsWaited,
)
from nexus.jobs.states import JobStatus
from nexus.records.errors import QueryInvalid
from nexus.records.events import record_events, written_event
from nexus.records.fields import (
    ClientId,
    Cursor,
    ManagedBy,
    Match,
    Metadata,
    Name,
    PageLimit,
    Reference,
    Revision,
    StateRevision,
    Tag,
    Tags,
    key,
)
from nexus.records.processes import (
    AttachmentLost,
    Columns,
    InputData,
    InputUnavailable,
    LogEnd,
    LogPiece,
    LogStream,
    Path,
    Rows,
    StopSignal,
    TerminalEnd,
    TerminalOutput,
)

__all__ = [
    "AttachJob",
    "CancelJob",
    "CreateJob",
    "CreateJobGroup",
    "DeleteJob",
    "DeleteJobGroup",
    "EnqueueJob",
    "GetJob",
    "GetJobGroup",
    "GetJobOutput",
    "ListJobGroups",
    "ListJobs",
    "MoveJob",
    "PauseJobGroup",
    "PruneJobs",
    "ResumeJobGroup",
    "RetryJob",
    "SendJobInput",
    "StartJob",
    "StashJob",
    "UpdateJob",
    "UpdateJobGroup",
    "WaitJobs",
]

MAX_STDIN = 1024 * 1024
"""The largest standard input that a request can carry."""
MAX_STDIN_ELSEWHERE = 16 * 1024 * 1024
"""The largest file that is the standard input of a job on another node."""
_MAX_PAYLOAD = 6 * 1024 * 1024
"""Of the commands that carry an environment, in bytes."""

_LOOKUP_ERRORS = (JobNotFound, JobAmbiguous)
_CHANGE_ERRORS = (*_LOOKUP_ERRORS, JobChanged, JobStatusWrong)

_REASON = {"reason": "a sentence for people"}
_EXIT = _REASON | {"exit_code": "how its process exited", "exit_signal": "the signal that ended it"}

record_events(
    "job",
    "A job",
    created={"tool": "what it is for", "group": "its group", "status": "queued or stashed"},
    deleted={"status": "the one that it had"},
)
event("job.started", "A job is about to get a process.", attempt="of how many", group="its group")
event("job.completed", "The process of a job exited with 0.", **_EXIT, duration="in ms")
event("job.failed", "The process of a job ended otherwise, or could not be started.", **_EXIT, duration="in ms")
event("job.cancelling", "The processes of a job are being ended, because it was cancelled.", **_REASON)
event("job.cancelled", "A job was cancelled.", **_EXIT)
event(
    "job.retrying", "An attempt failed, and another one follows.", **_EXIT, attempt="of the next one", not_before="ms"
)
event("job.unknown", "The run of a job cannot be looked at, or what ran it is gone.", **_REASON)
event("job.requeued", "A job is queued again: it was retried, or its process had not been started.", **_REASON)
event("job.stashed", "A job waits until it is enqueued.")
event("job.enqueued", "A stashed or delayed job is queued.")
event("job.moved", "The place of a job in its queue was changed.")
event("job.unlinked", "The conversation or the message that a job belonged to was deleted.")
record_events(
    "job_group", "A job group", created={"slots": "jobs at once"}, deleted={"slots": "the number that it had"}
)
event("job_group.paused", "No job of a group begins any more.")
event("job_group.resumed", "Jobs of a group begin again.")
written_event("job_after", "What a job waits for")

cause("job.due", "Delayed jobs may begin.")
cause("job.timeout", "A job ran longer than its time limit.")
cause("node.lost", "The node of a job could not be reached any more, or what ran the job there is gone.")
cause("job.blocked", "Jobs cannot begin on their node at present.")
cause("job.after", "A job ended that others waited for.")
cause("jobs.retention", "Old jobs and their output were deleted.")

CommandLine = Annotated[
    Annotated[str, Meta(min_length=1, max_length=131_072, pattern=r"^[^\x00]*$")]
    | Annotated[
        list[Annotated[str, Meta(max_length=131_072, pattern=r"^[^\x00]*$")]], Meta(min_length=1, max_length=8192)
    ],
    UNRECORDED,
    Meta(
        description="a line, or a list of words that is run without a shell",
        extra={"metavar": "COMMAND"},
    ),
    key("run"),
]
Tool = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$(?!\n)",
        description="1 to 64 of A-Z a-z 0-9 . _ + -, the first a letter or digit",
    ),
    Meta(
        description="what it is for, any word; the line of bash (the default for a line) is run by the shell, that of "
        "another tool is split into words",
    ),
    key("tool"),
]
WorkingDirectory = Annotated[
    str,
    Meta(min_length=1, max_length=4096, pattern=r"^[^\x00]*$"),
    Meta(
        description="working directory, absolute; on another node also relative to the home directory there (default: "
        "the home directory)",
        extra={"option": "--dir", "path": "given"},
    ),
    key("dir"),
]
FullEnvironment = Annotated[
    JobEnvironment,
    Meta(
        description="the whole environment (default: that of the daemon)",
        extra={"option": "--env", "metavar": "NAME=VALUE"},
    ),
]
NodeName = Annotated[
    Name,
    Meta(
        description="the node that it runs on; local is the daemon's own machine",
        extra={"completes": "node", "metavar": "NODE"},
    ),
    key("node"),
]
Group = Annotated[Name, Meta(description="its group", extra={"completes": "group", "metavar": "GROUP"}), key("group")]
Priority = Annotated[
    int, Meta(ge=-1_000_000, le=1_000_000, description="jobs with a higher one begin first"), key("priority")
]
Label = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        pattern=r"^[^\x00-\x1f\x7f]*$(?!\n)",
        description="1 to 255 characters, of which none is a control character",
    ),
    key("label"),
]
TimeLimit = Annotated[
    int,
    Meta(ge=1, le=2_592_000_000, description="time limit of an attempt", extra={"option": "--time-limit"}),
    key("timeout"),
]
Retries = Annotated[
    int, Meta(ge=0, le=1000, description="how many further attempts follow one that failed"), key("retries")
]
Backoff = Annotated[
    int,
    Meta(ge=0, le=86_400_000, description="wait before the first further attempt, doubled for each one after it"),
    key("retry_backoff"),
]
AfterJobs = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=280)]],
    Meta(
        max_length=1000,
        description="begin when this job has completed; JOB:any: when it has ended in any way",
        extra={"option": "--after", "metavar": "JOB", "completes": "job"},
    ),
]
Delay = Annotated[int, Meta(ge=0, le=31_536_000_000, description="begin after this time at the earliest")]
JobTags = Annotated[Tags, key("tags")]


@command(
    0x0300,
    Effect.CHANGE,
    errors=(*_LOOKUP_ERRORS, JobInvalid, JobIdTaken, JobGroupNotFound, JobNodeNotFound, JobStatusWrong),
    max_payload=_MAX_PAYLOAD,
)
class CreateJob(Command[Job]):
    """Submit a job: it begins as soon as its group has a slot for it.

    Its ``environment`` is all that it gets, beside NEXUS_PROJECT, NEXUS_JOB and NEXUS_JOB_ID. On another ``node`` it
    also gets what a login there has, and nothing of the daemon's; its directory is one there, by default the home
    directory. With an ``id`` chosen by
    the client, a request that is repeated after a lost reply returns the same job.
    """

    command: CommandLine
    tool: Tool | None = None
    directory: WorkingDirectory | None = None
    environment: FullEnvironment | None = None
    node: NodeName = "local"
    group: Group = "default"
    priority: Priority = 0
    label: Annotated[Label, Meta(description="a text for people")] | None = None
    tags: JobTags | None = None
    metadata: Metadata | None = None
    after: AfterJobs | None = None
    delay_ms: Delay | None = None
    stashed: Annotated[bool, Meta(description="do not queue it before it is enqueued", extra={"option": "--stash"})] = (
        False
    )
    timeout_ms: TimeLimit | None = None
    retries: Retries = 0
    retry_backoff_ms: Backoff = 1000
    tty: Annotated[bool, Meta(description="give it a terminal")] = False
    stdin_open: Annotated[
        bool, Meta(description="keep its standard input open for clients", extra={"option": "--interactive"})
    ] = False
    stdin_data: (
        Annotated[
            bytes,
            Meta(max_length=MAX_STDIN, description="its standard input, 1 MiB at most", extra={"option": None}),
            SECRET,
        ]
        | None
    ) = None
    stdin_path: (
        Annotated[
            Path, Meta(description="the file that is its standard input", extra={"option": "--stdin", "path": True})
        ]
        | None
    ) = None
    stop_signal: (
        Annotated[
            StopSignal, Meta(description="signal that is sent to cancel it (default: SIGTERM, with a terminal SIGHUP)")
        ]
        | None
    ) = None
    stop_grace_ms: Annotated[
        int, Meta(ge=0, le=3_600_000, description="time from the stop signal to SIGKILL", extra={"option": "--grace"})
    ] = 10_000
    memory_limit_mib: (
        Annotated[
            int,
            Meta(ge=1, le=16_777_216, description="memory limit of all its processes", extra={"option": "--memory"}),
        ]
        | None
    ) = None
    cpu_limit_percent: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=100_000,
                description="CPU limit of all its processes in percent, 100 is one core",
                extra={"option": "--cpu"},
            ),
        ]
        | None
    ) = None
    log_limit_mib: Annotated[
        int, Meta(ge=1, le=65_536, description="largest size of its kept output", extra={"option": "--log"})
    ] = 16
    service: (
        Annotated[
            Reference,
            Meta(
                description="run it as a one-off of this service: with its directory, environment, tunnels and limits",
                extra={"completes": "service"},
            ),
        ]
        | None
    ) = None
    conversation_id: (
        Annotated[Reference, Meta(description="the conversation that it belongs to (default: that of the message)")]
        | None
    ) = None
    message_id: Annotated[Reference, Meta(description="the message that led to it")] | None = None
    id: ClientId | None = None


@command(0x0301, Effect.READ, errors=(JobCursorInvalid, QueryInvalid), large_reply=True, all_projects=True)
class ListJobs(Command[JobPage]):
    """List jobs, newest first, without their output.

    A page ends at ``limit`` jobs or 1 MiB, whichever comes first; ``next_cursor`` is set when more follow.
    """

    status: Annotated[JobStatus, Meta(description="only jobs in this status")] | None = None
    group: (
        Annotated[Name, Meta(description="only jobs of this group", extra={"completes": "group", "metavar": "GROUP"})]
        | None
    ) = None
    tag: Annotated[Tag, Meta(description="only jobs with this tag")] | None = None
    tool: Annotated[str, Meta(max_length=64, description="only jobs of this tool")] | None = None
    node_id: (
        Annotated[
            Name,
            Meta(
                description="only jobs of this node", extra={"option": "--node", "completes": "node", "metavar": "NODE"}
            ),
        ]
        | None
    ) = None
    label: Annotated[str, Meta(max_length=255, description="only jobs with this label")] | None = None
    conversation_id: (
        Annotated[
            Reference,
            Meta(
                description="only jobs of this conversation",
                extra={"option": "--conversation", "completes": "conversation"},
            ),
        ]
        | None
    ) = None
    match: Match | None = None
    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(0x0302, Effect.READ, errors=_LOOKUP_ERRORS)
class GetJob(Command[Job]):
    """Get a job, with the end of its output if it has ended."""

    job: JobReference


@command(
    0x0303,
    Effect.CHANGE,
    errors=(*_CHANGE_ERRORS, JobInvalid, JobGroupNotFound),
    max_payload=_MAX_PAYLOAD,
)
class UpdateJob(Command[Job]):
    """Change a job that is queued or stashed; of any other its label, tags and metadata. Absent fields keep theirs."""

    job: JobReference
    command: Annotated[CommandLine, Meta(extra={"option": "--command"})] | None = None
    tool: Tool | None = None
    directory: WorkingDirectory | None = None
    group: Group | None = None
    priority: Priority | None = None
    label: Annotated[Label, Meta(description="a text for people")] | None = None
    tags: JobTags | None = None
    metadata: Metadata | None = None
    timeout_ms: TimeLimit | None = None
    retries: Retries | None = None
    retry_backoff_ms: Backoff | None = None
    if_revision: Revision | None = None


@command(0x0304, Effect.CHANGE, errors=(*_CHANGE_ERRORS, JobNeeded))
class DeleteJob(Command[Job]):
    """Delete a job that has no process, with its output."""

    job: JobReference
    if_revision: Revision | None = None
    if_state_revision: StateRevision | None = None


@command(0x0305, Effect.ACT, errors=_CHANGE_ERRORS, repeat=Repeat.AGAIN)
class CancelJob(Command[Job]):
    """Cancel a job: one that waits never begins, and of one that runs the whole process tree is ended.

    Replies when all of its processes have ended. A second request, and ``now``, kill them at once, without a grace
    time. A job that has ended is not changed. Of a job whose node cannot be reached, this waits for the node; with
    ``abandon`` it does not: the job is cancelled, and what still runs there is ended once the node can be reached.
    """

    job: JobReference
    now: Annotated[bool, Meta(description="kill it at once")] = False
    if_state_revision: StateRevision | None = None
    abandon: Annotated[bool, Meta(description="do not wait for a node that cannot be reached")] = False


@command(0x0306, Effect.CHANGE, errors=_CHANGE_ERRORS, max_payload=_MAX_PAYLOAD)
class RetryJob(Command[Job]):
    """Submit a job that has ended again: as a new job that points to it, or ``in_place``.

    The environment that a job was submitted with is deleted at its end, so it gets the one of this request.
    """

    job: JobReference
    in_place: Annotated[bool, Meta(description="queue the same job again; its result is replaced")] = False
    environment: FullEnvironment | None = None
    if_state_revision: StateRevision | None = None


@command(0x0307, Effect.CHANGE, errors=_CHANGE_ERRORS)
class MoveJob(Command[Job]):
    """Change the place of a queued or stashed job among those of its group and priority: first, by default."""

    job: JobReference
    before: Annotated[JobReference, Meta(description="place it before this job")] | None = None
    last: Annotated[bool, Meta(description="place it after all others")] = False


@command(0x0308, Effect.CHANGE, errors=_CHANGE_ERRORS)
class StashJob(Command[Job]):
    """Take a queued job out of its queue until it is enqueued."""

    job: JobReference


@command(0x0309, Effect.CHANGE, errors=_CHANGE_ERRORS)
class EnqueueJob(Command[Job]):
    """Queue a stashed job, or let a delayed one begin now; with ``delay_ms`` after that time."""

    job: JobReference
    delay_ms: Delay | None = None


@command(0x030A, Effect.ACT, errors=(*_CHANGE_ERRORS, JobNodeUnavailable), repeat=Repeat.AGAIN)
class StartJob(Command[Job]):
    """Begin a job that waits now: whatever its slots, its time and the jobs before it are. Replies once it has begun.

    A job that runs already is not changed.
    """

    job: JobReference


@command(0x030B, Effect.CHANGE)
class PruneJobs(Command[JobsPruned]):
    """Delete jobs of the project that have ended, with their output, oldest first; 1000 at most by one request."""

    successful: Annotated[bool, Meta(description="only those that completed")] = False
    before_at: (
        Annotated[
            int,
            Meta(ge=0, le=2**63 - 1, description="only those that ended before this time", extra={"option": None}),
        ]
        | None
    ) = None


@command(0x030C, Effect.READ, errors=(*_LOOKUP_ERRORS, JobCursorInvalid))
class GetJobOutput(StreamCommand[LogPiece, LogEnd]):
    """Read the kept output of a job, byte for byte, over all of its attempts.

    With ``follow`` the stream ends when the job has ended and all of its output was sent. To continue after an item,
    also after a restart of the daemon, pass its ``cursor``.
    """

    job: JobReference
    lines: Annotated[int, Meta(ge=0, le=10_000_000, description="only this many last lines")] | None = None
    since_at: (
        Annotated[int, Meta(ge=0, description="only lines begun at this time or later, in ms since 1970")] | None
    ) = None
    stream: Annotated[LogStream, Meta(description="only standard output, or only standard error")] | None = None
    follow: Annotated[bool, Meta(description="follow new output until the job ends")] = False
    cursor: Annotated[str, Meta(max_length=128, description="only output after the item with this cursor")] | None = (
        None
    )
    mark_start: Annotated[
        bool,
        Meta(
            description="begin with an item without data, whose cursor is where the output begins; of the whole "
            "output, its dropped_bytes are those that were deleted before"
        ),
    ] = False


@command(0x030D, Effect.READ, errors=(*_LOOKUP_ERRORS, JobGroupNotFound))
class WaitJobs(Command[JobsWaited]):
    """Wait until jobs have ended: those that are named, else all of the project, or of a group.

    Jobs that come meanwhile are not waited for. The reply has the named jobs, or those of the wait that did not
    complete, 1000 at most.
    """

    jobs: (
        Annotated[
            list[Annotated[str, Meta(min_length=1, max_length=255)]],
            Meta(max_length=10_000, description="the jobs to wait for", extra={"option": None}),
        ]
        | None
    ) = None
    group: Annotated[GroupReference, Meta(description="wait for the jobs of this group")] | None = None
    timeout_ms: Annotated[int, Meta(ge=1, le=2_592_000_000, description="time limit of the request")] | None = None


_ATTACH_ERRORS = (*_LOOKUP_ERRORS, InputUnavailable, AttachmentLost)


@command(0x030E, Effect.ACT, errors=_ATTACH_ERRORS, takes_input=True, repeat=Repeat.REFUSE)
class AttachJob(StreamCommand[TerminalOutput, TerminalEnd]):
    """Attach to the terminal, or the open standard input and output, of a job; ends when its process does.

    It waits for a job that has not begun. Input ``data`` is typed, ``eof`` ends the input, and the ``control``
    ``{"rows": …, "columns": …}`` tells the present size of the client's terminal: the program gets the smallest one of
    all clients. With ``replay`` the last output comes first. The program never waits for a client: one that does not
    read misses output of a terminal and gets the last screenful when it reads again, and of pipes it is dropped.
    """

    job: JobReference
    rows: Rows | None = None
    columns: Columns | None = None
    replay: Annotated[bool, Meta(description="begin with the last output")] = True


@command(0x030F, Effect.ACT, errors=_ATTACH_ERRORS, max_payload=_MAX_PAYLOAD, repeat=Repeat.REFUSE)
class SendJobInput(Command[Empty]):
    """Type input into the terminal, or the open standard input, of a job; replies when the program has room for it."""

    job: JobReference
    data: Annotated[InputData, Meta(extra={"option": None})] = b""
    eof: Annotated[bool, Meta(description="end the input")] = False


_GROUP_LOOKUP_ERRORS = (JobGroupNotFound, JobGroupAmbiguous)
_GROUP_CHANGE_ERRORS = (*_GROUP_LOOKUP_ERRORS, JobGroupChanged)
Slots = Annotated[
    int,
    Meta(ge=1, le=10_000, description="jobs that run at once on each node (default: one for each core)"),
    key("slots"),
]


@command(0x0310, Effect.CHANGE, errors=(JobGroupNameTaken, JobGroupIdTaken), in_project=False)
class CreateJobGroup(Command[JobGroup]):
    """Create a group of jobs, with slots of its own. Groups are the same in every project."""

    name: Annotated[Name, Meta(extra={"metavar": "GROUP"})]
    slots: Slots | None = None
    managed_by: ManagedBy | None = None
    id: ClientId | None = None


@command(0x0311, Effect.READ, errors=(JobGroupCursorInvalid,), in_project=False)
class ListJobGroups(Command[JobGroupPage]):
    """List the groups of jobs by name, with how many of their jobs are queued and executing."""

    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(0x0312, Effect.READ, errors=_GROUP_LOOKUP_ERRORS, in_project=False)
class GetJobGroup(Command[JobGroup]):
    """Get a group of jobs."""

    group: GroupReference


@command(
    0x0313,
    Effect.CHANGE,
    errors=(*_GROUP_CHANGE_ERRORS, JobGroupNameTaken, JobGroupFixed, JobInvalid),
    in_project=False,
)
class UpdateJobGroup(Command[JobGroup]):
    """Change a group; jobs that run beyond fewer slots go on. ``clear`` takes ``slots`` and ``managed_by``."""

    group: GroupReference
    name: Annotated[Name, Meta(description="a new name")] | None = None
    slots: Slots | None = None
    managed_by: ManagedBy | None = None
    clear: (
        Annotated[
            list[Annotated[str, Meta(max_length=64)]],
            Meta(max_length=4, description="fields to unset", extra={"option": "--clear", "metavar": "FIELD"}),
        ]
        | None
    ) = None
    if_revision: Revision | None = None


@command(0x0314, Effect.CHANGE, errors=(*_GROUP_CHANGE_ERRORS, JobGroupInUse, JobGroupFixed), in_project=False)
class DeleteJobGroup(Command[JobGroup]):
    """Delete a group in which no job waits or runs, and which no schedule uses."""

    group: GroupReference
    if_revision: Revision | None = None
    if_state_revision: StateRevision | None = None


@command(0x0315, Effect.CHANGE, errors=_GROUP_LOOKUP_ERRORS, in_project=False)
class PauseJobGroup(Command[JobGroup]):
    """Let no further job of a group begin. Those that run go on, and StartJob begins one all the same."""

    group: GroupReference


@command(0x0316, Effect.CHANGE, errors=_GROUP_LOOKUP_ERRORS, in_project=False)
class ResumeJobGroup(Command[JobGroup]):
    """Let jobs of a paused group begin again."""

    group: GroupReference
