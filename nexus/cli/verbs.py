"""Verbs from declarations: a command's fields become arguments and options, its documentation the help.

It knows how a field is declared (``nexus_protocol.command``), and no particular command.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import click
from nexus_protocol.command import Command

from nexus.cli.groups import WordGroup

__all__ = ["Completer", "NounGroup", "Number", "build_command", "command_parameters", "completers", "verb"]

Completer = Callable[[Any, str], list[str]]
"""Given the ``App`` and what was typed so far, the words that may follow."""

completers: dict[str, Completer] = {}
"""By the name that a field's ``completes`` gives."""


class NounGroup(WordGroup):
    """A noun whose verbs are made only when they are used.

    ``verbs`` maps each verb to its help and to the function that makes it.
    """

    def __init__(
        self,
        name: str,
        help: str,
        verbs: dict[str, tuple[str, Callable[[], click.Command]]],
        suggestions: dict[str, str] | None = None,
    ) -> None:
        super().__init__(name, help=help, no_args_is_help=True)
        self._verbs = verbs
        self.suggestions = suggestions or {}

    def words(self) -> dict[str, str]:
        return {name: help for name, (help, _make) in self._verbs.items()}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self._verbs.get(cmd_name)
        if entry is None:
            return None
        help, make = entry
        command = make()
        command.help = command.help or help
        return command


class Number(click.types.IntParamType):
    """A whole number, within bounds where there are any."""

    name = "number"

    def __init__(self, lowest: int | None = None, highest: int | None = None) -> None:
        self.lowest = lowest
        self.highest = highest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number", param, ctx)
        if self.lowest is not None and self.highest is not None and not self.lowest <= number <= self.highest:
            self.fail(f"{number} is not between {self.lowest} and {self.highest}", param, ctx)
        if self.lowest is not None and number < self.lowest:
            self.fail(f"{number} is less than {self.lowest}", param, ctx)
        return number


class _Field(NamedTuple):
    """What a declaration says of one field."""

    name: str
    type: Any
    required: bool
    default: Any
    description: str
    extra: dict[str, Any]
    lowest: int | None
    highest: int | None


def _fields(command: type[Command[Any]]) -> list[_Field]:
    import msgspec

    hints = get_type_hints(command, include_extras=True)
    found = []
    for field in msgspec.structs.fields(command):
        extra: dict[str, Any] = {}
        description, lowest, highest, type_ = "", None, None, hints[field.name]
        pending = [type_]
        while pending:
            hint = pending.pop(0)
            if get_origin(hint) in (Union, types.UnionType):
                pending += [arg for arg in get_args(hint) if arg is not type(None)]
                continue
            for meta in getattr(hint, "__metadata__", ()):
                extra = (meta.extra or {}) | extra
                description = meta.description or description
                lowest = meta.ge if lowest is None else lowest
                highest = meta.le if highest is None else highest
            type_ = getattr(hint, "__origin__", hint) if hasattr(hint, "__metadata__") else hint
        default = None if field.required else field.default
        found.append(_Field(field.name, type_, field.required, default, description, extra, lowest, highest))
    return found


def _click_type(field: _Field) -> Any:
    type_ = field.type
    if isinstance(type_, type) and issubclass(type_, Enum):
        return click.Choice([member.value for member in type_])
    if get_origin(type_) is Literal:
        return click.Choice(list(get_args(type_)))
    if type_ is int:
        return Number(field.lowest, field.highest)
    return str


def command_parameters(
    command: type[Command[Any]], *, exclude: Sequence[str] = (), variadic: bool = False
) -> list[click.Parameter]:
    """The parameters for a command's fields: required ones are arguments, the others options.

    ``exclude`` are fields that the verb sets itself; with ``variadic`` the last argument may be repeated.
    """
    parameters: list[click.Parameter] = []
    for field in _fields(command):
        if field.name in exclude:
            continue
        complete = _shell_complete(field.extra.get("completes"))
        if field.required:
            metavar = field.extra.get("metavar", field.name.upper())
            parameters.append(
                click.Argument(
                    [field.name],
                    type=_click_type(field),
                    metavar=f"{metavar}..." if variadic else metavar,
                    nargs=-1 if variadic else 1,
                    required=True,
                    shell_complete=complete,
                )
            )
        else:
            parameters.append(_option(field, complete))
    return parameters


def _option(field: _Field, complete: Any) -> click.Option:
    name = field.extra.get("option", "--" + field.name.replace("_", "-"))
    help = field.description[:1].upper() + field.description[1:]
    default = field.default.value if isinstance(field.default, Enum) else field.default
    if field.type is bool:
        return click.Option([f"{name}/--no-{name[2:]}", field.name], default=None, help=f"{help}.")
    if default is not None:
        help += f" (default: {default})"
    repeated = get_origin(field.type) is list
    return click.Option(
        [name, field.name],
        type=str if repeated else _click_type(field),
        multiple=repeated,
        metavar=field.extra.get("metavar"),
        help=f"{help}.",
        shell_complete=complete,
    )


def _shell_complete(what: str | None) -> Any:
    if what is None:
        return None

    def complete(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        root = ctx.find_root()
        from nexus.cli.app import App

        app = App(root.params.get("socket"), root.params.get("config"), None, False)
        try:
            return completers[what](app, incomplete)
        except Exception:
            return []  # a shell that completes has no place for errors
        finally:
            app.close()

    return complete


def build_command(command: type[Command[Any]], values: dict[str, Any]) -> Any:
    """The command for what was given on the line; what was not given is left to the daemon."""
    import msgspec

    given = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value is not None and value != () and name in command.__struct_fields__
    }
    # Through the declaration, so that "work" becomes the role; ranges and patterns are the daemon's to check.
    hints = get_type_hints(command)
    for name, value in given.items():
        given[name] = msgspec.convert(value, hints[name])
    return command(**given)


def verb(
    command: type[Command[Any]],
    run: Callable[..., Any],
    *,
    parameters: Sequence[click.Parameter] = (),
    exclude: Sequence[str] = (),
    variadic: bool = False,
    help: str | None = None,
) -> click.Command:
    """A verb for a command: its fields, then ``parameters``, then ``-o`` and ``--no-header``.

    ``run(app, values, printer)`` does it; ``values`` holds everything that was given. Without ``help`` it is what the
    noun's table says.
    """
    from nexus.cli.output import FORMATS, printer

    output = [
        click.Option(
            ["-o", "--output"], type=click.Choice(FORMATS), default="table", help="How to print (default: table)."
        ),
        click.Option(["--no-header"], is_flag=True, help="Leave out the table's heading."),
    ]

    @click.pass_context
    def callback(ctx: click.Context, /, **values: Any) -> Any:
        return run(ctx.obj, values, printer(values.pop("output"), values.pop("no_header")))

    return click.Command(
        name=None,
        callback=callback,
        params=[*command_parameters(command, exclude=exclude, variadic=variadic), *parameters, *output],
        help=help,
    )
