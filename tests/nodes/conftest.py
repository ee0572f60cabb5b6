"""Fixtures of the tests of nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.accounts import Account, another_account
from support.daemon import DaemonProcess
from support.git import missing_for_ssh
from support.nodes import NodeHost, Remote, environment_with_ssh


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip all tests of this folder where no sshd can be run."""
    missing = missing_for_ssh()
    for item in items:
        if missing is not None and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=f"no sshd: {missing}"))


@pytest.fixture(scope="session")
def account() -> Iterator[Account | None]:
    """Another user, where the tests run as root: jobs run as that one on the host."""
    with another_account() as made:
        yield made


@pytest.fixture
def host(root: Path, account: Account | None) -> Iterator[NodeHost]:
    """A host that jobs run on."""
    host = NodeHost(root / "host", account)
    yield host
    host.close()


@pytest.fixture
def remote(make_daemon: Callable[..., DaemonProcess], host: NodeHost) -> Iterator[Remote]:
    """A daemon to which the host was added as the node ``there``."""
    remote = Remote(make_daemon(environment=environment_with_ssh(host)).start(), host)
    remote.add()
    yield remote
    remote.close()
