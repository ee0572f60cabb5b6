"""What a terminal is given: the guarded streams, our own colours, and the output of programs piece by piece."""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import os
import pty
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus import terminal
from nexus.terminal import OutputFilter, SafeOutput, painted, printable, visible, without_controls

NEXUS = Path(terminal.__file__).parent

HOSTILE = {
    "colour": "\x1b[31m",
    "title": "\x1b]0;title\x07",
    "title that ends with ST": "\x1b]0;title\x1b\\",
    "answer": "\x1b[6n",
    "clipboard": "\x1b]52;c;bHMK\x07",
    "link": "\x1b]8;;http://example.invalid\x1b\\",
    "device control": "\x1bP$q\x1b\\",
    "reset": "\x1bc",
    "CSI in one character": "\x9b31m",
    "OSC in one character": "\x9d0;title\x9c",
    "bell": "\x07",
    "back": "abc\b\b\bxyz",
    "return": "shown\rhidden",
    "shift out": "\x0e",
    "delete": "\x7f",
    "zero": "\x00",
    "vertical tab": "\x0b\x0c",
    "bidi override": "\u202egpj.exe",
    "bidi isolate": "\u2066a\u2069",
    "line separator": "\u2028\u2029",
    "surrogate": "\udc9b31m",
}
BAD = {c for text in HOSTILE.values() for c in text if not c.isprintable()}
SPELT = {
    "joined emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "flag of tags": "\U0001f3f4\U000e0067\U000e0062\U000e007f",
    "variation selector": "\u2764\ufe0f",
    "Persian": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "Hebrew with a mark": "\u05d0\u200f!",
    "spaces": "10\u202fkm\xa0/\u3000h",
    "soft hyphen": "Do\xadnau",
    "private use": "\ue0b0",
}
"""Text with characters that are not printable for Python, and harm no terminal."""

every_hostile = pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))


class Screen:
    """A guarded standard output on a terminal."""

    def __init__(self) -> None:
        self._outer, inner = pty.openpty()
        self.stream = os.fdopen(inner, "w", encoding="utf-8")
        self.guarded: Any = SafeOutput(self.stream)

    def shown(self) -> str:
        """What the terminal was sent since the last call."""
        self.stream.write("(end)")
        self.stream.flush()
        seen = b""
        while not seen.endswith(b"(end)"):
            seen += os.read(self._outer, 65536)
        return seen.removesuffix(b"(end)").decode().replace("\r\n", "\n")

    def close(self) -> None:
        self.stream.close()
        os.close(self._outer)


@pytest.fixture
def tty() -> Iterator[Screen]:
    """A terminal, which standard output writes to once it is redirected: pytest exchanges it after the fixtures."""
    screen = Screen()
    yield screen
    screen.close()


@every_hostile
def test_text_keeps_no_character_that_a_terminal_acts_on(text: str) -> None:
    assert not set(visible(f"a{text}b")) & BAD
    assert not set(printable(f"a{text}b")) & BAD
    assert visible(text).count("\ufffd") == sum(c in BAD for c in text)


@pytest.mark.parametrize("text", SPELT.values(), ids=list(SPELT))
def test_text_keeps_the_characters_that_it_is_spelt_with(text: str, tty: Screen) -> None:
    assert (printable(text), visible(text), without_controls(text)) == (text, text, text)
    assert filtered(text.encode()) == text.encode()
    with contextlib.redirect_stdout(tty.guarded):
        print(text)
    assert tty.shown() == f"{text}\n"


def test_text_of_a_file_loses_control_characters_alone() -> None:
    assert (
        without_controls("a\r\n\tb\x1b[2J\x9b\x00\u2028\u202e\u2066") == "a\n\tb\ufffd[2J\ufffd\ufffd\u2028\u202e\u2066"
    )


def test_lines_keep_line_feeds_and_tabs_and_one_line_does_not() -> None:
    assert visible("a\tb\nä→\U0001f600") == "a\tb\nä→\U0001f600"
    assert printable("a\tb\nä→") == "a\ufffdb\ufffdä→"


@every_hostile
def test_guarded_stream_replaces_it_in_everything_that_is_written(text: str, tty: Screen) -> None:
    import click

    with contextlib.redirect_stdout(tty.guarded):
        assert sys.stdout.isatty()
        print(f"print {text}")
        click.echo(f"echo {text}")
        sys.stdout.writelines([f"lines {text}\n"])
        terminal.write_exact(f"exact {text}\n")
        sys.stdout.flush()
        sys.stdout.buffer.write(f"bytes {text}\n".encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()
    shown = tty.shown()
    assert not set(shown) & BAD
    for word in ("print", "echo", "lines", "exact", "bytes"):
        assert f"{word} " in shown


@every_hostile
def test_own_colours_pass_and_others_do_not(text: str, tty: Screen) -> None:
    with contextlib.redirect_stdout(tty.guarded):
        print(painted(f"a{text}", "red") + f"b{text}")
    assert tty.shown() == f"\x1b[31ma{visible(text)}\x1b[0mb{visible(text)}\n"


def test_colours_are_plain_without_a_guard() -> None:
    assert painted("a", "green") == "\x1b[32ma\x1b[0m"


def test_exact_text_is_unchanged_in_a_pipe_and_other_text_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", SafeOutput(stream))
    terminal.write_exact("\x1b[31m\x9b\n")
    print("\x1b[31m\x9b")
    assert stream.getvalue() == "\x1b[31m\x9b\n\ufffd[31m\ufffd\n"


def test_text_in_another_encoding_is_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    import click

    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", SafeOutput(io.TextIOWrapper(raw, encoding="ascii", write_through=True)))
    click.echo("ä\x1b[31m\x9b\x07")  # click writes UTF-8 into the bytes of a stream that is ASCII
    sys.stdout.flush()
    assert not set(raw.getvalue()) & {0x1B, 0x07}
    assert b"\xc2\x9b" not in raw.getvalue()


# The output of programs


def filtered(*pieces: bytes, encoding: str = "utf-8") -> bytes:
    safe = OutputFilter(encoding)
    return b"".join([*(safe.feed(piece) for piece in pieces), safe.end()])


KEPT = [b"", b"plain\n", "ä→\U0001f468\u200d\U0001f469\xa0\n".encode(), b"tab\tand\nlines\n", b"\x1b[1;31mred\x1b[0m\n"]
KEPT += [b"\x1b[38:2::1:2:3mrgb\x1b[m", b"\x1b[m"]


@pytest.mark.parametrize("data", KEPT)
def test_output_keeps_text_and_colours(data: bytes) -> None:
    shown = filtered(data)
    assert shown == data + (b"\x1b[0m" if b"\x1b" in data else b"")


@every_hostile
def test_output_loses_all_other_commands_however_it_is_divided(text: str) -> None:
    data = f"before {text} after\n".encode("utf-8", "surrogateescape")
    whole = filtered(data)
    left = whole.replace(b"\x1b[31m", b"").replace(b"\x1b[0m", b"").decode()
    assert not set(left) & BAD
    assert left.startswith("before ")
    assert left.endswith(" after\n")
    for cut in range(len(data)):
        assert filtered(data[:cut], data[cut:]) == whole
    assert filtered(*(bytes([byte]) for byte in data)) == whole


def test_line_ends_of_dos_are_line_ends_and_other_returns_are_shown() -> None:
    assert filtered(b"a\r\nb\r", b"\nc\rd") == "a\nb\nc\ufffdd".encode()
    assert filtered(b"end\r") == "end\ufffd".encode()


@pytest.mark.parametrize("data", [b"\x1b", b"\x1b[", b"\x1b[31", b"\x1b[" + b"1" * 100 + b"m", b"\x1b[31;\x1b[6n"])
def test_unfinished_and_overlong_colours_are_no_colours(data: bytes) -> None:
    assert b"\x1b" not in filtered(data)


def test_output_is_encoded_for_the_terminal() -> None:
    # In Latin-1 the second byte of this letter in UTF-8 is CSI.
    assert filtered("ě\n".encode(), encoding="latin-1") == b"?\n"
    assert filtered(b"\x9b31m\n", encoding="latin-1") == b"?31m\n"


@given(st.lists(st.binary(max_size=12)))
def test_any_output_is_safe_and_independent_of_its_pieces(pieces: list[bytes]) -> None:
    whole = filtered(*pieces)
    assert whole == filtered(b"".join(pieces))
    import re

    left = re.sub("\x1b\\[[0-9;:]*m", "", whole.decode())
    assert all(c in "\n\t" or (ord(c) >= 0x20 and not 0x7F <= ord(c) <= 0x9F) for c in left)


# Nothing goes around it

WAYS_AROUND = ("buffer", "__stdout__", "__stderr__")


def test_no_module_writes_around_the_guard() -> None:
    found = []
    for path in sorted(
        itertools.chain((NEXUS / "cli").rglob("*.py"), NEXUS.glob("*/cli.py"), NEXUS.glob("*/cli/*.py"))
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in WAYS_AROUND and ast.unparse(node) != "sys.stdin.buffer":
                found.append(f"{path.name}:{node.lineno}: {node.attr}")
            if isinstance(node, ast.Attribute) and node.attr in ("style", "secho"):
                found.append(f"{path.name}:{node.lineno}: click.{node.attr} instead of painted")
    assert found == []


def test_bytes_unguarded_are_used_for_the_output_of_services_alone() -> None:
    users = [path for path in NEXUS.rglob("*.py") if "exact_bytes()" in path.read_text() and path.name != "terminal.py"]
    assert [str(path.relative_to(NEXUS)) for path in users] == ["cli/logs.py"]
