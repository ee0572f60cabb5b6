"""The output of a service through the daemon: filtered, followed, bounded, over several runs."""

from __future__ import annotations

from pathlib import Path

from support.live_services import Services
from support.raw import RawClient

from nexus.services.commands import GetServiceStdout
from nexus.services.errors import ServiceNotFound
from nexus.services.states import ServiceState


def output(services: Services, **fields: object) -> bytes:
    sequence = services.client.begin(GetServiceStdout(service="web", **fields))  # type: ignore[arg-type]
    data = b"".join(item["data"] for item in services.client.items(sequence))
    services.client.result(sequence)
    return data


def test_output_is_byte_exact_over_all_runs_and_can_be_filtered(services: Services) -> None:
    services.add("web", "printf 'a\\377\\000b\\n'; echo error >&2; exit 0", type="oneshot")
    for _ in range(2):
        services.start("web", wait=True)
    assert sorted(output(services).split(b"\n")) == sorted([b"a\xff\0b", b"error"] * 2 + [b""])
    assert output(services, stream="stdout") == b"a\xff\0b\n" * 2
    assert output(services, stream="stderr") == b"error\n" * 2
    assert output(services, stream="stderr", lines=1) == b"error\n"
    assert output(services, lines=0) == b""
    assert output(services, since_at=services.get("web").state_at + 3_600_000) == b""
    assert output(services, since_at=0) == output(services)
    error = services.client.call_error(GetServiceStdout(service="nobody"))
    assert isinstance(error, ServiceNotFound)


def test_output_is_followed_across_restarts_until_cancelled(services: Services, tmp_path: Path) -> None:
    services.add("web", f"echo run $(ls {tmp_path} | wc -l); exec sleep 1000")
    with RawClient(services.daemon.socket_path) as follower:
        sequence = follower.begin(GetServiceStdout(service="web", follow=True))
        items = follower.items(sequence)
        services.start("web")
        assert next(items)["data"] == b"run 0\n"
        (tmp_path / "x").touch()
        services.restart("web")
        assert next(items)["data"] == b"run 1\n"
        follower.cancel(sequence)
        assert list(items) == []
        assert follower.error(sequence).code == "cancelled"
    assert services.get("web").state is ServiceState.RUNNING


def test_follower_gets_unavailable_when_the_daemon_stops(services: Services) -> None:
    services.add("web", "echo up; exec sleep 1000")
    services.start("web")
    sequence = services.client.begin(GetServiceStdout(service="web", follow=True))
    assert next(services.client.items(sequence))["data"] == b"up\n"
    assert services.daemon.stop() == 0
    assert services.client.error(sequence).code == "unavailable"
    services.begin_anew()
    assert output(services) == b"up\n"


def test_kept_output_is_bounded_and_keeps_the_newest_bytes(services: Services) -> None:
    run = "head -c 5000000 /dev/zero | tr '\\0' 'x' | fold -w 99; echo the end; exit 0"
    services.add("web", run, type="oneshot", log_limit_mib=1)
    services.start("web", wait=True)
    data = output(services)
    assert len(data) <= 1024 * 1024
    assert data.endswith(b"xthe end\n")
