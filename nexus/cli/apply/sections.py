"""``Section``: what a capability adds to ``nexus.toml`` and to apply, in its ``manifest``; and which of them there are.

A section reads its tables and the daemon's records, and makes the steps from the one to the other, each with its
command. What all records share is in ``RecordSection``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from nexus_protocol.codec import encode_command
from nexus_protocol.command import Command
from nexus_protocol.errors import UnknownCommand

from nexus import graph
from nexus.capabilities import CAPABILITIES
from nexus.cli.apply.keys import InvalidValue, Keys
from nexus.cli.apply.reader import ProjectFile, Reader
from nexus.cli.apply.steps import Change, Phase, Record, Step, differences
from nexus.cli.apply.target import InProject, Managed, Target
from nexus.cli.records import Noun, all_records
from nexus.hints import command_line

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = [
    "AnySection",
    "Fields",
    "Planning",
    "PlainSection",
    "RecordSection",
    "Section",
    "exported",
    "load_sections",
    "ordered",
]


Fields = Mapping[str, Any]
"""The fields of a command, as plain values."""

W = TypeVar("W")
Seen = TypeVar("Seen")
R = TypeVar("R", bound=Managed)


class Planning(NamedTuple):
    """What a plan is made from."""

    file: ProjectFile
    target: Target
    observed: Mapping[str, Any]
    """What each section has observed, by the name of its table."""
    new_id: Callable[[], str]
    prune: bool = False
    start: bool = True
    wait: bool = False
    """Whether a run is done only once it is ready."""

    def wanted(self, table: str) -> Mapping[str, Any]:
        """What the tables of a section ask for, by name."""
        return self.file.wanted.get(table, {})


class Section(Generic[W, Seen]):
    """A section of a capability: one of ``SECTIONS`` of its ``manifest``.

    ``W`` is what an inner table of the file asks for, ``Seen`` what is observed in the project.
    """

    table: str
    """The name of its table in the file; its inner tables have the names of records."""
    kind: str
    """The kind of its records, such as ``vm``."""
    noun: Noun[Any]
    """How the command line speaks of a record."""
    called: str
    """What its records are called in a sentence, such as ``VM records``."""
    after: tuple[str, ...] = ()
    """The tables of sections whose steps are carried out before: its own records may need theirs."""
    of_daemon: bool = False
    """Whether its records are the same in every project: no file owns them, so that none removes them."""
    named_by: tuple[tuple[str, str], ...] = ()
    """Tables of other sections, each with the field of its records that names one of this: an export has only those."""

    def read(self, reader: Reader, at: tuple[str, ...], value: Any) -> W:
        """Read one inner table, whose path is ``at``; problems go to the reader."""
        raise NotImplementedError

    def refer(self, tables: Any, key: str, at: tuple[str, ...], replaced: Callable[[str], str]) -> str:
        """The value that ``${TABLE.KEY}`` has at the key whose path is ``at``; ``KEY`` is ``NAME.`` and a key.

        ``tables`` is the section's table as the file has it, and ``replaced`` replaces the references in a value of it.

        Raises:
            InvalidValue: there is none.
        """
        raise InvalidValue(f"${{{self.table}.{key}}} is no reference: no key of {self.table} can be referred to")

    def observe(self, app: App, wanted: Iterable[str] | None) -> Seen:
        """Read what is there in the project of this run, with all that is compared of the records in ``wanted``, by
        default of all."""
        raise NotImplementedError

    def nothing(self) -> Seen:
        """What is observed in a project without records."""
        raise NotImplementedError

    def records(self, observed: Seen) -> Mapping[str, Managed]:
        """The records that were observed, by name."""
        raise NotImplementedError

    def wanted(self, planning: Planning) -> Mapping[str, W]:
        """What the tables ask for, by name."""
        return planning.wanted(self.table)

    def observed(self, planning: Planning) -> Seen:
        """What was observed."""
        observed: Seen = planning.observed[self.table]
        return observed

    def steps(self, planning: Planning) -> Iterable[Step]:
        """The steps from what was observed to what is wanted, those of one phase in their order.

        Raises:
            ProjectFileInvalid: the daemon would refuse them.
        """
        raise NotImplementedError

    def waits(self, planning: Planning, begun: set[Record]) -> Iterable[Step]:
        """Steps that wait for what runs already, is wanted and is not ready yet, and is not in ``begun``."""
        return ()

    def needs(self, wanted: W) -> Iterable[Record]:
        """The records that one must not run without, as far as the file says so."""
        return ()

    def renamed(self, record_id: str, managed_by: str) -> Command[Any]:
        """The command that writes the field ``managed_by`` of a record."""
        raise NotImplementedError

    def lookup(self, mark: str, record_id: str) -> Command[Any] | None:
        """The command that gets a record that a migration left in ``default`` under a mark, such as ``v:ID``."""
        return None

    def looked_up(self, reply: Any) -> InProject:
        """The record in the reply to ``lookup``."""
        record: InProject = reply
        return record

    def removal(self, reference: str) -> str:
        """The command line that removes a record."""
        raise NotImplementedError

    def done(self, step: Step, reply: object) -> str:
        """What an action of its own has done, in a sentence."""
        raise NotImplementedError

    def key_of(self, field: str) -> str:
        """The key of a field in the file."""
        return field

    def shown(self, field: str, value: Any) -> str:
        """A field's value as it would be written in the file."""
        raise NotImplementedError

    def export(self, observed: Seen) -> dict[str, Any]:
        """The inner tables for a file that changes nothing of what was observed, by name."""
        raise NotImplementedError


AnySection = Section[Any, Any]


class RecordSection(Section[W, Seen], Generic[R, W, Seen]):
    """A section of records, ``R``, that are created, updated and removed by one command each."""

    def __init__(
        self,
        table: str,
        kind: str,
        noun: Noun[R],
        called: str,
        keys: Keys,
        *,
        list_: type[Command[Any]],
        get: type[Command[Any]],
        update: type[Command[Any]],
        remove: Callable[[str], Command[Any]],
        removal: Sequence[str] = ("delete",),
        after: tuple[str, ...] = (),
        mark: str | None = None,
    ) -> None:
        self.table, self.kind, self.noun, self.called, self.after = table, kind, noun, called, after
        self.keys = keys
        self._list, self._get, self._update, self._remove = list_, get, update, remove
        self._removal = removal
        """The verb of ``removal``, and its options."""
        self._mark = mark

    # The file

    def fields(self, wanted: W) -> Fields:
        """The fields of a record that is wanted, but for name and id."""
        raise NotImplementedError

    def key_of(self, field: str) -> str:
        return self.keys.shown_key(field)

    def shown(self, field: str, value: Any) -> str:
        return self.keys.shown_value(field, value)

    # The records

    def records(self, observed: Seen) -> Mapping[str, R]:
        raise NotImplementedError

    def read_records(self, app: App) -> dict[str, R]:
        """Read all records of the project of this run, by name."""

        def page_of(count: int, cursor: str | None) -> Command[Any]:
            return self._list(limit=count, cursor=cursor)

        return {record.name: record for record in all_records(app, self.noun, page_of).records}

    def fields_there(self, observed: Seen, name: str) -> Fields:
        """The fields that would create the same record as one that was observed."""
        return self.keys.fields_of(self.records(observed)[name])

    def lookup(self, mark: str, record_id: str) -> Command[Any] | None:
        return self._get(record_id) if mark == self._mark else None

    def removal(self, reference: str) -> str:
        verb, *options = self._removal
        return command_line("nexusctl", *self.noun.verbs.split(), verb, reference, *options)

    def export(self, observed: Seen) -> dict[str, Any]:
        return {name: self.keys.table(self.fields_there(observed, name)) for name in self.records(observed)}

    # The steps

    def steps(self, planning: Planning) -> Iterable[Step]:
        yield from self.record_steps(planning)
        yield from self.prune_steps(planning)

    def record_steps(self, planning: Planning) -> Iterator[Step]:
        """The steps that create and update records."""
        observed = self.observed(planning)
        there = self.records(observed)
        for name, wanted in self.wanted(planning).items():
            fields, record = self.fields(wanted), there.get(name)
            if record is None:
                id_ = planning.new_id()
                changes = differences(self.keys.defaults(), fields, self.keys.secret_maps)
                managed_by = None if self.of_daemon else planning.target.managed_by
                given = {**self.identity(name, id_), "managed_by": managed_by, **fields}
                command = self._checked(planning, name, converted(self.keys.create, given))
                yield Step("create", self.kind, name, id_, changes, command=command)
            elif changes := differences(self.fields_there(observed, name), fields, self.keys.secret_maps):
                self.check_update(planning, record, changes)
                command = self._update_command(record.id, {change.field for change in changes}, fields)
                command = self._checked(planning, name, command)
                yield Step("update", self.kind, name, record.id, changes, command=command)

    def identity(self, name: str, id_: str) -> dict[str, str]:
        """The fields of a new record that say which one it is."""
        return {"name": name, "id": id_}

    def _checked(self, planning: Planning, name: str, command: Command[Any]) -> Command[Any]:
        """The command, if the daemon takes one of its size.

        Raises:
            ProjectFileInvalid: it does not.
        """
        size, most = len(encode_command(command)), command.info.max_payload
        if size > most:
            raise planning.file.wrong(
                (self.table, name), f"its values come to {size:,} bytes, and the limit is {most:,}"
            )
        return command

    def check_update(self, planning: Planning, record: R, changes: Sequence[Change]) -> None:
        """Refuse an update that the daemon would refuse for the state of the record.

        Raises:
            ProjectFileInvalid: as it says.
        """

    def _update_command(self, record_id: str, changed: set[str], fields: Fields) -> Command[Any]:
        """The update: the fields to set, and those to clear."""
        values = {field: fields[field] for field in {field.partition(".")[0] for field in changed}}
        clear = sorted(field for field, value in values.items() if value is None)
        given = {self._update.__struct_fields__[0]: record_id, **values} | ({"clear": clear} if clear else {})
        return converted(self._update, given)

    def renamed(self, record_id: str, managed_by: str) -> Command[Any]:
        return converted(self._update, {self._update.__struct_fields__[0]: record_id, "managed_by": managed_by})

    def pruned(self, planning: Planning) -> list[str]:
        """The names of the records that the file has made and no longer names, in the order of their removal."""
        if self.of_daemon:
            return []
        wanted = self.wanted(planning)
        return [
            name
            for name, record in self.records(self.observed(planning)).items()
            if planning.target.manages(record) and name not in wanted
        ]

    def prune_steps(self, planning: Planning) -> Iterator[Step]:
        """The steps that remove what the file no longer names, if that is asked for."""
        there = self.records(self.observed(planning))
        for name in self.pruned(planning) if planning.prune else ():
            id_ = there[name].id
            yield Step("remove", self.kind, name, id_, phase=Phase.REMOVE, command=self._remove(id_))


class PlainSection(RecordSection[R, Fields, Mapping[str, R]]):
    """A section whose tables have nothing but the fields of records, and which observes nothing but the records."""

    def read(self, reader: Reader, at: tuple[str, ...], value: Any) -> Fields:
        fields = self.keys.defaults() | reader.fields(at, self.keys, reader.table(at, value))
        reader.check(at, self.keys, fields)
        return fields

    def fields(self, wanted: Fields) -> Fields:
        return wanted

    def observe(self, app: App, wanted: Iterable[str] | None) -> Mapping[str, R]:
        try:
            return self.read_records(app)
        except UnknownCommand:  # an older daemon, which has none of them
            if wanted:
                raise
            return {}

    def nothing(self) -> Mapping[str, R]:
        return {}

    def records(self, observed: Mapping[str, R]) -> Mapping[str, R]:
        return observed


def exported(app: App, sections: Iterable[AnySection]) -> dict[str, dict[str, Any]]:
    """The tables for a file that changes nothing of the project of this run, by the names of the sections' tables."""
    by_table = {section.table: section for section in sections}
    observed = {table: section.observe(app, None) for table, section in by_table.items()}
    tables = {table: section.export(observed[table]) for table, section in by_table.items()}
    for table, section in by_table.items():
        if section.named_by:
            named = {
                getattr(record, field)
                for other, field in section.named_by
                for record in by_table[other].records(observed[other]).values()
            }
            tables[table] = {name: inner for name, inner in tables[table].items() if name in named}
    return tables


def converted(command: type[Command[Any]], fields: Fields) -> Command[Any]:
    """The command with these plain values; those that are None are left out."""
    import msgspec

    made: Command[Any] = msgspec.convert({name: value for name, value in fields.items() if value is not None}, command)
    return made


def load_sections() -> list[AnySection]:
    """The sections of all capabilities that have one, in the order of the capabilities."""
    return [
        section
        for capability in CAPABILITIES
        if capability.manifest
        for section in importlib.import_module(f"nexus.{capability.name}.manifest").SECTIONS
    ]


def ordered(sections: Sequence[AnySection]) -> list[AnySection]:
    """The sections, each after those that it declares to be after; else in their order."""
    by_table = {section.table: section for section in sections}
    edges = {section.table: [table for table in section.after if table in by_table] for section in sections}
    return [by_table[table] for table in graph.in_order(by_table, edges)]
