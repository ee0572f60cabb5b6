"""A section of its own needs its manifest alone: a toy one over the daemon's settings, beside the real ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.daemon import DaemonProcess

from nexus.capabilities import CAPABILITIES
from nexus.cli.app import App
from nexus.cli.apply.converge import converge
from nexus.cli.apply.document import read_project, write_project
from nexus.cli.apply.keys import Kind
from nexus.cli.apply.plan import Plan, make_plan, needs_of
from nexus.cli.apply.reader import ProjectFileInvalid, Reader
from nexus.cli.apply.sections import Planning, Section, load_sections, ordered
from nexus.cli.apply.steps import Change, Outcome, Phase, Record, Step
from nexus.cli.apply.target import Managed, Target
from nexus.cli.apply.text import ApplyText, plan_summary, step_record
from nexus.cli.records import Noun
from nexus.system.commands import DeleteSetting, ListSettings, Ping, SetSetting, Settings

TEXT = Kind(lambda value, _folder: str(value))


class ToyRecord(NamedTuple):
    id: str
    name: str
    project: str = "default"
    managed_by: str | None = None


class Toy(Section[Any, Any]):
    """``[toys.NAME]`` with ``value`` and ``needs``: the setting ``toy.NAME``, which is pinged when it changes."""

    table, kind, called = "toys", "toy", "toys"
    noun = Noun[Any]("toy", "toys", "settings", Settings.settings)
    after = ("vms",)

    def read(self, reader: Reader, at: tuple[str, ...], value: Any) -> Any:
        table = reader.table(at, value)
        for key in table.keys() - {"value", "needs"}:
            reader.unknown((*at, key), ("value", "needs"))
        return reader.value((*at, "value"), TEXT, table.get("value", "")), table.get("needs", [])

    def needs(self, wanted: Any) -> Iterable[Record]:
        return [(self.kind, name) for name in wanted[1]]

    def observe(self, app: App, wanted: Iterable[str] | None) -> Any:
        settings = app.call(ListSettings()).settings
        return {one.key.removeprefix("toy."): one.value for one in settings if one.key.startswith("toy.")}

    def nothing(self) -> Any:
        return {}

    def records(self, observed: Any) -> Mapping[str, Managed]:
        return {name: ToyRecord(name, name) for name in observed}

    def steps(self, planning: Planning) -> Iterator[Step]:
        there = planning.observed[self.table]
        for name, (value, _needs) in planning.wanted(self.table).items():
            if there.get(name) != value:
                command = SetSetting(f"toy.{name}", value)
                changes = (Change("value", there.get(name), value),)
                yield Step("update" if name in there else "create", self.kind, name, "", changes, command=command)
                yield Step("play", self.kind, name, phase=Phase.RUN, command=Ping(), together=True)
        for name in there if planning.prune else ():
            if name not in planning.wanted(self.table):
                yield Step("remove", self.kind, name, phase=Phase.REMOVE, command=DeleteSetting(f"toy.{name}"))

    def shown(self, field: str, value: Any) -> str:
        return repr(value)

    def done(self, step: Step, reply: object) -> str:
        return f'Played with toy "{step.name}"'

    def export(self, observed: Any) -> dict[str, Any]:
        return {name: {"value": value} for name, value in observed.items()}


SECTIONS = [Toy(), *load_sections()]


@pytest.fixture
def app(daemon: DaemonProcess) -> Iterator[App]:
    made = App(str(daemon.socket_path), None, "test", False, project="default")
    yield made
    made.close()


class Applied:
    """What applying a file has done."""

    def __init__(self, app: App, path: Path, text: str, *, prune: bool = False) -> None:
        path.write_text(text)
        file = read_project(str(path), SECTIONS)
        observed = {section.table: section.observe(app, None) for section in SECTIONS}
        target = Target(str(path), "default", "default")
        ids = (f"{number:08}-0000-4000-8000-{path.stat().st_mtime_ns % 10**12:012}" for number in range(100))
        planning = Planning(file, target, observed, lambda: next(ids), prune)
        self.plan: Plan = make_plan(SECTIONS, planning)
        self.said: list[str | None] = []
        self.outcomes: list[Outcome] = converge(app, self.plan.steps, needs_of(SECTIONS, planning), self._report)

    def _report(self, outcome: Outcome) -> None:
        self.said.append(str(outcome.error) if outcome.error else ApplyText(SECTIONS).outcome(outcome))


def test_toy_section_is_read_planned_carried_out_and_exported(app: App, root: Path) -> None:
    path = root / "nexus.toml"
    done = Applied(app, path, '[toys.a]\nvalue = "1"\n[toys.b]\nvalue = "2"\n[vms.box]\n[services.s]\n')
    assert list(ApplyText(SECTIONS).plan_lines(done.plan, colour=False)) == [
        '+ VM "box"',
        '+ toy "a"',
        "    value: '1'",
        '+ toy "b"',
        "    value: '2'",
        '+ service "s"',
        f'    dir: "{root}"',
        '> play toy "a"',
        '> play toy "b"',
    ]
    assert plan_summary(done.plan) == "4 to create, 2 to play"
    assert step_record(done.plan.steps[1]) == {
        "action": "create",
        "kind": "toy",
        "name": "a",
        "changes": [{"field": "value", "from": None, "to": "1"}],
    }
    assert done.said == [
        'Created VM "box"',
        'Created toy "a"',
        'Created toy "b"',
        'Created service "s"',
        'Played with toy "a"',
        'Played with toy "b"',
    ]
    assert Applied(app, path, path.read_text(), prune=True).plan == Plan(())
    again = Applied(app, path, '[toys.b]\nvalue = "3"\n[services.s]\n', prune=True)
    assert again.said == ['Removed toy "a"', 'Removed VM "box"', 'Updated toy "b"', 'Played with toy "b"']
    text = write_project("p", SECTIONS, {"toys": SECTIONS[0].export(SECTIONS[0].observe(app, None))})
    assert text.startswith(
        "# Toys, services, job groups, schedules, nodes, settings and VM records for `nexusctl apply`."
    )
    assert text.endswith('[toys.b]\nvalue = "3"\n')


def test_failed_toy_skips_what_needs_it_and_nothing_else(app: App, root: Path) -> None:
    text = '[toys."bad name"]\n[toys.c]\nneeds = ["b"]\n[toys.b]\nneeds = ["bad name"]\n[toys.d]\n[vms.box]\n'
    done = Applied(app, root / "nexus.toml", text)
    results = {(one.step.action, one.step.name): (one.result, one.because) for one in done.outcomes}
    assert results == {
        ("create", "box"): ("done", ""),
        ("create", "bad name"): ("failed", ""),
        **{("create", name): ("done", "") for name in "bcd"},
        **{("play", name): ("skipped", "bad name") for name in ("bad name", "b", "c")},
        ("play", "d"): ("done", ""),
    }


def test_unknown_keys_of_a_toy_and_of_the_file_are_named(root: Path) -> None:
    path = root / "nexus.toml"
    path.write_text("[toys.a]\nvalu = 1\n[toyz.b]\n")
    with pytest.raises(ProjectFileInvalid) as caught:
        read_project(str(path), SECTIONS)
    assert caught.value.message == f"cannot use {path}, line 3: unknown key toyz (did you mean toys?)"
    assert caught.value.hint == f"Also: cannot use {path}, line 2: unknown key toys.a.valu (did you mean value?)"


def test_sections_are_those_of_the_capabilities_that_say_so_each_after_what_it_needs() -> None:
    with_manifest = [capability.name for capability in CAPABILITIES if capability.manifest]
    of_capability = [type(section).__module__.split(".")[1] for section in load_sections()]
    assert list(dict.fromkeys(of_capability)) == with_manifest
    assert [section.table for section in load_sections()] == [
        "services",
        "groups",
        "schedules",
        "nodes",
        "settings",
        "vms",
    ]
    assert [section.table for section in ordered(SECTIONS)] == [
        "vms",
        "toys",
        "services",
        "groups",
        "nodes",
        "schedules",
        "settings",
    ]
