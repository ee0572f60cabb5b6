"""``nexusctl lease``, and ``--lease`` of every command line: words and exit codes."""

from __future__ import annotations

from collections.abc import Callable

from support.cli import Cli
from support.daemon import DaemonProcess
from support.leases import TASK, granted

from nexus.client import BlockingClient
from nexus.ledger.leases.commands import GetLease, ListLeases, ReleaseLease, RenewLease, RevokeLease


def test_a_lease_is_listed_inspected_renewed_released_and_revoked(cli: Cli, daemon: DaemonProcess) -> None:
    daemon.stop()
    first = granted(daemon.database)
    second = granted(daemon.database, resource_id="22222222-2222-4222-8222-222222222222")
    daemon.start()
    heading, *lines = cli.ok("lease", "list", "--state", "live").lines
    assert heading.split() == ["ID", "HOLDS", "EPOCH", "STATE", "HOLDER"]
    assert {line.split()[0] for line in lines} == {first.id, second.id}
    shown = cli.ok("lease", "inspect", first.id).out
    assert f"test {TASK}" in shown
    assert cli.ok("lease", "renew", first.id, "--ttl", "30m").out == f"Renewed lease {first.id} for 1800s\n"
    assert cli.ok("--lease", f"{first.id}:1", "vm", "create", "a").code == 0
    (operation, *_) = cli.ok("op", "list", "--command", "CreateVm", "-o", "json").json
    assert f"{first.id}, epoch 1" in cli.ok("op", "show", str(operation["id"])).out
    assert cli.ok("lease", "release", second.id).out == f'Released lease "{second.id}"\n'
    assert cli.ok("lease", "revoke", first.id, "--reason", "it hangs").out == f"Revoked lease {first.id}\n"
    code, out, err = cli("vm", "create", "b", "--lease", f"{first.id}:1")
    assert (code, out) == (5, "")
    assert err.startswith(
        f"Error: cannot carry out the request under epoch 1 of lease {first.id}: it is revoked: it hangs"
    )
    assert cli("vm", "create", "b", "--lease", first.id) == (
        2,
        "",
        "Error: cannot accept lease: expected ID:EPOCH, as the claim printed it\n",
    )


def test_the_commands_on_leases_from_end_to_end(make_daemon: Callable[..., DaemonProcess]) -> None:
    daemon = make_daemon().start()
    daemon.stop()
    lease = granted(daemon.database)
    daemon.start()
    with BlockingClient(daemon.socket_path) as nexus:
        assert nexus.call(ListLeases(holder=lease.holder)).leases == [lease]
        assert nexus.call(GetLease(lease.id[:8])) == lease
        assert nexus.call(RenewLease(lease.id)).revision == 1, "only its time"
        assert nexus.call(ReleaseLease(lease.id)).ended_at is not None
        assert nexus.call(ReleaseLease(lease.id)).state_revision == 1, "a repetition changes nothing"
    daemon.stop()
    other = granted(daemon.database)
    daemon.start()
    with BlockingClient(daemon.socket_path) as nexus:
        assert nexus.call(RevokeLease(other.id)).reason == "taken away on demand"
