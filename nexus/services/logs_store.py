"""The SQL of services whose logs are files."""

from __future__ import annotations

from nexus.store import Reader

__all__ = ["service_exists", "service_ids"]


def service_ids(reader: Reader, after: str, limit: int) -> list[tuple[str, int | None]]:
    """Ids of services, sorted, after an id. No row tells how much output one has."""
    rows = reader.all("SELECT id FROM service WHERE id > ? ORDER BY id LIMIT ?", (after, limit))
    return [(str(id_), None) for (id_,) in rows]


def service_exists(reader: Reader, service_id: str) -> tuple[None] | None:
    """Whether there is a service, in the form of a row."""
    return None if reader.one("SELECT 1 FROM service WHERE id = ?", (service_id,)) is None else (None,)
