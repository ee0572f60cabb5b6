"""Commands of console blocks in the documents, with the output that is shown after each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Step", "matches", "steps_of"]


class Step(NamedTuple):
    """One command and its documented output."""

    command: str
    expected: list[str]


def steps_of(text: str) -> Iterator[Step]:
    """The commands of the console blocks of a document, in order."""
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *expected = part.replace("\\\n", "").rstrip("\n").split("\n")
            yield Step(command, [line for line in expected if line])


def matches(expected: str, line: str) -> bool:
    """Whether a printed line matches the shown one, in which … stands for any text."""
    return re.fullmatch(".+?".join(re.escape(piece) for piece in expected.split("…")), line) is not None
