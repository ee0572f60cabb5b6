"""``nexusctl node``: the hosts that jobs run on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nexus.cli.output import Column, Printer, format_time, hint
from nexus.cli.records import (
    Noun,
    Removal,
    make_inspect,
    make_list,
    make_switch,
    make_update,
    name_of,
    names_starting,
    remove_each,
)
from nexus.cli.verbs import NounGroup, Values, completers, for_each, verb
from nexus.hints import command_line
from nexus.nodes.commands import (
    AddNode,
    CheckNode,
    DrainNode,
    GetNode,
    ListNodes,
    Node,
    NodeChecked,
    NodePage,
    RemoveNode,
    UndrainNode,
    UpdateNode,
)

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["node"]

_NODE = Noun("node", "nodes", "node", NodePage.nodes)
_PAGE = 1000


def _host(node: Node) -> str:
    user = f"{node.user}@" if node.user is not None else ""
    port = f":{node.port}" if node.port is not None else ""
    return f"{user}{node.hostname}{port}"


def _state(node: Node) -> str:
    return f"{node.status}, drained" if node.drained else node.status.value


def _system(node: Node) -> str | None:
    words = [str(node.capabilities[name]) for name in ("os", "arch") if name in node.capabilities]
    return " ".join(words) or None


def _tools(node: Node) -> str | None:
    versions = node.capabilities.get("versions", {})
    tools = node.capabilities.get("tools", [])
    return ", ".join(f"{tool} {versions[tool]}" if tool in versions else tool for tool in tools) or None


_COLUMNS: tuple[Column[Node], ...] = (
    Column("NAME", lambda node: node.name, 16),
    Column("HOST", _host, 24),
    Column("STATE", _state, 16),
    Column("SYSTEM", _system, 14),
    Column("CORES", lambda node: node.capabilities.get("cores"), 5),
    Column("HEARD", lambda node: format_time(node.last_heartbeat), wide=True),
    Column("TOOLS", _tools, wide=True),
    Column("REASON", lambda node: node.reason, wide=True),
    Column("FROM", lambda node: node.managed_by, wide=True),
)


def _lines(node: Node) -> list[tuple[str, object]]:
    return [
        ("Name", node.name),
        ("Host", _host(node)),
        ("Address", node.ip_address),
        ("State", _state(node)),
        ("Reason", node.reason),
        ("System", _system(node)),
        ("Cores", node.capabilities.get("cores")),
        ("Runner", node.capabilities.get("runner")),
        ("Tools", _tools(node)),
        ("Last heard", format_time(node.last_heartbeat)),
        ("From", node.managed_by),
        ("Created", format_time(node.created_at or None)),
    ]


def _print_check(checked: NodeChecked) -> None:
    node = checked.node
    click.echo(f'Checked node "{node.name}" ({_state(node)}, {_system(node)}, cores: {node.capabilities.get("cores")})')
    if tools := _tools(node):
        click.echo(f"  Tools: {tools}")
    for limit in checked.limits:
        click.echo(f"  {limit}")


def _check_host(values: Values) -> None:
    """Refuse a host that is written with its user, or as a URL, as other programs take it.

    Raises:
        BadParameter: it is.
    """
    given = values.text("hostname") or ""
    if "@" in given or "://" in given:
        raise click.BadParameter(
            "give the name or the address alone; the user is --user, the port is --port", param_hint="'--hostname'"
        )


def _make_add() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> int:
        _check_host(values)
        result = app.fetch(values.build(AddNode))
        node = result.record
        out.one(result, name=name_of, sentence=lambda node: click.echo(f'Added node "{node.name}" ({_host(node)})'))
        if not values.flag("check"):
            if out.for_person:
                hint(f"Check it: {command_line('nexusctl', 'node', 'check', node.name)}")
            return 0
        return for_each([node.name], lambda name: _check(app, name, out))

    check = click.Option(["--check"], is_flag=True, help="Connect to it, and tell what its jobs lack.")
    return verb(AddNode, run, parameters=[check], help=_ADD_HELP)


def _check(app: App, name: str, out: Printer) -> None:
    result = app.fetch(CheckNode(name))
    if out.for_person:
        _print_check(result.record)
    else:
        out.one(result, name=lambda checked: checked.node.name, sentence=_print_check)


_ADD_HELP = """Add a host on which jobs are to run.

It is reached by ssh, with your own configuration, keys and agent. Nothing is installed there, and nothing is connected
to before a job, or a check, needs it.

\b
    nexusctl node add build1 --check
    nexusctl node add gpu --hostname gpu.example.org --user ci --port 2222
"""


def _make_check() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> int:
        return for_each(values.every("node", str), lambda name: _check(app, name, out))

    return verb(CheckNode, run, variadic=True)


def _make_remove() -> click.Command:
    def question(_app: App, nodes: list[Node]) -> str:
        names = ", ".join(f'"{node.name}"' for node in nodes)
        return f"Remove {'node' if len(nodes) == 1 else f'{len(nodes)} nodes:'} {names}?"

    def run(app: App, values: Values, out: Printer) -> int:
        removal: Removal[Node] = Removal(
            "remove",
            "Removed",
            look=lambda app, name: app.call(GetNode(name)),
            remove=lambda app, name: app.fetch(RemoveNode(name)),
            question=question,
        )
        return remove_each(app, values.every("node", str), values.flag("yes"), _NODE, removal, out)

    yes = click.Option(["-y", "--yes"], is_flag=True, help="Skip confirmation.")
    return verb(RemoveNode, run, parameters=[yes], variadic=True)


def _complete(app: App, incomplete: str) -> list[str]:
    return names_starting(app, ListNodes(limit=_PAGE), _NODE, incomplete)


completers["node"] = _complete

node = NounGroup(
    "node",
    "Manage the hosts that jobs run on.",
    {
        "add": ("Add a host on which jobs are to run.", _make_add),
        "list": ("List the nodes.", lambda: make_list(ListNodes, _NODE, _COLUMNS)),
        "inspect": ("Show node details.", lambda: make_inspect(GetNode, _NODE, _lines)),
        "update": (
            "Change how a node is reached.",
            lambda: make_update(UpdateNode, _NODE, lambda _app, values: _check_host(values)),
        ),
        "check": ("Connect to nodes, and tell what they have and lack.", _make_check),
        "drain": ("Let no further job begin on nodes.", lambda: make_switch(DrainNode, _NODE, "Drained")),
        "undrain": ("Let jobs begin on drained nodes again.", lambda: make_switch(UndrainNode, _NODE, "Undrained")),
        "remove": ("Remove nodes for which no job waits or runs.", _make_remove),
    },
    {
        **dict.fromkeys(("rm", "delete"), " (did you mean 'remove'?)"),
        **dict.fromkeys(("show", "get", "info", "status"), " (did you mean 'inspect'?)"),
        "ls": " (did you mean 'list'?)",
        "create": " (did you mean 'add'?)",
        **dict.fromkeys(("pause", "cordon", "stop"), " (did you mean 'drain'?)"),
        **dict.fromkeys(("resume", "uncordon", "start"), " (did you mean 'undrain'?)"),
    },
)
