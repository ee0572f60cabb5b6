"""Prints plans and outcomes, for a person and for a program, always without the values of variables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nexus.cli.apply.plan import Plan
from nexus.cli.apply.sections import AnySection
from nexus.cli.apply.steps import Change, Outcome, Phase, Step
from nexus.cli.output import painted, printable

__all__ = ["ApplyText", "outcome_record", "plan_summary", "step_record"]

_MARKS = {"create": ("+", "green"), "update": ("~", "yellow"), "remove": ("-", "red")}
_DONE = {"create": "Created", "update": "Updated", "remove": "Removed"}


class ApplyText:
    """The text for a person, in the words of the sections."""

    def __init__(self, sections: Sequence[AnySection]) -> None:
        self._sections = {section.kind: section for section in sections}

    def plan_lines(self, plan: Plan, *, colour: bool) -> Iterator[str]:
        """The lines of a plan: its project, the changes by record, then what is run."""

        def coloured(text: str, paint: str) -> str:
            return painted(printable(text), paint) if colour else printable(text)

        subjects: dict[tuple[str, str], list[Step]] = {}
        for step in plan.steps:
            if step.phase is not Phase.RUN:
                subjects.setdefault(step.record, []).append(step)
        for (kind, name), steps in subjects.items():
            record = next((step for step in steps if step.action in _MARKS), None)
            mark, paint = _MARKS[record.action if record else "update"]
            if kind == "project":
                yield from _project_lines(steps[0], mark, coloured, paint)
                continue
            yield coloured(f'{mark} {self._word(kind)} "{name}"', paint)
            created = record is not None and record.action == "create"
            for change in record.changes if record else ():
                yield printable(f"    {self._change(self._sections[kind], change, created)}")
            if record is not None and record.action == "remove":
                continue  # what connects it is removed with it
            for step in steps:
                if step.action not in _MARKS:
                    mark, paint = ("-", "red") if step.phase is Phase.DISCONNECT else ("+", "green")
                    yield coloured(f"  {mark} {step.text}", paint)
        for step in plan.steps:
            if step.phase is Phase.RUN:
                yield printable(f'> {step.action} {self._word(step.kind)} "{step.name}"')

    def _word(self, kind: str) -> str:
        return self._sections[kind].noun.word if kind in self._sections else kind

    @staticmethod
    def _change(section: AnySection, change: Change, created: bool) -> str:
        if change.secret is not None:
            field, _, name = change.field.partition(".")
            return f"{section.key_of(field)}.{name}: {change.secret}"
        after = section.shown(change.field, change.after)
        return f"{section.key_of(change.field)}: " + (
            after if created else f"{section.shown(change.field, change.before)} -> {after}"
        )

    def outcome(self, outcome: Outcome, where: Callable[[object], str] = lambda _record: "") -> str | None:
        """The outcome in a sentence; None for a failure, which is printed as an error.

        ``where`` is what the sentence about a removed record adds.
        """
        step = outcome.step
        if outcome.result == "skipped":
            other = f' and "{step.other}"' if step.other else ""
            return (
                f'Skipped: {step.action} {self._word(step.kind)} "{step.name}"{other}, because of "{outcome.because}"'
            )
        if outcome.result == "failed" or outcome.reply is None:
            return None
        if step.action not in _DONE:
            return self._sections[step.kind].done(step, outcome.reply.record)
        place = where(outcome.reply.record) if step.action == "remove" else ""
        return f'{_DONE[step.action]} {self._word(step.kind)} "{step.name}"{place}'

    def not_ready(self, step: Step) -> str:
        """What a step waits for."""
        return f'Not ready yet: {self._word(step.kind)} "{step.name}" {step.text}'


def _project_lines(step: Step, mark: str, coloured: Callable[[str, str], str], paint: str) -> Iterator[str]:
    root = next((change.after for change in step.changes if change.field == "root_path"), None)
    yield coloured(f'{mark} project "{step.name}"' + (f" ({root})" if root is not None else ""), paint)
    for change in step.changes:
        if change.field == "managed_by":
            yield printable(f"    records of {change.before} become those of {change.after}")


def plan_summary(plan: Plan) -> str:
    """The number of steps of each kind, on one line."""
    records = [step for step in plan.steps if step.action in _MARKS]
    whole = {step.record for step in records if step.action != "update"}
    changed = {step.record for step in plan.steps if step.phase is not Phase.RUN} - whole
    counts = {"create": 0, "change": len(changed), "remove": 0}
    for step in records:
        if step.action != "update":
            counts[step.action] += 1
    counts |= {"restart": 0, "start": 0}
    for step in plan.steps:
        if step.phase is Phase.RUN:
            counts[step.action] = counts.get(step.action, 0) + 1
    return ", ".join(f"{count} to {verb}" for verb, count in counts.items() if count)


def step_record(step: Step) -> dict[str, Any]:
    """A step as a record for a program."""
    record: dict[str, Any] = {"action": step.action, "kind": step.kind, "name": step.name, **step.detail}
    if step.changes:
        record["changes"] = [
            {"field": change.field, "change": change.secret}
            if change.secret is not None
            else {"field": change.field, "from": change.before, "to": change.after}
            for change in step.changes
        ]
    return record


def outcome_record(outcome: Outcome) -> dict[str, Any]:
    """An outcome as a record for a program."""
    record = {**step_record(outcome.step), "result": outcome.result}
    if outcome.error is not None:
        record["error"] = {"type": outcome.error.type, "message": outcome.error.message}
    return record
