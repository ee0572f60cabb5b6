"""``nexusctl lease``: who holds what, and taking it away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nexus.cli.output import Column, Printer, called, format_time
from nexus.cli.records import Noun, make_inspect, make_list, make_switch, names_starting
from nexus.cli.verbs import NounGroup, Values, completers, for_each, verb
from nexus.ledger.leases.commands import GetLease, ListLeases, ReleaseLease, RenewLease, RevokeLease
from nexus.ledger.leases.records import Lease, LeasePage

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["lease"]

_LEASE = Noun("lease", "leases", "lease", LeasePage.leases)
_PAGE = 1000


def _time(lease: Lease) -> str:
    return f"{lease.ttl_ms / 1000:g}s"


def _what(lease: Lease) -> str:
    return f"{lease.resource_kind} {called(lease, lease.resource_id)}"


_COLUMNS: tuple[Column[Lease], ...] = (
    Column("ID", lambda lease: lease.id, 36),
    Column("HOLDS", _what, 24),
    Column("EPOCH", lambda lease: lease.epoch, 5),
    Column("STATE", lambda lease: lease.state, 8),
    Column("HOLDER", lambda lease: called(lease, lease.holder), 12),
    Column("TTL", _time, wide=True),
    Column("RENEWED", lambda lease: format_time(lease.renewed_at), wide=True),
    Column("GRANTED", lambda lease: format_time(lease.granted_at), wide=True),
    Column("REASON", lambda lease: lease.reason, wide=True),
)


def _lines(lease: Lease) -> list[tuple[str, object]]:
    return [
        ("ID", lease.id),
        ("Holds", _what(lease)),
        ("Project", None if lease.project == "default" else lease.project),
        ("Epoch", lease.epoch),
        ("State", lease.state),
        ("Reason", lease.reason),
        ("Holder", called(lease, lease.holder)),
        ("Host", lease.host),
        ("Granted", format_time(lease.granted_at)),
        ("Time", _time(lease)),
        ("Renewed", format_time(lease.renewed_at)),
        ("Process", lease.pid),
        ("Job", lease.job_id),
        ("When lost", lease.on_lost),
        ("Ended", format_time(lease.ended_at)),
    ]


def _make_renew() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> int:
        result = app.fetch(values.build(RenewLease))
        out.one(
            result,
            name=lambda lease: lease.id,
            sentence=lambda lease: click.echo(f"Renewed lease {lease.id} for {_time(lease)}"),
        )
        return 0

    return verb(RenewLease, run)


def _make_revoke() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> int:
        def revoke(name: str) -> None:
            result = app.fetch(RevokeLease(name, reason=values.text("reason")))
            out.one(result, name=lambda lease: lease.id, sentence=lambda lease: click.echo(f"Revoked lease {lease.id}"))

        return for_each(values.every("lease", str), revoke)

    return verb(RevokeLease, run, variadic=True)


def _complete(app: App, incomplete: str) -> list[str]:
    return names_starting(app, ListLeases(limit=_PAGE), _LEASE, incomplete)


completers["lease"] = _complete

lease = NounGroup(
    "lease",
    "See who holds what, and take it away.",
    {
        "list": ("List leases, newest first.", lambda: make_list(ListLeases, _LEASE, _COLUMNS)),
        "inspect": ("Show lease details.", lambda: make_inspect(GetLease, _LEASE, _lines)),
        "renew": ("Renew a live lease.", _make_renew),
        "release": ("Give live leases back.", lambda: make_switch(ReleaseLease, _LEASE, "Released")),
        "revoke": ("Take live leases from their holders.", _make_revoke),
    },
    {
        "ls": " (did you mean 'list'?)",
        **dict.fromkeys(("show", "get", "info", "status"), " (did you mean 'inspect'?)"),
        **dict.fromkeys(("rm", "delete", "remove", "kill"), " (did you mean 'revoke'?)"),
        **dict.fromkeys(("create", "add", "claim"), ": what claims a task grants its lease"),
    },
)
