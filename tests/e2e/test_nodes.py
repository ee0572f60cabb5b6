"""The records of nodes, through the socket of a real daemon. What runs on them is in the tests of nodes."""

from __future__ import annotations

from support.daemon import DaemonProcess
from support.raw import connect

from nexus.nodes.commands import (
    AddNode,
    CheckNode,
    DrainNode,
    GetNode,
    ListNodes,
    NodeChanged,
    NodeFixed,
    NodeInvalid,
    NodeNameTaken,
    NodeNotFound,
    RemoveNode,
    UndrainNode,
    UpdateNode,
)
from nexus.nodes.states import NodeStatus


def test_node_is_added_changed_and_removed(daemon: DaemonProcess) -> None:
    with connect(daemon) as client:
        node = client.call(AddNode("a", user="ci"))
        assert (node.id, node.hostname, node.user, node.status, node.drained) == ("a", "a", "ci", "offline", False)
        assert client.call(AddNode("a", user="ci")) == node
        assert isinstance(client.call_error(AddNode("a")), NodeNameTaken)
        client.call(AddNode("b", hostname="10.0.0.1", port=2222))
        assert [each.name for each in client.call(ListNodes()).nodes] == ["a", "b", "local"]
        assert [each.name for each in client.call(ListNodes(status=NodeStatus.ONLINE)).nodes] == ["local"]
        page = client.call(ListNodes(limit=1))
        assert [each.name for each in client.call(ListNodes(limit=1, cursor=page.next_cursor)).nodes] == ["b"]
        changed = client.call(UpdateNode("a", port=22, clear=["user"], if_revision=1))
        assert (changed.port, changed.user, changed.revision) == (22, None, 2)
        assert isinstance(client.call_error(UpdateNode("a", port=23, if_revision=1)), NodeChanged)
        assert isinstance(client.call_error(UpdateNode("a", clear=["hostname"])), NodeInvalid)
        assert isinstance(client.call_error(UpdateNode("a")), NodeInvalid)
        assert client.call(RemoveNode("a")).name == "a"
        assert isinstance(client.call_error(GetNode("a")), NodeNotFound)


def test_own_machine_cannot_be_changed(daemon: DaemonProcess) -> None:
    with connect(daemon) as client:
        for command in (
            UpdateNode("local", port=1),
            RemoveNode("local"),
            DrainNode("local"),
            UndrainNode("local"),
            CheckNode("local"),
        ):
            assert isinstance(client.call_error(command), NodeFixed)
        assert isinstance(client.call_error(AddNode("local")), NodeNameTaken)
        assert client.call(GetNode("local")).status is NodeStatus.ONLINE
