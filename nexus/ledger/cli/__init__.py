"""The nouns of the ledger on the command line."""

from __future__ import annotations

from nexus.ledger.cli.agents import agent
from nexus.ledger.cli.metrics import metric

__all__ = ["agent", "metric"]
