"""References to records of projects, in every command that takes one: ids, names, P/NAME and prefixes of ids."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple, get_type_hints

import msgspec
import pytest
from nexus_protocol import Command, CommandInfo
from nexus_protocol.command import declared_commands, hint_parts
from nexus_protocol.context import ProjectRoot
from support.projects import Speaker, project

from nexus.daemon.dispatch import load_capabilities
from nexus.services.commands import AddService, ListDependencies, ListServices, RemoveDependency, RemoveService
from nexus.vms.commands import CreateVm, DeleteVm, ListVms

load_capabilities()  # imports every module that declares a command

OTHERS: dict[str, dict[str, Any]] = {
    "CreateJob": {"command": "true"},
    "CheckoutBranch": {"branch": "main"},
    "GitCheckoutCommit": {"commit": "HEAD"},
    "GetServiceStdout": {"follow": False},
    "UpdateService": {"tags": ["t"]},
    "UpdateConfig": {"filename": "x.env"},
    "UpdateVm": {"vcpu_count": 2},
}
"""The fields of a command beside its references."""


class Use(NamedTuple):
    """A command with a reference to a record, and the fields that have one."""

    info: CommandInfo
    fields: tuple[str, ...]
    kind: str

    def command(self, reference: str, other: str) -> Command[Any]:
        """The command with a reference in its first such field, and ``other`` in the others."""
        references = dict.fromkeys(self.fields, other) | {self.fields[0]: reference}
        return self.info.request(**references, **OTHERS.get(self.info.name, {}))


def completes(info: CommandInfo, kind: str) -> tuple[str, ...]:
    """The fields of a command that are a reference to a record of this kind."""
    hints = get_type_hints(info.request, include_extras=True)
    return tuple(
        name
        for name in info.request.__struct_fields__
        if any(
            isinstance(part, msgspec.Meta) and (part.extra or {}).get("completes") == kind
            for part in hint_parts(hints[name])
        )
    )


def uses() -> Iterator[Use]:
    for info, kind in itertools.product(declared_commands(), ("service", "vm")):
        fields = completes(info, kind)
        for rotated in range(len(fields)):
            yield Use(info, fields[rotated:] + fields[:rotated], kind)


USES = list(uses())
EVERY_USE = pytest.mark.parametrize("use", USES, ids=lambda use: f"{use.info.name}-{use.fields[0]}")
_numbers = itertools.count()


def new_id(prefix: str) -> str:
    """A new id with a prefix of 8 characters."""
    return prefix + str(uuid.uuid4())[8:]


class World:
    """Two projects, and records of one kind in them and in default."""

    def __init__(self, nexus: Speaker, kind: str) -> None:
        self.kind = kind
        number = next(_numbers)
        self.first, self.second = f"a{number}", f"b{number}"
        self.default = nexus
        self.one, self.two = project(nexus, self.first), project(nexus, self.second)
        self.others = {each.named: self.add(each, "other") for each in (self.default, self.one, self.two)}

    def add(self, speaker: Speaker, name: str, id_: str | None = None) -> str:
        """Add a record; returns its id."""
        if self.kind == "service":
            return speaker.call(AddService(name, run_command="exit 0", start_window_ms=0, id=id_)).id  # type: ignore[no-any-return]
        return speaker.call(CreateVm(name, id=id_)).id  # type: ignore[no-any-return]

    def clear(self) -> None:
        """Delete the records that the last request was about."""
        everywhere = self.default.at("*")
        if self.kind == "service":
            for edge in everywhere.call(ListDependencies()).dependencies:
                self.default.call(RemoveDependency(edge.service_id, edge.dependency_id))
            for service in everywhere.call(ListServices()).services:
                if service.name != "other":
                    self.default.call(RemoveService(service.id, stop=True))
        else:
            for vm in everywhere.call(ListVms()).vms:
                if vm.name != "other":
                    self.default.call(DeleteVm(vm.id))


def outcome(world: World, speaker: Speaker, use: Use, reference: str, decoys: list[str]) -> str:
    """What becomes of a command with a reference: ``found``, ``not_found``, ``ambiguous`` or another code.

    Another reference of the command is to a service of the same project.
    """
    other = world.others.get(speaker.named, world.others[None])
    type_, told = speaker.outcome(use.command(reference, other))
    for decoy in decoys:
        assert decoy not in told, f"{reference!r} found {decoy}: {told}"
    kind, _, word = type_.partition(".")
    if kind == use.kind and word in ("not_found", "ambiguous"):
        assert reference in told
        return word
    if type_ in ("invalid_argument", "permission_denied", "internal") or kind == "project":
        return type_
    return "found"


def test_commands_with_references_are_found() -> None:
    kinds = {use.kind for use in USES}
    assert kinds == {"service", "vm"}
    assert len(USES) > 20
    assert {"AddDependency", "GetServiceStdout", "UpdateVm", "GitClone"} <= {use.info.name for use in USES}


@EVERY_USE
def test_names_are_of_the_project_and_ids_of_any(nexus: Speaker, use: Use) -> None:
    world = World(nexus, use.kind)
    reached = [world.default, world.one, world.two]
    for speaker in reached:
        others = [each for each in reached if each is not speaker]
        decoys = [world.add(each, "web") for each in others]
        assert outcome(world, speaker, use, "web", decoys) == "not_found"
        own = world.add(speaker, "web")
        assert outcome(world, speaker, use, "web", decoys) == "found"
        world.clear()
        own = world.add(speaker, "web")
        assert outcome(world, speaker, use, own.upper(), []) == "found"
        world.clear()
        elsewhere = [world.add(each, "web") for each in others]
        for id_ in elsewhere:
            assert outcome(world, speaker, use, id_, []) == "found"
        world.clear()


@EVERY_USE
def test_names_with_their_project_are_found_from_anywhere(nexus: Speaker, use: Use) -> None:
    world = World(nexus, use.kind)
    for speaker in (world.default, world.one, nexus.at(world.second)):
        for name, home in (("default", world.default), (world.first, world.one), (world.second, world.two)):
            id_ = world.add(home, "web")
            decoys = [world.add(each, "web") for each in (world.default, world.one, world.two) if each is not home]
            assert outcome(world, speaker, use, f"{name}/web", decoys) == "found"
            world.clear()
            for wrong in (f"{name}/{id_}", f"{name}/{id_[:8]}", f"{name}/gone", "gone/web"):
                assert outcome(world, speaker, use, wrong, []) == "not_found"


@EVERY_USE
def test_odd_references_name_nothing(nexus: Speaker, use: Use) -> None:
    world = World(nexus, use.kind)
    world.add(world.one, "web")
    odd = ["/", "//", "/web", f"{world.first}/", f"{world.first}//web", f"{world.first}/web/", f"/{world.first}/web"]
    odd += [f"{world.first}/{world.first}/web", "*/web", f"{world.one.named}/web", " /web", f"{world.first} /web"]
    odd += [
        f"{world.first.upper()}/web",
        f"{world.first}/WEB",
        "%/web",
        f"{world.first}/w%b",
        "*",
        "%",
        "w*",
        "..",
        "'",
    ]
    for reference in odd:
        for speaker in (world.one, world.two):
            assert outcome(world, speaker, use, reference, []) == "not_found", reference
    for reference in ("", "x" * 256):
        assert outcome(world, world.one, use, reference, []) == "invalid_argument"


@EVERY_USE
def test_prefixes_are_looked_up_in_the_project_first(nexus: Speaker, use: Use) -> None:
    world = World(nexus, use.kind)

    def add(speaker: Speaker, name: str, prefix: str) -> str:
        return world.add(speaker, name, new_id(prefix))

    decoy = add(world.two, "far", "abcd0001")
    add(world.one, "near", "abcd0002")
    assert outcome(world, world.one, use, "abcd", [decoy]) == "found"
    world.clear()
    add(world.one, "near", "abcd0003")
    add(world.one, "near-2", "abcd0004")
    add(world.two, "far", "abcd0005")
    assert outcome(world, world.one, use, "abcd", []) == "ambiguous"
    assert outcome(world, nexus, use, "abcd", []) == "ambiguous"
    assert outcome(world, world.one, use, "ABCD000", []) == "ambiguous"
    assert outcome(world, world.one, use, "abc", []) == "not_found"
    assert outcome(world, nexus, use, "abcd0005", []) == "found"
    world.clear()
    # A name in the project is before a prefix in it, and a prefix in the project before a name elsewhere.
    decoy = add(world.one, "named-otherwise", "feed0001")
    add(world.one, "feed", "abcd0006")
    assert outcome(world, world.one, use, "feed", [decoy]) == "found"
    world.clear()
    decoy = add(world.two, "feed", "abcd0007")
    add(world.one, "named-otherwise", "feed0002")
    assert outcome(world, world.one, use, "feed", [decoy]) == "found"
    world.clear()
    decoy = add(world.two, "feed", "abcd0008")
    assert outcome(world, world.one, use, "feed", [decoy]) == "not_found"


@EVERY_USE
def test_a_folder_without_a_project_finds_ids_alone(nexus: Speaker, use: Use) -> None:
    world = World(nexus, use.kind)
    nowhere = nexus.at(ProjectRoot("/nowhere/at/all"))
    for home, name in ((world.default, "default"), (world.one, world.first)):
        for reference in ("id", "prefix", "P/NAME"):
            id_ = world.add(home, "web")
            given = {"id": id_, "prefix": id_[:13], "P/NAME": f"{name}/web"}[reference]
            # What is created has no project there, whatever it refers to.
            expected = "project.not_found" if use.info.name == "CreateJob" else "found"
            assert outcome(world, nowhere, use, given, []) == expected
            world.clear()
    world.add(world.default, "web")
    type_, told = nowhere.outcome(use.command("web", world.others[None]))
    if use.fields[0] == "dependency":
        assert type_ != "project.not_found"  # it is looked up beside the dependent
    else:
        assert type_ == (f"{use.kind}.not_found" if use.info.effect == "read" else "project.not_found")
        assert "nexusctl apply" in told
        assert "-p default" in told
