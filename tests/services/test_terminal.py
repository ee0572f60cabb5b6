"""The lines that a pattern sees are those that a terminal shows, however the bytes are cut."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.live_services import Services

from nexus.services.health import check
from nexus.services.health.terminal import MAX_COLUMNS, TerminalLines
from nexus.services.states import ServiceHealth

SHOWN = [
    (b"ready\n", ["ready"]),
    (b"ready\r\n", ["ready"]),
    (b"\r\nready\r\r\n", ["", "ready"]),
    (b"\x1b[32mready\x1b[0m\n", ["ready"]),
    (b"\x1b[1;38;2;1;2;3mre\x1b[4:3mady\x1b[m\n", ["ready"]),
    (b"\x1b[?25l\x1b[>4;2mready\x1b[?25h\n", ["ready"]),
    (b"\x1b[ qready\x1b[!p\n", ["ready"]),
    (b"\x1b]0;a title\x07ready\n", ["ready"]),
    (b"\x1b]8;;http://x\x1b\\ready\x1b]8;;\x1b\\\n", ["ready"]),
    (b"\xc2\x9d0;a title\xc2\x9cready\n", ["ready"]),
    (b"\x9d0;a title\x9cready\n", ["ready"]),
    (b"\x1bPq#0;2;0;0;0\x1b\\ready\n", ["ready"]),
    (b"\x90q#0\x9cready\n", ["ready"]),
    (b"\x1b_Gi=1;abc\x1b\\\x1b^private\x1b\\\x1bXstring\x1b\\ready\n", ["ready"]),
    (b"\xc2\x9b1mready\xc2\x9b0m\n", ["ready"]),
    (b"\x9b1mready\x9b0m\n", ["ready"]),
    (b"\x1b(B\x1b)0\x1b7\x1b=\x1b>\x1b8\x1b#8\x1b cready\n", ["ready"]),
    (b"gone\x1bcready\n", ["ready"]),
    (b"\xef\xbb\xbfready\n\xef\xbb\xbfmore\n", ["ready", "more"]),
    (b"\x00re\x07\x0e\x0f\x05a\x7fdy\x00\n", ["ready"]),
    (b"r\x08re\x08ea\x08ad\x08dy\x08y\n", ["ready"]),
    (b"x\x08\x08\x08ready\n", ["ready"]),
    (b"10 %\r50 %\rready\n", ["ready"]),
    (b"0123456789\rready\n", ["ready56789", "ready"]),
    (b"0123456789\r\x1b[Kready\n", ["ready"]),
    (b"0123456789\x1b[2K\rready\n", ["ready"]),
    (b"0123456789\x1b[1Gready\x1b[K\n", ["ready"]),
    (b"0123456789\x1b[2K\x1b[GrXady\x1b[2Ge\n", ["ready"]),
    (b"xxready\r\x1b[2P\n", ["ready"]),
    (b"eady\r\x1b[@r\n", ["ready", "r"]),
    (b"readyxx\x1b[2D\x1b[2X\n", ["ready"]),
    (b"re\x1b[3Cx\x1b[4D-\n", ["re-  x"]),
    (b"\x1b[2J\x1b[Hready\x1b[2;1Hmore\n", ["ready", "more"]),
    (b"one\x1b[1A\rtwo\n", ["one", "two"]),
    (b"one\x1bEtwo\xc2\x85three\x0bfour\x0cfive\n", ["one", "two", "three", "four", "five"]),
    (b"\x1b[31\x18ready\n", ["ready"]),
    (b"\x1b[31\x1b[32mready\n", ["ready"]),
    (b"\x1b[3\r2mready\n", ["ready"]),
    (b"\x1b[\nready\n", ["", "ready"]),
    (b"\x1b]0;never ended\nready\n", ["", "ready"]),
    (b"\x1bPnever ended\nready\n", ["", "ready"]),
    (b"a\tb\n", ["a\tb"]),
    (b"abcdefghij\r\tX\n", ["abcdefghXj", "\tX"]),
    ("café \u65e5\u672c\n".encode(), ["café \u65e5\u672c"]),
    ("\u65e5\u672c\rX\n".encode(), ["X \u672c", "X"]),
    ("cafe\u0301\r\n".encode(), ["cafe\u0301"]),
    (b"caf\xe9 ready\n", ["caf\ufffd ready"]),
    (b"\x90\xa0 ready\n", ["\ufffd ready"]),
    (b"\x9b ready\n", ["\ufffd ready"]),
    (b"\xe2\x82 ready\n", ["\ufffd ready"]),
]  # fmt: skip


def shown(*pieces: bytes) -> list[str]:
    terminal = TerminalLines()
    return [text for piece in pieces for line in terminal.feed(piece) for text in line]


@pytest.mark.parametrize(("output", "lines"), SHOWN)
def test_lines_are_those_that_a_terminal_shows(output: bytes, lines: list[str]) -> None:
    assert shown(output) == lines
    assert shown(*(output[index : index + 1] for index in range(len(output)))) == lines


@given(st.lists(st.sampled_from([output for output, _ in SHOWN]) | st.binary(max_size=8), max_size=4), st.data())
def test_lines_do_not_depend_on_the_pieces(outputs: list[bytes], data: st.DataObject) -> None:
    output = b"".join(outputs)
    cut = data.draw(st.integers(0, len(output)))
    whole, parts = TerminalLines(), TerminalLines()
    assert list(whole.feed(output)) == [*parts.feed(output[:cut]), *parts.feed(output[cut:])]
    assert whole.present() == parts.present()


def test_line_that_has_begun_is_shown_once_for_each_change() -> None:
    terminal = TerminalLines()
    assert terminal.present() == ()
    assert not list(terminal.feed(b"\x1b[1mlogin: \x1b["))
    assert terminal.present() == ("login: ",)
    assert not list(terminal.feed(b"0m"))
    assert not list(terminal.feed(b"\rready "))
    assert terminal.present() == ("ready  ", "ready ")
    assert terminal.present() == ()
    assert list(terminal.lose()) == [("ready  ", "ready ")]
    assert terminal.present() == ()


@pytest.mark.parametrize(
    "piece",
    [
        b"x", b"\x1b]", b"\x1bP", b"\x90", b"\x1b[", b"\x1b[1;", b"\x1b[999999999999C", b"\x1b[9999@", b"x\x1b[9999Gy",
        b"\t", "\u0301".encode(), "\u65e5".encode(), b"\x1b[9999;9999H", b"\x08\x1b[1K", b"\xff",
    ],
)  # fmt: skip
def test_endless_line_is_cut_and_what_follows_is_shown(piece: bytes) -> None:
    terminal = TerminalLines()
    for _ in range(20):
        for line in terminal.feed(piece * 4000):
            assert len(line[0]) <= MAX_COLUMNS
    *_, last = (*terminal.feed(b"\x18\nready\n"),)
    assert last == ("ready",)


@pytest.mark.parametrize(
    "output",
    [
        r"\033[1;32mready\033[0m\n",
        r"\033]0;title\007ready\r\n",
        r"loading  10%%\rloading 100%%\rready\033[K\n",
        r"loading 100%%\rready\n",
        r"\357\273\277ready\n",
        r"\033[?25l\033[2K\033[1Gready",
    ],
)
def test_log_check_matches_what_a_terminal_shows(services: Services, output: str) -> None:
    services.add("web", f"printf '{output}'; exec sleep 1000", health_log="^ready$", health_retries=1000)
    service = services.start("web", wait=True).service
    assert (service.health, service.health_message) == (ServiceHealth.HEALTHY, "ready")


def test_log_check_does_not_match_what_a_terminal_does_not_show(services: Services) -> None:
    hidden = r"\033]0;ready\007\033Pready\033\\ready\r\033[Kready\b\b\b\b\bsteady\n\033[ready\n"
    services.add("web", f"printf '{hidden}done\\n'; exec sleep 1000", health_log="ready|done", health_retries=1000)
    assert services.start("web", wait=True).service.health_message == "done"


@pytest.mark.parametrize(("data", "least"), [(b"\x1b[1024@" * 4096, 28), (b"\n" * 4096, 32)], ids=["shifts", "lines"])
def test_other_tasks_run_between_the_steps_of_a_log_check(data: bytes, least: int) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def scenario() -> list[bytes]:
        task = asyncio.create_task(others())
        shown = [line async for line in check._shown_lines(TerminalLines(), data, is_lost=False)]
        task.cancel()
        return shown

    asyncio.run(scenario())
    assert turns >= least


def test_line_of_combining_characters_is_matched_up_to_a_bound() -> None:
    async def scenario() -> list[bytes]:
        data = ("a" + "\u0301" * 15).encode() * MAX_COLUMNS
        return [line async for line in check._shown_lines(TerminalLines(), data, is_lost=False)]

    assert max(map(len, asyncio.run(scenario()))) == 64 * 1024
