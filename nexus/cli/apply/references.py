"""What ``${NAME}`` stands for in a project file: the caller's environment, else the ``.env`` beside the file.

``${TABLE.NAME.KEY}`` stands for a key of another record in the file, as far as its section gives it. The syntax is that
of ``nexus.envfile``.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NoReturn

from nexus import envfile
from nexus.cli.apply.keys import InvalidValue

__all__ = ["EnvFileInvalid", "References"]

_FILE = ".env"
_MAX_FILE_BYTES = 1024 * 1024
_MAX_CHARACTERS = 32_768

Refer = Callable[[str, str, tuple[str, ...]], str]
"""Gives the value of ``TABLE.NAME.KEY``, split after the table, for the key whose path is last; raises InvalidValue."""


class EnvFileInvalid(Exception):
    """The ``.env`` beside the project file cannot be used; the message names it, and the line."""


class References:
    """Replaces the references in the values of one file. The ``.env`` is read when a name first needs it."""

    def __init__(self, folder: str, tables: Iterable[str], refer: Refer, environment: Mapping[str, str] | None = None):
        self._path = f"{folder}/{_FILE}"
        self._refer = refer
        self._environment = os.environ if environment is None else environment
        self._from_file: Mapping[str, str] | None = None
        words = "|".join(map(re.escape, tables))
        self._record = re.compile(rf"(?:{words})\.[A-Za-z0-9._-]*[A-Za-z0-9_]") if words else None

    def replaced(self, text: str, at: tuple[str, ...]) -> str:
        """The text with its references replaced; ``at`` is the path of its key.

        Raises:
            InvalidValue: a name is not set and has no default, or the text is not well-formed.
            EnvFileInvalid: the ``.env`` cannot be used.
        """
        try:
            return envfile.interpolate(text, _Known(self, at), _MAX_CHARACTERS, strict=True, also=self._record)
        except envfile.Required as error:
            raise InvalidValue(
                f"{error.name} is required: {error.message}"
                if error.message
                else f"{error.name} is set neither in the environment nor in {self._path} "
                f"(a default: ${{{error.name}:-DEFAULT}}; a dollar: $$)"
            ) from None
        except envfile.BadReference:
            raise InvalidValue(
                "a ${ must begin a reference such as ${NAME} or ${NAME:-default}; a dollar is $$"
            ) from None
        except envfile.TooLong:
            raise InvalidValue(f"it has more than {_MAX_CHARACTERS} characters, with its references replaced") from None

    def look_up(self, name: str, at: tuple[str, ...]) -> str | None:
        """What a name stands for; None if it is not set."""
        if self._record is not None and self._record.fullmatch(name):
            table, _, rest = name.partition(".")
            return self._refer(table, rest, at)
        if name in self._environment:
            return self._environment[name]
        if self._from_file is None:
            self._from_file = self._read()
        return self._from_file.get(name)

    def _read(self) -> Mapping[str, str]:
        text = self._text()
        try:
            return {} if text is None else envfile.read(text, self._environment, known_first=True)
        except envfile.BadLine as error:
            raise EnvFileInvalid(f"cannot use {self._path}, line {error.line}: {error.problem}") from None

    def _text(self) -> str | None:
        """The text of the ``.env``; None without one."""
        try:
            # O_NONBLOCK: without it, open(2) waits for ever on a FIFO that has no writer.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._fail(error.strerror or "it cannot be opened")
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                self._fail("it is no regular file")
            try:
                data = file.read(_MAX_FILE_BYTES + 1)
            except OSError as error:
                self._fail(error.strerror or "it cannot be read")
        if len(data) > _MAX_FILE_BYTES:
            self._fail("it is larger than 1 MiB")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise EnvFileInvalid(f"cannot read {self._path}, line {line}: it is not UTF-8") from None

    def _fail(self, problem: str) -> NoReturn:
        raise EnvFileInvalid(f"cannot read {self._path}: {problem}")


class _Known(Mapping[str, str]):
    """The names that references may have, for one value; only ``get`` is asked for."""

    def __init__(self, references: References, at: tuple[str, ...]) -> None:
        self._references = references
        self._at = at

    def __getitem__(self, name: str) -> str:
        found = self._references.look_up(name, self._at)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError
