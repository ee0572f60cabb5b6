"""The nouns of the ledger on the command line."""

from __future__ import annotations

from nexus.ledger.cli.leases import lease

__all__ = ["lease"]
