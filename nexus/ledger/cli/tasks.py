"""``nexusctl task``: create, list, claim, move and explain tasks."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click
from nexus_protocol.command import Command

from nexus.cli.output import Column, Printer, called, format_duration, format_time, hint, of_project, reference
from nexus.cli.records import Noun, Removal, all_records, make_inspect, make_list, print_list, remove_each
from nexus.cli.result import Result
from nexus.cli.verbs import NounGroup, Values, command_parameters, completers, for_each, verb
from nexus.hints import command_line
from nexus.ledger.tasks.commands import (
    AddTaskComment,
    AddTaskNote,
    ApproveTask,
    BlockTask,
    ClaimTask,
    CompleteTask,
    CountTasks,
    CreateTask,
    CreateTaskGraph,
    DeleteTask,
    ExplainTask,
    FailTask,
    GetTask,
    ListReadyTasks,
    ListTasks,
    QueueTask,
    RejectTask,
    ResetTask,
    SubmitTask,
    UnblockTask,
    UnqueueTask,
    UpdateTask,
)
from nexus.ledger.tasks.records import (
    ClaimedTask,
    Task,
    TaskCounts,
    TaskExplanation,
    TaskGraph,
    TaskPage,
    TasksDeleted,
    TaskWait,
)

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["task"]

_TASK = Noun("task", "tasks", "task", TaskPage.tasks)
_NAME_WIDTH = 60


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _NAME_WIDTH else line[: _NAME_WIDTH - 1] + "…"


def _number(task: Task) -> int:
    return task.number


def _status(task: Task) -> str:
    return task.status.replace("_", " ")


def _waits(task: Task) -> int | None:
    return task.open_dependencies or None


_COLUMNS: tuple[Column[Task], ...] = (
    Column("NUMBER", _number, 6),
    Column("STATUS", _status, 11),
    Column("PRIO", lambda task: task.priority, 4),
    Column("WAITS", _waits, 5),
    Column("NAME", lambda task: _short(task.name), 20),
    Column("TAGS", lambda task: " ".join(task.tags) or None),
    Column("TYPE", lambda task: task.type, wide=True),
    Column("KIND", lambda task: task.kind, wide=True),
    Column("SIZE", lambda task: task.size, wide=True),
    Column("REASON", lambda task: task.reason, wide=True),
    Column("ID", lambda task: task.id, wide=True),
)


def _lines(task: Task) -> list[tuple[str, object]]:
    lease = task.lease
    held = None
    if lease is not None:
        overdue = ", overdue" if lease.overdue else ""
        held = (
            f"{lease.id}:{lease.epoch}, agent {lease.agent or lease.holder}, {format_duration(lease.age_ms)}{overdue}"
        )
    return [
        ("Task", task.number),
        ("Name", task.name),
        ("ID", task.id),
        ("Project", None if task.project == "default" else task.project),
        ("Status", _status(task)),
        ("Reason", task.reason),
        ("Type", task.type.value),
        ("Kind", task.kind.value),
        ("Size", task.size.value),
        ("Priority", task.priority),
        ("Tags", " ".join(task.tags) or None),
        ("Description", task.description),
        ("Feature", called(task, task.feature_id)),
        ("Sub-feature", called(task, task.sub_feature_id)),
        *(("Depends on", called(task, id_)) for id_ in task.depends_on),
        ("Waits for", task.open_dependencies or None),
        ("Blocked by", called(task, task.blocked_by)),
        ("Agent", called(task, task.assigned_agent)),
        ("Lease", held),
        ("Folder", task.worktree_path),
        ("Branch", task.branch_name),
        ("Rejects", f"{task.qa_iterations} of {task.max_iterations}" if task.qa_iterations else None),
        ("Minutes", f"{task.actual_minutes if task.actual_minutes is not None else '-'} of {task.estimated_minutes}"),
        ("Started", format_time(task.started_at)),
        ("Completed", format_time(task.completed_at)),
        ("Created", format_time(task.created_at)),
        *((f"Note ({note.kind})", note.text) for note in task.notes),
        *(("Comment", comment.text) for comment in task.comments),
    ]


def _sentence(done: str) -> Callable[[Task], None]:
    return lambda task: click.echo(f'{done} task {task.number} "{_short(task.name)}"{of_project(task)}')


def _created(task: Task) -> None:
    click.echo(f'Created task {task.number} "{_short(task.name)}"{of_project(task)}')
    hint(f"See what can be begun: {command_line('nexusctl', 'task', 'ready')}")


def _make_create() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        out.one(app.fetch(values.build(CreateTask)), name=_number, sentence=_created)

    return verb(CreateTask, run, exclude=("id",))


def _make_update() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        if not values.any_given(lambda field: field != "task" and field[:3] != "if_"):
            changing = [option for option in command_parameters(UpdateTask)[1:] if (option.name or "")[:3] != "if_"]
            *options, last = [option.opts[0] for option in changing]
            raise click.UsageError(f"nothing to change: give {', '.join(options)} or {last}")
        out.one(app.fetch(values.build(UpdateTask)), name=_number, sentence=_sentence("Updated"))

    return verb(UpdateTask, run)


def _make_delete() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> int:
        cascade = values.flag("cascade")

        def question(_app: App, tasks: list[Task]) -> str:
            shown = ", ".join(f'{task.number} "{_short(task.name)}"{of_project(task)}' for task in tasks)
            others = " and all tasks that depend on them" if cascade else ""
            return f"Delete {'task' if len(tasks) == 1 else f'{len(tasks)} tasks:'} {shown}{others}?"

        def remove(app: App, name: str) -> Result[Task]:
            found = app.fetch(DeleteTask(name, cascade=cascade))
            return _part(found)

        removal: Removal[Task] = Removal(
            "delete",
            "Deleted",
            look=lambda app, name: app.call(GetTask(name)),
            remove=remove,
            question=question,
            options=("--cascade",) if cascade else (),
        )
        return remove_each(app, values.every("task", str), values.flag("yes"), _TASK, removal, out)

    yes = click.Option(["-y", "--yes"], is_flag=True, help="Skip confirmation.")
    cascade = click.Option(["--cascade"], is_flag=True, help="Delete the tasks that depend on them, too.")
    return verb(DeleteTask, run, parameters=[cascade, yes], exclude=("cascade",), variadic=True)


def _part(found: Result[TasksDeleted]) -> Result[Task]:
    from nexus.cli.result import made

    return made(found.record.task, found.plain["task"])


def _make_ready() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        def page_of(count: int, cursor: str | None) -> Command[Any]:
            return ListReadyTasks(limit=count, cursor=cursor)

        tasks = all_records(app, _TASK, page_of, limit=values.number("limit"))
        print_list(app, tasks, _COLUMNS, out, name=_number, nothing="No task is ready.")

    return verb(ListReadyTasks, run, exclude=("cursor",))


def _make_why() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        out.one(app.fetch(values.build(ExplainTask)), name=lambda found: found.task.number, sentence=_explain)

    return verb(ExplainTask, run)


def _explain(found: TaskExplanation) -> None:
    click.echo(found.why)
    for each in found.chain:
        click.echo(f"{'  ' * each.depth}{_waiting(each)}")
    for line in _resuming().left_lines(found.recovery):
        click.echo(line)


def _waiting(each: TaskWait) -> str:
    if each.number is None or each.status is None:
        return f"{each.id} was deleted"
    agent = "" if each.agent is None else f', agent "{each.agent}"'
    return f'{each.number} "{_short(each.name or "")}" is {each.status.replace("_", " ")}{agent}'


def _make_claim() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        out.one(app.fetch(values.build(ClaimTask)), name=lambda claimed: claimed.task.number, sentence=_claimed)

    agent = click.Option(["--agent"], required=True, metavar="AGENT", help="The agent that claims it.")
    task = click.Argument(["task"], metavar="[TASK]", required=False)
    return verb(ClaimTask, run, parameters=[task, agent], exclude=("task", "agent"), help=_CLAIM_HELP)


_CLAIM_HELP = """Claim a task for an agent, by default the best one that is ready.

It prints a line for the shell. Give it to eval, and the commands of this shell have the lease.

\b
    nexusctl task claim --agent coder1
"""


def _claimed(claimed: ClaimedTask) -> None:
    task, lease = claimed.task, claimed.lease
    click.echo(f"export NEXUS_LEASE={lease.id}:{lease.epoch}")
    said = [f'Agent "{lease.agent or lease.holder}" has claimed task {task.number} "{_short(task.name)}".']
    if claimed.recovery is not None:
        said += _resuming().left_lines(claimed.recovery)
        said.append(f"See where its work was left: {command_line('nexusctl', 'task', 'resume', reference(task))}")
    hint("\n".join(said))


def _make_move(command: type[Command[Task]], done: str) -> Callable[[], click.Command]:
    """The verb of a move: its command for each named task."""

    def make() -> click.Command:
        def run(app: App, values: Values, out: Printer) -> int:
            found: list[Result[Task]] = []
            names = values.every("task", str)
            code = for_each(names, lambda name: found.append(app.fetch(values.build(command, task=name))))
            for result in found:
                out.one(result, name=_number, sentence=_sentence(done))
            return code

        return verb(command, run, variadic=True)

    return make


def _make_count() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        out.one(app.fetch(values.build(CountTasks)), name=lambda counts: counts.total, sentence=_count)

    return verb(CountTasks, run)


def _count(counts: TaskCounts) -> None:
    for status, count in counts.by_status.items():
        click.echo(f"{status.replace('_', ' ')}: {count}")
    click.echo(f"ready: {counts.ready}")
    click.echo(f"all: {counts.total}")


def _make_said(command: type[Command[Task]], done: str) -> Callable[[], click.Command]:
    def make() -> click.Command:
        def run(app: App, values: Values, out: Printer) -> None:
            out.one(app.fetch(values.build(command)), name=_number, sentence=_sentence(done))

        return verb(command, run)

    return make


def _make_depend(field: str, done: str) -> Callable[[], click.Command]:
    """``depend`` and ``undepend``: the task, and those that it depends on."""

    def make() -> click.Command:
        def run(app: App, values: Values, out: Printer) -> None:
            changes: dict[str, Any] = {field: values.every("others", str)}
            result = app.fetch(UpdateTask(values.word("task"), **changes))
            out.one(result, name=_number, sentence=_sentence(done))

        others = click.Argument(["others"], metavar="OTHER...", nargs=-1, required=True)
        fields = tuple(name for name in UpdateTask.__struct_fields__ if name != "task")
        return verb(UpdateTask, run, parameters=[others], exclude=fields)

    return make


def _make_plan() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        import msgspec

        text = values.word("file")
        try:
            with click.open_file(text, "rb") as file:
                command = msgspec.json.decode(file.read(), type=CreateTaskGraph)
        except OSError as error:
            raise click.UsageError(f"cannot read {text}: {error.strerror}") from None
        except msgspec.MsgspecError as error:
            raise click.UsageError(f"cannot read {text}: {error}") from None
        out.one(app.fetch(command), name=lambda made: len(made.tasks), sentence=_planned)

    file = click.Argument(["file"], metavar="FILE", required=True)
    return verb(CreateTaskGraph, run, parameters=[file], exclude=("tasks", "features"), help=_PLAN_HELP)


_PLAN_HELP = """Create features and tasks that depend on each other from a file, all or nothing.

FILE is JSON, or - for standard input. Tasks name each other, and features, by their "ref":

\b
    {"features": [{"ref": "login", "name": "Log in"}],
     "tasks": [{"ref": "form", "name": "The form", "feature": "login"},
               {"ref": "test", "name": "Test it", "depends_on": ["form"]}]}
"""


def _planned(made: TaskGraph) -> None:
    click.echo(f"Created {len(made.tasks)} tasks and {len(made.features)} features")
    for each in made.tasks:
        click.echo(f"  {each.number} {each.name}")


def _complete(app: App, incomplete: str) -> list[str]:
    page = app.call(ListTasks(limit=1000))
    return [str(one.number) for one in page.tasks if str(one.number).startswith(incomplete)]


completers["task"] = _complete


def _make_run() -> click.Command:
    from nexus.cli.task_run import make_task_run

    return make_task_run()


def _guide() -> ModuleType:
    """What agents are told, which other verbs of tasks do not need."""
    from nexus.cli import task_guide

    return task_guide


def _pages() -> ModuleType:
    """The pages, which other verbs of tasks do not need."""
    from nexus.cli import pages

    return pages


def _resuming() -> ModuleType:
    """The verbs about where the work on a task is, which other verbs do not need."""
    from nexus.cli import resuming

    return resuming


task = NounGroup(
    "task",
    "Manage tasks: what is to be done, in which order, and who does it.",
    {
        "create": ("Create a task.", _make_create),
        "plan": ("Create tasks that depend on each other from a file.", _make_plan),
        "list": ("List tasks by their numbers.", lambda: make_list(ListTasks, _TASK, _COLUMNS)),
        "ready": ("List the tasks that can be begun now, the best first.", _make_ready),
        "inspect": ("Show task details.", lambda: make_inspect(GetTask, _TASK, _lines)),
        "why": ("Tell what a task waits for.", _make_why),
        "graph": ("Draw what tasks wait for.", lambda: _pages().make_graph()),
        "count": ("Count tasks by status.", _make_count),
        "update": ("Change a task.", _make_update),
        "depend": ("Make a task wait for others.", _make_depend("add_depends_on", "Updated")),
        "undepend": ("Make a task wait for others no more.", _make_depend("remove_depends_on", "Updated")),
        "queue": ("Say that tasks are wanted soon.", _make_move(QueueTask, "Queued")),
        "unqueue": ("Make queued tasks pending.", _make_move(UnqueueTask, "Unqueued")),
        "claim": ("Claim a task for an agent.", _make_claim),
        "save": ("Save where the work on a task is.", lambda: _resuming().make_save()),
        "resume": ("Show where the work on a task was left.", lambda: _resuming().make_resume()),
        "run": ("Claim a task, and start its agent as a job that keeps the lease.", _make_run),
        "prime": ("Print what an agent needs to know of the ledger.", lambda: _guide().make_prime()),
        "watch": ("Tell what others change in a leased task.", lambda: _guide().make_watch()),
        "submit": ("Submit work for its review.", _make_move(SubmitTask, "Submitted")),
        "complete": ("Complete tasks.", _make_move(CompleteTask, "Completed")),
        "approve": ("Approve tasks in review, or checkpoints.", _make_move(ApproveTask, "Approved")),
        "reject": ("Reject tasks in review, or checkpoints.", _make_move(RejectTask, "Rejected")),
        "fail": ("Fail tasks.", _make_move(FailTask, "Failed")),
        "block": ("Block tasks, for a reason or until another is completed.", _make_move(BlockTask, "Blocked")),
        "unblock": ("Make blocked tasks pending.", _make_move(UnblockTask, "Unblocked")),
        "reset": ("Make tasks as if they had not been begun.", _make_move(ResetTask, "Reset")),
        "note": ("Add a note to a task.", _make_said(AddTaskNote, "Noted on")),
        "comment": ("Add a comment to a task.", _make_said(AddTaskComment, "Commented on")),
        "delete": ("Delete tasks.", _make_delete),
    },
    {
        **dict.fromkeys(("rm", "remove"), " (did you mean 'delete'?)"),
        **dict.fromkeys(("show", "get", "info"), " (did you mean 'inspect'?)"),
        **dict.fromkeys(("add", "new"), " (did you mean 'create'?)"),
        **dict.fromkeys(("edit", "rename", "tag"), " (did you mean 'update'?)"),
        "ls": " (did you mean 'list'?)",
    },
    aliases={"close": "complete", "done": "complete"},
)
