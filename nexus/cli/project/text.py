"""Prints plans and outcomes, for a person and for a program, always without the values of variables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from nexus.cli.output import painted, printable
from nexus.cli.project.converge import Outcome
from nexus.cli.project.keys import Edge, key_of, shown_value
from nexus.cli.project.plan import Change, Plan, Step
from nexus.services.cli.lifecycle import started_text
from nexus.services.cli.status import summary

__all__ = ["outcome_record", "outcome_text", "plan_lines", "plan_summary", "step_record"]

_MARKS = {"create": ("+", "green"), "update": ("~", "yellow"), "remove": ("-", "red")}
_KINDS = {"project": "project", "service": "service", "vm": "VM"}
_DONE = {"create": "Created", "update": "Updated", "remove": "Removed"}


def plan_lines(plan: Plan, *, colour: bool) -> Iterator[str]:
    """The lines of a plan for a person: its project, the changes by service and VM record, then restarts and starts."""

    def coloured(text: str, paint: str) -> str:
        return painted(printable(text), paint) if colour else printable(text)

    subjects: dict[tuple[str, str], list[Step]] = {}
    for step in plan.steps:
        if step.action not in ("restart", "start"):
            subjects.setdefault((step.kind, step.name), []).append(step)
    for (kind, name), steps in subjects.items():
        record = next((step for step in steps if step.action in _MARKS), None)
        mark, paint = _MARKS[record.action if record else "update"]
        if kind == "project":
            yield from _project_lines(steps[0], mark, coloured, paint)
            continue
        yield coloured(f'{mark} {_KINDS[kind]} "{name}"', paint)
        created = record is not None and record.action == "create"
        for change in record.changes if record else ():
            yield printable(f"    {_change(change, created)}")
        if record is not None and record.action == "remove":
            continue  # its dependencies are removed with it
        for step in steps:
            if step.action in ("connect", "disconnect"):
                mark, paint = ("+", "green") if step.action == "connect" else ("-", "red")
                yield coloured(f'  {mark} depends on "{step.other}"{_edge_text(step.edge)}', paint)
    for step in plan.steps:
        if step.action in ("restart", "start"):
            yield printable(f'> {step.action} service "{step.name}"')


def _project_lines(step: Step, mark: str, coloured: Callable[[str, str], str], paint: str) -> Iterator[str]:
    root = next((change.after for change in step.changes if change.field == "root_path"), None)
    yield coloured(f'{mark} project "{step.name}"' + (f" ({root})" if root is not None else ""), paint)
    for change in step.changes:
        if change.field == "managed_by":
            yield printable(f"    records of {change.before} become those of {change.after}")


def _edge_text(edge: Edge) -> str:
    words = [edge.condition] if edge.condition != "started" else []
    words += ["tunnel"] if edge.tunnel else []
    words += [f"{edge.when_lost} when lost"] if edge.when_lost != "ignore" else []
    return f" ({', '.join(words)})" if words else ""


def _change(change: Change, created: bool) -> str:
    if change.secret is not None:
        return f"env.{change.field.partition('.')[2]}: {change.secret}"
    after = shown_value(change.field, change.after)
    return f"{key_of(change.field)}: " + (
        after if created else f"{shown_value(change.field, change.before)} -> {after}"
    )


def plan_summary(plan: Plan) -> str:
    """The number of steps of each kind, on one line."""
    records = [step for step in plan.steps if step.action in _MARKS]
    changed = {(step.kind, step.name) for step in plan.steps if step.action in ("update", "connect", "disconnect")}
    changed -= {(step.kind, step.name) for step in records if step.action != "update"}
    counts = {
        "create": sum(step.action == "create" for step in records),
        "change": len(changed),
        "remove": sum(step.action == "remove" for step in records),
        "restart": sum(step.action == "restart" for step in plan.steps),
        "start": sum(step.action == "start" for step in plan.steps),
    }
    return ", ".join(f"{count} to {verb}" for verb, count in counts.items() if count)


def outcome_text(outcome: Outcome, where: Callable[[dict[str, Any]], str] = lambda _record: "") -> str | None:
    """The outcome in a sentence; None for a failure, which is printed as an error.

    ``where`` is what the sentence about a removed record adds.
    """
    step = outcome.step
    if outcome.result == "skipped":
        other = f' and "{step.other}"' if step.other else ""
        return f'Skipped: {step.action} {_KINDS[step.kind]} "{step.name}"{other}, because of "{outcome.because}"'
    if outcome.result == "failed" or outcome.reply is None:
        return None
    if step.action == "connect":
        return f'Service "{step.name}" depends on "{step.other}"{_edge_text(step.edge)}'
    if step.action == "disconnect":
        return f'Service "{step.name}" no longer depends on "{step.other}"'
    if step.action == "restart":
        return f'Restarted service "{step.name}" ({summary(outcome.reply["service"])})'
    if step.action in ("start", "wait"):
        return started_text(outcome.reply)[
            -1
        ]  # the lines before it are about other services, which have steps of their own
    place = where(outcome.reply) if step.action == "remove" else ""
    return f'{_DONE[step.action]} {_KINDS[step.kind]} "{step.name}"{place}'


def step_record(step: Step) -> dict[str, Any]:
    """A step as a record for a program."""
    record: dict[str, Any] = {"action": step.action, "kind": step.kind, "name": step.name}
    if step.action in ("connect", "disconnect"):
        record |= {"dependency": step.other, **step.edge._asdict()}
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
