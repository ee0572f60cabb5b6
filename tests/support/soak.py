"""How much longer than usual the property tests and the kill -9 tests run."""

from __future__ import annotations

import os

__all__ = ["SOAK"]

SOAK = int(os.environ.get("NEXUS_TESTS_SOAK", "1"))
"""A factor for the number of examples and rounds. ``make soak`` sets it; the daemons under test do not see it."""
