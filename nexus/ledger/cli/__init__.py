"""The nouns of the ledger."""

from __future__ import annotations

from nexus.ledger.cli.features import feature
from nexus.ledger.cli.requirements import requirement
from nexus.ledger.cli.sessions import session
from nexus.ledger.cli.sub_features import sub_feature

__all__ = ["feature", "requirement", "session", "sub_feature"]
