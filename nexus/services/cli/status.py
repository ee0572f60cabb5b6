"""``service list`` and ``service status``, and how the state of a service is printed everywhere."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from nexus.cli import records
from nexus.cli.output import Column, Printer, format_duration, format_time, print_fields
from nexus.cli.records import Noun, all_records
from nexus.cli.result import Result, Results
from nexus.cli.verbs import Values, for_each, shell_complete, verb
from nexus.records.fields import fields_of_next_start
from nexus.services.commands import AddService, GetServiceStatus, ListServices
from nexus.services.records import Dependency, Service, ServicePage, ServiceStatus
from nexus.services.states import StdinMode

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = [
    "SERVICE",
    "all_services",
    "command_text",
    "edge_text",
    "fields_at_start",
    "files_text",
    "is_checked",
    "is_up",
    "make_list",
    "make_status",
    "shown_health",
    "state_colour",
    "summary",
]


def fields_at_start() -> frozenset[str]:
    """The fields whose changes take effect at the next start of a running service."""
    return fields_of_next_start(AddService)


def is_up(service: Service) -> bool:
    """Whether the service is running, starting or stopping."""
    return service.state not in ("stopped", "failed")


def is_checked(service: Service) -> bool:
    """Whether the service has a health check."""
    return not (service.health_exec is None and service.health_tcp is None and service.health_log is None)


def shown_health(service: Service) -> str | None:
    """The health to print; None for a service that has no check or does not run."""
    return service.health if is_checked(service) and is_up(service) else None


def state_colour(service: Service) -> str | None:
    """The colour of the state. Green needs a check that found the service healthy; without a check there is none."""
    if service.state == "failed" or (is_up(service) and service.health == "unhealthy"):
        return "red"
    if service.state in ("starting", "stopping"):
        return "yellow"
    if service.state == "running":
        return {"healthy": "green"}.get(service.health, "yellow" if is_checked(service) else None)
    return None


def summary(service: Service) -> str:
    """The state in a few words: ``running, healthy, pid 12, port 8080``."""
    words: list[str] = [service.state]
    if health := shown_health(service):
        words.append(health if health != "unknown" else "health unknown")
    words += [f"{word} {value}" for word, value in (("pid", service.pid), ("port", service.active_port)) if value]
    return ", ".join(words)


def command_text(command: str | list[str] | None) -> str | None:
    """A run command on one line, as it could be typed in a shell."""
    if isinstance(command, list):
        return shlex.join(command)
    return command if command is None else " ".join(command.split("\n"))


def files_text(declared: str | list[str] | None) -> str | None:
    """The declared configuration files on one line."""
    return ", ".join(declared) if isinstance(declared, list) else declared


def _unknown(service: Service) -> str | None:
    """The warning about a run that the daemon cannot look at."""
    since = service.unknown_since
    return None if since is None else f"since {format_time(since)}, because its run cannot be looked at"


def _port(service: Service) -> int | str | None:
    declared = service.port
    return service.active_port or ("free" if declared == 0 else declared)


def _time_in_state(service: Service) -> str:
    return format_duration(max(0, int(time.time() * 1000) - service.state_at))


SERVICE = Noun("service", "services", "service", ServicePage.services)
_COLUMNS: tuple[Column[Service], ...] = (
    Column("NAME", lambda s: s.name, 20),
    Column("STATE", lambda s: s.state + ("?" if s.unknown_since else ""), 8, colour=state_colour),
    Column("HEALTH", shown_health, 9, colour=state_colour),
    Column("PORT", _port, 5),
    Column("PID", lambda s: s.pid, 7),
    Column("RESTARTS", lambda s: s.restarts),
    Column("FOR", _time_in_state),
    Column("COMMAND", lambda s: command_text(s.run_command), wide=True),
    Column("TAGS", lambda s: ",".join(s.tags), wide=True),
    Column("REASON", lambda s: s.reason, wide=True),
)


def all_services(app: App, *, project: str | None = None, tag: str | None = None) -> Results[Service]:
    """Read all services, or those with a tag, by name: of a project, by default of that of this run."""

    def page_of(count: int, cursor: str | None) -> ListServices:
        return ListServices(tag=tag, limit=count, cursor=cursor)

    return all_records(app, SERVICE, page_of, project=project)


def _status(app: App, values: Values, out: Printer) -> int:
    found: list[Result[ServiceStatus]] = []
    names = values.every("service", str)
    code = for_each(names, lambda name: found.append(app.fetch(GetServiceStatus(name))))
    if out.for_person:
        for index, status in enumerate(found):
            click.echo("\n" * (index > 0), nl=False)
            _print_status(status.record, wide=out.output == "wide")
    elif len(names) > 1:
        out.many(Results.of(found), (), name=_name_in, nothing="No services found.")
    elif found:
        out.one(found[0], name=_name_in, sentence=lambda _status: None)
    return code


def _name_in(status: ServiceStatus) -> str:
    return status.service.name


def _print_status(status: ServiceStatus, wide: bool) -> None:
    service = status.service
    print_fields(
        [
            ("Name", service.name),
            ("ID", service.id),
            ("Project", None if service.project == "default" else service.project),
            ("State", f"{service.state} for {_time_in_state(service)}, since {format_time(service.state_at)}"),
            ("Unknown", _unknown(service)),
            ("Reason", service.reason),
            ("Health", _health(service)),
            ("Command", command_text(service.run_command)),
            ("Directory", service.directory),
            ("Terminal", "yes" if service.tty else None),
            ("Input", "open" if service.stdin is StdinMode.OPEN and not service.tty else None),
            ("PID", service.pid),
            ("Port", _port(service)),
            ("Processes", status.process_count),
            ("Memory", _memory(status, service)),
            ("CPU time", _cpu(status)),
            ("Restarts", _restarts(service)),
            ("Restart due", _restart_due(service)),
            ("Next try", format_time(service.next_restart_at)),
            ("Last exit", _exit(service)),
            ("Started", format_time(service.started_at)),
            ("Stopped", format_time(service.stopped_at)),
            ("Tags", ", ".join(service.tags) or None),
            ("Depends on", _edges(status.dependencies, needed=True)),
            ("Needed by", _edges(status.dependents, needed=False)),
            ("Lost", ", ".join(service.lost_dependencies) or None),
            *(_wide_fields(service) if wide else ()),
        ]
    )


def _restart_due(service: Service) -> str | None:
    since = service.restart_pending_since
    return None if since is None else f"since {format_time(since)}, for a change that its run does not have"


def _wide_fields(service: Service) -> list[tuple[str, object]]:
    """The fields that only ``-o wide`` shows."""
    files = files_text(service.config_filename)
    return [
        ("Variables", ", ".join(service.environment_names) or None),
        ("Config", files and f"{files} ({service.config_format})"),
        ("Repository", service.repo_path),
        ("Cloned from", service.repo_url),
        ("Umask", service.umask),
        ("Autostart", "yes" if service.autostart else "no"),
        ("Stop", f"{service.stop_signal}, SIGKILL after {_time(service.stop_grace_ms)}"),
        ("Created", format_time(service.created_at)),
        ("Updated", format_time(service.updated_at)),
    ]


def _time(ms: int) -> str:
    return f"{ms} ms" if ms % 1000 else f"{ms // 1000} s"


def _health(service: Service) -> str | None:
    health = shown_health(service)
    if health is None:
        return None if is_checked(service) else "not checked"
    message = service.health_message
    if health == "unknown":
        message = message or "no check has finished yet"
    return f"{health} ({message})" if message else health


def _memory(status: ServiceStatus, service: Service) -> str | None:
    used, limit = status.memory_rss_bytes, service.memory_limit_mib
    if used is None:
        return None if limit is None else f"{limit} MiB at most"
    return f"{used / (1024 * 1024):.1f} MiB" + (f" of {limit} MiB" if limit else "")


def _cpu(status: ServiceStatus) -> str | None:
    used = status.cpu_time_ms
    return None if used is None else f"{used / 1000:.2f} s"


def _restarts(service: Service) -> str:
    count, policy = service.restarts, service.restart
    return f"{count} (policy: {policy})"


def _exit(service: Service) -> str | None:
    if service.exit_signal is not None:
        import signal

        number = service.exit_signal
        known = number in {int(one) for one in signal.Signals}
        return f"signal {number}" + (f" ({signal.Signals(number).name})" if known else "")
    code = service.exit_code
    return None if code is None else f"code {code}"


def edge_text(edge: Dependency) -> str:
    """The attributes of a dependency in a few words; empty if all have their defaults."""
    words: list[str] = [] if edge.condition == "started" else [edge.condition]
    if edge.tunnel_enabled:
        port = edge.tunnel_port
        words.append(f"tunnel {edge.tunnel_host or '127.0.0.1'}:{port}" if port else "tunnel")
    if edge.when_lost != "ignore":
        words.append(f"{edge.when_lost} when lost")
    return ", ".join(words)


def _edges(edges: Sequence[Dependency], *, needed: bool) -> str | None:
    """The dependencies of a service, or with ``needed`` unset its dependents."""
    shown = []
    for edge in edges:
        text = edge_text(edge)
        # An edge has the state of its dependency, not of its dependent.
        named = f"{edge.dependency} is {edge.state}" if needed else edge.service
        shown.append(named + (f" ({text})" if text else ""))
    return "; ".join(shown) or None


_STATUS_HELP = """Show service status.

NAME is a name, an id, or the first characters of an id, at least 4. "health unknown" means that no check has finished
yet, which is not the same as healthy.
"""


def make_list() -> click.Command:
    """``service list``."""
    tag = click.Option(["--tag"], help="Only services with this tag.", shell_complete=shell_complete("service tag"))
    return records.make_list(ListServices, SERVICE, _COLUMNS, parameters=[tag], exclude=("tag",))


def make_status() -> click.Command:
    """``service status``."""
    return verb(GetServiceStatus, _status, variadic=True, help=_STATUS_HELP)
