"""Nexus: a recoverable world for every task, kept by one daemon behind one Unix socket."""

__all__ = ["__version__"]

__version__ = "0.1.0"
