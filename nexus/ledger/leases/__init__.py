"""Leases of what agents work on."""
