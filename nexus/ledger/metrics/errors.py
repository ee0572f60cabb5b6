"""The errors of metrics."""

from __future__ import annotations

from nexus_protocol.errors import Conflict, InvalidArgument

from nexus.records.errors import RecordAmbiguous, RecordCursorInvalid, RecordNotFound

__all__ = ["MetricCursorInvalid", "MetricInvalid", "MetricSourceTaken", "MetricTaskAmbiguous", "MetricTaskNotFound"]


class MetricInvalid(InvalidArgument):
    """The value is negative, not a number, or too large; ``details.path`` names the field."""

    type = "metric.invalid"


class MetricSourceTaken(Conflict):
    """A metric was made from this source, and differs from the request; ``details.id`` is its id."""

    type = "metric.source_taken"


class MetricCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by ListMetrics for these filters."""

    type = "metric.cursor_invalid"


class MetricTaskNotFound(RecordNotFound):
    """No task has this id or number."""

    type = "metric.task_not_found"


class MetricTaskAmbiguous(RecordAmbiguous):
    """Several tasks are meant by this reference; ``details.matches`` lists some of them."""

    type = "metric.task_ambiguous"
