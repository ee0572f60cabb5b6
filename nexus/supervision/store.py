"""The SQL of ports: which are given to whom, against a reader of the store."""

from __future__ import annotations

from nexus.store import Reader

__all__ = ["port_user", "ports_given"]


def ports_given(reader: Reader, service_id: str) -> set[int]:
    """The ports that this service may not lease: those of others' runs and tunnels, and those that others declare."""
    rows = reader.all(
        "SELECT active_port FROM service WHERE active_port IS NOT NULL AND id <> ?1 "
        "UNION SELECT port FROM service WHERE port > 0 AND id <> ?1 "
        "UNION SELECT tunnel_port FROM service_dependency WHERE tunnel_port IS NOT NULL",
        (service_id,),
    )
    return {row[0] for row in rows}


def port_user(reader: Reader, port: int) -> str | None:
    """The name of the service that has this port in its run, or whose tunnel has it."""
    row = reader.one(
        "SELECT name FROM service WHERE active_port = ?1 UNION ALL SELECT a.name FROM service_dependency AS d "
        "JOIN service AS a ON a.id = d.service_id WHERE d.tunnel_port = ?1 AND d.tunnel_run_id IS NOT NULL",
        (port,),
    )
    return None if row is None else str(row[0])
