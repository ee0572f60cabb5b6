"""The graph of what depends on what, as pure functions over the dependencies of each node.

A graph maps each node to what it depends on. A node is any string; one without dependencies may be left out.
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterable, Mapping

__all__ = ["Graph", "any_cycle", "closure", "find_cycle", "in_order", "reverse", "start_layers"]

Graph = Mapping[str, Iterable[str]]


def reverse(graph: Graph) -> dict[str, list[str]]:
    """The same edges the other way round: for each node its dependents."""
    turned: dict[str, list[str]] = {}
    for node, dependencies in graph.items():
        for dependency in dependencies:
            turned.setdefault(dependency, []).append(node)
    return turned


def closure(graph: Graph, roots: Iterable[str]) -> set[str]:
    """``roots`` and everything that can be reached from them: their dependencies, or in a reversed graph dependents."""
    reached = set(roots)
    pending = list(reached)
    while pending:
        for node in graph.get(pending.pop(), ()):
            if node not in reached:
                reached.add(node)
                pending.append(node)
    return reached


def find_cycle(graph: Graph, start: str) -> list[str] | None:
    """A shortest path from ``start`` back to it, with ``start`` at both ends; None if there is none.

    A breadth-first search: the error that shows the cycle to a person names as few nodes as possible, and graphlib
    names any cycle.
    """
    came_from: dict[str, str] = {}
    layer = [start]
    while layer:
        following = []
        for node in layer:
            for dependency in graph.get(node, ()):
                if dependency == start:
                    path = [node]
                    while path[-1] != start:
                        path.append(came_from[path[-1]])
                    return [*reversed(path), start]
                if dependency not in came_from:
                    came_from[dependency] = node
                    following.append(dependency)
        layer = following
    return None


def start_layers(graph: Graph, roots: Iterable[str]) -> list[list[str]]:
    """``roots`` and their dependencies in layers: each node depends only on nodes of earlier layers. Sorted by name.

    Raises:
        ValueError: there is a cycle.
    """
    sorter = graphlib.TopologicalSorter({node: graph.get(node, ()) for node in closure(graph, roots)})
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        raise ValueError(f"there is a cycle among {', '.join(sorted(set(error.args[1])))}") from None
    layers = []
    while sorter.is_active():
        layers.append(sorted(sorter.get_ready()))
        sorter.done(*layers[-1])
    return layers


def any_cycle(graph: Graph) -> list[str] | None:
    """A cycle somewhere in the graph: a path from a node back to itself; None if there is none."""
    done: set[str] = set()
    for root in graph:
        # Depth-first search without recursion: the nodes of the current path, each with its unvisited neighbours.
        path = {root: iter(graph[root])} if root not in done else {}
        while path:
            here = next(reversed(path))
            other = next(path[here], None)
            if other is None:
                path.popitem()
                done.add(here)
            elif other in path:
                names = list(path)
                return [*names[names.index(other) :], other]
            elif other not in done:
                path[other] = iter(graph.get(other, ()))
    return None


def in_order(nodes: Iterable[str], graph: Graph) -> list[str]:
    """Sort nodes topologically: each after its direct and transitive dependencies, else in their order.

    Nodes of a cycle come in some order.
    """
    wanted, done, found = list(nodes), set(), []
    for root in wanted:
        pending = [(root, iter(sorted(graph.get(root, ()))))] if root not in done else []
        done.add(root)
        while pending:
            name, others = pending[-1]
            other = next(others, None)
            if other is None:
                pending.pop()
                found.append(name)
            elif other not in done:
                done.add(other)
                pending.append((other, iter(sorted(graph.get(other, ())))))
    chosen = set(wanted)
    return [name for name in found if name in chosen]
