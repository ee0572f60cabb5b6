"""Reads a JSON file of issues in the form of GitHub: milestones as features, dependencies that their texts name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from nexus.ledger.importing.parsed import (
    DEFAULT_PRIORITY,
    Gathered,
    Outline,
    ReadFeature,
    ReadTask,
    TrackerFormat,
    TrackerUnreadable,
    as_dict,
    as_list,
    as_text,
    bounded_text,
    comments_of,
    decode_json,
    one_line,
    read_bytes,
    source_id,
    tags_of,
)
from nexus.ledger.states import FeatureStatus, TaskKind, TaskStatus

__all__ = ["issues_in", "read"]

_NEEDS = re.compile(
    r"\b(?:depends on|blocked by|requires):?[ \t]+(#[0-9]{1,18}(?:(?:,|,? and|[ \t])[ \t]*#[0-9]{1,18})*)",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"#([0-9]{1,18})")
_PRIORITY = re.compile(r"(?:priority[:/ -]*)?(p[0-4]|critical|urgent|high|medium|normal|low)", re.IGNORECASE)
_PRIORITIES = {"critical": 1, "urgent": 1, "high": 3, "medium": 5, "normal": 5, "low": 7}
_KINDS = {"bug": TaskKind.BUG, "question": TaskKind.QUESTION, "chore": TaskKind.CHORE}


def issues_in(value: Any) -> list[dict[str, Any]] | None:
    """The issues of a document: a list of them, or a map with one; None where it has none."""
    if isinstance(value, dict):
        value = next((value[name] for name in ("issues", "items") if isinstance(value.get(name), list)), [value])
    found = [each for each in as_list(value) if isinstance(each, dict) and "title" in each and "number" in each]
    return found or None


def read(path: Path) -> Outline:
    """The outline of a file.

    Raises:
        TrackerUnreadable: it is too large, or has no issues.
        OSError: it cannot be read.
    """
    value = decode_json(read_bytes(path))
    issues = issues_in(value)
    gathered = Gathered(TrackerFormat.GITHUB)
    if issues is None:
        if value == []:
            return gathered.outline()
        raise TrackerUnreadable(f"cannot read {path}: it has no issues with a number and a title")
    for issue in issues:
        if "pull_request" in issue or issue.get("isPullRequest") is True:
            gathered.skip("pull request")
        else:
            _add(gathered, issue)
    return gathered.outline()


def _labels(issue: dict[str, Any]) -> list[str]:
    names = (as_text(each) or as_text(as_dict(each).get("name")) for each in as_list(issue.get("labels")))
    return [name for name in names if name]


def _priority(labels: list[str]) -> int:
    for label in labels:
        found = _PRIORITY.fullmatch(label.strip())
        if found is not None:
            word = found[1].lower()
            return 2 * int(word[1]) + 1 if word[0] == "p" else _PRIORITIES[word]
    return DEFAULT_PRIORITY


def _milestone(gathered: Gathered, issue: dict[str, Any]) -> str | None:
    given = issue.get("milestone")
    name = one_line(given if isinstance(given, str) else as_dict(given).get("title"))
    if not name:
        return None
    feature = f"milestone:{name}"
    if not gathered.has_feature(feature):
        is_done = as_text(as_dict(given).get("state")).lower() == "closed"
        status = FeatureStatus.DONE if is_done else FeatureStatus.BACKLOG
        gathered.feature(ReadFeature(feature, name, bounded_text(as_dict(given).get("description")), status))
    return feature


def _add(gathered: Gathered, issue: dict[str, Any]) -> None:
    labels = _labels(issue)
    body = as_text(issue.get("body"))
    is_closed = as_text(issue.get("state")).lower() == "closed"
    why = as_text(issue.get("state_reason") or issue.get("stateReason")).lower()
    is_dropped = is_closed and why in ("not_planned", "duplicate")
    kind = next((_KINDS[each.lower()] for each in labels if each.lower() in _KINDS), TaskKind.FEATURE)
    id_ = source_id(issue["number"])
    gathered.task(
        ReadTask(
            id_,
            one_line(issue["title"]) or f"#{id_}",
            bounded_text(body),
            TaskStatus.FAILED if is_dropped else TaskStatus.COMPLETED if is_closed else TaskStatus.PENDING,
            reason=why.replace("_", " ") if is_dropped else None,
            kind=kind,
            priority=_priority(labels),
            tags=tags_of(labels),
            depends_on=[number for found in _NEEDS.findall(body) for number in _NUMBER.findall(found)],
            feature=_milestone(gathered, issue),
            comments=comments_of(as_list(issue.get("comments")), "body", "author", "createdAt"),
        )
    )
