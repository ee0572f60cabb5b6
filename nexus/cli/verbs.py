"""Builds verbs from declarations: a command's fields become arguments and options.

It knows how a field is declared (``nexus_protocol.command``), and no particular command.
"""

from __future__ import annotations

import os
import re
import time
import types
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import click
from nexus_protocol.command import Command, Effect

from nexus.cli.groups import Verb, WordGroup
from nexus.cli.units import parse_duration, parse_since, parse_size

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from nexus.cli.app import App
    from nexus.cli.output import Printer

__all__ = [
    "Completer",
    "Duration",
    "FilePath",
    "NounGroup",
    "Number",
    "Run",
    "Size",
    "Values",
    "assignment",
    "command_parameters",
    "completer_of",
    "completers",
    "for_each",
    "shell_complete",
    "since",
    "verb",
    "verb_of",
]

C = TypeVar("C", bound=Command[Any])
T = TypeVar("T")

Completer = Callable[["App", str], list[str]]
"""Returns the completions of a word of which only the beginning has been typed."""

ShellComplete = Callable[[click.Context, click.Parameter, str], list[str]]
"""What click calls to complete a parameter."""

completers: dict[str, Completer] = {}
"""By the name in the ``completes`` of a field's declaration."""


class Values:
    """The values of a command line, by the names of its parameters: what was not given is None or empty.

    A verb reads them by type, or builds its command from them.
    """

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given

    def text(self, name: str) -> str | None:
        """A text; None if it was not given."""
        value: object = self._given[name]
        assert value is None or isinstance(value, str), name
        return value

    def word(self, name: str) -> str:
        """A text that is required."""
        value: object = self._given[name]
        assert isinstance(value, str), name
        return value

    def every(self, name: str, kind: type[T]) -> list[T]:
        """The values of a parameter that may be repeated."""
        given: object = self._given[name] or ()
        assert isinstance(given, (tuple, list)), name  # the characters of a text would be texts, too
        values: list[T] = list(given)
        assert all(isinstance(value, kind) for value in values), name
        return values

    def flag(self, name: str) -> bool:
        """Whether a flag was given, and was not ``--no-…``."""
        return bool(self._given[name])

    def number(self, name: str) -> int | None:
        """A whole number; None if it was not given."""
        value: object = self._given[name]
        assert value is None or isinstance(value, int), name
        return value

    def given(self, name: str) -> bool:
        """Whether a parameter was given."""
        return self._given.get(name) not in (None, ())

    def any_given(self, counts: Callable[[str], bool]) -> bool:
        """Whether any of the parameters was given whose names count."""
        return any(self.given(name) for name in self._given if counts(name))

    def put(self, name: str, value: object) -> None:
        """Set a value, as if it had been given."""
        self._given[name] = value

    def drop(self, name: str) -> None:
        """Forget a value, which the verb has taken care of."""
        self._given.pop(name, None)

    def build(self, command: type[C], /, **others: object) -> C:
        """Build a command from the values that have the names of its fields, and from ``others``.

        Fields that are None or empty are left out: they get their defaults in the daemon.
        """
        import msgspec

        given = {
            name: _plain(value)
            for name, value in (self._given | others).items()
            if value is not None and value != () and name in command.__struct_fields__
        }
        # Convert through the declaration, so that "work" becomes VmRole.WORK. The daemon checks ranges and patterns.
        hints = get_type_hints(command)
        return command(**{name: msgspec.convert(value, hints[name]) for name, value in given.items()})


Run = Callable[["App", Values, "Printer"], int | None]
"""Carries out a verb with the values of the command line; returns the exit code, None for 0."""


class NounGroup(WordGroup):
    """A noun whose verbs are built only when they are used.

    ``verbs`` maps each verb to its help and to the function that builds it, ``aliases`` further words to verbs.
    """

    def __init__(
        self,
        name: str,
        help: str,
        verbs: dict[str, tuple[str, Callable[[], click.Command]]],
        suggestions: dict[str, str] | None = None,
        aliases: dict[str, str] | None = None,
    ) -> None:
        super().__init__(name, help=help, no_args_is_help=True)
        self._verbs = verbs
        self.suggestions = suggestions or {}
        self.aliases = aliases or {}

    def words(self) -> dict[str, str]:
        return {name: help for name, (help, _build) in self._verbs.items()}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self._verbs.get(self.aliases.get(cmd_name, cmd_name))
        if entry is None:
            return None
        help, build = entry
        command = build()
        command.help = command.help or help
        return command


_HOST_COMPLETES_S = 2.0
"""How long a completion waits for another host."""


class Number(click.types.IntParamType):
    """A whole number, with optional bounds."""

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


def since(text: str) -> int:
    """The type of an option that takes a time: see ``parse_since``."""
    try:
        return parse_since(text, int(time.time() * 1000))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


class Duration(Number):
    """A time, in milliseconds."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return self._parsed(value, parse_duration, " ms", param, ctx)

    def _parsed(
        self,
        value: Any,
        parse: Callable[[str], int],
        unit: str,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> int:
        try:
            number = parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        lowest, highest = self.lowest or 0, self.highest
        if highest is not None and not lowest <= number <= highest:
            self.fail(f"{value} is not between {lowest}{unit} and {highest}{unit}", param, ctx)
        return number


class Size(Duration):
    """An amount of memory or disk, in MiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return self._parsed(value, parse_size, "M", param, ctx)


class FilePath(click.types.StringParamType):
    """A path, made absolute because the daemon has another working directory."""

    name = "path"

    def __init__(self, *, real: bool = False) -> None:
        self.real = real
        """Whether links are resolved too."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value:
            self.fail("a path cannot be empty", param, ctx)
        app = None if ctx is None else ctx.find_root().obj
        if app is not None and app.host is not None:
            if not value.startswith("/"):
                self.fail(f"{value!r} is not an absolute path, as one on another host must be", param, ctx)
            there: str = os.path.normpath(value)
            return there
        absolute: str = (os.path.realpath if self.real else os.path.abspath)(value)
        return absolute

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return click.Path().shell_complete(ctx, param, incomplete)


class GivenPath(FilePath):
    """A path as it is given: only the verb knows on which machine it is."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value:
            self.fail("a path cannot be empty", param, ctx)
        return str(value)


def assignment(text: str) -> tuple[str, str]:
    """Split ``NAME=VALUE``; ``NAME`` alone takes the value from nexusctl's environment, which keeps it out of ``ps``.

    Error messages never contain the value: it may be a secret.
    """
    name, equals, value = text.partition("=")
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
        raise click.BadParameter("expected NAME=VALUE, where NAME has only letters, digits and _")
    if not equals:
        found = os.environ.get(name)
        if found is None:
            raise click.BadParameter(f"{name} has no value and is not set in the environment: give {name}=VALUE")
        value = found
    return name, value


class _Field(NamedTuple):
    """The declaration of one field."""

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
        description, lowest, highest = "", None, None
        kinds = []
        for kind, metas in _parts(hints[field.name]):
            inner: dict[str, Any] = {}
            inner_description = ""
            for meta in metas:  # the last one of an Annotated wins; of nested Annotated types, the outer one
                inner |= meta.extra or {}
                inner_description = meta.description or inner_description
                lowest = meta.ge if lowest is None else lowest
                highest = meta.le if highest is None else highest
            extra = inner | extra
            description = description or inner_description
            if kind is not None:
                kinds.append(kind)
        default = None if field.required else field.default
        # A union is typed as its first member: a command that is text or a list of words is typed as text.
        found.append(_Field(field.name, kinds[0], field.required, default, description, extra, lowest, highest))
    return found


def _parts(hint: Any) -> Iterator[tuple[Any, Sequence[Any]]]:
    """Flatten a type to its members, outermost first: each plain type, or None for a union, with its metadata."""
    pending = [hint]
    while pending:
        hint = pending.pop(0)
        metas = getattr(hint, "__metadata__", ())
        plain = hint.__origin__ if metas else hint
        if get_origin(plain) in (Union, types.UnionType):
            pending = [arg for arg in get_args(plain) if arg is not type(None)] + pending
            yield None, metas
        else:
            yield plain, metas


def _click_type(field: _Field) -> click.ParamType[Any] | type | Callable[[str], object]:
    type_ = field.type
    if isinstance(type_, type) and issubclass(type_, Enum):
        return click.Choice([member.value for member in type_])
    if get_origin(type_) is Literal:
        return click.Choice(list(get_args(type_)))
    if get_origin(type_) is dict:
        return assignment
    if type_ is float:
        return float
    if type_ is int:
        kind = Duration if field.name.endswith("_ms") else Size if field.name.endswith("_mib") else Number
        return kind(field.lowest, field.highest)
    if type_ is float:
        return click.FLOAT
    path = field.extra.get("path")
    if path == "given":
        return GivenPath()
    return FilePath(real=path == "real") if path else str


def command_parameters(
    command: type[Command[Any]], *, exclude: Sequence[str] = (), variadic: bool = False
) -> list[click.Parameter]:
    """The parameters for a command's fields: required fields are arguments, the others are options.

    ``exclude`` names fields that the verb sets itself; a field that is declared without an option has none.
    With ``variadic`` an argument may be repeated; what the command expects of one record (``if_revision``) is left out
    then.
    """
    parameters: list[click.Parameter] = []
    for field in _fields(command):
        if (
            field.name in exclude
            or field.extra.get("option", "") is None
            or (variadic and field.name.startswith("if_"))
        ):
            continue
        completes = field.extra.get("completes")
        complete = None if completes is None else shell_complete(completes)
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


def _option(field: _Field, complete: ShellComplete | None) -> click.Option:
    name = field.extra.get("option", "--" + re.sub("_(ms|mib)$", "", field.name).replace("_", "-"))
    help = field.description[:1].upper() + field.description[1:]
    if field.type is bool:
        return click.Option([f"{name}/--no-{name[2:]}", field.name], default=None, help=f"{help}.")
    default = _default_text(field)
    if default is not None:
        help += f" (default: {default})"
    repeated = get_origin(field.type) in (list, dict)
    repeatable = bool(field.extra.get("repeatable"))
    return click.Option(
        [name, field.name],
        type=str if get_origin(field.type) is list else _click_type(field),
        multiple=repeated or repeatable,
        callback=_one_or_list if repeatable else None,
        metavar=field.extra.get("metavar"),
        help=f"{help}.",
        shell_complete=complete,
    )


def _one_or_list(_ctx: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> str | list[str] | None:
    """The value of a field that is text or a list: text where the option is given once."""
    return (given[0] if len(given) == 1 else list(given)) if given else None


def _default_text(field: _Field) -> object:
    """The default as it would be typed."""
    default = field.default.value if isinstance(field.default, Enum) else field.default
    if type(default) is not int or field.type is not int:
        return default
    if field.name.endswith("_mib"):
        return f"{default}M"
    if field.name.endswith("_ms"):
        return f"{default}ms" if default % 1000 else f"{default // 1000}s"
    return default


def shell_complete(completer: str) -> ShellComplete:
    """click's ``shell_complete`` function for the named completer."""

    def complete(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        root = ctx.find_root()
        from nexus.cli.app import App

        given = root.params
        host = None if given.get("socket") else given.get("host")
        # A completion ends soon, and ssh asks nothing on the line that is being edited.
        limit_s = None if host is None else _HOST_COMPLETES_S
        app = App(
            given.get("socket"), given.get("config"), None, False, limit_s, project=given.get("project"), host=host
        )
        app.may_ask = False
        try:
            return completer_of(completer)(app, incomplete)
        except Exception:
            return []  # an error would be printed into the line that is being edited
        finally:
            app.close()

    return complete


def completer_of(name: str) -> Completer:
    """The completer with a name; that of another noun than the one of this line is in a module of its own."""
    if name not in completers:
        from importlib import import_module

        from nexus.capabilities import CAPABILITIES

        for capability in CAPABILITIES:
            if any(noun.name == name for noun in capability.nouns):
                import_module(f"nexus.{capability.name}.cli")
    return completers[name]


def _plain(value: Any) -> Any:
    """The value that click collected as a tuple: assignments become a map, anything else a list."""
    if not isinstance(value, tuple):
        return value
    return dict(value) if isinstance(value[0], tuple) else list(value)


def for_each(names: Sequence[str], do: Callable[[str], object]) -> int:
    """Call ``do`` with every name, and print its errors; returns the exit code of the first error, else 0."""
    from nexus_protocol.errors import NexusError

    from nexus.cli.main import exit_code, print_error

    code = 0
    for name in names:
        try:
            do(name)
        except NexusError as error:
            print_error(error)
            code = code or exit_code(error)
    return code


def verb(
    command: type[Command[Any]],
    run: Run,
    *,
    parameters: Sequence[click.Parameter] = (),
    exclude: Sequence[str] = (),
    variadic: bool = False,
    help: str | None = None,
    words: str | None = None,
) -> Verb:
    """Build a verb for a command: its fields, then ``parameters``, then ``-o`` and ``--no-header``.

    ``run`` gets all values of the command line. ``help`` defaults to the text in the noun's table. With ``words``, the
    arguments after ``--`` are not parsed but are the value of that name, a list.
    """
    from nexus.cli.output import FORMATS, printer

    output = [
        click.Option(
            ["-o", "--output"], type=click.Choice(FORMATS), default="table", help="How to print (default: table)."
        ),
        click.Option(["--no-header"], is_flag=True, help="Leave out the table's heading."),
    ]

    @click.pass_context
    def callback(ctx: click.Context, /, **values: Any) -> int | None:
        out = printer(values.pop("output"), values.pop("no_header"))
        return run(ctx.obj, Values(values), out)

    built = (Verb if words is None else _WithWords)(
        name=None,
        callback=callback,
        params=[*command_parameters(command, exclude=exclude, variadic=variadic), *parameters, *output],
        help=help,
    )
    if isinstance(built, _WithWords):
        built.words = words or ""
    built.takes_all_projects = command.info.all_projects
    if command.info.effect is Effect.READ:
        built.key_refusal = "it changes nothing"
    elif command.info.item is not None:
        built.key_refusal = "its request is a stream, which cannot be given a second time"
    return built


def verb_of(
    command: type[C],
    run: Callable[[App, C, Printer], int | None],
    *,
    parameters: Sequence[click.Parameter] = (),
    exclude: Sequence[str] = (),
    help: str | None = None,
) -> Verb:
    """Like ``verb``, for one that needs nothing of the command line but its command: ``run`` gets that."""
    return verb(
        command,
        lambda app, values, out: run(app, values.build(command), out),
        parameters=parameters,
        exclude=exclude,
        help=help,
    )


class _WithWords(Verb):
    """A verb whose line may end with ``-- COMMAND...``, the words of another program's command line."""

    words = ""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        rest = super().parse_args(ctx, args[:at])
        ctx.params[self.words] = args[at + 1 :]
        return rest

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND...]"]
