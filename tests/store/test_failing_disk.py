"""The store on a disk that fails to sync: reported outcomes are true, and refused writes do not reappear."""

from __future__ import annotations

import signal
from pathlib import Path

from support.faults import build_failing_fsync, python_subprocess
from support.stores import contents, make_store

from nexus.store.maintenance import check_database


def run(root: Path, mode: str) -> tuple[dict[str, str], set[str]]:
    """Return the report of the scenario's process, and the keys in its database after its SIGKILL."""
    done = python_subprocess("support.fsync_scenario", root, mode, environment=build_failing_fsync(root))
    assert done.returncode == -signal.SIGKILL, done.stderr
    report = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    store = make_store(root)
    store.init()
    store.close_now()
    assert check_database(store.path).problems == []
    return report, {row["key"] for row in contents(store.path)["settings"]}


def test_failing_fsync_reports_unknown_outcome_and_refused_writes_stay_absent(root: Path) -> None:
    report, keys = run(root, "always")
    assert report == {
        "before": "before",
        "first": "OutcomeUnknown",
        "second": "OutcomeUnknown",
        "runs": "1",
        "problem": "QueryError",
        "third": "StoreUnavailable",
        "read": "True",
        "after": "after",
        "end": "None",
    }
    assert keys == {"before", "after"}


def test_commit_that_fails_once_is_retried(root: Path) -> None:
    report, keys = run(root, "once")
    assert report == {
        "before": "before",
        "first": "first",
        "second": "second",
        "runs": "2",
        "after": "after",
        "end": "None",
    }
    assert keys == {"before", "first", "second", "after"}
