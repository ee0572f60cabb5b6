"""The verbs of jobs, groups and schedules."""

from nexus.jobs.cli.schedule import schedule

__all__ = ["schedule"]
