"""Reads Python by the parser of the running Python: functions, classes and methods, with names and decisions."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence

from nexus.memory.chunking.outline import Definition, Outline, indent_of, start_with_comments

__all__ = ["read_python"]

_DECISIONS = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler)
_NO_CHILDREN = ("ctx", "op", "ops")
_FIELDS: dict[type[ast.AST], tuple[str, ...]] = {}
"""The fields of a kind of node in which a decision can be."""
_LISTS = ("body", "orelse", "finalbody", "handlers", "cases")


def read_python(text: str, lines: Sequence[str]) -> Outline | None:
    """The outline of a module; None if it is not the Python of this version, or nested too deep for its parser."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return None
    definitions, names = _definitions(tree, lines)
    return Outline(definitions, names, _decisions(tree))


def _definitions(tree: ast.Module, lines: Sequence[str]) -> tuple[list[Definition], list[tuple[int, str]]]:
    definitions: list[Definition] = []
    names: list[tuple[int, str]] = []
    # A stack of our own: a chain of elif is as deep as it is long.
    stack: list[tuple[list[ast.AST], str, str]] = [(list(tree.body), "", "module")]
    while stack:
        body, prefix, scope = stack.pop()
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                symbol = prefix + node.name
                is_class = isinstance(node, ast.ClassDef)
                if scope == "function":
                    names.append((node.lineno, symbol))
                else:
                    kind = "class" if is_class else "method" if scope == "class" else "function"
                    definitions.append(Definition(*_range(node, lines), kind, symbol))  # type: ignore[arg-type]
                inner = "class" if is_class and scope != "function" else "function"
                stack.append((list(node.body), f"{symbol}.", inner))
                continue
            if scope != "function" and isinstance(node, (ast.Assign, ast.AnnAssign)):
                names += [(node.lineno, prefix + name) for name in _targets(node) if not name.startswith("__")]
                continue
            for field in _LISTS:
                inside = getattr(node, field, None)
                if isinstance(inside, list):
                    stack.append((inside, prefix, scope))
    names.sort()
    return definitions, names


def _range(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, lines: Sequence[str]) -> tuple[int, int]:
    """The lines of a definition, with its decorators, the comments above it, and those that end its body."""
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    end = node.end_lineno or node.lineno
    indent = indent_of(lines[node.lineno - 1])
    start = start_with_comments(lines, start, 0, ("#",))
    while end < len(lines) and lines[end].lstrip().startswith("#") and indent_of(lines[end]) > indent:
        end += 1
    return start, end


def _targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    found = []
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        for part in target.elts if isinstance(target, ast.Tuple) else [target]:
            if isinstance(part, ast.Name):
                found.append(part.id)
    return found


def _decisions(tree: ast.Module) -> list[int]:
    lines: list[int] = []
    stack: list[ast.AST | None] = [tree]
    while stack:
        node = stack.pop()
        if node is None:
            continue
        kind = type(node)
        fields = _FIELDS.get(kind)
        if fields is None:
            fields = _FIELDS[kind] = _fields_of(kind)
        if kind in _DECISIONS:
            lines.append(node.lineno)  # type: ignore[attr-defined]
        elif kind is ast.BoolOp:
            assert isinstance(node, ast.BoolOp)
            lines += [node.lineno] * (len(node.values) - 1)
        elif kind is ast.comprehension:
            assert isinstance(node, ast.comprehension)
            lines += [node.target.lineno] * (1 + len(node.ifs))
        elif kind is ast.match_case:
            assert isinstance(node, ast.match_case)
            lines.append(node.pattern.lineno)
        for field in fields:
            value = getattr(node, field)
            if value.__class__ is list:
                stack += value
            elif value is not None:
                stack.append(value)
    lines.sort()
    return lines


_TEXTS = {
    ast.Name: ("id",),
    ast.Constant: ("value", "kind"),
    ast.Attribute: ("attr",),
    ast.keyword: ("arg",),
    ast.arg: ("arg", "type_comment"),
    ast.FunctionDef: ("name", "type_comment"),
    ast.AsyncFunctionDef: ("name", "type_comment"),
    ast.ClassDef: ("name",),
    ast.Assign: ("type_comment",),
    ast.AnnAssign: ("simple",),
    ast.For: ("type_comment",),
    ast.AsyncFor: ("type_comment",),
    ast.With: ("type_comment",),
    ast.AsyncWith: ("type_comment",),
    ast.ExceptHandler: ("name",),
    ast.FormattedValue: ("conversion",),
    ast.comprehension: ("is_async",),
    ast.MatchAs: ("name",),
    ast.MatchStar: ("name",),
    ast.MatchMapping: ("rest",),
    ast.MatchClass: ("kwd_attrs",),
    ast.MatchSingleton: ("value",),
    ast.Module: ("type_ignores",),
}
"""The fields that are no nodes."""
_LEAVES = (ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal)


def _fields_of(kind: type[ast.AST]) -> tuple[str, ...]:
    if kind in _LEAVES:
        return ()
    texts = _TEXTS.get(kind, ())
    return tuple(field for field in getattr(kind, "_fields", ()) if field not in _NO_CHILDREN and field not in texts)
