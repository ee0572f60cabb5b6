"""The SQL of jobs whose logs are files."""

from __future__ import annotations

from nexus.store import Reader

__all__ = ["job_output", "job_outputs"]


def job_outputs(reader: Reader, after: str, limit: int) -> list[tuple[str, int | None]]:
    """Ids of jobs, sorted, after an id, with the bytes of output that are kept of those that have ended."""
    rows = reader.all("SELECT id, output_bytes FROM jobs WHERE id > ? ORDER BY id LIMIT ?", (after, limit))
    return [(str(id_), size) for id_, size in rows]


def job_output(reader: Reader, job_id: str) -> tuple[int | None] | None:
    """The bytes of output that are kept of a job; None where there is no such job."""
    row = reader.one("SELECT output_bytes FROM jobs WHERE id = ?", (job_id,))
    return None if row is None else (row[0],)
