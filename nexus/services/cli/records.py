"""What services are told to be: ``service add``, ``service update`` and ``service remove``."""

from __future__ import annotations

import contextlib
import shlex
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from nexus_protocol.errors import NexusError, NotFound

from nexus.cli.output import Printer, can_ask, confirm, hint
from nexus.cli.verbs import FilePath, build_command, for_each, shell_complete, verb
from nexus.services.cli.lifecycle import start_and_tell
from nexus.services.cli.status import AT_START
from nexus.services.commands import AddDependency, AddService, GetServiceStatus, RemoveService, UpdateService
from nexus.services.errors import ServiceNeeded
from nexus.services.states import DependencyCondition

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["make_add", "make_remove", "make_update", "words_as_command"]


class _Needs(NamedTuple):
    """A dependency as it is written on the line."""

    name: str
    condition: DependencyCondition
    tunnel: bool


def _needs(text: str) -> _Needs:
    """The parts of ``NAME[:CONDITION][:tunnel]``."""
    name, *words = text.split(":")
    condition, tunnel = DependencyCondition.STARTED, False
    for word in words:
        if word == "tunnel":
            tunnel = True
        elif word in {one.value for one in DependencyCondition}:
            condition = DependencyCondition(word)
        else:
            raise click.BadParameter(f"{word!r} is none of started, healthy, completed and tunnel")
    if not name:
        raise click.BadParameter("a dependency has a name: NAME[:CONDITION][:tunnel]")
    return _Needs(name, condition, tunnel)


def read_env_file(path: str) -> dict[str, str]:
    """The variables of a file with lines ``NAME=VALUE``; what is wrong is told without its content.

    Raises:
        UsageError: it cannot be read, or a line of it is something else.
    """
    from dotenv.parser import parse_stream

    found: dict[str, str] = {}
    try:
        with open(path, encoding="utf-8") as file:
            for binding in parse_stream(file):
                if binding.error or (binding.key is not None and binding.value is None):
                    read = binding.original.string
                    line = binding.original.line + read[: len(read) - len(read.lstrip())].count("\n")
                    raise click.UsageError(f"cannot use {path}, line {line}: expected NAME=VALUE, or a # and a comment")
                if binding.key is not None:
                    found[binding.key] = binding.value or ""
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"cannot read {path}: it is not UTF-8") from None
    return found


def words_as_command(values: dict[str, Any]) -> None:
    """Make the words after ``--`` the run command.

    Raises:
        UsageError: there is another one already.
    """
    words = values.pop("words", None)
    if not words:
        return
    if values.get("run_command") is not None:
        raise click.UsageError("give the command either with --run or after --, not both")
    values["run_command"] = words


def _variables(values: dict[str, Any], field: str) -> None:
    """Put what ``--env-file`` holds before what ``--env`` gives."""
    path = values.pop("env_file")
    if path is not None:
        values[field] = (*read_env_file(path).items(), *values[field])


def _add(app: App, values: dict[str, Any], out: Printer) -> int:
    words_as_command(values)
    _variables(values, "environment")
    needs: tuple[_Needs, ...] = values.pop("depends_on")
    start = values.pop("start")
    values["id"] = values.get("id") or str(uuid.uuid4())
    service = app.call_raw(build_command(AddService, values))
    try:
        for one in needs:
            app.call_raw(AddDependency(service["id"], one.name, condition=one.condition, tunnel_enabled=one.tunnel))
    except NexusError:
        with contextlib.suppress(NexusError):  # all of it or nothing, so that the line can be repeated once mended
            app.call_raw(RemoveService(service["id"]))
        raise

    def sentence() -> None:
        click.echo(f'Added service "{service["name"]}" (state: {service["state"]})')
        if not start and service.get("run_command") is not None:
            hint(f"Start it: nexusctl service start {service['name']}")

    if not start:
        out.one(service, key="name", sentence=sentence)
        return 0
    if out.for_person:
        sentence()
    return start_and_tell(app, service["id"], out)


def _update(app: App, values: dict[str, Any], out: Printer) -> None:
    words_as_command(values)
    _variables(values, "set_environment")
    if all(value in (None, ()) for name, value in values.items() if name != "service"):
        raise click.UsageError("nothing to change: give at least one option")
    before = app.call_raw(GetServiceStatus(values["service"]))["service"]
    service = app.call_raw(build_command(UpdateService, values))

    def sentence() -> None:
        if service["updated_at"] == before["updated_at"]:
            click.echo(f'Nothing to change: service "{service["name"]}" is so already')
            return
        click.echo(f'Updated service "{service["name"]}"')
        fields = {*AT_START, "name", "environment_names"}
        stale = bool(values["set_environment"]) or any(before.get(field) != service.get(field) for field in fields)
        if stale and service["state"] in ("running", "starting"):
            hint(f"It goes on as it was started; to start it anew: nexusctl service restart {service['name']}")

    out.one(service, key="name", sentence=sentence)


def _remove(app: App, values: dict[str, Any], out: Printer) -> int:
    names = values["service"]
    typed: dict[str, str] = {}
    if not values["yes"]:
        # What begins with a dash has come after a --, and must again.
        options = ["--force", "--yes"] if values["stop"] else ["--yes"]
        dashed = any(name.startswith("-") for name in names)
        words = [*options, "--", *names] if dashed else [*names, *options]
        question = ""
        if can_ask():
            found: list[dict[str, Any]] = []
            code = for_each(names, lambda name: found.append(app.call_raw(GetServiceStatus(name))["service"]))
            if code:
                return code
            question = _question(found)
            # What was asked about, whatever has its name by then.
            typed = {service["id"]: name for service, name in zip(found, names, strict=True)}
            names = tuple(typed)
        command = shlex.join(["nexusctl", "service", "remove", *words])
        if not confirm(question, "refusing to remove service without confirmation", command):
            return 1

    removed: list[dict[str, Any]] = []
    needed: list[str] = []
    one_document = out.output == "json" and len(names) > 1

    def remove(name: str) -> None:
        try:
            service = app.call_raw(RemoveService(name, stop=bool(values["stop"])))
        except NotFound as error:
            error.message = error.message.replace(name, typed.get(name, name))
            raise
        removed.append(service)
        if not one_document:
            out.one(service, key="name", sentence=lambda: click.echo(f'Removed service "{service["name"]}"'))

    def remove_or_wait(name: str) -> None:
        try:
            remove(name)
        except ServiceNeeded:
            needed.append(name)  # perhaps by one that comes later

    code = 0
    while names:
        code = for_each(names, remove_or_wait) or code
        if len(needed) == len(names):
            code = for_each(needed, remove) or code
            break
        names, needed = tuple(needed), []
    if one_document:
        out.many(removed, (), key="name", nothing="No services removed.")
    return code


def _question(services: list[dict[str, Any]]) -> str:
    shown = [f'"{service["name"]}" ({service["state"]}, {service["id"]})' for service in services]
    if len(shown) == 1:
        return f"Remove service {shown[0]} with its kept output?"
    return f"Remove {len(shown)} services with their kept output: {', '.join(shown)}?"


_ENV_FILE = "Environment variables from a file with lines NAME=VALUE; --env comes after it."

_ADD_HELP = """Add a service, stopped.

The command is a line for the shell (--run), or words after a -- that no shell sees. Times are written as 500ms, 5s, 2m
or 1h, sizes as 256M or 1G. --env NAME without a value takes the value from here, so that it stands on no command line.

\b
    nexusctl service add web --port 8080 --health-tcp 0 --run 'exec python3 -m http.server -b 127.0.0.1 $PORT'
    nexusctl service add api --depends-on web:healthy:tunnel -- ./api --verbose
"""

_UPDATE_HELP = """Change a service; what is not given stays, and --clear FIELD unsets a field.

A service that is up goes on as it was started and has the new values at its next start; its restart policy, health
check, tags and autostart hold at once.
"""


def _env_file() -> click.Option:
    return click.Option(["--env-file"], type=FilePath(), metavar="FILE", help=_ENV_FILE)


def make_add() -> click.Command:
    """``service add``."""
    needs = click.Option(
        ["--depends-on"],
        type=_needs,
        multiple=True,
        metavar="NAME[:CONDITION][:tunnel]",
        help="Another service that it needs: started (default), healthy or completed; with a tunnel to it.",
        shell_complete=shell_complete("service"),
    )
    start = click.Option(["--start"], is_flag=True, help="Start it.")
    return verb(
        AddService, _add, parameters=[_env_file(), needs, start], exclude=("id",), help=_ADD_HELP, words="words"
    )


def make_update() -> click.Command:
    """``service update``."""
    return verb(
        UpdateService, _update, parameters=[_env_file()], exclude=("environment",), help=_UPDATE_HELP, words="words"
    )


def make_remove() -> click.Command:
    """``service remove``."""
    force = click.Option(["--force", "--stop", "stop"], is_flag=True, help="Stop it first if it is up.")
    yes = click.Option(["-y", "--yes"], is_flag=True, help="Skip confirmation.")
    return verb(RemoveService, _remove, parameters=[force, yes], exclude=("stop",), variadic=True)
