"""What a chunk is in each language, that chunks are bounded and lose nothing, and what hostile texts do."""

from __future__ import annotations

import pickle
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus.memory.chunking.chunks import MAX_CHUNK_BYTES, MAX_CHUNK_LINES, MAX_SYMBOLS, chunk_text
from nexus.memory.chunking.outline import Chunk

PYTHON = '''"""Doc."""
import os
LIMIT: int = 1

# Above f.
@deco
def f(a):
    """Doc f."""
    async def inner():
        class Local: ...
    return [i for i in a if i and a or i]
    # The end.

class A(B):
    first, second = 1, 2

    def m(self):
        if a:
            pass
        elif b:
            pass

    third = 3

    class N:
        def n(self): ...

try:
    def g(): pass
except ImportError:
    g = None
# The last
# comment.
'''


def outline(file: str, text: str) -> list[tuple[int, int, str, str]]:
    return [(one.start_line, one.end_line, one.chunk_type, " ".join(one.symbols)) for one in chunk_text(file, text)]


def test_python_is_cut_by_function_class_method_and_what_is_between() -> None:
    assert outline("a.py", PYTHON) == [
        (1, 3, "module", "LIMIT"),
        (5, 12, "function", "f f.inner f.inner.Local"),
        (14, 15, "class", "A A.first A.second"),
        (17, 21, "method", "A.m"),
        (23, 23, "class", "A A.third"),
        (25, 25, "class", "A.N"),
        (26, 26, "method", "A.N.n"),
        (28, 28, "module", ""),
        (29, 29, "function", "g"),
        (30, 33, "module", "g"),
    ]
    assert [one.complexity for one in chunk_text("a.py", PYTHON)] == [1, 5, 1, 3, 1, 1, 1, 1, 1, 2]


def test_content_is_the_lines_as_they_are() -> None:
    method = next(one for one in chunk_text("a.py", PYTHON) if one.symbols == ("A.m",))
    assert method.content == "    def m(self):\n        if a:\n            pass\n        elif b:\n            pass"
    assert (method.language, method.file) == ("python", "a.py")
    assert pickle.loads(pickle.dumps(method)) == method


@pytest.mark.parametrize(
    ("code", "complexity"),
    [
        ("pass", 1),
        ("while a: pass", 2),
        ("for a in b: pass", 2),
        ("return a if b else c", 2),
        ("return a and b and c", 3),
        ("return {a for a in b if a if b}", 4),
        ("with a: pass", 1),
        ("return 'if for while and'", 1),
        ("return {**a, 'b': lambda: a or b}", 2),
        ("match a:\n  case 1: pass\n  case {'b': c, **d} if c: pass", 3),
        ("try: pass\n except A: pass\n except B: pass", 3),
    ],
)
def test_complexity_counts_decisions(code: str, complexity: int) -> None:
    (chunk,) = chunk_text("a.py", f"def f(a, *, b=None):\n {code}\n")
    assert chunk.complexity == complexity


BROKEN = """import os
@deco
def f(a,
      b
):
    return 1 +

class A:
    x = 1
    def m(self):
        if a: pass

print("x"
"""


def test_python_that_cannot_be_parsed_is_cut_by_its_lines() -> None:
    assert outline("a.py", BROKEN) == [
        (1, 1, "module", ""),
        (2, 6, "function", "f"),
        (8, 9, "class", "A"),
        (10, 11, "method", "A.m"),
        (13, 13, "module", ""),
    ]


@pytest.mark.parametrize(
    "nested",
    [
        "(" * 5000 + ")" * 5000,
        "-" * 50_000 + "1",
        "1+" * 50_000 + "1",
        "a" + ".b" * 50_000,
        "not " * 20_000 + "1",
        "lambda:" * 20_000 + "1",
        "1" * 10_000,
        "\N{BULLET}",
        "'\\d' is 1",
    ],
    ids=lambda nested: nested[:6],
)
def test_python_that_the_parser_refuses_or_warns_of_has_chunks(nested: str) -> None:
    chunks = chunk_text("a.py", f"x = {nested}\n\ndef f():\n    pass\n")
    assert (chunks[-1].chunk_type, chunks[-1].symbols) == ("function", ("f",))
    covered("a.py", f"x = {nested}\n\ndef f():\n    pass\n")


def test_a_long_chain_of_elif_is_counted_or_cut_by_lines() -> None:
    text = "def f():\n    if a: pass\n" + "    elif a: pass\n" * 900 + "\ndef g(): pass\n"
    chunks = chunk_text("a.py", text)
    assert [chunk.symbols for chunk in chunks][-1] == ("g",)
    assert sum(chunk.complexity or 0 for chunk in chunks[:-1]) == 901 + len(chunks[:-1])
    deep = "".join(" " * depth + "if 1:\n" for depth in range(99)) + " " * 99 + "def f(): pass\n"
    assert ("f",) in [chunk.symbols for chunk in chunk_text("a.py", deep)]


OTHERS = {
    "a.ts": (
        """import x from "y";

/**
 * Says hello.
 */
export class Greeter<T> extends Base {
  private name: string;

  // Makes one.
  constructor(name: string) {
    this.name = name;
  }

  async greet(): Promise<void> {
    if (this.name && x) { return; }
  }
  handler = async (e) => {
    for (const a of e) {}
  };
}

export interface Shape { area(): number }
export type Id = string | number;
const add = (a: number, b: number) => a + b;
const sum = (1 + 2);
export default async function main(
  a: number,
) {
  return a;
}
""",
        [
            (1, 1, "module", ""),
            (3, 7, "class", "Greeter"),
            (9, 12, "method", "Greeter.constructor"),
            (14, 16, "method", "Greeter.greet"),
            (17, 19, "method", "Greeter.handler"),
            (22, 22, "interface", "Shape"),
            (23, 23, "type", "Id"),
            (24, 24, "function", "add"),
            (25, 25, "module", ""),
            (26, 30, "function", "main"),
        ],
    ),
    "a.go": (
        "package a\n\n// Server serves.\ntype Server struct {\n\taddr string\n}\n\ntype Doer interface {\n\tDo()\n}\n"
        "type ID int\nfunc (s *Server[T]) Run(x int) error {\n\tif x > 0 && x < 3 {\n\t\treturn nil\n"
        "\t}\n\treturn nil\n}\n"
        "func Map[T any](x T) {}\n",
        [
            (1, 1, "module", ""),
            (3, 6, "class", "Server"),
            (8, 10, "interface", "Doer"),
            (11, 11, "type", "ID"),
            (12, 17, "method", "Server.Run"),
            (18, 18, "function", "Map"),
        ],
    ),
    "a.rs": (
        "use std::fmt;\n\n/// A point.\n#[derive(Debug)]\npub struct Point<T> {\n    x: T,\n}\n\n"
        "impl<T: Into<Vec<T>>> fmt::Display for Point<T>\nwhere\n    T: Clone,\n{\n    fn fmt(&self) -> R {\n"
        "        match self { _ => 1 }\n    }\n}\npub trait Shape {\n    fn area(&self) -> f64;\n}\nenum E { A, B }\n"
        "mod tests {\n    fn t() {}\n}\n",
        [
            (1, 1, "module", ""),
            (3, 7, "class", "Point"),
            (9, 12, "class", "Point"),
            (13, 15, "method", "Point.fmt"),
            (17, 17, "interface", "Shape"),
            (18, 18, "method", "Shape.area"),
            (20, 20, "type", "E"),
            (21, 21, "module", "tests"),
            (22, 22, "function", "tests.t"),
        ],
    ),
    "a.c": (
        "#include <stdio.h>\n\nstruct point {\n    int x;\n};\ntypedef unsigned int u32;\n/* Adds. */\n"
        "static int add(int a,\n               int b)\n{\n#ifdef FOO\n    if (a) return b;\n#endif\n"
        "out:\n    return a;\n}\n"
        "int proto(int a);\nenum color { RED, GREEN };\n",
        [
            (1, 1, "module", ""),
            (3, 5, "class", "point"),
            (6, 6, "type", "u32"),
            (7, 16, "function", "add"),
            (17, 17, "module", ""),
            (18, 18, "type", "color"),
        ],
    ),
    "a.cpp": (
        "namespace foo {\n\nclass Bar : public Base {\npublic:\n    int get() const { return 1; }\nprivate:\n"
        "    void set(int x)\n    {\n        y = x;\n    }\n};\n\ntemplate <typename T>\n"
        "T Bar::value(T x) {\n  return x;\n}\n}\n",
        [
            (1, 1, "module", "foo"),
            (3, 4, "class", "Bar"),
            (5, 5, "method", "Bar.get"),
            (6, 6, "class", "Bar"),
            (7, 10, "method", "Bar.set"),
            (13, 16, "function", "Bar.value"),
        ],
    ),
    "A.java": (
        "package a;\n\n@Service\npublic final class A<T> extends B {\n    private int x = new Foo(1);\n"
        "\n    @Override\n"
        "    public Map<String, Integer> get(int a) throws E {\n        if (a > 1) { return null; }\n"
        "        return x;\n"
        "    }\n\n    A() {\n    }\n    interface In {\n        void f();\n    }\n}\n",
        [
            (1, 1, "module", ""),
            (3, 5, "class", "A"),
            (7, 11, "method", "A.get"),
            (13, 14, "method", "A.A"),
            (15, 15, "interface", "A.In"),
            (16, 16, "method", "A.In.f"),
        ],
    ),
    "tool": (
        "#!/usr/bin/env bash\nset -eu\n# Says hello.\nhello() {\n    if true; then echo; fi\n}\n"
        "function bye {\n    echo\n}\n",
        [(1, 2, "module", ""), (3, 6, "function", "hello"), (7, 9, "function", "bye")],
    ),
    "a.md": (
        "Intro\n\n# Title\ntext\n```sh\n# no heading\n```\n## Sub #\nmore\n",
        [(1, 1, "other", ""), (3, 7, "other", "Title"), (8, 9, "other", "Sub")],
    ),
    "a.js": ("// A comment\n// alone.\n\nlet x = 1;\n", [(1, 4, "module", "")]),
    "b.js": ("/* A comment\n * alone. */\n", [(1, 2, "comment", "")]),
    "a.yaml": ("a:\n  b: 1\n", [(1, 2, "other", "")]),
}


@pytest.mark.parametrize("file", list(OTHERS))
def test_other_languages_are_cut_by_their_definitions(file: str) -> None:
    text, expected = OTHERS[file]
    assert outline(file, text) == expected
    assert outline(file, text.replace("    ", "\t")) == expected
    covered(file, text)


@pytest.mark.parametrize(
    ("file", "first", "language"),
    [
        ("a.PY", "", "python"),
        ("x/Makefile", "", "make"),
        ("run", "#!/usr/bin/env python3", "python"),
        ("run", "#! /bin/sh -e", "shell"),
        ("run", "#!/usr/bin/env -S node --x", "javascript"),
        ("a.py", "#!/bin/sh", "python"),
        (".py", "x", "text"),
        ("run", "#!", "text"),
        ("a.unknown", "x", "text"),
    ],
)
def test_the_language_is_told_by_ending_name_or_program(file: str, first: str, language: str) -> None:
    assert {one.language for one in chunk_text(file, f"{first}\nword\n")} == {language}


# Bounds


def covered(file: str, text: str) -> list[Chunk]:
    """Check that chunks are bounded, in order, and hold each line that has a word; gives them."""
    lines = text.split("\n")
    chunks = chunk_text(file, text)
    seen: dict[int, str] = {}
    before = 0
    for chunk in chunks:
        assert before <= chunk.start_line <= chunk.end_line <= len(lines)
        assert len(chunk.content.encode()) <= MAX_CHUNK_BYTES
        assert len(chunk.symbols) <= MAX_SYMBOLS
        assert re.fullmatch("[0-9a-f]{64}", chunk.hash)
        own = lines[chunk.start_line - 1 : chunk.end_line]
        assert len(own) <= MAX_CHUNK_LINES
        if chunk.content == "\n".join(own):
            assert before < chunk.start_line
            seen.update(zip(range(chunk.start_line, chunk.end_line + 1), own, strict=True))
        else:
            assert len(own) == 1  # a slice of a line
            seen[chunk.start_line] = seen.get(chunk.start_line, "") + chunk.content
        before = chunk.end_line
    missing = [line for number, line in enumerate(lines, 1) if re.search(r"\w", line) and seen.get(number) != line]
    assert missing == []
    return chunks


def test_a_long_function_is_cut_where_an_edit_moves_few_cuts() -> None:
    body = [f"    value_{number} = {number}" if number % 7 else "" for number in range(900)]
    old = covered("a.py", "\n".join(["def f():", *body]))
    new = covered("a.py", "\n".join(["def f():", "    added = 1", *body]))
    assert {chunk.symbols for chunk in old} == {("f",)}
    assert len(old) >= 5
    assert len({chunk.hash for chunk in new} - {chunk.hash for chunk in old}) <= 2


def test_an_edit_of_a_text_changes_the_paragraphs_near_it() -> None:
    paragraphs = [f"Paragraph {number}\nhas two lines.\n" for number in range(400)]
    old = covered("a.txt", "\n".join(paragraphs))
    new = covered("a.txt", "\n".join([*paragraphs[:50], "Another\n", *paragraphs[50:]]))
    assert len(old) > 20
    assert len({chunk.hash for chunk in new} - {chunk.hash for chunk in old}) <= 3


@pytest.mark.parametrize("file", ["a.py", "a.js", "a.txt", "a.md"])
def test_a_huge_line_is_several_chunks_of_one_line(file: str) -> None:
    text = "x = '" + "ä€😀" * 20_000 + "'"
    chunks = covered(file, f"first = 1\n{text}\nlast = 2\n")
    assert "".join(chunk.content for chunk in chunks if chunk.start_line == chunk.end_line == 2) == text
    assert len(chunks) >= 12


@pytest.mark.parametrize(("more", "count"), [(0, 1), (1, 2)])
def test_a_chunk_may_be_as_large_as_its_bound(more: int, count: int) -> None:
    assert len(covered("a.py", "x" * 8191 + "\n" + "y" * (8192 + more) + "\n")) == count
    assert len(covered("a.py", "x\n" * (MAX_CHUNK_LINES + more))) == count


def test_a_text_of_tiny_definitions_has_a_bounded_number_of_chunks() -> None:
    assert len(covered("a.py", "def a(): 0\n" * 3000)) < 100


PIECES = st.sampled_from(
    [
        *("", "", "x = 1", "def f(a):", "class A:", "@deco", "# note", "}", "{", ")", "function f() {", "  m() {"),
        *("    return 1", "\tfoo();", "if (a) {", "impl X for Y {", "# Title", "```", "func (a *B) c() {", "#if 1"),
        *('"""', "public:", "class B {", "        deep", "ü" * 300, "type T struct {", "case 1:", "where", "x\x0cy"),
    ]
)
FILES = st.sampled_from(["a.py", "a.ts", "a.go", "a.rs", "a.c", "a.cpp", "A.java", "a.sh", "a.md", "a.txt"])


@settings(max_examples=150, deadline=None)
@given(FILES, st.lists(PIECES, max_size=60))
def test_no_line_is_lost_or_doubled(file: str, lines: list[str]) -> None:
    text = "\n".join(lines)
    assert covered(file, text) == chunk_text(file, text)


def test_the_hash_is_that_of_what_a_chunk_says_and_not_of_its_place() -> None:
    (one,) = chunk_text("a.py", "x = 1\n")
    (moved,) = chunk_text("b/c.py", "\n\nx = 1\n")
    assert (one.hash, one.content) == (moved.hash, moved.content)
    others = [chunk_text("a.js", "x = 1\n"), chunk_text("a.py", "y = 1\n"), chunk_text("a.txt", "x = 1\n")]
    assert len({one.hash, *(chunk.hash for chunks in others for chunk in chunks)}) == 4
    methods = [chunk_text("a.py", f"class {name}:\n    def m(self): ...\n")[-1] for name in "AB"]
    assert methods[0].content == methods[1].content
    assert methods[0].hash != methods[1].hash
