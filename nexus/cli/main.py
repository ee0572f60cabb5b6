"""``nexusctl``'s entry: the global options, the words of the top level, and how every error becomes an exit code.

The words come from static tables and are imported only when they are used, since the start is most of what a short
command takes.
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

__all__ = ["cli", "exit_code", "main", "print_error"]

_OWN_NOUNS: dict[str, tuple[str, Noun]] = {
    "apply": ("nexus.cli.apply", Noun("apply", "Make services and VM records what a file says.")),
    "export": ("nexus.cli.apply", Noun("export", "Write services and VM records as a file for apply.")),
    "version": ("nexus.cli.version", Noun("version", "Print the version of nexusctl.")),
    "doctor": ("nexus.cli.doctor", Noun("doctor", "Look for what is wrong, and say how to mend it.")),
    "db": ("nexus.cli.db", Noun("db", "Look after the database.")),
    "daemon": ("nexus.cli.daemon", Noun("daemon", "Start, stop and install the daemon.")),
    "completion": ("nexus.cli.completion", Noun("completion", "Print or install the shell's completion.")),
}

_NOUNS: dict[str, tuple[str, Noun]] = {
    noun.name: (f"nexus.{capability.name}.cli", noun) for capability in CAPABILITIES for noun in capability.nouns
} | _OWN_NOUNS

_ALIASES = {alias: noun.name for _module, noun in _NOUNS.values() for alias in noun.aliases}

_SUGGESTIONS = {
    word: f" (did you mean 'nexusctl {meant}'?)"
    for word, meant in {
        **{word: f"daemon {word}" for word in ("start", "stop", "restart", "install", "uninstall")},
        **dict.fromkeys(("list", "ls", "ps"), "vm list"),
        **{word: f"vm {word}" for word in ("create", "inspect", "delete")},
        **{word: f"db {word}" for word in ("backup", "restore", "migrate", "check")},
        **{word: f"service {word}" for word in ("add", "logs", "tree")},
        "rm": "vm delete",
        "help": "--help",
    }.items()
}

PROGRAMS = ("nexusctl", "nxc")
"""The names of this program."""

_EXIT_CODES = {
    "invalid_argument": 2,
    "not_found": 4,
    "conflict": 5,
    "failed_precondition": 5,
    "deadline_exceeded": 124,
    "cancelled": 130,
}


class Seconds(click.types.FloatParamType):
    """A time that is more than none."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= 1_000_000:
            self.fail(f"{value!r} is not a number of seconds above 0", param, ctx)
        return seconds


class _TopLevel(WordGroup):
    """The words of the top level."""

    aliases = _ALIASES
    suggestions = _SUGGESTIONS

    def words(self) -> dict[str, str]:
        return {name: noun.help for name, (_module, noun) in _NOUNS.items()}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = _ALIASES.get(cmd_name, cmd_name)
        entry = _NOUNS.get(name)
        if entry is None:
            return None
        from importlib import import_module

        command = getattr(import_module(entry[0]), name)
        assert isinstance(command, click.Command)
        return command


@click.command(
    cls=_TopLevel,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="The exit code is 0 when it is done, 1 refused or failed, 2 usage, 3 no daemon, 4 not found, 5 conflict, "
    "124 no answer in time.",
)
@click.option("--socket", metavar="PATH", help="The daemon's socket (NEXUS_SOCKET).")
@click.option("--config", metavar="PATH", help="The configuration file (NEXUS_CONFIG_DIR/config.toml).")
@click.option("--actor", metavar="NAME", envvar="NEXUS_ACTOR", help="On whose behalf, for the journal (NEXUS_ACTOR).")
@click.option("--timeout", type=Seconds(), metavar="SECONDS", help="Give up a call after so long (default: never).")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(__version__, prog_name="nexusctl", message="%(prog)s %(version)s")
@click.pass_context
def cli(
    ctx: click.Context, socket: str | None, config: str | None, actor: str | None, timeout: float | None, debug: bool
) -> None:
    """Drive Nexus: a recoverable world for every task.

    The global options may stand anywhere on the line.
    """
    from nexus.cli.app import App

    ctx.obj = App(socket, config, actor, debug, timeout)
    ctx.call_on_close(ctx.obj.close)


def main() -> None:
    """The console scripts ``nexusctl`` and ``nxc``."""
    # A command is over before a collection of garbage could pay, and the one at the very end never does.
    gc.disable()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    try:
        code = _run(sys.argv[1:])
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            done = "; what was asked for was done" if code == 0 else ""
            code = _drop_output(1)
            click.echo(f"Error: cannot write the output: {error.strerror}{done}", err=True)
    except BrokenPipeError:
        # Whoever read our output has gone; that is not an error to talk about.
        code = _drop_output(141)
    gc.freeze()
    sys.exit(code)


def _drop_output(code: int) -> int:
    """Forget what could not be written, or Python would try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


_GLOBAL_WITH_VALUE = ("--socket", "--config", "--actor", "--timeout")


def _hoist_global_options(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The global options, which click looks for in front, and the rest."""
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
        elif argument == "--debug" or argument.startswith(tuple(f"{name}=" for name in _GLOBAL_WITH_VALUE)):
            front.append(argument)
        else:
            rest.append(argument)
    return front, rest


def _check_text(arguments: list[str]) -> None:
    """Refuse what can neither be sent nor printed."""
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
        # Not cli.main(): that makes one and the same Abort of every Ctrl-C, and exits by itself on a broken pipe.
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

    ctx = getattr(error, "ctx", None)
    message = error.format_message()
    if isinstance(error, click.MissingParameter):
        message = " ".join(message.replace("\n\t", " ").split())  # click lays out the choices below each other
    click.echo(f"Error: {printable(message[:1].lower() + message[1:])}".rstrip("."), err=True)
    if ctx is not None:
        click.echo(f"  See: {ctx.command_path} --help", err=True)


def _print_interrupted(error: KeyboardInterrupt) -> None:
    click.echo("Interrupted.", err=True)
    outcome: Any = getattr(error, "outcome", error)
    if outcome is error:
        pass
    elif outcome is None:
        click.echo("  The request was already done.", err=True)
    else:
        click.echo(f"  {outcome.message}", err=True)
        for key, value in (getattr(outcome, "details", None) or {}).items():
            click.echo(f"  {key}: {value}", err=True)
    _print_notes(error)


def _print_notes(error: BaseException) -> None:
    """What a verb had to add to an error that came through it."""
    from nexus.cli.output import printable

    for note in getattr(error, "__notes__", ()):
        click.echo(f"  {printable(note)}", err=True)


def print_error(error: Exception) -> None:
    """Say on standard error what went wrong and what to do."""
    from nexus_protocol.errors import NexusError

    from nexus.cli.app import start_hint
    from nexus.cli.output import printable
    from nexus.client.errors import NOT_RUNNING
    from nexus.config import ConfigError
    from nexus.paths import PathError

    if isinstance(error, (NexusError, PathError, ConfigError, ConnectionError)) and hasattr(error, "message"):
        click.echo(f"Error: {printable(error.message)}", err=True)
        _print_last_lines(getattr(error, "details", None) or {})
        hint = getattr(error, "hint", None)
        if hint:
            click.echo("\n".join(f"  {printable(line)}" for line in str(hint).splitlines()), err=True)
        if hint == NOT_RUNNING:
            click.echo(f"\n  Start it: {start_hint()}", err=True)
        _print_notes(error)
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
        # A file that was being written would have its name here: this is where the output goes.
        click.echo(f"Error: cannot write the output: {error.strerror}", err=True)
    elif isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        click.echo(f"Error: cannot go on{printable(where)}: {error.strerror or error}", err=True)
    else:
        click.echo(f"Error: cannot go on: {type(error).__name__}: {printable(str(error))}", err=True)
        click.echo("  This is a bug in nexusctl. For the details: nexusctl --debug …", err=True)


def _print_last_lines(details: Mapping[str, Any]) -> None:
    """What a program wrote before it failed, where the error has it: further in than the hint that follows."""
    from nexus.cli.output import printable

    for key in ("log", "git"):
        lines = details.get(key)
        lines = lines.splitlines() if isinstance(lines, str) else lines
        for line in lines if isinstance(lines, list) else ():
            click.echo(f"    {printable(str(line))}".rstrip(), err=True)


def exit_code(error: Exception) -> int:
    """The exit code that stands for an error."""
    if isinstance(error, ConnectionError):
        return 3
    return _EXIT_CODES.get(getattr(error, "code", ""), 1)


def completion_variable(program: str) -> str:
    """The environment variable by which a shell's completion script asks ``program`` for words."""
    return f"_{program.upper()}_COMPLETE"


def _complete(program: str, instruction: str) -> int:
    from click.shell_completion import shell_complete

    return shell_complete(cli, {}, program, completion_variable(program), instruction)


if __name__ == "__main__":
    main()
