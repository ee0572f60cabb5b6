"""Schedules: when the daemon submits jobs by itself, by the wall clock or at an interval."""
