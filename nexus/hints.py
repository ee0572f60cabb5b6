"""Hints: one or more complete lines, in which every command line is one that a shell runs as it stands.

A command line begins its line or follows ``": "``, and ends with the line; it may be several commands with ``"; "``
between them. What is in CAPITALS stands for something that the reader knows. This module knows no command.
"""

from __future__ import annotations

import os

__all__ = ["command_line", "joined"]


def command_line(*words: str | int | os.PathLike[str]) -> str:
    """A command line of these words, each quoted for the shell where it needs it."""
    return " ".join(_quoted(os.fspath(word) if isinstance(word, os.PathLike) else str(word)) for word in words)


def _quoted(word: str) -> str:
    from shlex import quote  # only for hints: it would delay each start of nexusctl

    if word.isprintable():
        return quote(word)
    # A line end would end the hint's line, and a terminal is never sent control characters: bash and zsh read escapes.
    escaped = "".join(
        f"\\{character}"
        if character in "'\\"
        else character
        if character.isprintable()
        else "".join(f"\\x{byte:02x}" for byte in character.encode(errors="surrogateescape"))
        for character in word
    )
    return f"$'{escaped}'"


def joined(*hints: str | None) -> str | None:
    """One hint of several, each on lines of its own; None if there is none among them."""
    return "\n".join(hint.strip("\n") for hint in hints if hint) or None
