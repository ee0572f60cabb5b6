"""Leases: who may change what."""
