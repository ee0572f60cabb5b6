"""Every command line that the source tells a person to run: the real command line parses it, and its words are quoted.

A hint's command begins its line or follows ``": "``, and ends with the line. What is inserted into one goes through
``nexus.hints.command_line``, which quotes it.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from support.architecture import Source, nodes_of, read_sources

from nexus.cli.main import _SUGGESTIONS, _hoist_global_options, cli
from nexus.daemon import main as nexusd
from nexus.hints import command_line, joined
from nexus.services.cli import service
from nexus.vms.cli import vm

ROOT = Path(__file__).resolve().parents[1]
SOURCES = read_sources(ROOT)

OURS = ("nexusctl", "nxc", "nexusd")
OTHERS = (
    r"git(?= (?:-C|config|ls-remote|pull|stash|status|worktree|branch|switch|remote|rebase|merge) )",
    *("systemctl", "journalctl", "loginctl", "chmod", "chown", "kill", "ls", "ulimit", "ssh", "ssh-keygen"),
    *("ssh-add", "apt"),
)
_COMMAND = re.compile(rf"(?:^ *|: |; |['`])(?P<program>{'|'.join((*OURS, *OTHERS))})(?P<rest> [^\n;]+)", re.MULTILINE)
_INSERTED = "\0"
"""Stands for a value that is inserted into a text."""
_QUOTED = "\1"
"""Stands for a command line that is inserted into one."""
_SENTENCES = (
    "nexusd is not in PATH",
    "nexusd %s listening on %s (pid %d)",
    f"nexusctl {_INSERTED}",
    f"nexusd {_INSERTED}",
)
"""Texts that begin like a command and are none: sentences, and a program with its version."""


class Line(NamedTuple):
    """A command line of the source, with ``_INSERTED`` for each word that is inserted."""

    where: str
    words: tuple[str, ...]


class Text(NamedTuple):
    """A string of the source, with ``_INSERTED`` for each value that is inserted."""

    where: str
    value: str


# Reading the source


class Read(NamedTuple):
    """What the tests look at in a module, or in all."""

    texts: list[Text]
    """Every string but its documentation, and of that the lines that begin with a command, which click prints."""
    called: list[Line]
    """The command lines that are calls of ``command_line``."""
    hints: list[str]
    """Where the hint of an error is changed by other means than ``joined``."""


@functools.cache
def read() -> Read:
    """All of the source. Not read at import: each worker of a run imports this module."""
    parts = [read_module(source) for source in SOURCES.values()]
    return Read(*([each for part in parts for each in part[at]] for at in range(3)))  # type: ignore[arg-type]


def read_module(source: Source) -> Read:
    """One module; a call of ``command_line`` in an f-string is left out of its text."""
    nodes = nodes_of(ast.parse(source.text))
    skipped = {id(node.value) for node in nodes if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}
    skipped |= {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    found = Read([], [], [])
    examples: list[Text] = []
    for node in nodes:
        where = f"{source.module}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.JoinedStr):
            parts = [
                str(part.value)
                if isinstance(part, ast.Constant)
                else _QUOTED
                if _is_command(_inner(part))
                else _INSERTED
                for part in node.values
            ]
            found.texts.append(Text(where, "".join(parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            found.texts.append(Text(where, node.value))
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            for line in (ast.get_docstring(node) or "").splitlines():
                if line.strip().startswith(tuple(f"{program} " for program in OURS)):
                    examples.append(Text(where, line.strip()))
        elif isinstance(node, ast.Call):
            found.called.extend(_called(node, where))
        elif isinstance(node, ast.Assign) and any(map(_is_hint_of_another, node.targets)) and not _joins(node.value):
            found.hints.append(where)
    found.texts.extend(examples)
    return found


def _joins(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") == "joined"


def _is_hint_of_another(target: ast.expr) -> bool:
    return (
        isinstance(target, ast.Attribute)
        and target.attr == "hint"
        and not (isinstance(target.value, ast.Name) and target.value.id == "self")
    )


def _inner(node: ast.expr) -> ast.expr:
    return node.value if isinstance(node, ast.FormattedValue) else node


def _is_command(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("command_line", "start_hint")
    )


def _called(node: ast.Call, where: str) -> Iterator[Line]:
    if isinstance(node.func, ast.Name) and node.func.id == "command_line" and node.args:
        words = [
            str(word.value) if isinstance(word, ast.Constant) else "*" if isinstance(word, ast.Starred) else _INSERTED
            for word in node.args
        ]
        yield Line(where, tuple(words))


def written(text: Text) -> Iterator[str]:
    """The command lines in a text, one command each."""
    for found in _COMMAND.finditer(text.value) if text.value not in _SENTENCES else ():
        line = found["program"] + found["rest"]
        if found[0][0] in "'`":
            line = line.partition(found[0][0])[0]
        yield line.rstrip()


def lines_in_texts() -> list[Line]:
    """The command lines that are written out."""
    return [
        Line(text.where, tuple(shlex.split(line)))
        for text in read().texts
        for line in written(text)
        if "\0" not in line
    ]


# Parsing them


STANDS_FOR = {
    "PORT": "8080",
    "N": "1",
    "PID": "4711",
    "SECONDS": "5",
    "TYPE": "interview",
    "NAME=VALUE": "A=1",
}
"""What a placeholder that is no plain word is replaced with."""
_CANDIDATES = ("web", "1", "/srv/web", "none")
"""What an inserted word may be; a line is good if it can be parsed with one of them."""


def problem(words: tuple[str, ...]) -> str | None:
    """Why the real command line refuses these words; None if it does not."""
    said = None
    for candidate in _CANDIDATES:
        filled = [candidate if word == _INSERTED else STANDS_FOR.get(word, word) for word in words]
        said = _refusal(filled)
        if said is None:
            return None
    return said


def _refusal(words: list[str]) -> str | None:
    program, *rest = words
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            if program == "nexusd":
                nexusd._parse(rest)
            else:
                _parse(rest)
    except click.ClickException as error:
        return error.format_message()
    except click.exceptions.Exit as ended:
        return None if ended.exit_code == 0 else output.getvalue()
    except SystemExit as ended:
        return None if ended.code == 0 else output.getvalue()
    return None


def _parse(words: list[str]) -> None:
    """Resolve the verb and parse its options and arguments, without running it."""
    front, rest = _hoist_global_options(words)
    context = cli.make_context("nexusctl", [*front, *rest])
    group: click.Command = cli
    while isinstance(group, click.Group):
        left = [*context._protected_args, *context.args]
        name, found, left = group.resolve_command(context, left)
        assert found is not None
        context = found.make_context(name, left, parent=context)
        group = found


def test_every_command_line_of_a_hint_is_one_that_the_program_accepts() -> None:
    lines = {line for line in (*lines_in_texts(), *read().called) if line.words[0] in OURS and "*" not in line.words}
    refused = [
        (line.where, " ".join(line.words).replace("\0", "…"), said)
        for line in sorted(lines)
        if (said := problem(line.words)) is not None
    ]
    assert refused == []
    assert len(lines) > 60
    assert len(read().called) > 40


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nexusctl service git pul web", "no such command"),
        ("nexusctl service git pull", "Missing argument"),
        ("nexusctl service git pull web --fast", "No such option"),
        ("nexusctl settings unset", "Missing argument"),
        ("nexusctl serv list", "no such command"),
        ("nexusctl service", ""),
        ("nexusctl db migrate --to soon", "soon"),
        ("nexusd --database x", "unrecognized arguments"),
        ("nexusd --db", "expected one argument"),
    ],
)
def test_command_line_that_cannot_work_is_found(line: str, said: str) -> None:
    found = problem(tuple(line.split()))
    assert found is not None
    assert said.lower() in found.lower()


def test_nothing_is_inserted_into_a_command_line_without_quoting() -> None:
    unquoted = [
        (text.where, line.replace(_INSERTED, "…"))
        for text in read().texts
        for line in written(text)
        if _INSERTED in line or re.search(r"\{\w+\}", line)
    ]
    assert unquoted == []


def _verbs() -> set[str]:
    return {*cli.list_commands(click.Context(cli)), *cli.aliases}  # type: ignore[attr-defined]


def test_command_line_stands_where_a_reader_can_copy_it() -> None:
    """At the beginning of a line or after a colon, to the end of the line: never amid a sentence."""
    amid = re.compile(rf"\b(?:{'|'.join(OURS)}) (?:{'|'.join(sorted(_verbs()))}|--?\w)")
    wrong = []
    for text in read().texts:
        starts = {found.start("program") for found in _COMMAND.finditer(text.value)}
        wrong += [(text.where, text.value) for found in amid.finditer(text.value) if found.start() not in starts]
    assert wrong == []


@pytest.mark.parametrize(
    "said", sorted({*_SUGGESTIONS.values(), *service.suggestions.values(), *vm.suggestions.values()})
)
def test_suggested_verb_exists(said: str) -> None:
    for line in re.findall(r"'(nexusctl [^']*)'", said):
        found = problem(tuple(shlex.split(line)))
        assert found is None or found.startswith("Missing "), "only its arguments may be left out"


# What a shell makes of a command line

WORDS = [
    "web",
    "two words",
    "it's",
    '"',
    "$HOME",
    "`id`",
    "a;b",
    "*",
    "~",
    "",
    "-x",
    "\\",
    "ü→",
    "a\nb",
    "\x1b[31m",
    "\udcff",
]


@pytest.mark.parametrize("word", WORDS, ids=ascii)
def test_shell_gives_a_program_the_words_of_a_command_line(word: str) -> None:
    line = command_line(sys.executable, "-c", "import os, sys; print([os.fsencode(w) for w in sys.argv[1:]])", word, 7)
    assert line.isprintable(), "it is one line, and nothing that a terminal obeys"
    done = subprocess.run(["/bin/bash", "-c", line], capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == [word.encode(errors="surrogateescape"), b"7"]


def test_path_is_a_word_of_a_command_line() -> None:
    assert command_line("ls", "-ld", Path("/srv/my web")) == "ls -ld '/srv/my web'"


@pytest.mark.parametrize(
    ("hints", "one"),
    [
        (("a", "b"), "a\nb"),
        (("a\n", None, "b\nc"), "a\nb\nc"),
        ((None, "", "b"), "b"),
        ((None, ""), None),
        ((), None),
    ],
)
def test_joined_hints_are_on_lines_of_their_own(hints: tuple[str | None, ...], one: str | None) -> None:
    assert joined(*hints) == one


def test_nothing_is_added_to_the_end_of_a_command_line() -> None:
    added = [
        (text.where, text.value.replace(_QUOTED, "…"))
        for text in read().texts
        if re.search(rf"{_QUOTED}(?!\n|; |'|\Z)", text.value)
        or re.search(rf"(?<!: )(?<!\n)(?<!; )(?<!'){_QUOTED}", text.value.replace("\0", "")[1:])
    ]
    assert added == []


def test_every_command_line_is_one_that_a_shell_runs_as_it_stands() -> None:
    unfinished = re.compile(r"[…()<>|&,]|\.$|\s$")
    wrong = [
        line
        for text in read().texts
        for line in written(text)
        if _INSERTED not in line and any(unfinished.search(word) for word in re.sub(r"'[^']*'", "quoted", line).split())
    ]
    followed = re.compile(rf"(?:{'|'.join(OURS)}) [^\n;]*; (?!{'|'.join((*OURS, *OTHERS))}|{_QUOTED})")
    assert wrong == []
    assert [
        (text.where, text.value) for text in read().texts if written_any(text) and followed.search(text.value)
    ] == []


def written_any(text: Text) -> bool:
    """Whether there is a command line in a text."""
    return any(written(text))


def test_hints_are_joined_by_the_function_for_it() -> None:
    """Code that changes the hint of an error uses ``joined``."""
    assert read().hints == []


# The documentation


def documented() -> Iterator[Line]:
    """The commands in the code blocks of the documents, without what a shell adds to them."""
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "nexus" / "plugins" / "README.md"]:
        for block in re.findall(r"^```[^\n]*\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if re.match(rf"(?:\$ )?(?:{'|'.join(OURS)}) ", line):
                    lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="|&;<>")
                    lexer.whitespace_split, lexer.commenters = True, "#"
                    words = list(lexer)
                    ends = [index for index, word in enumerate(words) if set(word) <= set("|&;<>")]
                    yield Line(path.name, tuple(words[: min(ends, default=None)]))


DOCUMENTED = sorted(set(documented()))


def test_the_documents_have_command_lines() -> None:
    assert len(DOCUMENTED) > 20


@pytest.mark.parametrize("line", DOCUMENTED, ids=lambda line: f"{line.where} {' '.join(line.words)}")
def test_command_line_of_a_document_is_one_that_the_program_accepts(line: Line) -> None:
    assert problem(line.words) is None
