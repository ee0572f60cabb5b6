"""Fixtures of the tests of the memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.daemon import DaemonProcess
from support.memory import Desk
from support.remembered import Memory

from nexus.client import BlockingClient
from nexus.projects.commands import CreateProject, DeleteProject, ListProjects


@pytest.fixture
def desk(shared: DaemonProcess) -> Iterator[Desk]:
    """A project of its own in the shared daemon."""
    with Desk(shared) as made:
        yield made


@pytest.fixture
def client(shared: DaemonProcess) -> Iterator[BlockingClient]:
    """A client in a project of its own, which is deleted after the test."""
    with BlockingClient(shared.socket_path) as outside:
        made = outside.call(CreateProject("remembering"))
        with BlockingClient(shared.socket_path, project=made.id) as inside:
            yield inside
        if any(each.id == made.id for each in outside.call(ListProjects()).projects):
            outside.call(DeleteProject(made.id, cascade=True))


@pytest.fixture
def memory(shared: DaemonProcess, client: BlockingClient) -> Iterator[Memory]:
    """What is remembered in that project; the rows are deleted after the test."""
    found = Memory(shared.database, str(client.project))
    yield found
    with found.together() as tx:
        for table in ("episodes", "code_chunks"):
            tx.execute(f"DELETE FROM {table} WHERE project_id = ?", (found.project_id,))
    found.close()
