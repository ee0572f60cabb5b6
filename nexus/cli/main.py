"""Entry point of ``nexusctl``: the global options, the top-level nouns, and how errors are printed and exit.

The nouns come from static tables and are imported only when they are used: start-up is most of a short command's time.
"""

from __future__ import annotations

import errno
import gc
import io
import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from nexus import __version__
from nexus.capabilities import CAPABILITIES, Noun
from nexus.cli.groups import WordGroup
from nexus.hints import command_line
from nexus.terminal import guard

__all__ = ["cli", "exit_code", "main", "print_error"]

_OWN_NOUNS: dict[str, tuple[str, Noun]] = {
    "apply": ("nexus.cli.apply.verbs", Noun("apply", "Create and change services and VM records to match a file.")),
    "export": ("nexus.cli.apply.verbs", Noun("export", "Write services and VM records to a file for apply.")),
    "run": ("nexus.cli.running", Noun("run", "Run a command as a one-off of a service.")),
    "attach": ("nexus.cli.running", Noun("attach", "Attach this terminal to a job or a service.")),
    "send": ("nexus.cli.running", Noun("send", "Type into a job or a service.")),
    "version": ("nexus.cli.version", Noun("version", "Print the version of nexusctl.")),
    "doctor": ("nexus.cli.doctor", Noun("doctor", "Find problems, and say how to fix them.")),
    "db": ("nexus.cli.db", Noun("db", "Maintain the database.")),
    "daemon": ("nexus.cli.daemon", Noun("daemon", "Start, stop and install the daemon.")),
    "dial-stdio": (
        "nexus.cli.dial",
        Noun("dial-stdio", "Carry the protocol on the standard streams, for --host."),
    ),
    "completion": ("nexus.cli.completion", Noun("completion", "Print or install the shell's completion.")),
}

_NOUNS: dict[str, tuple[str, Noun]] = {
    noun.name: (f"nexus.{capability.name}.cli", noun) for capability in CAPABILITIES for noun in capability.nouns
} | _OWN_NOUNS

_ALIASES = {alias: noun.name for _module, noun in _NOUNS.values() for alias in noun.aliases}

_WITHOUT_CONTEXT = ("daemon", "status", "doctor", "version")
"""Nouns that work with a daemon of any version, so that it can always be examined, stopped and replaced."""

_OF_THIS_MACHINE = {
    "daemon": "it starts and stops the daemon of this machine",
    "doctor": "it examines this machine",
    "db": "it works on the files of this machine",
    "apply": "the folder of the file, and the paths in it, are of this machine",
    "dial-stdio": "it is the other end of --host",
}
"""Nouns that work on no other host, and why."""
_LINE = "nexus.line"
"""In ``Context.meta``: the words of the command line from the noun on."""

_SUGGESTIONS = {
    word: f" (did you mean '{command_line('nexusctl', *meant.split())}'?)"
    for word, meant in {
        **{word: f"daemon {word}" for word in ("start", "stop", "restart", "install", "uninstall")},
        **dict.fromkeys(("list", "ls", "ps"), "vm list"),
        **{word: f"vm {word}" for word in ("create", "inspect", "delete")},
        **{word: f"db {word}" for word in ("backup", "backups", "restore", "migrate", "check", "gc", "sql")},
        **{word: f"service {word}" for word in ("add", "logs", "tree")},
        "rm": "vm delete",
        "help": "--help",
    }.items()
}

PROGRAMS = ("nexusctl", "nxc")
"""The names of this program."""


class Seconds(click.types.FloatParamType):
    """A positive number of seconds, or a time such as ``10m``."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = self._time(value)
        if not 0 < seconds <= 1_000_000:
            self.fail(f"{value!r} is not a number of seconds above 0, nor a time such as 10m", param, ctx)
        return seconds

    def _time(self, value: str) -> float:
        from nexus.cli.units import parse_duration

        try:
            return parse_duration(value) / 1000
        except ValueError:
            return 0.0


class _TopLevel(WordGroup):
    """The group of the top-level nouns."""

    aliases = _ALIASES
    suggestions = _SUGGESTIONS

    def words(self) -> dict[str, str]:
        return {name: noun.help for name, (_module, noun) in _NOUNS.items()}

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        ctx.meta[_LINE] = tuple(args)
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = _ALIASES.get(cmd_name, cmd_name)
        entry = _NOUNS.get(name)
        if entry is None:
            return None
        from importlib import import_module

        command = getattr(import_module(entry[0]), name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command


@click.command(
    cls=_TopLevel,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 refused or failed, 2 usage, 3 no daemon, 4 not found, 5 conflict, 124 timed out.",
)
@click.option("--socket", metavar="PATH", help="The daemon's socket (NEXUS_SOCKET).")
@click.option(
    "--host", metavar="URL", envvar="NEXUS_HOST", help="Reach the daemon of ssh://[USER@]HOST[:PORT] (NEXUS_HOST)."
)
@click.option("--config", metavar="PATH", help="The configuration file (NEXUS_CONFIG_DIR/config.toml).")
@click.option(
    "--actor", metavar="NAME", envvar="NEXUS_ACTOR", help="Name recorded in the journal for this call (NEXUS_ACTOR)."
)
@click.option(
    "--timeout",
    type=Seconds(),
    metavar="SECONDS",
    help="Cancel a call, not a stream, after this time (default: never).",
)
@click.option(
    "--why", metavar="TEXT", envvar="NEXUS_WHY", help="Why the call is made, recorded with its changes (NEXUS_WHY)."
)
@click.option(
    "--lease",
    metavar="ID:EPOCH",
    envvar="NEXUS_LEASE",
    help="The lease that the call is made under; refused once it is not live (NEXUS_LEASE).",
)
@click.option("--key", metavar="KEY", help="Make repeating the command line harmless: it takes effect once.")
@click.option(
    "-p",
    "--project",
    metavar="PROJECT",
    envvar="NEXUS_PROJECT",
    shell_complete=lambda ctx, parameter, incomplete: _complete_project(ctx, parameter, incomplete),
    help="The project whose names are meant (NEXUS_PROJECT; default: that of the nearest nexus.toml, else default).",
)
@click.option("-A", "--all-projects", is_flag=True, help="List what all projects have.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(__version__, prog_name="nexusctl", message="%(prog)s %(version)s")
@click.pass_context
def cli(
    ctx: click.Context,
    socket: str | None,
    host: str | None,
    config: str | None,
    actor: str | None,
    timeout: float | None,
    why: str | None,
    lease: str | None,
    key: str | None,
    project: str | None,
    all_projects: bool,
    debug: bool,
) -> None:
    """Drive Nexus: a recoverable world for every task.

    The global options may stand anywhere on the line.
    """
    from nexus.cli.app import App
    from nexus.cli.output import set_address

    given = ctx.get_parameter_source("project") is click.core.ParameterSource.COMMANDLINE
    if given and all_projects:
        raise click.UsageError("give either -p or -A, not both", ctx)
    noun = _ALIASES.get(ctx.invoked_subcommand or "", ctx.invoked_subcommand) or ""
    host = _meant_host(ctx, noun, socket, host)
    in_environment = ctx.get_parameter_source("host") is not click.core.ParameterSource.COMMANDLINE
    set_address(socket, config, project if given else None, host, repeats_host=not in_environment)
    in_project = noun not in _WITHOUT_CONTEXT
    if not in_project:
        why = project = lease = None
    ctx.obj = App(
        socket,
        config,
        actor,
        debug,
        timeout,
        why=why,
        lease=lease or None,
        key=key,
        project=project or None,
        all_projects=all_projects,
        in_project=in_project,
        host=host,
    )
    if ctx.get_parameter_source("actor") is click.core.ParameterSource.COMMANDLINE:
        ctx.obj.actor_option = actor
    ctx.call_on_close(ctx.obj.close)


def _meant_host(ctx: click.Context, noun: str, socket: str | None, host: str | None) -> str | None:
    """The URL of the host that this run means; an option counts before a variable.

    Raises:
        UsageError: both options are given, or the noun works on no other host.
        InvalidArgument: the URL is not valid.
    """
    is_option = ctx.get_parameter_source("host") is click.core.ParameterSource.COMMANDLINE
    if is_option and socket:
        raise click.UsageError("give either --host or --socket, not both", ctx)
    if host is None or not (host or is_option) or socket or (noun == "dial-stdio" and not is_option):
        return None
    from nexus.client.ssh import parse_host, program_there

    meant = parse_host(host)
    if noun in _OF_THIS_MACHINE:
        from nexus_protocol.errors import InvalidArgument

        line = command_line(*ctx.meta[_LINE])
        program = program_there()
        words = [f"{program} {line}"] if "'" in line else [program, *line.split(" ")]
        there = command_line("ssh", *meant.ssh_words(), *words)
        elsewhere = "" if is_option else "\nFor this machine, first: unset NEXUS_HOST"
        raise InvalidArgument(
            f"cannot run nexusctl {noun} with --host: {_OF_THIS_MACHINE[noun]}",
            hint=f"Run it there: {there}{elsewhere}",
        )
    return meant.url


def main() -> None:
    """The console scripts ``nexusctl`` and ``nxc``."""
    # A command ends before a garbage collection could pay off, and the one at interpreter exit never does.
    gc.disable()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the parent process closed it
            setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    guard()
    try:
        code = _run(sys.argv[1:])
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            done = "; the command itself succeeded" if code == 0 else ""
            code = _drop_output(1)
            click.echo(f"Error: cannot write the output: {error.strerror}{done}", err=True)
    except BrokenPipeError:
        # The reader of the output has exited, which is not an error. 141 is what a shell reports for SIGPIPE.
        code = _drop_output(141)
    gc.freeze()
    sys.exit(code)


def _drop_output(code: int) -> int:
    """Discard unwritten output; Python would try to flush it again at exit. Returns ``code``."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _complete_project(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from importlib import import_module

    names: list[str] = import_module("nexus.projects.cli").shell_complete_project(ctx, parameter, incomplete)
    return names


_GLOBAL_WITH_VALUE = (
    "--socket",
    "--host",
    "--config",
    "--actor",
    "--timeout",
    "--why",
    "--lease",
    "--key",
    "--project",
    "-p",
)
_GLOBAL_FLAGS = ("--debug", "--all-projects", "-A")


_GLOBAL_ATTACHED = ("-p", *(f"{name}=" for name in _GLOBAL_WITH_VALUE if name.startswith("--")))
"""How arguments begin that have the value of a global option with its name."""


def _hoist_global_options(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split off the global options, which click expects before the first noun; returns them and the rest."""
    front: list[str] = []
    rest: list[str] = []
    index = 0
    while index < len(arguments):
        argument = arguments[index]
        index += 1
        if argument == "--":
            rest += [argument, *arguments[index:]]
            break
        if argument in _GLOBAL_WITH_VALUE:
            if index == len(arguments):
                raise click.UsageError(f"option {argument!r} requires an argument")
            front += [argument, arguments[index]]
            index += 1
        elif argument in _GLOBAL_FLAGS or argument.startswith(_GLOBAL_ATTACHED):
            front.append(argument)
        else:
            rest.append(argument)
    return front, rest


def _check_text(arguments: list[str]) -> None:
    """Refuse arguments that are not UTF-8: they can be neither sent nor printed."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise click.UsageError(f"cannot accept {argument!r}: it is not UTF-8") from None


def _run(arguments: list[str]) -> int:
    for program in PROGRAMS:
        if instruction := os.environ.get(completion_variable(program)):
            return _complete(program, instruction)
    front: list[str] = []
    try:
        _check_text(arguments)
        front, rest = _hoist_global_options(arguments)
        # Not cli.main(): it turns every KeyboardInterrupt into Abort, and exits by itself on a broken pipe.
        with cli.make_context("nexusctl", front + rest) as ctx:
            result = cli.invoke(ctx)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.message, err=True)
        return 2
    except click.ClickException as error:
        _print_usage_error(error)
        return error.exit_code
    except click.Abort:
        click.echo("Aborted.", err=True)
        return 130
    except BrokenPipeError:
        raise
    except KeyboardInterrupt as error:
        _print_interrupted(error)
        return 130
    except Exception as error:
        if "--debug" in front:
            import traceback

            traceback.print_exc()
        print_error(error)
        return exit_code(error)


def _print_usage_error(error: click.ClickException) -> None:
    from nexus.cli.output import printable

    ctx = error.ctx if isinstance(error, click.UsageError) else None
    message = error.format_message()
    if isinstance(error, click.MissingParameter):
        message = " ".join(message.replace("\n\t", " ").split())  # click prints one choice a line
    click.echo(f"Error: {printable(message[:1].lower() + message[1:])}".rstrip("."), err=True)
    if ctx is not None:
        if isinstance(error, click.NoSuchOption) and not error.option_name.startswith("--"):
            words = [each.human_readable_name for each in ctx.command.params if isinstance(each, click.Argument)]
            if words:
                click.echo(f"  {words[-1]} that begins with - comes after --: {ctx.command_path} -- -…", err=True)
        click.echo(f"  See: {ctx.command_path} --help", err=True)


def _print_interrupted(error: KeyboardInterrupt) -> None:
    from nexus_protocol.errors import NexusError

    from nexus.client.errors import Interrupted

    click.echo("Interrupted.", err=True)
    if isinstance(error, Interrupted):
        outcome = error.outcome
        click.echo(f"  {outcome.message if outcome is not None else 'The request was already done.'}", err=True)
        for key, value in (outcome.details if isinstance(outcome, NexusError) else {}).items():
            click.echo(f"  {key}: {value}", err=True)
    _print_notes(error)


def _print_notes(error: BaseException) -> None:
    """Print the notes that a verb added to an error before raising it again."""
    from nexus.cli.output import hint_lines

    for note in getattr(error, "__notes__", ()):
        for line in hint_lines(note):
            click.echo(f"  {line}", err=True)


def print_error(error: Exception) -> None:
    """Print an error and its hint on standard error."""
    from nexus_protocol.errors import NexusError, ReportedError

    from nexus.cli.output import hint_lines, printable
    from nexus.cli.systemd import start_hint
    from nexus.client.errors import ConnectError

    if isinstance(error, ReportedError):
        click.echo(f"Error: {printable(error.message)}", err=True)
        if isinstance(error, NexusError):
            _print_program_output(error.details)
        told = error.hint or (_OLDER_DAEMON if _shows_an_older_daemon(error) else None)
        if told:
            lines = hint_lines(told, of_daemon=isinstance(error, NexusError))
            click.echo("\n".join(f"  {line}" for line in lines), err=True)
        if isinstance(error, ConnectError) and error.not_running:
            click.echo("\n" + "\n".join(f"  {line}" for line in hint_lines(f"Start it: {start_hint()}")), err=True)
        _print_notes(error)
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
        # An error about a file has its name; without one, this is standard output.
        click.echo(f"Error: cannot write the output: {error.strerror}", err=True)
    elif isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        click.echo(f"Error: cannot continue{printable(where)}: {error.strerror or error}", err=True)
    else:
        click.echo(f"Error: cannot continue: {type(error).__name__}: {printable(str(error))}", err=True)
        click.echo("  This is a bug in nexusctl. To see the traceback, repeat the command with --debug.", err=True)


_OLDER_DAEMON = (
    "The running daemon is older than this program. To run the version that is installed: nexusctl daemon restart"
)


def _shows_an_older_daemon(error: Exception) -> bool:
    """Whether the daemon does not know the command or a field of it: nexusctl sends only what this version declares."""
    from nexus_protocol.errors import InvalidArgument, UnknownCommand

    return isinstance(error, UnknownCommand) or (
        isinstance(error, InvalidArgument) and error.message.endswith(": unknown field")
    )


def _print_program_output(details: Mapping[str, Any]) -> None:
    """Print the last lines that a failed program wrote, if the error has them, indented more than the hint."""
    from nexus.cli.output import printable

    for key in ("log", "git"):
        lines = details.get(key)
        lines = lines.splitlines() if isinstance(lines, str) else lines
        for line in lines if isinstance(lines, list) else ():
            click.echo(f"    {printable(str(line))}".rstrip(), err=True)


def exit_code(error: Exception) -> int:
    """The exit code for an error."""
    from nexus_protocol.errors import ReportedError

    if isinstance(error, ReportedError):
        return error.exit_code
    return 3 if isinstance(error, ConnectionError) else 1


def completion_variable(program: str) -> str:
    """The environment variable with which a shell's completion script asks ``program`` for completions."""
    return f"_{program.upper()}_COMPLETE"


def _complete(program: str, instruction: str) -> int:
    from click.shell_completion import shell_complete

    return shell_complete(cli, {}, program, completion_variable(program), instruction)


if __name__ == "__main__":
    main()
