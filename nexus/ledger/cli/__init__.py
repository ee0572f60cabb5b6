"""The nouns of the ledger on the command line."""

from __future__ import annotations

from nexus.ledger.cli.agents import agent

__all__ = ["agent"]
