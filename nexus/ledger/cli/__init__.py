"""The nouns of the ledger."""

from __future__ import annotations

from nexus.ledger.cli.tasks import task

__all__ = ["task"]
