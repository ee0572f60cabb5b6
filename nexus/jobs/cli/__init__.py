"""``nexusctl job``, ``nexusctl group`` and ``nexusctl schedule``."""

from __future__ import annotations

from nexus.jobs.cli.groups import group
from nexus.jobs.cli.jobs import job
from nexus.jobs.cli.schedule import schedule

__all__ = ["group", "job", "schedule"]
