"""The types of episodes."""

from __future__ import annotations

from nexus_protocol.command import WireEnum

__all__ = ["EpisodeType"]


class EpisodeType(WireEnum):
    """What an episode tells."""

    CODE_GENERATION = "code_generation"
    """How something was written."""
    ERROR_FIX = "error_fix"
    """An error, and what ended it."""
    REVIEW_FEEDBACK = "review_feedback"
    DECISION = "decision"
    """What was decided, and why."""
    RESEARCH = "research"
    """What was found out."""
