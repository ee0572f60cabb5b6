"""``nexusctl plugin``: list, reload and call plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nexus.cli.output import Column, Printer, hint, printable
from nexus.cli.verbs import NounGroup, completers, verb
from nexus.plugins.commands import Extra, ListPlugins, ReloadPlugins

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["plugin"]

_COLUMNS = (
    Column("NAME", lambda p: p["name"], 16),
    Column("KIND", lambda p: p["kind"].replace("_", " "), 11),
    Column("STATE", lambda p: p["state"], 6),
    Column("HOOKS", lambda p: ", ".join(p["hooks"]), 11),
    Column("EXTRAS", lambda p: ", ".join(p["extras"]), wide=True),
    Column("PATH / REASON", lambda p: p.get("reason") or p.get("path")),
    Column("PATH", lambda p: p.get("path"), wide=True),
)


def _list(app: App, _values: dict[str, Any], out: Printer) -> None:
    _print(app.call_raw(ListPlugins()), out)


def _reload(app: App, _values: dict[str, Any], out: Printer) -> None:
    _print(app.call_raw(ReloadPlugins()), out)


def _print(listing: dict[str, Any], out: Printer) -> None:
    nothing = "No plugins found." if listing["enabled"] else "No plugins: this daemon was started without plugins."
    out.many(listing["plugins"], _COLUMNS, key="name", nothing=nothing)
    if listing.get("problem"):
        click.echo(f"Warning: {printable(listing['problem'])}", err=True)
    elif not listing["plugins"] and listing["enabled"] and out.for_person:
        hint(f"Plugin files belong in: {printable(listing['directory'])}")


def _call(app: App, values: dict[str, Any], out: Printer) -> None:
    import msgspec

    body = None
    if values["body"] is not None:
        try:
            body = msgspec.json.decode(values["body"])
        except (msgspec.DecodeError, RecursionError):
            raise click.UsageError(f"{values['body']!r} is not JSON (text has quotes: '\"text\"')") from None
    answer: Any = app.call_raw(Extra(values["name"], body)).get("body")
    # Only the reply's body, which is the plugin's own and may be any value.
    Printer("json" if out.output != "jsonl" else "jsonl").one(answer, key="", sentence=lambda: None)


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
        "list": ("List plugins, and why some could not be loaded.", lambda: verb(ListPlugins, _list)),
        "reload": ("Load the plugins again.", lambda: verb(ReloadPlugins, _reload)),
        "call": ("Call an extra command of a plugin by its name.", _make_call),
    },
    {"ls": " (did you mean 'list'?)", **dict.fromkeys(("run", "exec"), " (did you mean 'call'?)")},
)


def _complete_extra(app: App, incomplete: str) -> list[str]:
    plugins = app.call_raw(ListPlugins())["plugins"]
    return [extra for plugin in plugins for extra in plugin["extras"] if extra.startswith(incomplete)]


completers["extra"] = _complete_extra
