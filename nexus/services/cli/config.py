"""``service config show`` and ``service config set``: a service's variables, configuration files and run command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nexus.cli.output import Column, Printer, hint, print_fields
from nexus.cli.verbs import build_command, verb
from nexus.hints import command_line
from nexus.services.cli.records import use_words_as_command
from nexus.services.cli.status import command_text, files_text
from nexus.services.commands import GetConfig, UpdateConfig

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["make_config_set", "make_config_show"]

_MASK = "****"

_COLUMNS = (
    Column("VARIABLE", lambda v: v["name"], 24),
    Column("SOURCE", lambda v: v["source"], 10),
    Column("VALUE", lambda v: v.get("value", _MASK)),
)


def _show(app: App, values: dict[str, Any], out: Printer) -> None:
    config = app.call_raw(build_command(GetConfig, values))

    def sentence() -> None:
        variables = config.get("variables", [])
        _print_config(config)
        click.echo()
        out.many(variables, _COLUMNS, key="name", nothing="No variables found.")
        if variables and not values["reveal"]:
            show = command_line("nexusctl", "service", "config", "show", config["service"], "--reveal")
            hint(f"Show the values: {show}")

    out.one(config, key="service", sentence=sentence)


def _print_config(config: dict[str, Any]) -> None:
    print_fields(
        [
            ("Service", config["service"]),
            ("Command", command_text(config.get("run_command"))),
            ("File", files_text(config.get("filename"))),
            ("Path", ", ".join(config.get("paths", ())) or None),
            ("Format", config["format"] if config.get("filename") else None),
        ]
    )


def _set(app: App, values: dict[str, Any], out: Printer) -> None:
    use_words_as_command(values)
    if all(value in (None, ()) for name, value in values.items() if name != "service"):
        raise click.UsageError("nothing to change: give --file, --format, --run or --clear")
    config = app.call_raw(build_command(UpdateConfig, values))
    out.one(config, key="service", sentence=lambda: click.echo(f'Updated the configuration of "{config["service"]}"'))


_SHOW_HELP = """Show the variables that a service's record declares, or with --resolved all that a start would pass.

Values are masked unless --reveal is given. SOURCE is where the value comes from: inherited from the daemon, the
configuration files, the service's record, the start command, its port, a tunnel, or Nexus itself.
"""


def make_config_show() -> click.Command:
    """``service config show``."""
    return verb(GetConfig, _show, help=_SHOW_HELP)


def make_config_set() -> click.Command:
    """``service config set``."""
    return verb(UpdateConfig, _set, words="words")
