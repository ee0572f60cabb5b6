"""Jobs on a host whose only program is busybox, run by the shim and by the script: its tools read ahead."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.accounts import Account
from support.nodes import NodeHost, Remote

from nexus.jobs.states import JobStatus

BUSYBOX = shutil.which("busybox")

pytestmark = pytest.mark.skipif(BUSYBOX is None, reason="busybox is not installed")


@pytest.fixture(params=[None, "Plan9"], ids=["shim", "sh"])
def host(root: Path, account: Account | None, request: pytest.FixtureRequest) -> Iterator[NodeHost]:
    """A host with busybox alone."""
    assert BUSYBOX is not None
    host = NodeHost(root / "host", account, kernel=request.param, busybox=Path(BUSYBOX))
    yield host
    host.close()


def test_busybox_host_is_online(remote: Remote) -> None:
    checked = remote.check()
    assert "bash" not in checked.node.capabilities["tools"]


@pytest.mark.parametrize("size", [0, 6, 100_000, 1_000_000])
def test_standard_input_is_whole_and_holds_up_no_other_job(remote: Remote, size: int) -> None:
    data = (b"0123456789abcde\n" * (size // 16 + 1))[:size]
    job = remote.there("wc -c", stdin_data=data)
    other = remote.there("echo other")
    ended = remote.ended(job)
    assert (ended.status, ended.reason) == (JobStatus.COMPLETED, None)
    assert ended.stdout is not None
    assert int(ended.stdout) == size
    assert remote.ended(other).stdout == "other\n"
    remote.wait_gone()


def test_time_is_told_in_milliseconds(remote: Remote) -> None:
    jobs = [remote.ended(remote.there("sleep 0.3")) for _ in range(3)]
    assert any(job.duration and job.duration % 1000 for job in jobs)


def test_cancel_ends_a_job(remote: Remote, host: NodeHost) -> None:
    job = remote.held()
    remote.running(job)
    assert remote.cancel(job).status is JobStatus.CANCELLED
    assert host.members() == []
    remote.wait_gone()
