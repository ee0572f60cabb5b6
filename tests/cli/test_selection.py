"""Selections of several records: the ways to make one, and the order in which verbs go through it."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cli import Cli
from support.daemon import DaemonProcess

from nexus.cli.selection import layers

SLEEP = "echo up; exec sleep 1000"
NAMES = ("db", "mid", "api")


@pytest.fixture
def chain(daemon: DaemonProcess) -> Cli:
    """Three running services, each of which needs the one before it, and one beside them."""
    cli = Cli(daemon.environment)
    needs: list[str] = []
    for name in NAMES:
        cli.ok("service", "add", name, "--run", SLEEP, "--start-window", "0", "--tag", "chain", *needs)
        needs = ["--depends-on", name]
    cli.ok("service", "add", "alone", "--run", SLEEP, "--start-window", "0", "--start")
    cli.ok("service", "start", "api")
    return cli


def up(cli: Cli) -> list[str]:
    return cli.ok("service", "list", "--state", "running", "-o", "name").lines


@pytest.mark.parametrize("order", list(itertools.permutations(NAMES)))
def test_stop_goes_from_dependents_to_dependencies_in_any_order_of_the_line(chain: Cli, order: tuple[str, ...]) -> None:
    stopped = chain.ok("service", "stop", *order)
    assert stopped.lines == ['Stopped service "api"', 'Stopped service "mid"', 'Stopped service "db"']
    assert up(chain) == ["alone"]


def test_stop_is_refused_for_a_dependent_that_is_not_named_and_stops_the_others(chain: Cli) -> None:
    code, out, err = chain("service", "stop", "db", "alone", "api")
    assert code == 5
    assert set(out.splitlines()) == {'Stopped service "api"', 'Stopped service "alone"'}
    assert 'cannot stop service "db"' in err
    assert up(chain) == ["db", "mid"]


def test_names_ids_and_prefixes_of_one_line_are_ordered_alike(chain: Cli) -> None:
    ids = {one["name"]: one["id"] for one in chain.ok("service", "list", "-o", "json").json}
    printed = chain.ok("service", "stop", ids["db"], "default/mid", ids["api"][:13], "-o", "jsonl").lines
    assert [json.loads(line)["name"] for line in printed] == ["db", "mid", "api"], "for a program as on the line"
    assert up(chain) == ["alone"]


def test_unknown_name_does_not_disturb_the_order(chain: Cli) -> None:
    code, out, err = chain("service", "stop", "db", "none", "mid", "api")
    assert code == 4
    assert out.splitlines() == ['Stopped service "api"', 'Stopped service "mid"', 'Stopped service "db"']
    assert 'service "none" not found' in err


@pytest.mark.parametrize("order", [NAMES, NAMES[::-1], ("mid", "db", "api")])
def test_remove_goes_from_dependents_to_dependencies(chain: Cli, order: tuple[str, ...]) -> None:
    removed = chain.ok("service", "remove", *order, "--force", "--yes")
    assert removed.lines == [f'Removed service "{name}"' for name in ("api", "mid", "db")]
    assert removed.err == ""
    assert up(chain) == ["alone"]


def test_remove_takes_tags_and_all_and_names_the_selection_in_its_hint(chain: Cli) -> None:
    code, _out, err = chain("service", "remove", "--tag", "chain", "--force")
    assert code == 1
    assert "nexusctl service remove --tag chain --force --yes" in err
    assert len(chain.ok("service", "remove", "--tag", "chain", "--force", "--yes").lines) == 3
    assert chain.ok("service", "list", "-o", "name").lines == ["alone"]
    assert chain("service", "remove", "--tag", "chain", "--yes").err == "No services found.\n"
    assert chain.ok("service", "remove", "--all", "--force", "--yes").lines == ['Removed service "alone"']
    assert chain("service", "remove", "--yes").code == chain("service", "remove", "x", "--all", "--yes").code == 2


def test_logs_take_tags_and_all(chain: Cli) -> None:
    lines = chain.ok("service", "logs", "--tag", "chain").lines
    assert sorted(lines) == ["api | up", "db  | up", "mid | up"]
    assert len(chain.ok("service", "logs", "--all").lines) == 4
    assert chain("service", "logs").code == 2


def test_restart_goes_from_dependencies_to_dependents(chain: Cli) -> None:
    lines = chain.ok("service", "restart", "api", "db", "mid").lines
    assert [line.split('"')[1] for line in lines] == ["db", "mid", "api"]
    assert up(chain) == ["alone", "api", "db", "mid"]


def test_each_request_of_a_line_keeps_the_key_of_its_place(chain: Cli) -> None:
    chain.ok("--key", "k", "service", "stop", "db", "api", "mid")
    operations = chain.ok("op", "list", "--command", "StopService", "-o", "json").json
    assert {one["key"]: one["args"]["service"] for one in operations} == {"k": "db", "k.2": "api", "k.3": "mid"}


PLACES = st.integers(0, 7)


@given(
    st.dictionaries(PLACES, st.sets(PLACES)).map(lambda g: {n: {o for o in needs if o < n} for n, needs in g.items()})
)
def test_layers_hold_each_place_once_after_all_that_it_needs(needs: dict[int, set[int]]) -> None:
    found = layers(needs)
    places = [place for layer in found for place in layer]
    assert sorted(places) == sorted({*needs, *itertools.chain(*needs.values())})
    at = {place: number for number, layer in enumerate(found) for place in layer}
    assert all(at[other] < at[place] for place, others in needs.items() for other in others)
    assert layers(needs, dependents_first=True) == found[::-1]
