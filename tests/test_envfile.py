"""Files of variables: the same reading as python-dotenv and javaproperties, and work that is linear and bounded."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

import javaproperties
import pytest
from dotenv.parser import parse_stream
from dotenv.variables import parse_variables
from hypothesis import example, given
from hypothesis import strategies as st

from nexus.envfile import BadLine, TooLong, assignments, interpolate
from nexus.services.configuration.properties import BadEscape, properties

ENV_PIECES = (
    "A", "b c", "=", "'", '"', "\\", "n", "#", " ", "\t", "\n", "\r", "\r\n", "export", "export ", "${", "}", ":-",
    ":", "$", "\ufeff", "\x0b", "\x85", "\u2028", "é",
)  # fmt: skip
PROPERTIES_PIECES = (
    "a", "B", "=", ":", "\\", "\\u00e9", "\\ud83d\\ude00", "\\u1", "#", "!", " ", "\t", "\f", "\n", "\r", "\r\n", "é",
    "\x0b", "\x85",
)  # fmt: skip


def texts(*pieces: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(pieces), max_size=14).map("".join)


def read_all(items: Callable[[str], Any], text: str) -> tuple[list[tuple[str, Any]], bool]:
    """What is read up to an error, and whether there is one."""
    found = []
    try:
        for _, name, value in items(text):
            found.append((name, value))
    except (BadLine, BadEscape):
        return found, True
    return found, False


@given(texts(*ENV_PIECES))
@example("export # a comment")
@example("A='\\\\' # x\nB=\"\\\\n\\n\"")
def test_assignments_are_those_of_python_dotenv(text: str) -> None:
    expected: tuple[list[tuple[str, Any]], bool] = ([], False)
    for binding in parse_stream(io.StringIO(text, newline="")):
        if binding.error:
            expected = (expected[0], True)
            break
        if binding.key is not None:
            expected[0].append((binding.key, binding.value))
    assert read_all(assignments, text) == expected


@given(texts("A", "B", "${", "}", ":-", ":", "$", "{", "-", "x"))
def test_references_are_those_of_python_dotenv(value: str) -> None:
    known = {"A": "1", "B": "22", "": "empty", "A${B": "odd"}
    expected = "".join(part.resolve(known) for part in parse_variables(value))
    assert interpolate(value, known, 1000) == expected
    assert interpolate(value, known, len(expected)) == expected
    if expected:
        with pytest.raises(TooLong):
            interpolate(value, known, len(expected) - 1)


@given(texts(*PROPERTIES_PIECES))
def test_properties_are_those_of_javaproperties(text: str) -> None:
    found: list[tuple[str, Any]] = []
    bad = False
    try:
        for element in javaproperties.parse(io.StringIO(text, newline="")):
            if isinstance(element, javaproperties.KeyValue):
                found.append((element.key, element.value))
    except javaproperties.InvalidUEscapeError:
        bad = True
    assert read_all(properties, text) == (found, bad)


def steps(work: Callable[[], object]) -> int:
    """How many lines of Python the work takes, a measure that no other load changes."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(
    "piece",
    ["${", "${x:", "${x:-", "${x", "}", "$", ":-", "\\", "\\'", "'", '"', " ", "\t#", " x", "\n", "\n#", "A=\n"],
)
@pytest.mark.parametrize("start", ["A=", "A='", 'A="', "", "#", "A=${", "A='${"])
def test_time_grows_with_the_text_and_not_with_its_square(start: str, piece: str) -> None:
    def read(count: int) -> None:
        try:
            for assignment in assignments(start + piece * count):
                interpolate(assignment.value or "", {}, 1 << 30)
        except BadLine:
            pass

    assert steps(lambda: read(2000)) <= 3 * steps(lambda: read(1000)) + 100
    read(200_000)  # within the time limit of a test, which a quadratic step inside a library function would exceed


@pytest.mark.parametrize("piece", ["a\\\n", "\\\n", "\\", "\\\\", " ", "\\u00e9", "\\ud83d", "=", "a=b\n", "\r", "#\n"])
@pytest.mark.parametrize("start", ["", "a=", "a", "#"])
def test_time_for_properties_grows_with_the_text(start: str, piece: str) -> None:
    assert (
        steps(lambda: list(properties(start + piece * 2000)))
        <= 3 * steps(lambda: list(properties(start + piece * 1000))) + 100
    )
    list(properties(start + piece * 200_000))


def test_no_secret_is_in_the_repr() -> None:
    assert "hunter2" not in repr(list(assignments("hunter2=hunter2")))
    assert "hunter2" not in repr(list(properties("hunter2=hunter2")))
