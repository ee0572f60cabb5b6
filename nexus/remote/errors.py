"""Why a host cannot be reached, or cannot do what it is asked: sentences from what ssh and its host say."""

from __future__ import annotations

from typing import NamedTuple

from nexus.hints import command_line
from nexus.runtime import RuntimeFailure

__all__ = ["Destination", "HostRefused", "HostUnreachable", "explain_end", "explain_problem"]


class Destination(NamedTuple):
    """What ssh is told of a host."""

    hostname: str
    """A name of the user's ssh configuration, or a host name or address."""
    user: str | None = None
    port: int | None = None

    def options(self) -> list[str]:
        """The arguments of ssh that name the host."""
        user = [] if self.user is None else ["-l", self.user]
        port = [] if self.port is None else ["-p", str(self.port)]
        return [*user, *port, "--", self.hostname]

    def by_hand(self) -> str:
        """The command line that connects by hand."""
        port = [] if self.port is None else ["-p", str(self.port)]
        return command_line("ssh", *port, self.hostname if self.user is None else f"{self.user}@{self.hostname}")


class HostUnreachable(RuntimeFailure):
    """No session to the host can be had, or it was lost: what runs there is not known meanwhile."""


class HostRefused(RuntimeFailure):
    """The host was reached and cannot do what it was asked, for want of space or permission, say."""


_BY_HAND = "Connect once by hand: {by_hand}"
_RULES: tuple[tuple[str, str, str], ...] = (
    (
        "remote host identification has changed",
        "its host key has changed",
        "Ask its administrator whether the key was replaced; if so, remove the old one: {forget}",
    ),
    (
        "host key verification failed",
        "its host key is unknown",
        "Connect once by hand and compare the fingerprint: {by_hand}",
    ),
    (
        "permission denied",
        "it accepts none of the keys that ssh offers",
        "Add a key to its authorized_keys, or load one into the agent, until this needs no password: {by_hand}",
    ),
    ("too many authentication failures", "it accepts none of the first keys that ssh offers", _BY_HAND),
    ("could not resolve hostname", "its host name is not known", "Check the name: {by_hand}"),
    ("connection refused", "it refuses connections", "Check that its sshd runs on that port: {by_hand}"),
    ("no route to host", "there is no route to it", _BY_HAND),
    ("network is unreachable", "the network is unreachable", _BY_HAND),
    ("timed out", "it did not answer in time", _BY_HAND),
    ("not responding", "it no longer answers", _BY_HAND),
    ("bad configuration option", "the ssh configuration has an error", _BY_HAND),
    ("kex_exchange_identification", "it closed the connection before it began", _BY_HAND),
    ("connection reset", "it reset the connection", _BY_HAND),
    ("closed by remote host", "it closed the connection", _BY_HAND),
    ("connection closed by", "it closed the connection", _BY_HAND),
)


def explain_end(name: str, destination: Destination, said: str, printed: str, *, greeted: bool) -> HostUnreachable:
    """Why the session to a node ended, from the standard error of ssh; ``greeted`` says whether it had begun.

    ``printed`` is what the host printed before it began: a login shell that refuses may say why on its output alone.
    """
    lines = _lines(said)
    text = "\n".join(lines).lower()
    forget = command_line("ssh-keygen", "-R", _known_host(destination))
    cannot = f'lost the connection to node "{name}"' if greeted else f'cannot reach node "{name}"'
    for sign, reason, hint in _RULES:
        if sign in text:
            filled = hint.format(by_hand=destination.by_hand(), forget=forget)
            return HostUnreachable(f"{cannot}: {reason}", filled)
    said_there = _lines("".join(each if each.isprintable() else "\n" for each in printed))
    if lines:
        last = lines[-1][:300].removeprefix("ssh: ").rstrip(".")
    elif said_there and not greeted:
        last = f'its login shell ended and printed "{said_there[-1][:300]}"'
    else:
        last = "ssh ended without a word"
    return HostUnreachable(f"{cannot}: {last}", _BY_HAND.format(by_hand=destination.by_hand()))


def explain_problem(said: str) -> str:
    """What a program on a node reported, as the end of a sentence."""
    lines = _lines(said)
    text = said.lower()
    if "no space left" in text:
        return "its disk is full"
    if "quota exceeded" in text:
        return "its disk quota is exceeded"
    if "read-only file system" in text:
        return "its disk is mounted read-only"
    if "permission denied" in text:
        return "the folder for runs cannot be written: permission denied"
    return lines[-1][:300].rstrip(".") if lines else "it gave no reason"


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _known_host(destination: Destination) -> str:
    if destination.port in (None, 22):
        return destination.hostname
    return f"[{destination.hostname}]:{destination.port}"
