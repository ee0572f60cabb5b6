"""Measure Nexus and its baselines in one run, and print the table: ``python tests/bench/run.py``.

A ratio is the median of the ratios of all rounds: absolute figures drift with the machine, ratios within a run do not.
"""

from __future__ import annotations

import argparse
import gc
import platform
import sqlite3
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.beside import BESIDE_MEASURES
from bench.checkpoints import CHECKPOINT_MEASURES
from bench.chunks import CHUNK_MEASURES
from bench.conversations import CONVERSATION_MEASURES
from bench.filters import FILTER_MEASURES
from bench.history import HISTORY_MEASURES
from bench.hosts import HOST_MEASURES
from bench.hub import HUB_MEASURES
from bench.imports import IMPORT_MEASURES
from bench.jobs import JOB_MEASURES
from bench.ledger import LEDGER_MEASURES
from bench.measures import MEASURES, Measure, Sample
from bench.projects import PROJECT_MEASURES
from bench.search import SEARCH_MEASURES
from bench.services import SERVICE_MEASURES
from bench.vectors import VECTOR_MEASURES
from bench.world import World

ALL = (
    *MEASURES,
    *FILTER_MEASURES,
    *PROJECT_MEASURES,
    *HISTORY_MEASURES,
    *BESIDE_MEASURES,
    *SERVICE_MEASURES,
    *HUB_MEASURES,
    *JOB_MEASURES,
    *CONVERSATION_MEASURES,
    *CHECKPOINT_MEASURES,
    *IMPORT_MEASURES,
    *SEARCH_MEASURES,
    *VECTOR_MEASURES,
    *HOST_MEASURES,
    *LEDGER_MEASURES,
    *CHUNK_MEASURES,
)

_TIMES, _TO = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"
_HEADINGS = ("measure", "ours", "baseline", "ratio", "target", "reached")


def main() -> None:
    """Parse the options, measure, print."""
    names = [measure.name for measure in ALL]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, help="number of rounds (default: 7)")
    parser.add_argument("--quick", action="store_true", help="3 short rounds, for rough figures")
    parser.add_argument("--only", action="append", choices=names, help="run only this measure; may be repeated")
    parser.add_argument("--markdown", action="store_true", help="print the table for the README")
    options = parser.parse_args()
    measures = [measure for measure in ALL if not options.only or measure.name in options.only]
    rounds = options.rounds or (3 if options.quick else 7)
    samples = _measure(measures, rounds, options.quick)
    rows = [_HEADINGS, *(_row(measure, samples[measure.name]) for measure in measures)]
    print(_markdown(rows) if options.markdown else _columns(rows))
    print(
        f"\nMedians (min to max) of {rounds} interleaved rounds; client and server on one core, except for the Pings "
        f"during lists, batches and other commands.\n"
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"Linux {platform.release()}, {platform.machine()}."
    )


def _measure(measures: list[Measure], rounds: int, quick: bool) -> dict[str, list[Sample]]:
    """Take every measure once per round, so that drift affects all of them. The first round is not counted."""
    samples: dict[str, list[Sample]] = {measure.name: [] for measure in measures}
    with World(quick=quick) as world:
        for number in range(rounds + 1):
            for measure in measures:
                if sys.stderr.isatty():
                    print(f"\r\033[Kround {number} of {rounds}: {measure.name}", end="", file=sys.stderr, flush=True)
                gc.collect()
                gc.freeze()  # else a full collection of this program's own objects is a part of what is measured
                sample = measure.sample(world)
                if number:
                    samples[measure.name].append(sample)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    return samples


def _row(measure: Measure, samples: list[Sample]) -> tuple[str, ...]:
    ours = [sample.ours for sample in samples]
    baselines = [sample.baseline for sample in samples if sample.baseline is not None]
    ratios = [sample.ours / sample.baseline for sample in samples if sample.baseline is not None]
    of_ratio = bool(ratios) and not measure.absolute
    decisive = statistics.median(ratios if of_ratio else ours)
    reached = decisive >= measure.target if measure.more_is_better else decisive <= measure.target
    target = f"{'≥' if measure.more_is_better else '≤'} {measure.target:g} {_TIMES if of_ratio else measure.unit}"
    return (
        measure.title,
        _spread(ours, measure.unit),
        f"{_spread(baselines, measure.unit)}, {measure.baseline}" if baselines else "",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}{_TO}{max(ratios):.2f})" if ratios else "",
        target,
        "yes" if reached else "NO",
    )


def _spread(values: list[float], unit: str) -> str:
    median, low, high = (_figure(value) for value in (statistics.median(values), min(values), max(values)))
    return f"{median} {unit} ({low}{_TO}{high})" if unit != "/s" else f"{median}/s ({low}{_TO}{high})"


def _figure(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:.1f}k"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _markdown(rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(_HEADINGS) + "|", *lines[1:]])


def _columns(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


if __name__ == "__main__":
    main()
