"""The graph of what depends on what, as pure functions over the dependencies of each node.

A graph maps each node to what it depends on. A node is any string; one without dependencies may be left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["Graph", "closure", "find_cycle", "reverse", "start_layers"]

Graph = Mapping[str, Iterable[str]]


def reverse(graph: Graph) -> dict[str, list[str]]:
    """The same edges the other way round: for each node what depends on it."""
    turned: dict[str, list[str]] = {}
    for node, dependencies in graph.items():
        for dependency in dependencies:
            turned.setdefault(dependency, []).append(node)
    return turned


def closure(graph: Graph, roots: Iterable[str]) -> set[str]:
    """What can be reached from ``roots``, these included: what they need, or of a reversed graph what needs them."""
    reached = set(roots)
    pending = list(reached)
    while pending:
        for node in graph.get(pending.pop(), ()):
            if node not in reached:
                reached.add(node)
                pending.append(node)
    return reached


def find_cycle(graph: Graph, start: str) -> list[str] | None:
    """A shortest way from ``start`` back to it, with ``start`` at both ends; None if there is none."""
    came_from: dict[str, str] = {}
    layer = [start]
    while layer:
        following = []
        for node in layer:
            for dependency in graph.get(node, ()):
                if dependency == start:
                    way = [node]
                    while way[-1] != start:
                        way.append(came_from[way[-1]])
                    return [*reversed(way), start]
                if dependency not in came_from:
                    came_from[dependency] = node
                    following.append(dependency)
        layer = following
    return None


def start_layers(graph: Graph, roots: Iterable[str]) -> list[list[str]]:
    """``roots`` and all that they need, in layers: each needs only what is in layers before its own. Sorted by name.

    Raises:
        ValueError: there is a cycle.
    """
    waiting = {node: set(graph.get(node, ())) for node in closure(graph, roots)}
    dependents = reverse(waiting)
    layers = []
    layer = sorted(node for node, dependencies in waiting.items() if not dependencies)
    while layer:
        layers.append(layer)
        following = []
        for node in layer:
            del waiting[node]
            for dependent in dependents.get(node, ()):
                waiting[dependent].discard(node)
                if not waiting[dependent]:
                    following.append(dependent)
        layer = sorted(following)
    if waiting:
        raise ValueError(f"there is a cycle among {', '.join(sorted(waiting))}")
    return layers
