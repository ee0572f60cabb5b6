"""Writes ``protocol/COMMANDS.md`` from the declarations of the commands: ``python -m nexus.docs [--check]``.

It knows the form of a declaration, and not what a command does.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
from msgspec.inspect import (
    AnyType,
    BoolType,
    BytesType,
    CustomType,
    DictType,
    EnumType,
    Field,
    FloatType,
    IntType,
    ListType,
    Metadata,
    NoneType,
    RawType,
    StrType,
    StructType,
    Type,
    UnionType,
    type_info,
)
from nexus_protocol import DEFAULT_MAX_PAYLOAD, CommandInfo, declared_commands
from nexus_protocol.command import secret_fields
from nexus_protocol.events import declared_causes, declared_events

from nexus.daemon.dispatch import load_capabilities

__all__ = ["COMMANDS_MD", "main", "render"]

COMMANDS_MD = Path(__file__).resolve().parents[1] / "protocol" / "COMMANDS.md"

_HEAD = """\
# Commands

Generated from the declarations by `python -m nexus.docs`; do not edit. [SPEC.md](SPEC.md) describes the transport of
requests, the errors that every request can get, and the encoding of payloads.

A field without a default is required. An optional field that is left out or nil counts as not given. A reply
has only those optional fields that are set. Later versions may add fields to a reply: ignore fields that you do not
know. Codes never change.
"""


def render() -> str:
    """Render the document from the declarations."""
    load_capabilities()
    commands = declared_commands()
    blocks = [
        (name, list(infos)) for name, infos in itertools.groupby(commands, key=lambda info: _capability(info.request))
    ]
    lines = [_HEAD, *_overview(commands)]
    for name, infos in blocks:
        package = importlib.import_module(f"nexus.{name}")
        lines += ["", f"## {name}", "", _prose(package.__doc__)]
        for info in infos:
            lines += _command(info)
        records = _records(infos)
        if records:
            lines += ["", f"### Records of {name}"]
            for record in records:
                lines += ["", f"#### {record.__name__}", "", _prose(record.__doc__), "", *_reply_table(record)]
    lines += _events_and_causes()
    return "\n".join(lines) + "\n"


def _events_and_causes() -> list[str]:
    """The kinds of events, with the fields of their details, and the causes."""
    rows = [
        (
            f"`{each.kind}`",
            _cell(each.meaning),
            _cell("; ".join(f"`{name}`: {meaning}" for name, meaning in each.detail.items())),
        )
        for each in declared_events()
    ]
    causes = [(f"`{each.name}`", _cell(each.meaning)) for each in declared_causes()]
    return [
        "",
        "## Events",
        "",
        "The kinds that `WatchEvents` gives. A kind that ends with `.written` is given only where a pattern of `kinds`",
        "does as well. In `detail`, `fields` stands for one member for each field of the record that was changed.",
        "",
        *_table(("kind", "what happened", "members of `detail`"), rows),
        "",
        "## Causes",
        "",
        "What begins an operation that no client requested: the values of `command` beside the names of commands.",
        "",
        *_table(("cause", "what happened"), causes),
    ]


def _overview(commands: list[CommandInfo]) -> list[str]:
    rows = [
        (
            f"{info.code}",
            f"0x{info.code:04X}",
            f"[{info.name}](#{info.name.lower()})",
            info.effect,
            "stream" if info.item else "",
            _cell(info.summary),
        )
        for info in commands
    ]
    return _table(("code", "hex", "command", "effect", "", "what it does"), rows)


def _capability(type_: type[Any]) -> str:
    return type_.__module__.split(".")[1]


def _command(info: CommandInfo) -> list[str]:
    lines = [
        "",
        f"### {info.name}",
        "",
        f"Code {info.code} (0x{info.code:04X}), effect `{info.effect}`"
        + (f", repeated under a key: `{info.repeat}`" if info.repeat and not info.item else "")
        + (", also for all projects." if info.all_projects else "."),
        "",
        _prose(info.request.__doc__),
        "",
    ]
    lines += _request_table(info.request)
    lines += ["", _result(info)]
    if info.takes_input:
        lines += ["", "The open stream takes Input frames."]
    if info.max_payload != DEFAULT_MAX_PAYLOAD:
        lines += ["", f"The payload may have at most {info.max_payload} bytes."]
    if info.errors:
        lines += ["", "Errors:", ""]
        lines += [f"- `{error.type}` (`{error.code}`): {_prose(error.__doc__)}" for error in info.errors]
    return lines


def _result(info: CommandInfo) -> str:
    reply = _reference(info.reply)
    if info.item is None:
        return f"Returns {reply}."
    return f"Streams items of {_reference(info.item)}, then returns {reply}."


def _reference(type_: type[Any]) -> str:
    if not _fields(type_):
        return "the empty map"
    return f"[{type_.__name__}](#{type_.__name__.lower()})"


def _records(infos: list[CommandInfo]) -> list[type[Any]]:
    """The records in these commands and their replies, with nested ones, each once, in order of appearance."""
    found: dict[type[Any], None] = {}
    for info in infos:
        for field in _fields(info.request):
            _collect(field.type, found)
        for type_ in (info.item, info.reply):
            if type_ is not None:
                _collect(type_info(type_), found)
    return list(found)


def _collect(type_: Type, found: dict[type[Any], None]) -> None:
    if isinstance(type_, StructType):
        if type_.cls in found or not type_.fields:
            return
        found[type_.cls] = None
        for field in type_.fields:
            _collect(field.type, found)
    for inner in _parts(type_):
        _collect(inner, found)


def _parts(type_: Type) -> Iterator[Type]:
    if isinstance(type_, Metadata):
        yield type_.type
    elif isinstance(type_, ListType):
        yield type_.item_type
    elif isinstance(type_, DictType):
        yield type_.value_type
    elif isinstance(type_, UnionType):
        yield from type_.types


# Tables


def _fields(type_: type[Any]) -> tuple[Field, ...]:
    info = type_info(type_)
    assert isinstance(info, StructType)
    return info.fields


def _request_table(type_: type[Any]) -> list[str]:
    fields = _fields(type_)
    if not fields:
        return ["The payload is the empty map."]
    hints = get_type_hints(type_, include_extras=True)
    rows = []
    for f in fields:
        meaning = _description(f.type)
        patterns = [text for text in _patterns(hints[f.name]) if text != meaning]
        secret = ["secret"] if f.name in secret_fields(type_) else []
        limits = "; ".join(dict.fromkeys([*secret, *_limits(f.type), *patterns]))
        rows.append((f"`{f.encode_name}`", _type(f.type), _default(f), _cell(limits), _cell(meaning)))
    return _table(("field", "type", "default", "limits", "meaning"), rows)


def _reply_table(type_: type[Any]) -> list[str]:
    notes = _field_notes(type_)
    rows = []
    for f in _fields(type_):
        remarks = ["optional"] * (not f.required) + ["secret"] * (f.name in secret_fields(type_))
        rows.append((f"`{f.encode_name}`", _type(f.type), ", ".join(remarks), _cell(notes.get(f.name, ""))))
    return _table(("field", "type", "", "meaning"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    used = [i for i, name in enumerate(head) if name or any(row[i] for row in rows)]
    used = [i for i in used if i == 0 or any(row[i] for row in rows)]
    lines = ["| " + " | ".join(head[i] for i in used) + " |", "|" + "---|" * len(used)]
    return lines + ["| " + " | ".join(row[i] for i in used) + " |" for row in rows]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("``", "`")


def _prose(doc: str | None) -> str:
    return inspect.cleandoc(doc or "").replace("``", "`")


def _field_notes(type_: type[Any]) -> dict[str, str]:
    """The docstrings below the fields of a class, by field name."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(type_))).body
    assert isinstance(body, ast.ClassDef)
    notes = {}
    for field, note in itertools.pairwise(body.body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(note, ast.Expr)
            and isinstance(note.value, ast.Constant)
        ):
            notes[field.target.id] = _prose(str(note.value.value))
    return notes


# Types


def _type(type_: Type) -> str:
    if isinstance(type_, Metadata):
        return _type(type_.type)
    if isinstance(type_, UnionType):
        return " or ".join(_type(inner) for inner in type_.types if not isinstance(inner, NoneType))
    if isinstance(type_, ListType):
        return f"array of {_type(type_.item_type)}"
    if isinstance(type_, DictType):
        return f"map of str to {_type(type_.value_type)}"
    if isinstance(type_, StructType):
        return _reference(type_.cls)
    if isinstance(type_, EnumType):
        return " or ".join(f'"{member.value}"' for member in type_.cls)
    return _NAMES[type(type_)]


_NAMES: dict[type[Type], str] = {
    AnyType: "any",
    RawType: "map",
    BoolType: "bool",
    BytesType: "bin",
    CustomType: "any",
    FloatType: "float",
    IntType: "int",
    NoneType: "nil",
    StrType: "str",
}


def _default(field: Field) -> str:
    if field.required:
        return "required"
    if field.default_factory is not msgspec.NODEFAULT:
        return f"`{field.default_factory()}`"
    if field.default is None:
        return "optional"
    return f"`{_literal(field.default)}`"


def _literal(value: Any) -> str:
    if isinstance(value, bytes):
        return "no bytes" if not value else value.hex()
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _limits(type_: Type) -> Iterator[str]:
    """The bounds of a field, without its pattern."""
    for inner in _parts(type_):
        yield from _limits(inner)
    low, high = getattr(type_, "ge", None), getattr(type_, "le", None)
    if low is not None or high is not None:
        yield f"{'' if low is None else low} to {'' if high is None else high}".strip()
    if isinstance(type_, (StrType, BytesType, ListType)):
        unit = {StrType: "characters", BytesType: "bytes", ListType: "elements"}[type(type_)]
        if type_.max_length is not None:
            yield f"{type_.min_length or 0} to {type_.max_length} {unit}"
        elif type_.min_length is not None:
            yield f"at least {type_.min_length} {unit}"


def _patterns(hint: Any) -> Iterator[str]:
    """The descriptions given with the patterns of a field."""
    for meta in getattr(hint, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.pattern:
            yield meta.description or f"matches {meta.pattern}"
    for part in get_args(hint):
        yield from _patterns(part)


def _description(type_: Type) -> str:
    if isinstance(type_, Metadata) and type_.extra_json_schema:
        description = type_.extra_json_schema.get("description")
        if description:
            return str(description)
    if isinstance(type_, ListType):
        return ""
    return next((text for text in map(_description, _parts(type_)) if text), "")


def main(arguments: list[str] | None = None) -> int:
    """Write the document, or with ``--check`` report whether it is up to date."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments not in ([], ["--check"]):
        print("usage: python -m nexus.docs [--check]", file=sys.stderr)
        return 2
    if not COMMANDS_MD.parent.is_dir():
        print(f"cannot write {COMMANDS_MD}: this is not a checkout of the source", file=sys.stderr)
        return 1
    text = render()
    if not arguments:
        COMMANDS_MD.write_text(text, encoding="utf-8")
        return 0
    if not COMMANDS_MD.exists() or COMMANDS_MD.read_text(encoding="utf-8") != text:
        print(f"{COMMANDS_MD} is stale: run python -m nexus.docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
