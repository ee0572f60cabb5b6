"""Carries out long work as a stream, and shows its progress on one line of a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from nexus_protocol.command import StreamCommand

from nexus.cli.output import overwrite_line
from nexus.cli.result import Result, received

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["ProgressLine", "run_with_progress"]

ItemT = TypeVar("ItemT")
R = TypeVar("R")

_COLUMNS = 79


class ProgressLine:
    """One line on standard error, written over again and again; nothing where that is no terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._width = 0

    def show(self, text: str) -> None:
        """Replace the line."""
        if not self._shown:
            return
        text = text[:_COLUMNS]
        overwrite_line(text, self._width)
        self._width = len(text)

    def end(self) -> None:
        """Erase the line."""
        if self._width:
            overwrite_line("", self._width)
        self._width = 0


def run_with_progress(app: App, command: StreamCommand[ItemT, R], text: Callable[[ItemT], str]) -> Result[R]:
    """Carry out a command; each item is shown as its ``text``. Returns the reply to print it."""
    line = ProgressLine()
    try:
        with app.connect().stream(command) as stream:
            for item in stream:
                line.show(text(item))
            return received(command, stream.result_raw)
    finally:
        line.end()
