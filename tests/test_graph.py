"""The graph functions, against what they promise for any graph."""

from __future__ import annotations

import itertools
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.graph import any_cycle, closure, find_cycle, in_order, reverse, start_layers

nodes = st.sampled_from("abcdefgh")
graphs = st.dictionaries(nodes, st.lists(nodes, max_size=4, unique=True))
acyclic = graphs.map(
    lambda graph: {node: [other for other in others if other > node] for node, others in graph.items()}
)


def reachable(graph: dict[str, list[str]], start: str) -> set[str]:
    """Everything below ``start``, found the plain way."""
    found: set[str] = set()
    while True:
        more = {other for node in {start, *found} for other in graph.get(node, [])} - found
        if not more:
            return found
        found |= more


@given(graphs, nodes)
def test_a_cycle_is_found_where_there_is_one_and_every_step_of_it_is_there(
    graph: dict[str, list[str]], start: str
) -> None:
    cycle = find_cycle(graph, start)
    if start not in reachable(graph, start):
        assert cycle is None
        return
    assert cycle is not None
    assert (cycle[0], cycle[-1]) == (start, start)
    assert all(after in graph[before] for before, after in itertools.pairwise(cycle))
    assert len(set(cycle)) == len(cycle) - 1, "a shortest one goes nowhere twice"


def test_a_shortest_cycle_is_spelled_out() -> None:
    graph = {"api": ["x", "db"], "x": ["y"], "y": ["api"], "db": ["api"]}
    assert find_cycle(graph, "api") == ["api", "db", "api"]
    assert find_cycle({"a": ["a"]}, "a") == ["a", "a"]


@given(graphs, st.lists(nodes, max_size=3))
def test_a_closure_is_all_that_is_needed(graph: dict[str, list[str]], roots: list[str]) -> None:
    assert closure(graph, roots) == set(roots).union(*(reachable(graph, root) for root in roots), set())


@given(graphs)
def test_the_reverse_of_the_reverse_has_the_same_edges(graph: dict[str, list[str]]) -> None:
    def edges(graph: dict[str, list[str]]) -> set[tuple[str, str]]:
        return {(node, other) for node, others in graph.items() for other in others}

    assert edges(reverse(reverse(graph))) == edges(graph)
    assert edges(reverse(graph)) == {(other, node) for node, other in edges(graph)}


@given(acyclic, st.lists(nodes, max_size=3))
def test_a_start_has_everything_once_and_what_is_needed_first(graph: dict[str, list[str]], roots: list[str]) -> None:
    layers = start_layers(graph, roots)
    order = [node for layer in layers for node in layer]
    assert sorted(order) == sorted(closure(graph, roots))
    place = {node: number for number, layer in enumerate(layers) for node in layer}
    for node in order:
        needed = [place[other] for other in graph.get(node, [])]
        assert place[node] == max(needed, default=-1) + 1, "no node waits for longer than it must"


@given(acyclic, st.lists(nodes, max_size=3))
def test_a_stop_has_what_needs_others_first(graph: dict[str, list[str]], roots: list[str]) -> None:
    layers = start_layers(reverse(graph), roots)
    place = {node: number for number, layer in enumerate(layers) for node in layer}
    assert set(place) == closure(reverse(graph), roots)
    assert all(place[node] < place[other] for node in place for other in graph.get(node, []) if other in place)


@given(graphs, nodes)
def test_layers_of_a_cycle_are_refused(graph: dict[str, list[str]], root: str) -> None:
    if any(node in reachable(graph, node) for node in closure(graph, [root])):
        with pytest.raises(ValueError, match="cycle"):
            start_layers(graph, [root])
    else:
        assert start_layers(graph, [root])[-1] == [root]


GRAPHS = st.dictionaries(st.sampled_from("abcdef"), st.sets(st.sampled_from("abcdef"), max_size=4))


@given(GRAPHS)
def test_any_cycle_finds_a_cycle_or_in_order_sorts(graph: dict[str, set[str]]) -> None:
    cycle = any_cycle(graph)
    if cycle is not None:
        assert cycle[0] == cycle[-1]
        assert all(after in graph[before] for before, after in pairwise(cycle))
        return
    order = in_order(graph, graph)
    assert sorted(order) == sorted(graph)
    for place, name in enumerate(order):
        assert not graph[name] & set(order[place + 1 :])


def test_long_chains_do_not_recurse() -> None:
    chain = {str(number): [str(number + 1)] for number in range(5000)}
    assert any_cycle(chain) is None
    assert in_order(chain, chain)[0] == "4999"
    chain["4999"] = ["0"]
    found = any_cycle(chain)
    assert found is not None
    assert len(found) == 5001
