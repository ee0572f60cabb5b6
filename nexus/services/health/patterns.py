"""The regular expressions of log checks, matched by RE2 in time linear in the text, whatever the expression.

The output of a service is untrusted, and the backtracking of Python's ``re`` takes exponential time on some lines.
What is matched are lines as ``terminal`` gives them.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["compile_pattern"]

_MAX_MEMORY_BYTES = 1024 * 1024
"""For one expression, so that ``(a{1000}){1000}`` is refused and not built."""


def compile_pattern(pattern: str) -> Callable[[bytes], bool]:
    """A function that tells whether the expression matches anywhere in a line. The line may be any bytes.

    Raises:
        ValueError: RE2 does not accept the expression, or it is too large; the message has the reason.
    """
    # Imported only where a service has such a check: it takes 3 MiB.
    import re2

    options = re2.Options()
    options.max_mem = _MAX_MEMORY_BYTES
    options.log_errors = False
    try:
        search = re2.compile(pattern, options).search
    except re2.error as error:
        text = error.args[0] if error.args else "it is invalid"
        raise ValueError(text.decode(errors="replace") if isinstance(text, bytes) else str(text)) from None
    return lambda line: search(line) is not None
