"""Reads code by expressions and indents: what a line defines, and where the block that it begins ends.

It is for languages without a parser here. Code that is laid out in an unusual way gives other blocks, and loses none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from nexus.memory.chunking.languages import Language, Pattern
from nexus.memory.chunking.outline import Definition, Outline, indent_of, start_with_comments

__all__ = ["read_code", "read_markdown"]

_MAX_LINE = 1000
"""A longer line defines nothing."""
_MAX_DEPTH = 6
"""How deep definitions may lie in each other."""
_MAX_HEADING = 200

_CLOSERS = re.compile(r"[}\]]|(?:end|fi|done|esac)\b")
_GOES_ON = ("{", "where")
_HEADING = re.compile(r"(#{1,6})[ \t]+(.*)")
_FENCE = re.compile(r" {0,3}(```+|~~~+)")
_IN_CLASS = ("class", "interface", "type")


def read_code(lines: Sequence[str], rules: Language) -> Outline:
    """The outline of code in a language with these rules."""
    definitions: list[Definition] = []
    stack = [(0, len(lines), 0, "", False, 0)]
    while stack:
        first, past, indent, prefix, in_class, depth = stack.pop()
        floor = first
        index = first
        while index < past:
            line = lines[index]
            found = _match(line, indent, rules, in_class)
            if found is None:
                index += 1
                continue
            pattern, name = found
            end = _block_end(lines, index, past, indent, rules)
            symbol = prefix + name
            kind = "method" if in_class and pattern.type == "function" else pattern.type
            start = start_with_comments(lines, index + 1, floor, rules.above)
            definitions.append(Definition(start, end + 1, kind, symbol))
            if pattern.holds and depth < _MAX_DEPTH and end > index:
                inner = _inner_indent(lines, index + 1, end + 1, indent, rules)
                if inner is not None:
                    stack.append((index + 1, end + 1, inner, f"{symbol}.", kind in _IN_CLASS, depth + 1))
            index = floor = end + 1
    decisions = [
        number
        for number, line in enumerate(lines, start=1)
        if len(line) <= _MAX_LINE and not line.lstrip().startswith(rules.comments)
        for _ in rules.decisions.finditer(line)
    ]
    return Outline(definitions, [], decisions)


def _match(line: str, indent: int, rules: Language, in_class: bool) -> tuple[Pattern, str] | None:
    if not line or len(line) > _MAX_LINE or indent_of(line) != indent:
        return None
    code = line.strip()
    if not code or code.startswith(rules.comments):
        return None
    for pattern in rules.patterns:
        if pattern.inside and not in_class:
            continue
        match = pattern.expression.match(code)
        if match is not None:
            name = match["name"]
            if code.startswith(("impl", "unsafe impl")):
                name = _implemented(name)
            of = match["of"] if "of" in pattern.expression.groupindex else None
            return pattern, (f"{of}.{name}" if of else name).replace("::", ".")[:_MAX_HEADING]
    return None


def _implemented(text: str) -> str:
    """The type of ``impl<T> Trait<T> for Type<T> where …``, without its parameters."""
    depth, plain = 0, []
    for character in text.replace("->", "  "):
        depth += character == "<"
        if depth == 0:
            plain.append(character)
        depth -= character == ">" and depth > 0
    head = "".join(plain).split(" where ")[0].rpartition(" for ")[2]
    names = re.findall(r"\w+", head)
    return names[-1] if names else "impl"


def _block_end(lines: Sequence[str], index: int, past: int, indent: int, rules: Language) -> int:
    """The index of the last line of the block that the line at ``index`` begins."""
    head = lines[index].rstrip()
    if head.endswith(";") or (head.endswith("}") and head.count("{") == head.count("}")):
        return index
    end = index
    for number in range(index + 1, past):
        line = lines[number]
        code = line.strip()
        if not code:
            continue
        here = indent_of(line)
        if here > indent:
            end = number
            continue
        if rules.ignored is not None and rules.ignored.match(code[:_MAX_LINE]):
            continue
        if here < indent:
            break
        if _CLOSERS.match(code):
            return number
        if code.startswith(_GOES_ON):
            end = number
        elif code.startswith(")"):
            end = number
            if not code.endswith(("{", ":", ")", "=>")):
                return number
        else:
            break
    return end


def _inner_indent(lines: Sequence[str], first: int, past: int, indent: int, rules: Language) -> int | None:
    inner: int | None = None
    for line in lines[first:past]:
        code = line.strip()
        if code and not (rules.ignored is not None and rules.ignored.match(code[:_MAX_LINE])):
            here = indent_of(line)
            if here > indent and (inner is None or here < inner):
                inner = here
    return inner


def read_markdown(lines: Sequence[str]) -> Outline:
    """The sections of a text in Markdown, each up to the next heading; a heading in a fenced block is none."""
    starts: list[tuple[int, str]] = []
    fence = ""
    for number, line in enumerate(lines, start=1):
        mark = _FENCE.match(line)
        if mark is not None:
            if not fence:
                fence = mark[1]
            elif mark[1].startswith(fence) and line.strip() == mark[1]:
                fence = ""
        elif not fence and line.startswith("#"):
            heading = _HEADING.match(line[:_MAX_LINE])
            if heading is not None:
                starts.append((number, heading[2].strip().rstrip("#").strip()[:_MAX_HEADING]))
    ends = [*(start - 1 for start, _ in starts[1:]), len(lines)][: len(starts)]
    sections = [Definition(start, end, "other", title) for (start, title), end in zip(starts, ends, strict=True)]
    return Outline(sections, [], [])
