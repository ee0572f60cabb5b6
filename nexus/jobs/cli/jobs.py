"""``nexusctl job``: submit, follow, and look after jobs."""

from __future__ import annotations

import functools
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

import click
from msgspec.structs import replace
from nexus_protocol.command import Command
from nexus_protocol.errors import FailedPrecondition, NexusError

from nexus.cli.logs import LogSource, Piece, follow_pieces, log_parameters, log_query, show_logs
from nexus.cli.output import OutputFilter, Printer, hint, of_project, reference
from nexus.cli.records import make_delete, make_inspect, make_list, make_update, name_of
from nexus.cli.result import Result, Results
from nexus.cli.verbs import GivenPath, NounGroup, Values, assignment, completer_of, completers, for_each, since, verb
from nexus.client.errors import ConnectionFailure, Interrupted
from nexus.hints import command_line
from nexus.jobs.cli.directory import directory_of
from nexus.jobs.cli.shown import COLUMNS, JOB, LOCAL, is_elsewhere, lines, outcome
from nexus.jobs.commands import (
    MAX_STDIN,
    MAX_STDIN_ELSEWHERE,
    AttachJob,
    CancelJob,
    CreateJob,
    DeleteJob,
    EnqueueJob,
    GetJob,
    GetJobGroup,
    GetJobOutput,
    ListJobs,
    MoveJob,
    PruneJobs,
    RetryJob,
    SendJobInput,
    StartJob,
    StashJob,
    UpdateJob,
    WaitJobs,
)
from nexus.jobs.errors import JobCursorInvalid, JobNotFound
from nexus.jobs.records import Job
from nexus.jobs.states import ENDED, JobStatus
from nexus.records.processes import InputUnavailable, LogStream

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = [
    "OWN_FIELDS",
    "caller_environment",
    "environment_options",
    "exit_code_of",
    "exiting_as_the_job",
    "follow",
    "given_variables",
    "input_of",
    "job",
    "submit",
    "send_parameters",
    "submit_parameters",
    "submitted",
    "words_of",
]

_OWN_FAILURE = 125
"""The exit code of a command that runs another one, where it failed itself."""
_OF_KEYS = uuid.UUID("6f1b2a54-9d0c-4c7e-8a37-51f0c9e2d8b4")
"""With the key of a line it makes the id of the job, so that a repeated line finds it."""
_CLEAN = ("HOME", "LANG", "LOGNAME", "PATH", "SHELL", "TERM", "TZ", "USER", "XDG_RUNTIME_DIR")
_OF_THIS_MACHINE = ("HOME", "LOGNAME", "PATH", "SHELL", "USER", "XDG_RUNTIME_DIR")
"""Of ``_CLEAN``: what may be otherwise on another host."""
_PAGE = 1000
_ATTEMPTS = 100
_PAUSE_S = 0.1

_SOURCE: LogSource[GetJobOutput] = LogSource(
    "job",
    name=lambda command: command.job,
    after=lambda command, cursor: replace(command, cursor=cursor, lines=None, since_at=None, mark_start=False),
    from_now=lambda command: replace(command, cursor=None, lines=None, since_at=None, mark_start=True),
    gone=JobNotFound,
    cursor_invalid=JobCursorInvalid,
)


# Submitting


def caller_environment(given: Mapping[str, str], *, clean: bool) -> dict[str, str]:
    """The environment of nexusctl for a job, with the variables that are given; ``clean`` keeps a few names alone."""
    found = {
        name: value
        for name, value in os.environ.items()
        if (not clean or name in _CLEAN or name.startswith("LC_")) and not _is_undecodable(name + value)
    }
    return found | dict(given)


def environment_there(given: Mapping[str, str]) -> dict[str, str] | None:
    """The environment of a job on another host, where that of nexusctl means nothing: by default that of the daemon.

    With variables that are given it is them, the language and terminal of nexusctl, and the usual ``PATH``.
    """
    if not given:
        return None
    own = {name: value for name, value in caller_environment({}, clean=True).items() if name not in _OF_THIS_MACHINE}
    return own | {"PATH": "/usr/local/bin:/usr/bin:/bin"} | dict(given)


def given_variables(values: Values) -> dict[str, str]:
    """The variables of ``--env``."""
    return dict(values.every("environment", tuple))


def _is_undecodable(text: str) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in text)


def environment_options() -> list[click.Parameter]:
    """The options of what gives a job its environment, for ``caller_environment`` and ``given_variables``."""
    return [
        click.Option(
            ["-e", "--env", "environment"],
            type=assignment,
            multiple=True,
            metavar="NAME=VALUE",
            help="A variable beside those of the present environment.",
        ),
        click.Option(["--clean-env"], is_flag=True, help="Do not pass the present environment on."),
    ]


def submit_parameters() -> list[click.Parameter]:
    """The options of what submits a job beside the fields of ``CreateJob``."""
    return [
        click.Option(["--dir", "directory"], type=GivenPath(), help="Working directory (default: the present one)."),
        *environment_options(),
        click.Option(["--stdin"], metavar="FILE", help="The file that is its standard input; - is that of nexusctl."),
        click.Option(["-i", "--interactive"], is_flag=True, help="Keep its standard input open for attach and send."),
        click.Option(["-t", "--tty"], is_flag=True, help="Give it a terminal."),
    ]


OWN_FIELDS = ("command", "directory", "environment", "stdin_data", "stdin_path", "stdin_open", "tty", "service")


def submitted(
    app: App, values: Values, words: str | list[str], *, directory: str | None, elsewhere: bool = False
) -> dict[str, object]:
    """The fields of ``CreateJob`` that ``submit_parameters`` give; ``directory`` is the default.

    Raises:
        UsageError: the standard input is larger than a request takes.
    """
    stdin, data, path = values.text("stdin"), None, None
    if stdin == "-":
        data = sys.stdin.buffer.read(MAX_STDIN + 1)
        if len(data) > MAX_STDIN:
            raise click.UsageError("the standard input is larger than 1 MiB: give a file, with --stdin FILE")
    elif stdin is not None and app.host is not None:
        path = stdin
        if not stdin.startswith("/"):
            raise click.UsageError(
                "the file of --stdin is one of that host, and needs an absolute path; '--stdin -' sends one of here"
            )
    elif stdin is not None:
        path = str(Path(stdin).absolute())
        if not Path(path).exists():
            raise click.UsageError(f"cannot read {stdin}: no such file")
        if elsewhere and Path(path).stat().st_size > MAX_STDIN_ELSEWHERE:
            raise click.UsageError(f"{stdin} is larger than 16 MiB, which is the most for a job on another node")
    tty, given = values.flag("tty"), values.text("directory")
    if given is not None:
        directory = directory_of(app, given, elsewhere=elsewhere)
    return {
        "command": words,
        "directory": directory,
        "stdin_data": data,
        "stdin_path": path,
        "tty": tty or None,
        "stdin_open": (values.flag("interactive") and not tty) or None,
    }


def words_of(values: Values) -> str | list[str]:
    """The command: a line before ``--``, or the words after it."""
    line, words = values.text("line"), values.every("words", str)
    if line is not None and words:
        raise click.UsageError("give a command line, or the words of a command after --, not both")
    if line is None and not words:
        raise click.UsageError("give a command: a line for the shell in quotes, or words after --")
    return line if line is not None else words


def submit(
    app: App, values: Values, out: Printer, fields: Mapping[str, object], *, wait: bool, attach: bool, cancel: bool
) -> int:
    """Submit a job, and follow it with ``wait``; returns the exit code. See ``follow``."""
    if values.flag("interactive") and wait and not attach:
        raise click.UsageError(
            "-i goes with -t, or with a job that is not waited for; to pass standard input on, give --stdin -"
        )
    # Under a key the line is repeated with the same request.
    job_id = str(uuid.uuid4() if app.key is None else uuid.uuid5(_OF_KEYS, app.key))
    command = values.build(CreateJob, **fields, id=job_id)
    try:
        result = app.fetch(command)
    except FailedPrecondition as error:
        if error.type != "request.reply_gone":
            raise
        # The line is repeated: replies with a command are not kept, since it may hold a secret.
        result = app.fetch(GetJob(job_id))
    except Interrupted as error:
        if error.outcome is None and cancel and command.id is not None:
            app.call(CancelJob(command.id))
            error.add_note("The job was cancelled.")
        raise
    if wait:
        if note := _note_paused(app, result.record):
            click.echo(f"{note}\n", err=True)
        return follow(app, result.record, attach=attach, cancel=cancel)
    out.one(result, name=name_of, sentence=lambda job: _submitted(app, job))
    return 0


def _note_paused(app: App, job: Job) -> str | None:
    """What to do about a job that does not begin because its group is paused."""
    if job.status is not JobStatus.QUEUED or not app.call(GetJobGroup(job.group)).paused:
        return None
    resume = command_line("nexusctl", "group", "resume", job.group)
    return f'It waits, because the job group "{job.group}" is paused. To resume it: {resume}'


def _run(app: App, values: Values, out: Printer) -> int:
    attach = values.flag("tty") and values.flag("interactive")
    wait = values.flag("wait") or attach
    if wait and not out.for_person:
        raise click.UsageError("-o goes with a job that is submitted, not with one whose output is followed")
    elsewhere, given = is_elsewhere(values), given_variables(values)
    is_here = app.host is None and not elsewhere
    directory = _working_directory() if is_here and not values.text("directory") else None
    fields = submitted(app, values, words_of(values), directory=directory, elsewhere=elsewhere)
    # The present environment is that of another machine.
    if is_here:
        fields["environment"] = caller_environment(given, clean=values.flag("clean_env"))
    else:
        fields["environment"] = given if elsewhere else environment_there(given)
    run = exiting_as_the_job(submit) if wait else submit
    return run(app, values, out, fields, wait=wait, attach=attach, cancel=False)


def _working_directory() -> str:
    try:
        directory = str(Path.cwd())
        directory.encode()
    except FileNotFoundError:
        raise click.UsageError("cannot tell the working directory: it was deleted; give one with --dir") from None
    except UnicodeEncodeError:
        raise click.UsageError("cannot use the working directory: its path is not UTF-8; give one with --dir") from None
    return directory


def _submitted(app: App, job: Job) -> None:
    click.echo(f"Submitted job {job.number} ({job.status}){of_project(job)}")
    name = reference(job)
    if note := _note_paused(app, job):
        hint(note)
    elif job.status is JobStatus.STASHED:
        hint(f"Put it into the queue: {command_line('nexusctl', 'job', 'enqueue', name)}")
    elif job.stdin_open or job.tty:
        hint(f"Attach to it: {command_line('nexusctl', 'job', 'attach', name)}")
    else:
        hint(f"Follow its output: {command_line('nexusctl', 'job', 'logs', '-f', name)}")


P = ParamSpec("P")


def exiting_as_the_job(run: Callable[P, int]) -> Callable[P, int]:
    """Exit with 125 where nexusctl itself fails, since other codes are those of the job. Wrong usage stays 2."""

    @functools.wraps(run)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return run(*args, **kwargs)
        except (NexusError, ConnectionFailure) as error:
            from nexus.cli.main import print_error

            print_error(error)
            return _OWN_FAILURE

    return wrapped


def follow(app: App, job: Job, *, attach: bool, cancel: bool) -> int:
    """Show the output of a job until it has ended, or attach to it; returns its exit code.

    With ``cancel`` Ctrl-C, and a reader that has gone, cancel it; otherwise it goes on, which is said.
    """
    try:
        dropped_bytes = 0
        if not attach:
            dropped_bytes = _stream(app, job)
        elif not _attach(app, job):
            return 0
        app.call(WaitJobs(jobs=[job.id]))
    except BrokenPipeError:
        if cancel:
            app.close()
            app.call(CancelJob(job.id))
        raise
    except KeyboardInterrupt as error:
        if cancel:
            app.close()
            app.call(CancelJob(job.id))
            error.add_note(f"Job {job.number} was cancelled.")
        else:
            error.add_note(f"Job {job.number} goes on.")
            error.add_note(f"Cancel it: {command_line('nexusctl', 'job', 'cancel', reference(job))}")
        raise
    ended = app.call(GetJob(job.id))
    if ended.status is not JobStatus.COMPLETED and ended.exit_code is None:
        click.echo(f"Error: job {ended.number} {outcome(ended)}", err=True)
    code = exit_code_of(ended)
    if dropped_bytes and not code and not sys.stdout.isatty():
        click.echo(f"Error: the output is not whole: {dropped_bytes} bytes were dropped", err=True)
        click.echo("  It came faster than it could be read; give it more room than 16M with --log.", err=True)
        return _OWN_FAILURE
    return code


def _attach(app: App, job: Job) -> bool:
    """Attach to a job; returns whether it has ended, and not gone on without the user.

    Raises:
        InputUnavailable: it cannot be attached to; but one that has ended meanwhile has its output shown.
    """
    from nexus.cli.attach import DETACHED, attach_terminal

    def make(rows: int | None, columns: int | None, replay: bool) -> AttachJob:
        return AttachJob(job.id, rows=rows, columns=columns, replay=replay)

    for left in reversed(range(_ATTEMPTS)):
        try:
            done = attach_terminal(app, make, f"job {job.number}")
            break
        except InputUnavailable:
            if job.status in ENDED or not (job.tty or job.stdin_open):
                raise
            if app.call(GetJob(job.id)).status in ENDED:
                _stream(app, job)
                return True
            if not left:
                raise
            time.sleep(_PAUSE_S)  # its process has ended, and its record does not have that yet
    if done == DETACHED:
        hint(f"Attach again: {command_line('nexusctl', 'job', 'attach', reference(job))}")
    return done != DETACHED


def exit_code_of(job: Job) -> int:
    """The exit code that stands for the end of a job: its own, 128 and the signal that ended it, or 125."""
    if job.exit_code is not None:
        return job.exit_code
    return _OWN_FAILURE if job.exit_signal is None else 128 + job.exit_signal


def _stream(app: App, job: Job) -> int:
    """Write the output of a job to the same streams, until it has ended; returns how many bytes of it are missing."""

    def note(text: str) -> None:
        click.echo(text, err=True)

    streams = _Streams()
    sys.stdout.flush()
    for _index, piece in follow_pieces(app, [GetJobOutput(job.id, follow=True, mark_start=True)], _SOURCE, note):
        streams.write(piece)
    return streams.dropped_bytes


class _Streams:
    """Writes each piece of output to the same stream of nexusctl; a terminal gets no command but colours."""

    def __init__(self) -> None:
        self._filters = {
            stream: OutputFilter(file.encoding or "utf-8") if file.isatty() else None
            for stream, file in ((LogStream.STDOUT, sys.stdout), (LogStream.STDERR, sys.stderr))
        }
        self.dropped_bytes = 0

    def write(self, piece: Piece) -> None:
        stream = LogStream(piece.stream.value)
        if piece.dropped_bytes:
            self.dropped_bytes += piece.dropped_bytes
            click.echo(f"… {piece.dropped_bytes} bytes were dropped here …", err=True)
        safe = self._filters[stream]
        data = memoryview(piece.data if safe is None else safe.feed(piece.data))
        while data:
            data = data[os.write(2 if stream is LogStream.STDERR else 1, data) :]


_RUN_HELP = """Submit a job: a command that runs once, as soon as its group has a slot for it.

One argument is a line for the shell (bash, else sh); words after -- are run without a shell. It runs in the present
directory, with the present environment.

With --wait its output is shown, and nexusctl exits with the job's code. With -it this terminal is attached to it, which
Ctrl-] detaches again.

\b
    nexusctl job run 'make test 2>&1 | tail' --label tests
    nexusctl job run --after 12 --retries 2 -- ./deploy.sh staging
    nexusctl job run --wait -- pytest -q
    nexusctl job run -it -- vim notes.txt
"""


def make_run() -> click.Command:
    """``job run``."""
    line = click.Argument(["line"], required=False, metavar="[COMMAND]")
    wait = click.Option(["--wait"], is_flag=True, help="Show its output, and exit with its code.")
    exclude = (*OWN_FIELDS, "id", "metadata", "conversation_id", "message_id")
    conversation = click.Option(
        ["--conversation", "conversation_id"],
        help="The conversation that it belongs to, such as 3 (default: that of the message).",
    )
    message = click.Option(
        ["--message", "message_id"], metavar="NAME", help="The message that led to it, such as 3:12."
    )
    return verb(
        CreateJob,
        _run,
        parameters=[line, *submit_parameters(), wait, conversation, message],
        exclude=exclude,
        help=_RUN_HELP,
        words="words",
    )


# Looking


def _logs(app: App, values: Values, out: Printer) -> int:
    wanted, since_at, stream, follow = log_query(values)
    names = values.every("job", str)
    commands = [
        GetJobOutput(name, lines=wanted, since_at=since_at, stream=stream, follow=follow, mark_start=follow)
        for name in names
    ]
    timestamps, raw = values.flag("timestamps"), values.flag("raw")
    return show_logs(app, names, commands, _SOURCE, out, follow=follow, timestamps=timestamps, raw=raw)


_LOGS_HELP = """Show the output of jobs, standard output and standard error together.

With -f it follows new output until the job ends, also across restarts of the daemon.

\b
    nexusctl job logs 12 -f
    nexusctl job logs 12 --stderr
"""


def make_logs() -> click.Command:
    """``job logs``."""
    exclude = ("lines", "since_at", "stream", "follow", "cursor", "mark_start")
    return verb(GetJobOutput, _logs, parameters=log_parameters(), exclude=exclude, variadic=True, help=_LOGS_HELP)


def _wait(app: App, values: Values, out: Printer) -> int:
    names = values.every("jobs", str)
    group = values.text("group")
    if names and group is not None:
        raise click.UsageError("give the jobs to wait for, or --group, not both")
    try:
        results = app.fetch(WaitJobs(jobs=names or None, group=group))
    except KeyboardInterrupt as error:
        error.add_note("The jobs go on.")
        raise
    waited = results.rows(WaitJobs.info.reply.jobs)
    failed = [job for job in waited.records if job.status is not JobStatus.COMPLETED]
    if out.for_person:
        for job in failed if not names else waited.records:
            click.echo(f"Job {job.number} {outcome(job)}")
    else:
        out.many(waited, (), name=name_of, nothing="No jobs found.")
    return 1 if failed else 0


def make_wait() -> click.Command:
    """``job wait``."""
    jobs = click.Argument(["jobs"], nargs=-1, metavar="[JOB]...", shell_complete=_shell_complete)
    return verb(
        WaitJobs,
        _wait,
        parameters=[jobs],
        exclude=("jobs", "timeout_ms"),
        help="""Wait until jobs have ended: those that are named, else all of the project, or of a group.

It exits with 1 if one of them did not complete.

\b
    nexusctl job wait 12 13
    nexusctl job wait --group builds --timeout 10m
""",
    )


def _shell_complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from nexus.cli.verbs import shell_complete

    return shell_complete("job")(ctx, parameter, incomplete)


# Changing


def _each(
    app: App,
    names: list[str],
    out: Printer,
    make: Callable[[str], Command[Job]],
    sentence: Callable[[Job], object],
) -> int:
    """Send a command for each named job, and print the job that it returns; returns the exit code."""
    found: list[Result[Job]] = []
    as_one = out.output == "json" and len(names) > 1

    def do(name: str) -> None:
        result = app.fetch(make(name))
        if as_one:
            found.append(result)
        else:
            out.one(result, name=name_of, sentence=sentence)

    code = for_each(names, do)
    if as_one:
        out.many(Results.of(found), (), name=name_of, nothing=JOB.nothing())
    return code


def make_cancel() -> click.Command:
    """``job cancel``."""

    def sentence(job: Job) -> None:
        if job.status is JobStatus.CANCELLED:
            click.echo(f"Cancelled job {job.number}")
        else:
            click.echo(f"Nothing to cancel: job {job.number} has ended ({outcome(job)})")

    def run(app: App, values: Values, out: Printer) -> int:
        now, abandon = values.flag("now"), values.flag("abandon")
        return _each(
            app, values.every("job", str), out, lambda name: CancelJob(name, now=now, abandon=abandon), sentence
        )

    return verb(
        CancelJob,
        run,
        variadic=True,
        exclude=("now", "abandon"),
        parameters=[
            click.Option(["--now"], is_flag=True, help="Kill it at once, without a grace time."),
            click.Option(["--abandon"], is_flag=True, help="Do not wait for a node that cannot be reached."),
        ],
        help="""Cancel jobs: one that waits never begins, and of one that runs every process is ended.

A second cancel of the same job, and --now, kill it at once. A job whose node is gone is cancelled when the node is
back; with --abandon at once, and what still runs there is ended once the node can be reached.
""",
    )


def make_retry() -> click.Command:
    """``job retry``."""

    def run(app: App, values: Values, out: Printer) -> int:
        in_place = values.flag("in_place")
        environment = caller_environment({}, clean=values.flag("clean_env")) if app.host is None else None

        def sentence(job: Job) -> None:
            click.echo(f"Queued job {job.number} (attempt {job.attempt})")

        return _each(
            app,
            values.every("job", str),
            out,
            lambda name: RetryJob(name, in_place=in_place, environment=environment),
            sentence,
        )

    return verb(
        RetryJob,
        run,
        variadic=True,
        exclude=("environment", "in_place"),
        parameters=[
            click.Option(["--in-place"], is_flag=True, help="Queue the same job again; its result is replaced."),
            click.Option(["--clean-env"], is_flag=True, help="Do not pass the present environment on."),
        ],
        help="""Submit jobs that have ended again, as new jobs that point to them.

They run with the present environment: the one that a job was submitted with is deleted at its end.
""",
    )


def make_move() -> click.Command:
    """``job move``."""

    def run(app: App, values: Values, out: Printer) -> None:
        result = app.fetch(values.build(MoveJob))
        out.one(result, name=name_of, sentence=lambda job: click.echo(f"Moved job {job.number}"))

    return verb(
        MoveJob,
        run,
        help="Change the place of a job among those of its group and priority that wait: to the front, by default.",
    )


def make_stash() -> click.Command:
    """``job stash``."""

    def run(app: App, values: Values, out: Printer) -> int:
        def sentence(job: Job) -> None:
            click.echo(f"Stashed job {job.number}")

        return _each(app, values.every("job", str), out, StashJob, sentence)

    return verb(StashJob, run, variadic=True)


def make_start() -> click.Command:
    """``job start``."""

    def run(app: App, values: Values, out: Printer) -> int:
        def sentence(job: Job) -> None:
            click.echo(f"Started job {job.number} ({outcome(job)})")

        return _each(app, values.every("job", str), out, StartJob, sentence)

    return verb(StartJob, run, variadic=True)


def make_enqueue() -> click.Command:
    """``job enqueue``."""

    def run(app: App, values: Values, out: Printer) -> int:
        delay = values.number("delay_ms")

        def sentence(job: Job) -> None:
            click.echo(f"Queued job {job.number}")

        return _each(app, values.every("job", str), out, lambda name: EnqueueJob(name, delay_ms=delay), sentence)

    return verb(EnqueueJob, run, variadic=True)


def make_prune() -> click.Command:
    """``job prune``."""

    def run(app: App, values: Values, out: Printer) -> None:
        count = 0
        while True:
            result = app.fetch(PruneJobs(successful=values.flag("successful"), before_at=values.number("before_at")))
            count += result.record.count
            if not result.record.more:
                break
        if out.for_person:
            click.echo(f"Deleted {count} job{'s' * (count != 1)} that had ended")
        else:
            from nexus.cli.result import made

            out.one(made(count, {"count": count}), name=str, sentence=str)

    before = click.Option(
        ["--before", "before_at"],
        type=since,
        metavar="TIME",
        help="Only those that ended before: 7d ago, or a time.",
    )
    successful = click.Option(["--successful"], is_flag=True, help="Only those that completed.")
    return verb(
        PruneJobs,
        run,
        parameters=[successful, before],
        exclude=("successful", "before_at"),
        help="Delete the jobs of the project that have ended, with their output.",
    )


# Terminals


def make_attach() -> click.Command:
    """``job attach``."""

    def run(app: App, values: Values, _out: Printer) -> int:
        return follow(app, app.call(GetJob(values.word("job"))), attach=True, cancel=False)

    return verb(
        AttachJob,
        run,
        exclude=("replay",),
        help="""Attach this terminal to a job that was submitted with -t or -i.

Every key goes to the program, Ctrl-C too. Ctrl-] detaches, and the job goes on.
""",
    )


def make_send() -> click.Command:
    """``job send``."""

    def run(app: App, values: Values, _out: Printer) -> None:
        app.call(SendJobInput(values.word("job"), data=input_of(values), eof=values.flag("eof")))

    return verb(SendJobInput, run, exclude=("eof",), parameters=send_parameters(), help=_SEND_HELP)


_SEND_HELP = """Type a text into a job's terminal or open standard input, with a line feed at its end.

With - the text is what nexusctl reads from its standard input.

\b
    nexusctl job send 12 continue
    nexusctl job send 12 --no-newline y
    nexusctl job send 12 - --eof
"""


def send_parameters() -> list[click.Parameter]:
    """The text and the options of ``send``."""
    return [
        click.Argument(["text"], required=False, metavar="[TEXT]"),
        click.Option(["--no-newline"], is_flag=True, help="Do not add a line feed."),
        click.Option(["--eof"], is_flag=True, help="End the input."),
    ]


def input_of(values: Values) -> bytes:
    """The bytes that ``send`` is to type.

    Raises:
        UsageError: there is nothing to send, or too much.
    """
    text = values.text("text")
    if text is None:
        if not values.flag("eof"):
            raise click.UsageError("give a text to send, - for standard input, or --eof")
        return b""
    if text == "-":
        data = sys.stdin.buffer.read(256 * 1024 + 1)
        if len(data) > 256 * 1024:
            raise click.UsageError("the standard input is larger than 256 KiB: attach with it instead")
        return data
    return os.fsencode(text) + (b"" if values.flag("no_newline") else b"\n")


def _prepare_update(app: App, values: Values) -> None:
    """A directory of a job on another node is one there."""
    given = values.text("directory")
    if given is not None:
        elsewhere = not given.startswith("/") and app.call(GetJob(values.word("job"))).node_id != LOCAL
        values.put("directory", directory_of(app, given, elsewhere=elsewhere))


def _complete(app: App, incomplete: str) -> list[str]:
    page = app.call(ListJobs(limit=_PAGE))
    return [str(one.number) for one in page.jobs if str(one.number).startswith(incomplete.lstrip("#"))]


def _complete_attachable(app: App, incomplete: str) -> list[str]:
    """Jobs that clients can be attached to, and services."""
    page = app.call(ListJobs(status=JobStatus.EXECUTING, limit=_PAGE))
    numbers = [str(one.number) for one in page.jobs if one.tty or one.stdin_open]
    return [number for number in numbers if number.startswith(incomplete)] + completer_of("service")(app, incomplete)


completers["job"] = _complete
completers["job or service"] = _complete_attachable


job = NounGroup(
    "job",
    "Run commands from a queue.",
    {
        "run": ("Submit a job.", make_run),
        "list": ("List jobs, newest first.", lambda: make_list(ListJobs, JOB, COLUMNS)),
        "inspect": ("Show job details.", lambda: make_inspect(GetJob, JOB, lines)),
        "logs": ("Show the output of jobs.", make_logs),
        "wait": ("Wait until jobs have ended.", make_wait),
        "cancel": ("Cancel jobs.", make_cancel),
        "retry": ("Submit jobs that have ended again.", make_retry),
        "update": ("Change a job that waits.", lambda: make_update(UpdateJob, JOB, _prepare_update)),
        "move": ("Change the place of a job in its queue.", make_move),
        "stash": ("Take jobs out of their queue.", make_stash),
        "enqueue": ("Queue stashed or delayed jobs.", make_enqueue),
        "start": ("Begin jobs now, past their slots.", make_start),
        "attach": ("Attach this terminal to a job.", make_attach),
        "send": ("Type into a job.", make_send),
        "delete": ("Delete jobs that do not run.", lambda: make_delete(GetJob, DeleteJob, JOB)),
        "prune": ("Delete jobs that have ended.", make_prune),
    },
    {
        **dict.fromkeys(("add", "create", "submit"), " (did you mean 'run'?)"),
        **dict.fromkeys(("rm", "remove"), " (did you mean 'delete'?)"),
        **dict.fromkeys(("show", "get", "info", "status"), " (did you mean 'inspect'?)"),
        **dict.fromkeys(("ls", "ps"), " (did you mean 'list'?)"),
        **dict.fromkeys(("kill", "stop"), " (did you mean 'cancel'?)"),
        **dict.fromkeys(("log", "follow", "output"), " (did you mean 'logs'?)"),
        **dict.fromkeys(("restart", "rerun"), " (did you mean 'retry'?)"),
        "clean": " (did you mean 'prune'?)",
        "switch": " (did you mean 'move'?)",
    },
    {"edit": "update"},
)
