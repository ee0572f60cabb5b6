"""The section ``nodes`` of ``nexus.toml``. Nodes belong to the daemon: a file adds and changes them, removing none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from nexus.cli.apply.keys import Keys
from nexus.cli.apply.reader import Reader
from nexus.cli.apply.sections import Fields, PlainSection
from nexus.cli.records import Noun
from nexus.nodes.commands import AddNode, GetNode, ListNodes, Node, NodePage, RemoveNode, UpdateNode

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["NODES", "SECTIONS"]

_LOCAL = "local"


class _Nodes(PlainSection[Node]):
    of_daemon = True
    named_by = (("schedules", "node"),)

    def read(self, reader: Reader, at: tuple[str, ...], value: Any) -> Fields:
        name = at[-1]
        if name == _LOCAL:
            reader.wrong(at, "is the daemon's own machine, which needs no entry")
        fields = dict(super().read(reader, at, value))
        fields["hostname"] = fields.get("hostname") or name
        return fields

    def identity(self, name: str, id_: str) -> dict[str, str]:
        """The id of a node is its name."""
        del id_
        return {"name": name}

    def observe(self, app: App, wanted: Iterable[str] | None) -> Mapping[str, Node]:
        """The nodes of the daemon but its own machine."""
        nodes = super().observe(app, wanted)
        return {name: node for name, node in nodes.items() if name != _LOCAL}

    def export(self, observed: Mapping[str, Node]) -> dict[str, Any]:
        """A node whose host is its name needs no other word for it."""
        tables = super().export(observed)
        return {
            name: {key: value for key, value in table.items() if (key, value) != ("hostname", name)}
            for name, table in tables.items()
        }


NODES = _Nodes(
    "nodes",
    "node",
    Noun("node", "nodes", "node", NodePage.nodes),
    "nodes",
    Keys(AddNode),
    list_=ListNodes,
    get=GetNode,
    update=UpdateNode,
    remove=RemoveNode,
)
SECTIONS = (NODES,)
