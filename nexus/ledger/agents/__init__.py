"""Agents, which work on tasks."""
