"""Which engine a process computes with: numpy, where it is installed."""

from __future__ import annotations

from nexus.memory.vectors.engines import Engine, PlainEngine

__all__ = ["make_engine"]


def make_engine(name: str = "auto") -> Engine:
    """The engine of a name: ``numpy``, ``python``, or ``auto``, which is numpy where it is installed.

    Raises:
        ImportError: numpy was asked for, and is not installed.
    """
    if name != "python":
        try:
            from nexus.memory.vectors.numpy_engine import NumpyEngine

            return NumpyEngine()
        except ImportError:
            if name == "numpy":
                raise
    return PlainEngine()
