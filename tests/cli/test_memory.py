"""``nexusctl memory`` and ``nexusctl vectors``: searches by text and by vectors from a file or standard input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Cli
from support.daemon import DaemonProcess
from support.remembered import Memory


@pytest.fixture
def memory(daemon: DaemonProcess) -> Iterator[Memory]:
    """What the project ``default`` remembers."""
    found = Memory(daemon.database)
    found.episode("The pool retries when the connection is reset.", [1.0, 0.0, 0.0], summary="Retry on reset")
    found.episode("Tabs, not spaces.", [0.0, 1.0, 0.0], type="review_feedback")
    found.chunk("src/pool.py", "def reset(self): ...", symbols=["Pool.reset"])
    yield found
    found.close()


def test_memory_is_searched_by_text_and_by_vectors(cli: Cli, memory: Memory, root: Path) -> None:
    found = cli("memory", "search", "reset")
    assert found.lines[0].split() == ["NAME", "TYPE", "BY", "TEXT", "BY", "VECTOR", "TEXT"]
    assert {line.split()[0] for line in found.lines[1:]} == {"#1", "src/pool.py:3-9"}
    assert "By text alone: no --vector was given." in found.err
    both = cli("memory", "search", "reset", "--in", "episodes", "--vector", "-", "-o", "json", input="[0, 1, 0.1]")
    assert [(hit["name"], hit.get("text_rank"), hit["vector_rank"]) for hit in both.json] == [
        ("1", 1, 2),
        ("2", None, 1),
    ]
    assert both.err == ""
    query = root / "query.json"
    query.write_text(json.dumps({"episodes": [0, 1, 0], "chunks": [1, 2]}))
    near = cli("memory", "search", "--vector", str(query), "-o", "json")
    assert [hit["name"] for hit in near.json] == ["2", "1"]
    assert "By text alone: chunks have no embeddings in this project." in near.err
    for arguments, text, sentence in (
        ((), "", "give something to search for"),
        (("--vector", "-"), "[1, 2]", "say what the vector is for: --in episodes or --in chunks"),
        (("--vector", "-", "--in", "episodes"), "[1, 2", "standard input is not JSON"),
        (("--vector", "-", "--in", "episodes"), '[1, "2"]', "standard input has no list of numbers"),
        (("--vector", "-", "--in", "episodes"), "[1, NaN, 2]", "value 2 is not a finite float32 number"),
        (("--vector", "-", "--in", "episodes"), " " * 1_100_000, "has more than 1048576 bytes"),
        (("--vector", "-"), '{"messages": [1]}', "has a vector for messages"),
        (("--vector", "/nowhere/at/all"), "", "cannot read /nowhere/at/all: No such file or directory"),
    ):
        refused = cli("memory", "search", *arguments, input=text)
        assert refused.code == 2
        assert sentence in refused.err


def test_vectors_are_listed_searched_and_reset(cli: Cli, memory: Memory) -> None:
    listed = cli("vectors", "list")
    assert [line.split() for line in listed.lines[1:]] == [
        ["chunks", "-", "0", "1", "missing"],
        ["episodes", "3", "2", "0", "missing"],
    ]
    found = cli("vectors", "search", "episodes", "--vector", "-", "--limit", "1", input="[0, 2, 0]")
    assert found.lines[1].split()[:3] == ["1.0000", "#2", "review_feedback"]
    mismatch = cli("vectors", "search", "episodes", "--vector", "-", input="[0, 2]")
    assert mismatch.code == 2
    assert "the query has 2 values, and those of the collection have 3" in mismatch.err
    asked = cli("vectors", "reset", "episodes")
    assert asked.code == 1
    assert "refusing to remove embeddings without confirmation" in asked.err
    assert "nexusctl vectors reset episodes --yes" in asked.err
    assert cli("vectors", "reset", "episodes", "-y").out == "Removed 2 embeddings of episodes\n"
    empty = cli("vectors", "search", "episodes", "--vector", "-", input="[0, 2]")
    assert "Nothing found." in empty.out + empty.err
    assert "The collection has no embeddings." in empty.err
    assert "(did you mean 'reset'?)" in cli("vectors", "clear").err
