"""The domain errors of episodes.

::

    NotFound            EpisodeNotFound
    Conflict            EpisodeAmbiguous, EpisodeChanged, EpisodeIdTaken
    InvalidArgument     EpisodeCursorInvalid, EpisodeInvalid
"""

from __future__ import annotations

from nexus_protocol.errors import InvalidArgument

from nexus.records.errors import RecordAmbiguous, RecordChanged, RecordCursorInvalid, RecordIdTaken, RecordNotFound

__all__ = [
    "EpisodeAmbiguous",
    "EpisodeChanged",
    "EpisodeCursorInvalid",
    "EpisodeIdTaken",
    "EpisodeInvalid",
    "EpisodeNotFound",
]


class EpisodeNotFound(RecordNotFound):
    """No episode has this number or id."""

    type = "episode.not_found"


class EpisodeAmbiguous(RecordAmbiguous):
    """Several episodes have an id that begins so, or this number in their projects."""

    type = "episode.ambiguous"


class EpisodeIdTaken(RecordIdTaken):
    """An episode with the id exists and differs from the request."""

    type = "episode.id_taken"


class EpisodeChanged(RecordChanged):
    """The episode has another revision than the request expects."""

    type = "episode.changed"


class EpisodeCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by this list for these filters."""

    type = "episode.cursor_invalid"


class EpisodeInvalid(InvalidArgument):
    """The fields do not fit together; ``details.path`` names one of them."""

    type = "episode.invalid"
