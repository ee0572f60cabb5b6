"""Metrics: figures of tasks and agents."""
