"""Metrics: values that are measured, their sums, and how long they are kept."""
