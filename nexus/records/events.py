"""Declares the events that every record type has."""

from __future__ import annotations

from nexus_protocol.events import WRITTEN, event

__all__ = ["record_events", "written_event"]


def record_events(kind: str, word: str, *, created: dict[str, str], deleted: dict[str, str]) -> None:
    """Declare the events of creation, update and deletion of a record type, which sentences call ``word``.

    ``created`` and ``deleted`` are the fields of their details.
    """
    event(f"{kind}.created", f"{word} was created.", **created)
    event(f"{kind}.updated", f"{word} was changed.", fields="its value before and after")
    event(f"{kind}.deleted", f"{word} was deleted.", **deleted)
    written_event(kind, word)


def written_event(kind: str, word: str) -> None:
    """Declare the kind of a change of a row that no other event tells."""
    event(kind + WRITTEN, f"{word} was changed by what other events tell. Given only where it is asked for.")
