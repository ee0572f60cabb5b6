"""``service add``, ``service update`` and ``service remove``: the records of services."""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import click
from nexus_protocol.errors import InvalidArgument, NexusError

from nexus.cli.output import Printer, hint, reference
from nexus.cli.records import Removal, name_of, remove_each, where_found
from nexus.cli.selection import layers, needs_of_line, selected, selection_parameters, words_of
from nexus.cli.verbs import FilePath, Values, shell_complete, verb
from nexus.hints import command_line
from nexus.services.cli.lifecycle import start_and_print
from nexus.services.cli.selection import SERVICES
from nexus.services.cli.status import SERVICE, fields_at_start
from nexus.services.commands import AddDependency, AddService, GetServiceStatus, RemoveService, UpdateService
from nexus.services.records import Service
from nexus.services.states import DependencyCondition

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["make_add", "make_remove", "make_update", "use_words_as_command"]


_MAX_FILE_BYTES = 1024 * 1024
_MAX_VARIABLES = 500
"""The bound of a record's environment (``records.Environment``)."""


class _Dependency(NamedTuple):
    """A dependency as given with ``--depends-on``."""

    name: str
    condition: DependencyCondition
    tunnel: bool


def _dependency(text: str) -> _Dependency:
    """Parse ``NAME[:CONDITION][:tunnel]``."""
    name, *words = text.split(":")
    condition, tunnel = DependencyCondition.STARTED, False
    for word in words:
        if word == "tunnel":
            tunnel = True
        elif word in {one.value for one in DependencyCondition}:
            condition = DependencyCondition(word)
        else:
            raise click.BadParameter(f"{word!r} is not one of started, healthy, completed and tunnel")
    if not name:
        raise click.BadParameter("a dependency needs a name: NAME[:CONDITION][:tunnel]")
    return _Dependency(name, condition, tunnel)


def read_env_file(path: str) -> dict[str, str]:
    """Read variables from a file with lines ``NAME=VALUE``, as the daemon reads a configuration file.

    References are replaced by what an earlier line set, else by nexusctl's own environment, which also has the value
    of a name without ``=``. It may be a pipe, such as ``<(COMMAND)`` of a shell. The bounds are those of the daemon
    for a record. Errors never quote its content.

    Raises:
        UsageError: the file cannot be read, or is too large.
        InvalidArgument: a line is refused.
    """
    from nexus import envfile

    text = _read_bounded(path)
    try:
        return envfile.read(text, os.environ, envfile.Limits(variables=_MAX_VARIABLES))
    except envfile.BadLine as error:
        raise InvalidArgument(f"cannot use {path}, line {error.line}: {error.problem}", hint=error.hint) from None


def _read_bounded(path: str) -> str:
    """The text of a file; reading stops beyond 1 MiB, so that neither a huge nor an endless file is taken in."""
    try:
        # O_NONBLOCK: without it, open(2) waits for ever on a FIFO that has no writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with open(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and status.st_size > _MAX_FILE_BYTES:
                raise click.UsageError(f"cannot read {path}: it is larger than 1 MiB")
            os.set_blocking(descriptor, True)
            data = bytearray()
            while len(data) <= _MAX_FILE_BYTES and (some := file.read(64 * 1024)):
                data += some
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > _MAX_FILE_BYTES:
        raise click.UsageError(f"cannot read {path}: it is larger than 1 MiB")
    if not data and stat.S_ISFIFO(status.st_mode):
        raise click.UsageError(f"cannot read {path}: it is a pipe, and nothing was written to it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise click.UsageError(f"cannot read {path}: it is not UTF-8") from None


def use_words_as_command(values: Values) -> None:
    """Set the run command to the words after ``--``, if there are any.

    Raises:
        UsageError: ``--run`` is given too.
    """
    words = values.every("words", str)
    values.drop("words")
    if not words:
        return
    if values.given("run_command"):
        raise click.UsageError("give the command either with --run or after --, not both")
    values.put("run_command", words)


def _variables(values: Values, field: str) -> None:
    """Add the variables of ``--env-file`` to ``field``; those of ``--env`` override them."""
    path = values.text("env_file")
    values.drop("env_file")
    if path is not None:
        values.put(field, (*read_env_file(path).items(), *values.every(field, tuple)))


def _add(app: App, values: Values, out: Printer) -> int:
    use_words_as_command(values)
    _variables(values, "environment")
    start = values.flag("start")
    # Under a key the line is repeated with the same request.
    added = app.fetch(values.build(AddService, id=str(uuid.uuid4()) if app.key is None else None))
    service = added.record
    try:
        for one in values.every("depends_on", _Dependency):
            app.call(AddDependency(service.id, one.name, condition=one.condition, tunnel_enabled=one.tunnel))
    except NexusError:
        with contextlib.suppress(NexusError):  # all or nothing, so that the corrected line can be run again
            app.call(RemoveService(service.id))
        raise

    def sentence(service: Service) -> None:
        click.echo(f'Added service "{service.name}" (state: {service.state})')
        if not start and service.run_command is not None:
            hint(f"Start it: {command_line('nexusctl', 'service', 'start', reference(service))}")

    if not start:
        out.one(added, name=name_of, sentence=sentence)
        return 0
    if out.for_person:
        sentence(service)
    return start_and_print(app, service.id, out)


def _update(app: App, values: Values, out: Printer) -> None:
    use_words_as_command(values)
    _variables(values, "set_environment")
    if not values.any_given(lambda name: name != "service"):
        raise click.UsageError("nothing to change: give at least one option")
    before = app.call(GetServiceStatus(values.word("service"))).service

    def sentence(service: Service) -> None:
        if service.updated_at == before.updated_at:
            click.echo(f'Service "{service.name}" is already up to date')
            return
        click.echo(f'Updated service "{service.name}"')
        fields = {*fields_at_start(), "name", "environment_names"}
        stale = values.given("set_environment") or any(
            getattr(before, field, None) != getattr(service, field, None) for field in fields
        )
        if stale and service.state in ("running", "starting"):
            restart = command_line("nexusctl", "service", "restart", reference(service))
            hint(f"It keeps running with the old values; to restart it: {restart}")

    out.one(app.fetch(values.build(UpdateService)), name=name_of, sentence=sentence)


def _remove(app: App, values: Values, out: Printer) -> int:
    stop, words = values.flag("stop"), words_of(app, values, SERVICES)
    by_name = not values.flag("all") and values.text("tag") is None
    names = selected(app, values, SERVICES)
    if not names:
        return 0
    removal = Removal(
        "remove",
        "Removed",
        look=lambda app, name: app.call(GetServiceStatus(name)).service,
        remove=lambda app, name: app.fetch(RemoveService(name, stop=stop)),
        question=_question,
        options=["--force"] if stop else [],
        in_order=_dependents_first,
        words=None if by_name else words,
    )
    return remove_each(app, names, values.flag("yes"), SERVICE, removal, out)


def _dependents_first(app: App, names: Sequence[str]) -> list[int]:
    groups = layers(needs_of_line(app, names, SERVICES), dependents_first=True)
    return [place for group in groups for place in group]


def _question(app: App, services: list[Service]) -> str:
    shown = [f'"{service.name}"{where_found(app, service)} ({service.state}, {service.id})' for service in services]
    if len(shown) == 1:
        return f"Remove service {shown[0]} with its kept output?"
    return f"Remove {len(shown)} services with their kept output: {', '.join(shown)}?"


_ENV_FILE = "Environment variables from a file with lines NAME=VALUE; --env overrides them."

_ADD_HELP = """Add a service, stopped.

The command is a line for the shell (--run), or words after -- that are run without a shell. Times are written as 500ms,
5s, 2m or 1h, sizes as 256M or 1G. --env NAME without a value takes the value from nexusctl's environment, which keeps
it off the command line.

\b
    nexusctl service add web --port 8080 --health-tcp 0 --run 'exec python3 -m http.server -b 127.0.0.1 $PORT'
    nexusctl service add api --depends-on web:healthy:tunnel -- ./api --verbose
"""

_UPDATE_HELP = """Change the given fields of a service; --clear FIELD unsets a field.

A running service keeps the values that it was started with until its next start. A new restart policy, health check,
tags and autostart take effect at once.
"""


def _env_file() -> click.Option:
    return click.Option(["--env-file"], type=FilePath(), metavar="FILE", help=_ENV_FILE)


def make_add() -> click.Command:
    """``service add``."""
    depends_on = click.Option(
        ["--depends-on"],
        type=_dependency,
        multiple=True,
        metavar="NAME[:CONDITION][:tunnel]",
        help="A service that must be started (default), healthy or completed first; with a tunnel to it.",
        shell_complete=shell_complete("service"),
    )
    start = click.Option(["--start"], is_flag=True, help="Start it.")
    return verb(
        AddService, _add, parameters=[_env_file(), depends_on, start], exclude=("id",), help=_ADD_HELP, words="words"
    )


def make_update() -> click.Command:
    """``service update``."""
    return verb(
        UpdateService, _update, parameters=[_env_file()], exclude=("environment",), help=_UPDATE_HELP, words="words"
    )


def make_remove() -> click.Command:
    """``service remove``."""
    force = click.Option(["--force", "--stop", "stop"], is_flag=True, help="Stop it first if it is running.")
    yes = click.Option(["-y", "--yes"], is_flag=True, help="Skip confirmation.")
    exclude = ("service", "stop", "if_revision", "if_state_revision")
    built = verb(RemoveService, _remove, parameters=[*selection_parameters(SERVICES), force, yes], exclude=exclude)
    built.takes_all_projects = True
    return built
