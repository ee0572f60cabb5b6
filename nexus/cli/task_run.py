"""``nexusctl task run``: claims a task, and starts its agent as a job that keeps the lease."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from nexus_protocol.context import HeldLease
from nexus_protocol.errors import FailedPrecondition, NexusError

from nexus.cli.output import Printer, hint, reference
from nexus.cli.records import name_of
from nexus.cli.result import Result, received
from nexus.cli.verbs import GivenPath, Values, command_parameters, shell_complete, verb
from nexus.client.errors import ConnectionFailure
from nexus.hints import command_line
from nexus.jobs.cli.directory import directory_of
from nexus.jobs.cli.jobs import (
    caller_environment,
    environment_options,
    environment_there,
    exiting_as_the_job,
    follow,
    given_variables,
)
from nexus.jobs.commands import CancelJob, CreateJob, GetJob
from nexus.jobs.records import Job
from nexus.ledger.agents.commands import ListAgents
from nexus.ledger.leases.commands import GetLease, ReleaseLease, RenewLease
from nexus.ledger.states import AgentStatus, LeaseState, TaskStatus
from nexus.ledger.tasks.commands import ClaimTask, GetTask
from nexus.ledger.tasks.records import ClaimedTask

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["make_task_run"]

_LOOKS = 40
_PAUSE_S = 0.05

_HELP = """Claim a task, and start its agent: a job with a terminal, which keeps the lease while it lives.

The agent finds NEXUS_LEASE, NEXUS_TASK and NEXUS_AGENT in its environment, so that its calls of nexusctl are made under
the lease. Where the job ends and the task is neither completed nor submitted, the task can be claimed again. Ctrl-]
detaches, and the agent goes on. Without TASK it is the best task that is ready.

It works in the folder of --dir, else in that of the task, else in the present one.

\b
    nexusctl task run 12 --agent ada -- claude
    nexusctl task run -d --ttl 10m -- ./agent.sh
"""


def make_task_run() -> click.Command:
    """``task run``."""
    own = {option.name: option for option in command_parameters(ClaimTask)}
    del own["task"], own["agent"], own["pid"]
    task = click.Argument(["task"], metavar="[TASK]", required=False, shell_complete=shell_complete("task"))
    options = [
        click.Option(
            ["--agent"],
            metavar="AGENT",
            shell_complete=shell_complete("agent"),
            help="The agent that claims it (default: that of NEXUS_AGENT, else an idle one).",
        ),
        click.Option(["--dir", "directory"], type=GivenPath(), help="The folder that it works in."),
        *environment_options(),
        click.Option(["-d", "--detach"], is_flag=True, help="Do not attach to it."),
    ]
    made = verb(
        ClaimTask,
        _run,
        parameters=[task, *options],
        exclude=("task", "agent", "pid"),
        help=_HELP,
        words="words",
    )
    made.key_refusal = "the reply that starts its agent holds an environment, and is not kept"
    return made


def _run(app: App, values: Values, out: Printer) -> int:
    detach = values.flag("detach")
    if not values.every("words", str):
        raise click.UsageError("give the command of the agent after --")
    if not detach and not out.for_person:
        raise click.UsageError("-o goes with -d: the output of what is followed is that of the agent")
    if detach:
        claimed, job = _started(app, values)
        out.one(job, name=name_of, sentence=lambda job: _detached(claimed, job))
        return 0
    return exiting_as_the_job(_followed)(app, values)


def _followed(app: App, values: Values) -> int:
    claimed, job = _started(app, values)
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    code = follow(app, job.record, attach=is_terminal, cancel=False)
    if app.call(GetJob(job.record.id)).completed_at is not None:
        _tell_end(app, claimed)
    return code


def _detached(claimed: ClaimedTask, job: Job) -> None:
    agent = claimed.lease.agent or claimed.lease.holder
    click.echo(f'Started job {job.number} for task {claimed.task.number} (agent "{agent}")')
    hint(f"Attach to it: {command_line('nexusctl', 'job', 'attach', reference(job))}")


def _agent(app: App, values: Values) -> str:
    given = values.text("agent") or os.environ.get("NEXUS_AGENT")
    if given:
        return given
    idle = app.call(ListAgents(status=AgentStatus.IDLE, limit=1)).agents
    if not idle:
        raise click.UsageError("no agent is idle: name one with --agent")
    return idle[0].name


def _started(app: App, values: Values) -> tuple[ClaimedTask, Result[Job]]:
    """Claim the task, and start the agent under its lease; what cannot be started leaves no claim behind."""
    client = app.connect()
    claimed = app.call(values.build(ClaimTask, agent=_agent(app, values)))
    task, lease = claimed.task, claimed.lease
    held = HeldLease(lease.id, lease.epoch)
    job: Result[Job] | None = None
    try:
        command = _job_of(app, values, claimed)
        plain = client.call_raw(command, timeout_s=app.timeout_s, project=task.project, lease=held)
        job = received(command, plain)
        _bind(app, held, job.record, task.project)
    except BaseException:
        with contextlib.suppress(NexusError, ConnectionFailure):
            if job is not None:
                client.call(CancelJob(job.record.id), project=task.project)
            client.call(ReleaseLease(lease.id), project=task.project, lease=held)
        raise
    return claimed, job


def _bind(app: App, held: HeldLease, job: Job, project: str) -> None:
    """Have the job renew the lease, unless the agent has ended it already."""
    try:
        app.connect().call(RenewLease(held.id, job=job.id), timeout_s=app.timeout_s, project=project, lease=held)
    except FailedPrecondition as error:
        if error.type != "lease.stale":
            raise


def _job_of(app: App, values: Values, claimed: ClaimedTask) -> CreateJob:
    task, lease = claimed.task, claimed.lease
    variables = given_variables(values) | {
        "NEXUS_LEASE": f"{lease.id}:{lease.epoch}",
        "NEXUS_TASK": str(task.number),
        "NEXUS_AGENT": lease.agent or lease.holder,
    }
    given = values.text("directory")
    directory = task.worktree_path if given is None else directory_of(app, given, elsewhere=False)
    if app.host is None:
        environment: dict[str, str] | None = caller_environment(variables, clean=values.flag("clean_env"))
        directory = directory or str(Path.cwd())
    else:
        environment = environment_there(variables)
    return CreateJob(
        values.every("words", str),
        directory=directory,
        environment=environment,
        label=f"task {task.number}",
        tty=True,
    )


def _tell_end(app: App, claimed: ClaimedTask) -> None:
    """Say so where the agent has ended and its task is not done."""
    lease = app.call(GetLease(claimed.lease.id))
    for _ in range(_LOOKS):
        if lease.state is not LeaseState.LIVE:
            break
        time.sleep(_PAUSE_S)  # the daemon gives it back once it knows the end of the job
        lease = app.call(GetLease(claimed.lease.id))
    task = app.call(GetTask(claimed.task.id))
    if task.status not in (TaskStatus.COMPLETED, TaskStatus.IN_REVIEW):
        because = f": {lease.reason}" if lease.reason else ""
        click.echo(f"Task {task.number} is {task.status.replace('_', ' ')}{because}", err=True)
