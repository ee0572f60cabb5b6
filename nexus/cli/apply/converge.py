"""Carries out a plan; a failed step skips only the steps that need it.

Changes of records go together, as many as fit into one transaction. Where one of them is refused, what precedes it is
carried out by itself, it alone gets its error, and the others follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nexus_protocol.codec import encode_command
from nexus_protocol.command import Command, Effect
from nexus_protocol.errors import NexusError, ResourceExhausted

from nexus.cli.apply.steps import Outcome, Phase, Record, Step

if TYPE_CHECKING:
    from nexus.cli.app import App
    from nexus.cli.result import Result

__all__ = ["converge"]

_BATCH = 1000
"""The most commands that a batch may have."""
_AROUND_BATCH_BYTES = 1024
_AROUND_COMMAND_BYTES = 24
"""What a batch has beside the payloads of its commands, at most: once, and for each."""


def converge(
    app: App,
    steps: Sequence[Step],
    needs: Mapping[Record, Sequence[Record]],
    report: Callable[[Outcome], None],
    waits: Sequence[Step] = (),
) -> list[Outcome]:
    """Carry out steps; calls ``report`` with the outcome of each, and returns all of them.

    A run is skipped if its record or one that it ``needs``, directly or not, has failed. ``waits`` are steps that wait
    for what runs already.

    Raises:
        ConnectionLost: the daemon stopped; the next run continues from there.
    """
    run = _Run(app, report)
    run.records([step for step in steps if step.phase is not Phase.RUN])
    broken = _with_dependents(needs, {record: why for record, (_place, why) in run.failed.items()})
    for group in _groups([step for step in steps if step.phase is Phase.RUN]):
        run.together(run.unbroken(group, broken))
    run.together(list(waits))
    return run.outcomes


class _Run:
    """One run: the outcomes so far, and which records have failed."""

    def __init__(self, app: App, report: Callable[[Outcome], None]) -> None:
        self.outcomes: list[Outcome] = []
        self.failed: dict[Record, tuple[int, str]] = {}
        """Each record that has failed: the place of the step, and the name of the record because of which."""
        self._places: dict[int, int] = {}
        """Of the steps about records, by their identity."""
        self._app = app
        self._report = report

    def _note(self, outcome: Outcome) -> None:
        if outcome.result != "done":
            step = outcome.step
            failed = (self._places.get(id(step), len(self._places)), outcome.because or step.name)
            self.failed[step.record] = min(failed, self.failed.get(step.record, failed))
        self.outcomes.append(outcome)
        self._report(outcome)

    def unbroken(self, steps: Sequence[Step], broken: Mapping[Record, str]) -> list[Step]:
        """The steps of which no record is broken; the others are skipped."""
        for step in steps:
            if step.record in broken:
                self._note(Outcome(step, "skipped", because=broken[step.record]))
        return [step for step in steps if step.record not in broken]

    def _unblocked(self, steps: Sequence[Step]) -> list[Step]:
        """The steps of which no record has failed at an earlier place; the others are skipped."""
        kept = []
        for step in steps:
            place = self._places[id(step)]
            failed = (self.failed[record] for record in step.records if record in self.failed)
            because = next((why for at, why in failed if at < place), None)
            if because is None:
                kept.append(step)
            else:
                self._note(Outcome(step, "skipped", because=because))
        return kept

    def records(self, steps: Sequence[Step]) -> None:
        """Carry out the steps about records, in their order."""
        self._places = {id(step): place for place, step in enumerate(steps)}
        for chunk in _chunks(steps, self._app.frame_bytes() - _AROUND_BATCH_BYTES if steps else 0):
            self._changes(chunk)

    def _changes(self, steps: Sequence[Step]) -> None:
        """Carry out steps in one transaction, or if one is refused in several.

        Then what precedes it goes alone, then it does; after a failure the transactions begin small and double, so that
        no step is sent more than a few times, however many fail.
        """
        left, most = self._unblocked(steps), len(steps)
        grown, sizes = most, list[int]()
        while left:
            part = left[: sizes.pop(0) if sizes else grown]
            try:
                replies = self._send([_command(step) for step in part])
            except NexusError as error:
                index = error.details.get("index")
                if len(part) > 1 and type(index) is int:
                    sizes = [index, 1] if index else [1]
                    continue
                if len(part) > 1 and type(error) is ResourceExhausted and "limit" in error.details:
                    most = grown = len(part) // 2  # the replies are too large for one frame
                    sizes = []
                    continue
                for step in part:
                    self._note(Outcome(step, "failed", error=error))
                grown = 1
            else:
                for step, reply in zip(part, replies, strict=True):
                    self._note(Outcome(step, "done", reply))
                grown = min(most, 2 * grown)
            left = self._unblocked(left[len(part) :])

    def _send(self, commands: Sequence[Command[Any]]) -> list[Result[Any]]:
        if len(commands) == 1:
            return [self._app.fetch(commands[0])]
        return self._app.fetch_batch(commands)

    def together(self, steps: Sequence[Step]) -> None:
        """Carry out steps at the same time."""
        commands = [_command(step) for step in steps]
        for index, reply in self._app.fetch_all(commands) if commands else ():
            if isinstance(reply, NexusError):
                self._note(Outcome(steps[index], "failed", error=reply))
            else:
                self._note(Outcome(steps[index], "done", reply))


def _command(step: Step) -> Command[Any]:
    assert step.command is not None, step
    return step.command


def _chunks(steps: Sequence[Step], most_bytes: int) -> Iterator[list[Step]]:
    """Divide steps: consecutive changes that fit into one batch of this size, and each act alone."""
    chunk: list[Step] = []
    size = 0
    for step in steps:
        command = _command(step)
        is_change = command.info.effect is Effect.CHANGE
        more = _AROUND_COMMAND_BYTES + len(encode_command(command)) if is_change else 0
        if chunk and (not is_change or len(chunk) == _BATCH or size + more > most_bytes):
            yield chunk
            chunk, size = [], 0
        chunk.append(step)
        size += more
        if not is_change:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _groups(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """Group runs: those that go ``together`` with their neighbours, and each other one alone."""
    group: list[Step] = []
    for step in steps:
        if group and not (step.together and group[-1].together):
            yield group
            group = []
        group.append(step)
    if group:
        yield group


def _with_dependents(needs: Mapping[Record, Sequence[Record]], failed: Mapping[Record, str]) -> dict[Record, str]:
    """The failed records and all that need them, each with the name of the failed one."""
    dependents: dict[Record, list[Record]] = {}
    for record, others in needs.items():
        for other in others:
            dependents.setdefault(other, []).append(record)
    broken = dict(failed)
    pending = list(broken)
    while pending:
        record = pending.pop()
        for dependent in dependents.get(record, ()):
            if dependent not in broken:
                broken[dependent] = broken[record]
                pending.append(dependent)
    return broken
