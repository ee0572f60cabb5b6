"""The map of a repository, at any size, and how symbols are found."""

from __future__ import annotations

import pytest

from nexus.memory.chunking.drawing import MapRow, draw_map
from nexus.memory.chunking.symbols import Rank, match_symbol, rank_symbols
from nexus.terminal import columns_of

ROWS = [
    MapRow("src/web/app.py", ["LIMIT"], 1, "module"),
    MapRow("src/web/app.py", ["App", "App.name"], 4, "class"),
    MapRow("src/web/app.py", ["App.run"], 9, "method"),
    MapRow("src/web/app.py", ["App"], 15, "class"),
    MapRow("src/web/app.py", ["main", "main.inner"], 20, "function"),
    MapRow("src/go/a.go", ["Server.Run"], 3, "method"),
    MapRow("src/go/a.go", ["Doer"], 9, "interface"),
    MapRow("README.md", ["Title"], 1, "other"),
]

FULL = """\
README.md
src/
  go/
    a.go
      Server.Run:3
      interface Doer:9
  web/
    app.py
      class App:4
        run:9
      main:20"""


def test_a_map_has_each_symbol_with_a_chunk_once() -> None:
    assert draw_map(ROWS) == FULL
    assert draw_map(reversed(ROWS)) == FULL
    assert draw_map([]) == ""


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (10, FULL.replace("\n        run:9", "")),
        (7, "README.md\nsrc/\n  go/\n    a.go  Doer\n  web/\n    app.py  App, main"),
        (4, "1 file\nsrc/ 2 files\n  go/ 1 file\n  web/ 1 file"),
        (2, "1 file\n… 3 more lines"),
    ],
)
def test_a_map_that_is_too_long_shows_less(lines: int, expected: str) -> None:
    assert draw_map(ROWS, max_lines=lines) == expected


def test_folders_with_one_folder_are_one_line() -> None:
    assert draw_map([MapRow("a/b/c/d.py", [], 1, "module")]) == "a/b/c/\n  d.py"


@pytest.mark.parametrize("lines", [1, 2, 5, 30, 10_000])
@pytest.mark.parametrize("width", [20, 33, 100])
def test_a_map_keeps_its_bounds_and_shows_no_control_character(width: int, lines: int) -> None:
    rows = [
        MapRow(f"{'d/' * (number % 300)}漢字{number}\x1b[31m\n.py", [f"{'名' * 90}.x{number}\u202e"], number, "method")
        for number in range(400)
    ]
    drawn = draw_map(rows, width=width, max_lines=lines).split("\n")
    assert len(drawn) <= lines
    assert max(map(columns_of, drawn)) <= width
    assert all(line.isprintable() for line in drawn)


@pytest.mark.parametrize(
    ("query", "symbol", "rank"),
    [
        ("Daemon.start", "daemon.START", Rank.EXACT),
        ("start", "Daemon.start", Rank.SUFFIX),
        ("Daemon::start", "nexus.Daemon.start", Rank.SUFFIX),
        ("daem", "Daemon.start", Rank.PREFIX),
        ("sta", "Daemon.start", Rank.PREFIX),
        ("daemon.st", "nexus.Daemon.start", Rank.PREFIX),
        ("tart", "Daemon.start", Rank.SUBSTRING),
        ("n.s", "Daemon.start", Rank.SUBSTRING),
        ("STRASSE", "straße", Rank.EXACT),
        ("stop", "Daemon.start", None),
        ("s.*t", "Daemon.start", None),
        (" ", "Daemon.start", None),
    ],
)
def test_a_symbol_matches_by_rank(query: str, symbol: str, rank: Rank | None) -> None:
    assert match_symbol(query, symbol) == rank


def test_symbols_are_ranked_by_match_case_and_length() -> None:
    symbols = ["restart", "starting", "Daemon.start", "Start", "start", "A.start", "stop", "A.starter", "start"]
    expected = ["start", "Start", "A.start", "Daemon.start", "starting", "A.starter", "restart"]
    assert rank_symbols("start", symbols) == expected
    assert rank_symbols("start", symbols, 2) == expected[:2]
    assert rank_symbols("", symbols) == []
