"""Agents: what they are configured as, what they work on, and how much they used."""
