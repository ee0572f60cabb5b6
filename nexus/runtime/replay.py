"""Makes the last output of a program fit to be shown again: it begins with whole characters and asks no terminal.

The shim keeps bytes and knows no escape sequences (ECMA-48, xterm's control sequences); they are looked at here alone,
so that a running program's replay improves with the daemon. It knows no socket.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["to_replay"]

_NEWLINE_OR_ESCAPE = re.compile(rb"\n|(?=\x1b)")
_CONTINUATION = re.compile(rb"[\x80-\xbf]{0,3}")
_STRING_END = rb"[^\x07\x1b]*(?:\x07|\x1b\\)"
_UNWANTED = (  # compiled when it is first used, which takes long
    rb"\x1b\["
    rb"(?:[0-?]*c"  # DA: which terminal is this?
    rb"|[0-?]*n"  # DSR: where is the cursor?
    rb"|[0-?]*x"  # DECREQTPARM
    rb"|>[0-9]*q"  # XTVERSION
    rb"|[0-?]*\$p"  # DECRQM: is this mode set?
    rb"|\?[0-9]*u"  # which keyboard protocol?
    rb"|(?:1[1345689]|2[01])(?:;[0-9]*)*t)"  # XTWINOPS: how large is the window?
    rb"|\x1bZ"  # DECID
    rb"|\x1bP[$+]q"
    + _STRING_END  # DECRQSS, XTGETTCAP
    + rb"|\x1b\][0-9]+;(?:[0-9a-z]*;)*\?"
    + _STRING_END  # OSC: what is this colour, or the clipboard?
    + rb"|\x1b_G[^\x07\x1b;]*\ba=q[^\x07\x1b]*\x1b\\"  # which graphics?
    rb"|\x05"  # ENQ
    rb"|(?P<kept>\x1b[\]P_^X]" + _STRING_END + rb")"  # may end with the character of the bell
    rb"|\x07"
)
"""What makes a terminal answer, as if its user had typed that, or ring."""


def to_replay(parts: Iterable[tuple[int, bytes]], *, is_cut: bool, terminal: bool) -> list[tuple[int, bytes]]:
    """Turn kept output, as stream and bytes in their order, into what a client is shown of it.

    ``is_cut`` says that there was output before it: then each stream begins with a line, and on a ``terminal`` with an
    escape sequence, if that comes first. From a terminal's output the questions to it are left out, which it would
    answer once more, and its bell.
    """
    joined: list[tuple[int, bytearray]] = []
    for stream, data in parts:
        if joined and joined[-1][0] == stream:
            joined[-1][1].extend(data)
        else:
            joined.append((stream, bytearray(data)))
    found: list[tuple[int, bytes]] = []
    begun: set[int] = set()
    for stream, kept in joined:
        data = bytes(kept)
        if is_cut and stream not in begun:
            data = data[_first_whole(data, terminal) :]
        begun.add(stream)
        if terminal:
            data = re.compile(_UNWANTED).sub(lambda match: match["kept"] or b"", data)
        if data:
            found.append((stream, data))
    return found


def _first_whole(data: bytes, terminal: bool) -> int:
    """Where the first line or escape sequence begins, or else the first character."""
    if terminal:
        match = _NEWLINE_OR_ESCAPE.search(data)
        if match is not None:
            return match.end()
    elif b"\n" in data:
        return data.index(b"\n") + 1
    match = _CONTINUATION.match(data)
    return 0 if match is None else match.end()
