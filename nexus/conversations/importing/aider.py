"""Aider: one Markdown file in the folder of a project, to which every chat is appended.

``# aider chat started at`` begins a chat, ``####`` a line of the user, ``>`` a line of the tool; anything else is of
the model. A message has no id: the chat, and its place in the file, stand for it. The last message may go on.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from nexus.conversations.import_records import ImportedConversation, ImportedMessage
from nexus.conversations.importing.parsed import (
    Begun,
    Item,
    Said,
    State,
    as_text,
    identifier,
    one_line,
    tokens_of,
)
from nexus.conversations.importing.redaction import Redactor
from nexus.conversations.records import MESSAGE_BYTES
from nexus.conversations.states import Role

__all__ = ["SOURCE", "AiderParser"]

SOURCE = "aider"
_STARTED = re.compile(r"# aider chat started at (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\s*$")
_MODEL = re.compile(r"(?:Main model|Model): (\S+)")


class AiderParser:
    """Reads one file of Aider."""

    def __init__(self, path: Path, redactor: Redactor, state: State) -> None:
        self._folder = os.path.realpath(path.parent)
        # Two projects may begin a chat within the same second.
        self._place = hashlib.sha256(os.fsencode(self._folder)).hexdigest()[:12]
        self._redactor = redactor
        self._chat = as_text(state.get("chat"))
        self._started = tokens_of(state.get("started"))
        self._model = as_text(state.get("model"))
        self._titled = bool(state.get("titled"))
        self._header: ImportedConversation | None = None
        self._role: Role | None = None
        self._lines: list[str] = []
        self._size = 0
        self._begin = 0
        self._before = dict(state)

    def _state(self) -> State:
        state: State = {"chat": self._chat, "started": self._started, "titled": self._titled}
        return {**state, "model": self._redactor.optional(self._model)} if self._chat is not None else {}

    def position(self, offset: int) -> tuple[int, State]:
        """As ``LineParser``."""
        return (offset, self._state()) if self._role is None else (self._begin, self._before)

    def raw(self, data: bytes, offset: int) -> Iterator[Item]:
        """As ``LineParser``: every line is text, so this is not needed."""
        return iter(())

    def end(self) -> Iterator[Item]:
        """As ``LineParser``: the message that may go on is given, and stays held back."""
        yield from self._said()

    def line(self, data: bytes, offset: int) -> Iterator[Item]:
        """As ``LineParser``."""
        text = data.decode("utf-8", "replace").rstrip("\r")
        started = _STARTED.match(text)
        if started is not None:
            yield from self._finish()
            yield from self._start(started[1], offset)
            return
        if text.startswith("#### "):
            role, text = Role.USER, text[5:]
        elif text.startswith(">"):
            role, text = Role.SYSTEM, text[1:].removeprefix(" ")
        elif not text.strip() and self._role is not Role.ASSISTANT:
            yield from self._finish()
            return
        else:
            role = Role.ASSISTANT
        if role is not self._role:
            yield from self._finish()
            self._before = self._state()
            self._role, self._begin = role, offset
        if role is Role.SYSTEM and (found := _MODEL.search(text)) is not None:
            self._model = one_line(found[1])
        self._size += len(text) + 1
        if self._size <= MESSAGE_BYTES:
            self._lines.append(text.rstrip() if role is not Role.ASSISTANT else text)

    def _start(self, started: str, offset: int) -> Iterator[Item]:
        at = datetime.strptime(started, "%Y-%m-%d %H:%M:%S").astimezone()  # Aider writes local time
        self._chat = identifier(f"{started.replace(' ', 'T')}@{offset}.{self._place}")
        self._started, self._titled = int(at.timestamp() * 1000), False
        self._header = self._told(None)
        yield Begun(self._header)

    def _told(self, title: str | None) -> ImportedConversation:
        return ImportedConversation(
            source=SOURCE,
            source_id=self._chat or identifier(f"@0.{self._place}"),
            title=title,
            folder=self._folder,
            tool=SOURCE,
            created_at=self._started,
        )

    def _said(self) -> Iterator[Item]:
        content = "\n".join(self._lines).strip("\n")
        if self._role is None or not content.strip():
            return
        title = None
        if self._role is Role.USER and not self._titled:
            self._titled, title = True, one_line(content)
        if self._header is None or title is not None:
            self._header = self._told(title)
            yield Begun(self._header)
        if self._size > MESSAGE_BYTES:
            content += f"\n\n[cut: {self._size - len(content)} characters more]"
        yield Said(
            ImportedMessage(
                source_id=identifier(f"{self._header.source_id}:@{self._begin}"),
                role=self._role,
                content=content,
                model=self._model if self._role is Role.ASSISTANT else None,
                created_at=self._started,
            )
        )

    def _finish(self) -> Iterator[Item]:
        yield from self._said()
        self._role = None
        self._lines.clear()
        self._size = 0
