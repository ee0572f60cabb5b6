"""Files of variables: read as Compose reads them, or refused; and work that is linear and bounded."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import javaproperties
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.compose import ComposeError, compose

from nexus.envfile import (
    Assignment,
    BadLine,
    BadReference,
    Limits,
    Reading,
    Required,
    TooLong,
    assignments,
    interpolate,
    read,
)
from nexus.services.configuration.properties import BadEscape, properties

FILES = Path(__file__).parents[1] / "docs" / "files.md"
ENV_PIECES = (
    "A", "B=", "C", "b c", "=", "A=", "A='", 'A="', "'", '"', "\\", "\\n", "\\$", "\\0", "\\0101", "#", " #", " ", "\t",
    "\n", "\n", "\r", "\r\n", "export", "export ", "${", "}", ":-", ":+", ":?", "-", "?", "$", "$$", "$SET", "${SET",
    "${EMPTY", "${UNSET", "\ufeff", "\x0b", "\x85", "\u2028", "é", ":",
)  # fmt: skip
VALUE_PIECES = (
    "${", "${SET", "${EMPTY", "${UNSET", "${SET}", "$UNSET", "$SET", "}", "}", "}", ":-", ":+", ":?", "-", "+", "?",
    "$", "$$", "x", " y", ":", "!", "1",
)  # fmt: skip
PROPERTIES_PIECES = (
    "a", "B", "=", ":", "\\", "\\u00e9", "\\ud83d\\ude00", "\\u1", "#", "!", " ", "\t", "\f", "\n", "\r", "\r\n", "é",
    "\x0b", "\x85",
)  # fmt: skip
KNOWN = {"HOME": "/home/me", "SET": "value", "EMPTY": ""}


def texts(*pieces: str) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(pieces), max_size=14).map("".join)


# The table of the documentation


class Case(NamedTuple):
    """A row of the table, with its marks replaced."""

    text: str
    compose: str
    nexus: str


def cases() -> Iterator[Case]:
    for line in FILES.read_text().partition("\n## Cases\n")[2].splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            yield Case(*(cell.replace("↵", "\n").replace("␍", "\r").replace("⇥", "\t") for cell in cells))


def value_of(cell: str) -> str:
    if cell == "empty":
        return ""
    assert re.fullmatch("`[^`]+`", cell), cell
    return cell[1:-1]


def of_compose(text: str) -> str:
    try:
        return compose(text + "\n", KNOWN)["A"]
    except ComposeError:
        return "refused"


def test_table_of_the_documentation_has_its_cases() -> None:
    found = list(cases())
    assert len(found) >= 80
    assert len({case.text for case in found}) == len(found), "no case is there twice"
    text = "".join(case.text for case in found)
    for word in ("$", "${", ":-", ":+", ":?", "$$", "'", '"', "\\n", " #", "export ", "\r\n", "\ufeff"[1:], "}}"):
        assert word in text


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.text)
def test_case_of_the_documentation_is_read_as_it_says(case: Case) -> None:
    text = value_of(case.text)
    assert of_compose(text) == (case.compose if case.compose == "refused" else value_of(case.compose))
    wanted = case.compose if case.nexus == "same" else case.nexus
    if not wanted.startswith("refused"):
        assert read(text, KNOWN)["A"] == value_of(wanted)
        return
    with pytest.raises(BadLine) as caught:
        read(text, KNOWN)
    assert wanted.removeprefix("refused").removeprefix(": ") in caught.value.problem
    assert caught.value.line == (2 if text.endswith("no line\n") else 1)
    assert "value" not in caught.value.problem.replace("NAME=value", "").replace("has no value", "").replace(
        "quotes around the value", ""
    )


# Beside Compose


def unlike_compose(text: str) -> bool:
    """Whether the documentation names a difference that the text may have."""
    return re.search(r"=[ \t\v\f\r\x85\xa0]+#|\r\n", text) is not None


@given(texts(*ENV_PIECES))
@example("export # a comment")
@example("A='\\\\' # x\nB=\"\\\\n\\n\"")
@example('A="\\$SET$"')
@example("A=\nA")
def test_what_is_not_refused_is_what_compose_reads(text: str) -> None:
    text += "\n"
    try:
        found = read(text, KNOWN, known_first=True)
    except BadLine:
        return
    if unlike_compose(text):
        return
    try:
        assert found == compose(text, KNOWN)
    except ComposeError:
        assert re.search(r"\$\{[^}]*\n", text), "only a default of several lines is read beyond Compose"


@given(texts(*VALUE_PIECES))
@example("${SET:-${UNSET}")
@example("${UNSET:-$${SET}}")
@example("${UNSET:-${SET:+${EMPTY-x}}}}")
def test_references_are_those_of_compose(value: str) -> None:
    try:
        result = interpolate(value, KNOWN, 1000)
    except (BadReference, Required):
        return
    assert result == compose(f'A="{value}"\n', KNOWN)["A"]
    assert interpolate(value, KNOWN, len(result)) == result
    if result:
        with pytest.raises(TooLong):
            interpolate(value, KNOWN, len(result) - 1)


VALID = st.recursive(
    st.sampled_from(["$SET", "${EMPTY}", "$$", "x", " y-z", "$", "$UNSET", "?"]),
    lambda inner: st.tuples(
        st.sampled_from(["SET", "EMPTY", "UNSET"]),
        st.sampled_from([":-", "-", ":+", "+"]),
        st.lists(inner, max_size=3).map("".join),
    ).map(lambda parts: "${" + "".join(parts) + "}"),
)


@given(st.lists(VALID, max_size=4).map("".join))
def test_no_reference_of_compose_is_refused(value: str) -> None:
    # A dollar before a brace is one that the pieces make.
    if not re.search(r"\$(\$\$)*\$\{|\$\}", value):
        assert interpolate(value, KNOWN, 10_000) == compose(f'A="{value}"\n', KNOWN)["A"]


# References


def test_message_of_a_required_variable_is_as_it_is_written() -> None:
    with pytest.raises(Required) as caught:
        interpolate("x${EMPTY:?set it, ${SET} {or} not}y", KNOWN, 100)
    assert (caught.value.name, caught.value.message) == ("EMPTY", "set it, ${SET} {or} not")
    with pytest.raises(Required) as caught:
        interpolate("${SET+${UNSET?}}", KNOWN, 100)
    assert (caught.value.name, caught.value.message) == ("UNSET", "")
    with pytest.raises(BadLine) as line:
        read("A=${UNSET:?" + "no " * 1000 + "}", {})
    assert len(line.value.problem) < 300


@pytest.mark.parametrize("value", ["$UNSET", "${UNSET}", "a${SET:+$UNSET}", "${UNSET:-${UNSET}}"])
def test_strict_reference_needs_a_value(value: str) -> None:
    assert interpolate(value, KNOWN, 100) in ("", "a")
    with pytest.raises(Required) as caught:
        interpolate(value, KNOWN, 100, strict=True)
    assert (caught.value.name, caught.value.message) == ("UNSET", "")


@pytest.mark.parametrize(
    ("value", "result"),
    [("${UNSET-}", ""), ("${UNSET+x}", ""), ("${SET-$UNSET}", "value"), ("$EMPTY", ""), ("${SET:?$UNSET}", "value")],
)
def test_strict_reference_with_a_default_or_a_value_is_replaced(value: str, result: str) -> None:
    assert interpolate(value, KNOWN, 100, strict=True) == result


def test_braces_may_have_further_names() -> None:
    also = re.compile(r"services\.[A-Za-z0-9._-]+\.port")
    known = KNOWN | {"services.my-db.1.port": "5432"}
    value = "$SET:${services.my-db.1.port}:${services.x.port:-0}"
    assert interpolate(value, known, 100, also=also) == "value:5432:0"
    for bad in ("${services.my-db.1.port}", "${services}${services.x}"):
        with pytest.raises(BadReference):
            interpolate(bad, known, 100)
    with pytest.raises(Required):
        interpolate("${services.x.port}", known, 100, strict=True, also=also)


# Files


def test_later_files_see_and_override_earlier_ones() -> None:
    reading = Reading(KNOWN)
    reading.add(assignments("A=1\nB=1\n"))
    reading.add(assignments("B=2\nC=$A$B\nSET=mine\nD=$SET\n"))
    assert reading.variables == {"A": "1", "B": "2", "C": "12", "SET": "mine", "D": "mine"}
    assert list(reading.variables) == ["A", "B", "C", "SET", "D"]
    reading = Reading(KNOWN, known_first=True)
    reading.add(assignments("SET=mine\nD=$SET\n"))
    assert reading.variables == {"SET": "mine", "D": "value"}


def test_name_alone_is_taken_from_the_environment() -> None:
    assert read("SET\nexport EMPTY\nA=1\nA\n", KNOWN) == {"SET": "value", "EMPTY": "", "A": "1"}
    assert read("A=1\nA", {"A": "$SET"}) == {"A": "$SET"}
    with pytest.raises(BadLine) as caught:
        read("A=1\n\nhunter2\n", KNOWN)
    assert caught.value.line == 3
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lines_are_counted_by_their_ends(end: str) -> None:
    text = end.join(["# a", "A='1", "2'", "", 'B="', "", '"', "export C = x # y", "D"])
    found = list(assignments(text))
    assert [(one.line, one.name, one.value) for one in found] == [
        (2, "A", "1\n2"), (5, "B", "\n\n"), (8, "C", "x"), (9, "D", None),
    ]  # fmt: skip
    for broken in ("E='", "E F", "E=${"):
        with pytest.raises(BadLine) as caught:
            read(text.replace("D", broken), {})
        assert caught.value.line == 9


@pytest.mark.parametrize(
    ("limits", "text", "line", "words"),
    [
        (Limits(variables=2), "A=\nA=\n\nA=\n", 4, "more than 2 variables"),
        (Limits(name_characters=2), "AB=\nABC=\n", 2, "longer than 2 characters"),
        (Limits(value_characters=3), "A=12\nB=$A$A\n", 2, "B is longer than 3 characters"),
        (Limits(value_characters=3), "A='1234'\n", 1, "A is longer than 3 characters"),
        (Limits(total_bytes=6), "A=12\nA=12\nA=\n", 3, "more than 6 bytes"),
        (Limits(total_bytes=2), "A=é\n", 1, "more than 2 bytes"),
        (Limits(), 'A="\\0000"', 1, "NUL"),
    ],
)
def test_each_bound_names_the_line(limits: Limits, text: str, line: int, words: str) -> None:
    with pytest.raises(BadLine) as caught:
        read(text, {}, limits)
    assert caught.value.line == line
    assert words in caught.value.problem


def test_value_that_is_no_text_is_refused() -> None:
    reading = Reading({})
    with pytest.raises(BadLine, match="A is not text"):
        reading.add([Assignment(3, "A", "\ud800", literal=True)])
    raw = "\udcff"  # a byte of the environment that is no UTF-8
    assert read("A=$B", {"B": raw}) == {"A": raw}


def test_chain_of_references_that_would_double_without_end_is_refused() -> None:
    names = [f"A{n}" for n in range(64)]
    chain = "".join(f"{name}=${{{before}}}${{{before}}}\n" for before, name in itertools.pairwise(names))
    with pytest.raises(BadLine, match="longer"):
        read("A0=x\n" + chain, {})


# Properties


def read_all(items: Callable[[str], Iterable[Any]], text: str) -> tuple[list[tuple[str, Any]], bool]:
    """What is read up to an error, and whether there is one."""
    found = []
    try:
        for _, name, value in items(text):
            found.append((name, value))
    except BadEscape:
        return found, True
    return found, False


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


# Work


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
    [
        "${", "${x:", "${x:-", "${x", "${x:-}", "${x:+", "${x:?", "${x?}", "{", "{}", "}", "$", "$$", "$x", ":-", "\\",
        "\\'", "\\0", "\\$", "'", '"', " ", "\t#", " x", "\n", "\r", "\r\n", "\n#", "A=\n", "A\n", "${services.",
    ],
)  # fmt: skip
@pytest.mark.parametrize("start", ["A=", "A='", 'A="', "", "#", "A=${", "A='${", "A=${x:-"])
def test_time_grows_with_the_text_and_not_with_its_square(start: str, piece: str) -> None:
    closing = "}" if "${" in piece else ""
    also = re.compile(r"services\.[A-Za-z0-9._-]+\.port")

    def work(count: int) -> None:
        for end in {"", closing}:
            with contextlib.suppress(BadLine, BadReference, Required):
                for assignment in assignments(start + piece * count + end * count):
                    interpolate(assignment.value or "", {}, 1 << 30, also=also)

    assert steps(lambda: work(2000)) <= 3 * steps(lambda: work(1000)) + 100
    work(100_000)  # within the time limit of a test, which a quadratic step inside a library function would exceed


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
