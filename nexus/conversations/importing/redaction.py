"""Replaces secrets in what parsers read, before anything else sees it. Patterns are RE2's: they take linear time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
import re2

__all__ = ["ASSIGNED", "BUILT_IN", "MARK", "PatternError", "Redactor", "parse_patterns"]

MARK = "[redacted]"
"""What stands in the place of a secret."""

BUILT_IN: dict[str, str] = {
    "private keys (PEM, OpenSSH, PGP)": (
        r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----[\s\S]*?"
        r"(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|\z)"
    ),
    "Anthropic, OpenAI and similar keys (sk-…)": r"\bsk-[A-Za-z0-9_-]{16,}",
    "GitHub tokens": r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})",
    "GitLab tokens": r"\bgl(?:pat|ptt|dt|rt|cbt|soat|ft|agent)-[A-Za-z0-9_-]{16,}",
    "AWS access keys": r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b",
    "Google API keys and OAuth tokens": (
        r"\b(?:AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,})"
    ),
    "Slack tokens and webhooks": (
        r"\b(?:xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,})"
        r"|https://hooks\.slack\.com/services/[A-Za-z0-9/_-]{20,}"
    ),
    "Stripe keys": r"\b(?:sk|rk|pk|whsec)_(?:live_|test_)?[A-Za-z0-9]{16,}",
    "npm, PyPI, Hugging Face, SendGrid, DigitalOcean tokens": (
        r"\b(?:npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{30,}|hf_[A-Za-z0-9]{30,}|SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"
        r"|do[opr]_v1_[a-f0-9]{40,})"
    ),
    "JSON Web Tokens": r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
    "credentials in an Authorization header": r"(?i)\b(?:bearer|basic)[ \t]+[A-Za-z0-9._~+/=-]{12,}",
    "passwords in addresses": r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@\"'\\]*:[^\s/@\"'\\]+@",
}
"""The known forms of secrets, by what people call them."""

ASSIGNED = {
    "PASSWORD=…, SECRET=…, TOKEN=…, API_KEY=… in capitals": (
        r"\b[A-Z0-9_]*(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY)[A-Z0-9_]*=\\?[\"']?",
        r"[^\s\"'\\\[$]{4,}",
    ),
    "password: …, token = … with a value in quotes, or with a digit": (
        r"(?i)\b[A-Z0-9_.-]*(?:password|passwd|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key)"
        r"[A-Z0-9_.-]*\\?[\"']?[ \t]*[=:][ \t]*",
        r"\\?\"[^\"\\\n\[][^\"\\\n]{3,}|\\?'[^'\\\n\[][^'\\\n]{3,}"
        r"|[A-Za-z_+/.-]{5,}[0-9][A-Za-z0-9_+/.=-]*|[A-Za-z_+/.-]{0,4}[0-9][A-Za-z0-9_+/.=-]{5,}",
    ),
}
"""The values of telling names: how the name is written, which stays, and the value."""

_NAMES = (
    r"(?i)password|passwd|passphrase|secret|(?:^|[_-])token|api[_-]?key|access[_-]?key|private[_-]?key|authorization"
)
_MAX_PATTERNS = 1000
_MAX_DEPTH = 200


class PatternError(ValueError):
    """A pattern that RE2 cannot compile, with the number of its line."""


def parse_patterns(text: str) -> list[str]:
    """The patterns of a file: one a line; empty lines and lines that begin with ``#`` are none.

    Raises:
        PatternError: one is no regular expression of RE2.
    """
    found = []
    options = re2.Options()
    options.log_errors = False
    for number, line in enumerate(text.splitlines(), 1):
        pattern = line.strip("\r\n")
        if not pattern.strip() or pattern.startswith("#"):
            continue
        try:
            re2.compile(pattern, options)
        except re2.error as error:
            reason = error.args[0] if error.args else "invalid"
            reason = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
            raise PatternError(f"line {number}: {reason}") from None
        found.append(pattern)
    if len(found) > _MAX_PATTERNS:
        raise PatternError(f"more than {_MAX_PATTERNS} patterns")
    return found


class Redactor:
    """Replaces what matches a pattern. One without patterns changes nothing."""

    def __init__(self, patterns: Sequence[str] = (), *, built_in: bool = False) -> None:
        every = [*patterns, *(BUILT_IN.values() if built_in else ())]
        self.active = bool(every)
        options = re2.Options()
        options.log_errors = False
        options.max_mem = 64 * 1024 * 1024
        self._pattern = re2.compile("|".join(f"(?:{each})" for each in every), options) if every else None
        self._assigned = [
            re2.compile(f"({name})(?:{value})", options) for name, value in (ASSIGNED.values() if built_in else ())
        ]
        self._names = re2.compile(_NAMES, options) if built_in else None
        self.replaced = 0
        """In how many texts something was replaced."""

    def text(self, text: str) -> str:
        """Text without its secrets."""
        if self._pattern is None or not text:
            return text
        clean = text if text.isascii() else text.encode("utf-8", "replace").decode()
        before = clean
        if self._pattern.search(clean) is not None:
            clean = str(self._pattern.sub(MARK, clean))
        for pattern in self._assigned:
            if pattern.search(clean) is not None:
                clean = str(pattern.sub(rf"\1{MARK}", clean))
        if clean == before:
            return text
        self.replaced += 1
        return clean

    def optional(self, text: str | None) -> str | None:
        """Like ``text``, of what may be absent."""
        return None if text is None else self.text(text)

    def identifier(self, text: str) -> str:
        """An identifier without secrets, and still a different one for each."""
        if self.text(text) == text:
            return text
        return "redacted-" + hashlib.sha256(text.encode()).hexdigest()[:24]

    def value(self, value: Any, depth: int = 0) -> Any:
        """A value of JSON, with every text and every name in it without secrets."""
        if not self.active:
            return value
        if isinstance(value, str):
            return self.text(value)
        if depth > _MAX_DEPTH:
            return MARK
        if isinstance(value, list):
            return [self.value(inner, depth + 1) for inner in value]
        if isinstance(value, dict):
            return {
                self.text(name): MARK if self._is_secret(name, inner) else self.value(inner, depth + 1)
                for name, inner in value.items()
            }
        return value

    def _is_secret(self, name: str, value: Any) -> bool:
        return (
            self._names is not None
            and isinstance(value, str)
            and len(value) >= 4
            and self._names.search(name) is not None
        )

    def body(self, value: Any) -> str:
        """A value as the body of a part: text itself, anything else as JSON; without secrets."""
        if isinstance(value, str):
            return self.text(value)
        return self.text(msgspec.json.encode(self.value(value)).decode())

    def raw(self, data: bytes) -> str:
        """A line that is not understood, as text without secrets, also where JSON escapes them."""
        text = data.decode("utf-8", "replace")
        if not self.active:
            return text
        try:
            value = msgspec.json.decode(text)
            clean = self.value(value)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return self.text(text)
        return self.text(text if clean == value else msgspec.json.encode(clean).decode())

    def blob(self, data: bytes, media_type: str | None) -> bytes:
        """The content of a file: of one that is text, without secrets."""
        is_text = (media_type or "").startswith("text/") or (media_type or "").endswith(("xml", "json"))
        if not self.active or not is_text:
            return data
        text = data.decode("utf-8", "replace")
        clean = self.text(text)
        return data if clean == text else clean.encode()
