"""Nexus: services, virtual machines and their state, managed by one daemon behind one Unix socket."""

__all__ = ["__version__"]

__version__ = "0.1.0"
