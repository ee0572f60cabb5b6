"""``nexusctl status`` and ``nexusctl settings``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from nexus_protocol.errors import InvalidArgument

from nexus.cli.app import ANSWER_WITHIN_S
from nexus.cli.output import Column, Printer, format_duration, hint, print_fields, printable, write_exact
from nexus.cli.result import Result, Results
from nexus.cli.verbs import NounGroup, Values, completers, verb, verb_of
from nexus.system.commands import (
    DeleteSetting,
    GetSetting,
    GetSystemStatus,
    Health,
    HealthReport,
    ListSettings,
    SetSetting,
    Setting,
    Settings,
    SystemStatus,
)

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["settings", "status"]


def _status(app: App, command: Health, out: Printer) -> None:
    app.limit(ANSWER_WITHIN_S)
    health = app.fetch(command)
    if out.output == "table":
        _print_status(app, health.record)
        return
    system = app.fetch(GetSystemStatus())
    plain = {"socket": app.address(), **health.plain, "system": system.plain}
    out.one(
        Result(plain, lambda: health.record),
        name=lambda health: health.status,
        sentence=lambda health: _print_status_wide(app, health, system.record),
    )


def _print_status(app: App, health: HealthReport) -> None:
    click.echo(f"Daemon: {health.status} ({app.address()})")
    database = health.database
    if database is not None:
        click.echo(f"Database: {database.path}")
        click.echo(f"  Tables: {database.table_count}")
        click.echo(f"  Size:   {database.size_bytes} bytes")
    for check in health.checks:
        if check.status != "ok":
            click.echo(f"{check.name} is {check.status}: {check.message}", err=True)


def _print_status_wide(app: App, health: HealthReport, system: SystemStatus) -> None:
    _print_status(app, health)
    counts = ", ".join(f"{n} {state}" for states in system.counts.values() for state, n in states.items())
    print_fields(
        [
            ("Version", system.version),
            ("Process", system.pid),
            ("Up", format_duration(system.uptime_ms)),
            ("Memory", f"{system.memory_rss_bytes // (1024 * 1024)} MiB"),
            ("Clients", system.connections),
            ("VMs", counts or "none"),
        ]
    )


status = verb_of(
    Health, _status, help="Show the status of the daemon and its database. Exits 0 if it replies, 3 if not."
)

_COLUMNS: tuple[Column[Setting], ...] = (
    Column("KEY", lambda s: s.key, 24),
    Column("VALUE", lambda s: _text(s.value), 12),
    Column("TYPE", lambda s: s.type, 6),
    Column("SET", lambda s: "yes" if s.is_set else "default"),
    Column("MEANING", lambda s: s.doc, wide=True),
)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    import msgspec

    return msgspec.json.encode(value).decode()


def _key(setting: Setting) -> str:
    return setting.key


def _get(app: App, command: GetSetting, out: Printer) -> None:
    out.one(app.fetch(command), name=_key, sentence=lambda setting: write_exact(f"{_text(setting.value)}\n"))


def _set(app: App, values: Values, out: Printer) -> None:
    from nexus_protocol.codec import encode_command

    command = SetSetting(values.word("key"), _parse(values.word("value"), values.text("type")))
    try:
        encode_command(command)
    except InvalidArgument:
        raise click.UsageError(
            "cannot accept value: whole numbers have at most 64 bits, and nesting is at most 32 levels deep"
        ) from None

    def sentence(setting: Setting) -> None:
        click.echo(printable(f"Set {setting.key} to {_text(setting.value)} ({setting.type})"))
        if setting.default is None and setting.doc is None:
            _warn_unknown(app, setting.key)

    out.one(app.fetch(command), name=_key, sentence=sentence)


def _warn_unknown(app: App, key: str) -> None:
    """Print that nothing reads the key: it may be misspelled."""
    from difflib import get_close_matches

    known = [setting.key for setting in _all_settings(app).records if setting.doc]
    near = get_close_matches(key, known, 1)
    hint(f"Nothing in this version reads {key}" + (f" (did you mean {near[0]}?)" if near else ""))


def _parse(text: str, type_: str | None) -> Any:
    """Parse a value to the type of ``--type``, else to the type that it looks like."""
    import msgspec

    if type_ == "string":
        return text
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        value = text
    except RecursionError:
        raise click.UsageError(
            "cannot accept value: it is nested too deeply (to keep it as text: --type string)"
        ) from None
    kinds = {"int": int, "bool": bool}
    if (type_ in kinds and type(value) is not kinds[type_]) or (type_ == "json" and value is text):
        raise click.UsageError(f"{text!r} is not of type {type_}")
    return text if isinstance(value, str) and type_ is None else value


def _list(app: App, _command: ListSettings, out: Printer) -> None:
    out.many(_all_settings(app), _COLUMNS, name=_key, nothing="No settings found.")


def _all_settings(app: App) -> Results[Setting]:
    page = app.fetch(ListSettings())
    pages = [page.rows(Settings.settings)]
    while cursor := page.plain.get("next_cursor"):
        page = app.fetch(ListSettings(cursor))
        pages.append(page.rows(Settings.settings))
    return Results.joined(pages)


def _unset(app: App, command: DeleteSetting, out: Printer) -> None:
    def sentence(setting: Setting) -> None:
        default = setting.default
        rest = f"; it is {_text(default)} again" if default is not None else ""
        click.echo(f"Removed {setting.key}{rest}")

    out.one(app.fetch(command), name=_key, sentence=sentence)


_SET_HELP = """Set a setting.

Text, whole numbers and true or false keep their type; other values are stored as JSON. Put a value that begins with a
dash after --.

\b
    nexusctl settings set journal.keep_days 90
"""


def _make_set() -> click.Command:
    type_ = click.Option(
        ["--type"],
        type=click.Choice(["string", "int", "bool", "json"]),
        help="Type of the value (default: detected).",
    )
    return verb(SetSetting, _set, parameters=[type_], help=_SET_HELP)


settings = NounGroup(
    "settings",
    "Read and change the daemon's settings.",
    {
        "get": ("Print one setting.", lambda: verb_of(GetSetting, _get)),
        "set": ("Set a setting.", _make_set),
        "list": ("List settings with their defaults.", lambda: verb_of(ListSettings, _list, exclude=("cursor",))),
        "unset": ("Reset a setting to its default.", lambda: verb_of(DeleteSetting, _unset)),
    },
)


def _complete_setting(app: App, incomplete: str) -> list[str]:
    return [setting.key for setting in _all_settings(app).records if setting.key.startswith(incomplete)]


completers["setting"] = _complete_setting
