"""How well a symbol matches what a person has typed. It is pure."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

__all__ = ["Rank", "match_symbol", "rank_symbols"]


class Rank(IntEnum):
    """The kinds of matches, best first."""

    EXACT = 0
    SUFFIX = 1
    """The query is all that follows a dot: ``start`` of ``Daemon.start``."""
    PREFIX = 2
    """The symbol, or what follows one of its dots, begins with the query."""
    SUBSTRING = 3


def match_symbol(query: str, symbol: str) -> Rank | None:
    """How ``symbol`` matches, whatever the case; ``::`` is a dot. None if it does not, or the query is empty."""
    wanted, name = _folded(query.strip()), _folded(symbol)
    if not wanted:
        return None
    if wanted == name:
        return Rank.EXACT
    if name.endswith(f".{wanted}"):
        return Rank.SUFFIX
    if f".{wanted}" in f".{name}":
        return Rank.PREFIX
    return Rank.SUBSTRING if wanted in name else None


def rank_symbols(query: str, symbols: Iterable[str], limit: int | None = None) -> list[str]:
    """The symbols that match, best first, each once: by rank, then those in the same case, then the shorter ones."""
    found = []
    for symbol in dict.fromkeys(symbols):
        rank = match_symbol(query, symbol)
        if rank is not None:
            found.append((rank, query.strip() not in symbol, len(symbol), symbol))
    return [symbol for *_, symbol in sorted(found)[:limit]]


def _folded(name: str) -> str:
    return name.casefold().replace("::", ".")
