"""The journal: what happened, one row in the transaction of every change."""

from nexus.journal.store import record

__all__ = ["record"]
