"""``nexusctl job`` and ``nexusctl group``."""

from __future__ import annotations

from nexus.jobs.cli.groups import group
from nexus.jobs.cli.jobs import job

__all__ = ["group", "job"]
