"""``service config show`` and ``service config set``: a service's variables, configuration files and run command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nexus.cli.output import Column, Printer, hint, print_fields
from nexus.cli.verbs import Values, verb
from nexus.hints import command_line
from nexus.services.cli.records import use_words_as_command
from nexus.services.cli.status import command_text, files_text
from nexus.services.commands import GetConfig, UpdateConfig
from nexus.services.records import ConfigVariable, ServiceConfig

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["make_config_set", "make_config_show"]

_MASK = "****"

_COLUMNS: tuple[Column[ConfigVariable], ...] = (
    Column("VARIABLE", lambda v: v.name, 24),
    Column("SOURCE", lambda v: v.source, 10),
    Column("VALUE", lambda v: _MASK if v.value is None else v.value),
)


def _show(app: App, values: Values, out: Printer) -> None:
    found = app.fetch(values.build(GetConfig))

    def sentence(config: ServiceConfig) -> None:
        variables = found.rows(ServiceConfig.variables)
        _print_config(config)
        click.echo()
        out.many(variables, _COLUMNS, name=lambda variable: variable.name, nothing="No variables found.")
        if variables and not values.flag("reveal"):
            show = command_line("nexusctl", "service", "config", "show", config.service, "--reveal")
            hint(f"Show the values: {show}")

    out.one(found, name=_service, sentence=sentence)


def _print_config(config: ServiceConfig) -> None:
    print_fields(
        [
            ("Service", config.service),
            ("Command", command_text(config.run_command)),
            ("File", files_text(config.filename)),
            ("Path", ", ".join(config.paths) or None),
            ("Format", config.format if config.filename else None),
        ]
    )


def _set(app: App, values: Values, out: Printer) -> None:
    use_words_as_command(values)
    if not values.any_given(lambda name: name != "service"):
        raise click.UsageError("nothing to change: give --file, --format, --run or --clear")
    out.one(
        app.fetch(values.build(UpdateConfig)),
        name=_service,
        sentence=lambda config: click.echo(f'Updated the configuration of "{config.service}"'),
    )


def _service(config: ServiceConfig) -> str:
    return config.service


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
