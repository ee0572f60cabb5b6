"""Draws the map of a repository: its folders and files as a tree, with the symbols of each file. It is pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from nexus.terminal import columns_of, printable, shortened

__all__ = ["MapRow", "draw_map"]

_DRAWN = ("function", "class", "method", "interface", "type")
"""What has a name of its own; the symbols of other chunks are those of constants and headings."""
_WORDS = {"class": "class ", "interface": "interface ", "type": "type "}
_NAMED = 20
"""How many symbols of a file stand in one line."""


class MapRow(NamedTuple):
    """A chunk, as far as the map needs it."""

    file: str
    symbols: Sequence[str]
    start_line: int
    chunk_type: str


class _File(NamedTuple):
    symbols: dict[str, tuple[int, str]]
    """The line and the type of each symbol that has a chunk."""


_Folder = dict[str, "_Folder | _File"]


def draw_map(rows: Iterable[MapRow], *, width: int = 100, max_lines: int = 200) -> str:
    """The map as plain text, of at most ``max_lines`` lines and ``width`` columns (20 at least); "" without rows.

    The first of these that fits is drawn: all symbols with their lines, those without a dot, one line of symbols for
    each file, the files, the folders with the number of their files. If none fits, the last is cut, and its last line
    says how many more there are.
    """
    tree = _tree(rows)
    if not tree:
        return ""
    width, max_lines = max(width, 20), max(max_lines, 1)
    lines: list[str] = []
    for detail in (4, 3, 2, 1, 0):
        lines = []
        for line in _drawn(tree, detail, width):
            lines.append(line)
            if len(lines) > max_lines and detail:
                break
        if len(lines) <= max_lines:
            return "\n".join(lines)
    missing = len(lines) - max_lines + 1
    return "\n".join([*lines[: max_lines - 1], f"… {missing} more lines"])


def _tree(rows: Iterable[MapRow]) -> _Folder:
    tree: _Folder = {}
    for row in sorted(rows, key=lambda row: (row.file, row.start_line)):
        *folders, name = row.file.split("/")
        here = tree
        for folder in folders:
            # A file and a folder of one name cannot be; rows of different times may say so.
            inner = here.get(f"{folder}/")
            if not isinstance(inner, dict):
                inner = here[f"{folder}/"] = {}
            here = inner
        file = here.setdefault(name, _File({}))
        if isinstance(file, _File) and row.symbols and row.chunk_type in _DRAWN:
            file.symbols.setdefault(row.symbols[0], (row.start_line, row.chunk_type))
    return tree


def _drawn(tree: _Folder, detail: int, width: int) -> Iterator[str]:
    # Depth first, with a stack of our own: a path may have some hundred folders.
    stack: list[tuple[str, str, _Folder | _File]] = [("", "", tree)]
    while stack:
        indent, name, node = stack.pop()
        if isinstance(node, _File):
            yield from _drawn_file(indent, name, node, detail, width)
            continue
        while len(node) == 1 and name:
            (only, inner), *_ = node.items()
            if not isinstance(inner, dict):
                break
            name, node = name + only, inner  # a/b/c/ is one line
        if name:
            count = _count(node) if not detail else 0
            yield _line(indent, printable(name), f"{count} file{'s' * (count != 1)}" if count else "", width)
        inside = f"{indent}  " if name else ""
        if not (detail or name):
            count = sum(not isinstance(below, dict) for below in node.values())
            if count:
                yield f"{count} file{'s' * (count != 1)}"
        # Files first; what is pushed last is drawn first.
        for key, below in sorted(node.items(), key=lambda item: (isinstance(item[1], dict), item[0]), reverse=True):
            if detail or isinstance(below, dict):
                stack.append((inside, key, below))


def _drawn_file(indent: str, name: str, file: _File, detail: int, width: int) -> Iterator[str]:
    if detail == 2 and file.symbols:
        tops = [symbol for symbol in file.symbols if "." not in symbol] or list(file.symbols)
        more = f" +{len(tops) - _NAMED}" if len(tops) > _NAMED else ""
        yield _line(indent, f"{printable(name)}  {', '.join(map(printable, tops[:_NAMED]))}", more, width)
        return
    yield _line(indent, printable(name), "", width)
    if detail < 3:
        return
    last = ""
    for symbol, (line, kind) in file.symbols.items():
        above, dot, own = symbol.rpartition(".")
        # A method of Go may be far from its type.
        is_below = bool(dot) and f"{last}.".startswith(f"{above}.")
        if detail == 3 and dot and above in file.symbols:
            continue
        inner = f"{indent}  {'  ' * min(above.count('.') + 1, 6) if is_below else ''}"
        yield _line(inner, f"{_WORDS.get(kind, '')}{printable(own if is_below else symbol)}", f":{line}", width)
        last = symbol


def _line(indent: str, text: str, after: str, width: int) -> str:
    """A line with ``after`` behind the text, which is shortened where both do not fit."""
    after = f" {after}" if after and not after.startswith((" ", ":")) else after
    indent = indent[: max(0, min(width // 2, width - columns_of(after) - 4))]
    room = max(width - len(indent) - columns_of(after), 1)
    return f"{indent}{shortened(text, room) if columns_of(text) > room else text}{after}"


def _count(folder: _Folder) -> int:
    count, stack = 0, [folder]
    while stack:
        for node in stack.pop().values():
            if isinstance(node, dict):
                stack.append(node)
            else:
                count += 1
    return count
