"""``nexusctl plugin``: list, reload and call plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nexus.cli.output import Column, Printer, hint, printable
from nexus.cli.result import made
from nexus.cli.verbs import NounGroup, Values, completers, verb, verb_of
from nexus.plugins.commands import Extra, ListPlugins, Plugin, PluginList, ReloadPlugins

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["plugin"]

_COLUMNS: tuple[Column[Plugin], ...] = (
    Column("NAME", lambda p: p.name, 16),
    Column("KIND", lambda p: p.kind.replace("_", " "), 11),
    Column("STATE", lambda p: p.state, 6),
    Column("HOOKS", lambda p: ", ".join(p.hooks), 11),
    Column("EXTRAS", lambda p: ", ".join(p.extras), wide=True),
    Column("PATH / REASON", lambda p: p.reason or p.path),
    Column("PATH", lambda p: p.path, wide=True),
)


def _list(app: App, command: ListPlugins | ReloadPlugins, out: Printer) -> None:
    found = app.fetch(command)
    listing = found.record
    nothing = "No plugins found." if listing.enabled else "No plugins: this daemon was started without plugins."
    out.many(found.rows(PluginList.plugins), _COLUMNS, name=lambda plugin: plugin.name, nothing=nothing)
    if listing.problem:
        click.echo(f"Warning: {printable(listing.problem)}", err=True)
    elif not listing.plugins and listing.enabled and out.for_person:
        hint(f"Plugin files belong in: {printable(listing.directory)}")


def _call(app: App, values: Values, out: Printer) -> None:
    import msgspec

    body = None
    text = values.text("body")
    if text is not None:
        try:
            body = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            raise click.UsageError(f"{text!r} is not JSON (text has quotes: '\"text\"')") from None
    reply = app.fetch(Extra(values.word("name"), body))
    # Only the reply's body, which is the plugin's own and may be any value.
    answer = made(reply, reply.plain.get("body"))
    Printer("json" if out.output != "jsonl" else "jsonl").one(answer, name=lambda _: "", sentence=lambda _: None)


def _make_call() -> click.Command:
    body = click.Argument(["body"], metavar="[JSON]", required=False)
    return verb(Extra, _call, parameters=[body], exclude=("body",), help=_CALL_HELP)


_CALL_HELP = """Call an extra command of a plugin by its name.

\b
    nexusctl plugin call greet '{"who": "you"}'
"""

plugin = NounGroup(
    "plugin",
    "List, reload and call plugins.",
    {
        "list": ("List plugins, and why some could not be loaded.", lambda: verb_of(ListPlugins, _list)),
        "reload": ("Load the plugins again.", lambda: verb_of(ReloadPlugins, _list)),
        "call": ("Call an extra command of a plugin by its name.", _make_call),
    },
    {"ls": " (did you mean 'list'?)", **dict.fromkeys(("run", "exec"), " (did you mean 'call'?)")},
)


def _complete_extra(app: App, incomplete: str) -> list[str]:
    plugins = app.call(ListPlugins()).plugins
    return [extra for plugin in plugins for extra in plugin.extras if extra.startswith(incomplete)]


completers["extra"] = _complete_extra
