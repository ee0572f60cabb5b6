"""The plan: from a project file and what was observed to the steps that make them equal, in their order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from nexus.cli.apply.reader import ProjectFileInvalid
from nexus.cli.apply.sections import AnySection, Planning, ordered
from nexus.cli.apply.steps import Change, Phase, Record, Step
from nexus.cli.apply.target import Target
from nexus.hints import command_line

__all__ = ["Plan", "make_plan", "needs_of", "not_ready"]


class Plan(NamedTuple):
    """The steps, in an order that satisfies dependencies."""

    steps: tuple[Step, ...]
    renames: tuple[Step, ...] = ()
    """A part of the step about the project: the records whose ``managed_by`` changes with it."""


def make_plan(sections: Sequence[AnySection], planning: Planning) -> Plan:
    """Compute the plan: the steps of all sections, by phase, and in each phase in the order of the sections.

    Raises:
        ProjectFileInvalid: the daemon would refuse a step, or a record was created from another file.
    """
    in_order = ordered(sections)
    made = {
        section.table: sorted(section.steps(planning), key=lambda step: step.phase)  # stable
        for section in in_order
    }
    steps = [
        step
        for phase in Phase
        for section in (reversed(in_order) if phase is Phase.REMOVE else in_order)
        for step in made[section.table]
        if step.phase is phase
    ]
    for section in sections:
        _check_managers(section, planning, made[section.table])
    renames = _renames(sections, planning)
    return Plan((*_project_steps(planning.target, renames), *steps), renames)


def _project_steps(target: Target, renames: Iterable[Step]) -> list[Step]:
    root = (Change("root_path", None, target.root),) if target.root is not None else ()
    if not target.id:
        return [Step("create", "project", target.name, changes=root)]
    changes = [*(root if target.binds else ()), *dict.fromkeys(change for step in renames for change in step.changes)]
    return [Step("update", "project", target.name, target.id, tuple(changes))] if changes else []


def _renames(sections: Sequence[AnySection], planning: Planning) -> tuple[Step, ...]:
    steps = []
    for section in sections:
        if section.of_daemon:
            continue
        records = section.records(planning.observed[section.table])
        renamed = planning.target.renamed(records.values())
        for name, record in records.items():
            new = renamed.get(record.id)
            if new is not None:
                change = Change("managed_by", record.managed_by, new)
                command = section.renamed(record.id, new)
                steps.append(Step("update", section.kind, name, record.id, (change,), command=command))
    return tuple(steps)


def _check_managers(section: AnySection, planning: Planning, steps: Iterable[Step]) -> None:
    """Refuse to change a record of another file; two files may both name a record if they agree on it."""
    if section.of_daemon:
        return
    there = section.records(planning.observed[section.table])
    for step in steps:
        owner = planning.target.manager(there[step.name]) if step.name in there else None
        if owner not in (None, planning.target.file):
            raise ProjectFileInvalid(
                f'cannot {step.action} {section.noun.word} "{step.name}": it was created from {owner}',
                hint=_ways_out(section, planning, step.name, owner),
            )


def _ways_out(section: AnySection, planning: Planning, name: str, owner: str) -> str:
    """What to do about a record of another file. Neither way hands what that file has made to this one."""
    file = planning.file
    hint = f"Give the {section.noun.word} another name in {file.where((section.table, name))}.\n"
    if owner[0] == "/" and not os.path.lexists(owner):
        return f"{hint}Or, if {file.path} is that file under a new name, give it the old one again: {owner}"
    return (
        f'{hint}Or take "{name}" out of {owner}, and apply that file, which removes it: '
        f"{command_line('nexusctl', 'apply', '-f', owner, '--prune')}"
    )


def not_ready(sections: Sequence[AnySection], planning: Planning, plan: Plan) -> list[Step]:
    """Steps to wait for what runs already, but is not ready yet."""
    begun = {step.record for step in plan.steps if step.phase in (Phase.REMOVE, Phase.RUN)}
    return [step for section in ordered(sections) for step in section.waits(planning, begun)]


def needs_of(sections: Sequence[AnySection], planning: Planning) -> Mapping[Record, Sequence[Record]]:
    """Which records each record of the file must not run without."""
    return {
        (section.kind, name): tuple(section.needs(wanted))
        for section in sections
        for name, wanted in planning.wanted(section.table).items()
    }
