"""Leases: who holds a task or another resource, for how long, and that a stale holder changes nothing."""
