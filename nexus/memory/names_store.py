"""The numbers of tasks and the names of agents, by which people know what records refer to by ids."""

from __future__ import annotations

from collections.abc import Iterable

from nexus.store import Reader, Row

__all__ = ["agent_names", "task_numbers"]


def task_numbers(reader: Reader, ids: Iterable[str | None]) -> dict[str | None, int]:
    """The numbers of those of these tasks that are there."""
    return dict(_of(reader, "SELECT id, number FROM tasks", ids))


def agent_names(reader: Reader, ids: Iterable[str | None]) -> dict[str | None, str]:
    """The names of those of these agents that are there."""
    return dict(_of(reader, "SELECT id, name FROM agents", ids))


def _of(reader: Reader, select: str, ids: Iterable[str | None]) -> list[Row]:
    wanted = sorted({id_ for id_ in ids if id_ is not None})
    if not wanted:
        return []
    return reader.all(f"{select} WHERE id IN ({', '.join('?' * len(wanted))})", wanted)
