"""Reads the JSON Lines of beads: an issue a line, epics as features, blocking dependencies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nexus.ledger.importing.parsed import (
    DEFAULT_PRIORITY,
    Gathered,
    Outline,
    ReadFeature,
    ReadTask,
    TrackerFormat,
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

__all__ = ["is_issue", "read"]

_LINE_BYTES = 4 * 1024 * 1024
_LEVELS = 64
"""How many levels up an epic is looked for."""
_STATUS = {
    "open": TaskStatus.PENDING,
    "pinned": TaskStatus.PENDING,
    "in_progress": TaskStatus.IN_PROGRESS,
    "hooked": TaskStatus.IN_PROGRESS,
    "blocked": TaskStatus.BLOCKED,
    "deferred": TaskStatus.BLOCKED,
    "closed": TaskStatus.COMPLETED,
}
_OF_FEATURE = {TaskStatus.COMPLETED: FeatureStatus.DONE, TaskStatus.IN_PROGRESS: FeatureStatus.IN_PROGRESS}
_KINDS = {"bug": TaskKind.BUG, "chore": TaskKind.CHORE, "question": TaskKind.QUESTION}
_BLOCKING = ("", "blocks")
_SECTIONS = (("design", "Design"), ("acceptance_criteria", "Acceptance criteria"), ("notes", "Notes"))


def is_issue(value: Any) -> bool:
    """Whether a line is one of beads."""
    issue = as_dict(value)
    return bool(as_text(issue.get("id")) and as_text(issue.get("title"))) and bool(
        {"issue_type", "status", "dependencies"} & issue.keys()
    )


def read(path: Path) -> Outline:
    """The outline of a file.

    Raises:
        TrackerUnreadable: it is too large.
        OSError: it cannot be read.
    """
    gathered = Gathered(TrackerFormat.BEADS)
    issues: dict[str, dict[str, Any]] = {}
    for line in read_bytes(path).split(b"\n"):
        if not line.strip():
            continue
        decoded = decode_json(line) if len(line) <= _LINE_BYTES else None
        issue = as_dict(decoded)
        if not is_issue(decoded):
            gathered.skip("line that is no issue")
        elif issue.get("status") == "tombstone" or issue.get("issue_type") == "message":
            gathered.skip("deleted issue" if issue.get("status") == "tombstone" else "message")
        else:
            id_ = source_id(issue["id"])
            if id_ in issues:
                gathered.skip("given twice")
            issues[id_] = issue
    for id_, issue in issues.items():
        if issue.get("issue_type") == "epic":
            status = _OF_FEATURE.get(_status(gathered, issue), FeatureStatus.BACKLOG)
            name, tags = one_line(issue["title"]), tags_of(as_list(issue.get("labels")))
            gathered.feature(ReadFeature(id_, name, _description(issue), status, tags))
        else:
            gathered.task(_task(gathered, issues, id_, issue))
    return gathered.outline()


def _status(gathered: Gathered, issue: dict[str, Any]) -> TaskStatus:
    status = as_text(issue.get("status")) or "open"
    if status not in _STATUS:
        gathered.skip(f"status: {status}")
    return _STATUS.get(status, TaskStatus.PENDING)


def _description(issue: dict[str, Any]) -> str | None:
    parts = [as_text(issue.get("description")).strip()]
    parts += [f"## {title}\n\n{text}" for name, title in _SECTIONS if (text := as_text(issue.get(name)).strip())]
    return bounded_text("\n\n".join(part for part in parts if part))


def _needed(issue: dict[str, Any], types: tuple[str, ...]) -> list[str]:
    edges = map(as_dict, as_list(issue.get("dependencies")))
    return [source_id(edge.get("depends_on_id")) for edge in edges if as_text(edge.get("type")) in types]


def _parent(issues: dict[str, dict[str, Any]], id_: str) -> str | None:
    """What an issue is a part of: by an edge, else by its id, which is that of its parent and a number."""
    found = _needed(issues[id_], ("parent-child",))
    parent = found[0] if found else id_.rpartition(".")[0]
    return parent if parent in issues and parent != id_ else None


def _task(gathered: Gathered, issues: dict[str, dict[str, Any]], id_: str, issue: dict[str, Any]) -> ReadTask:
    parent = _parent(issues, id_)
    above, seen = parent, {id_}
    while above is not None and above not in seen and issues[above].get("issue_type") != "epic":
        if len(seen) > _LEVELS:
            above = None
            break
        seen.add(above)
        above = _parent(issues, above)
    status = _status(gathered, issue)
    why = issue.get("close_reason") if status is not TaskStatus.BLOCKED else issue.get("status")
    given = as_text(issue.get("priority")).upper().removeprefix("P")
    return ReadTask(
        id_,
        one_line(issue["title"]),
        _description(issue),
        status,
        reason=one_line(why) or None,
        kind=_KINDS.get(as_text(issue.get("issue_type")), TaskKind.FEATURE),
        priority=2 * int(given) + 1 if given in ("0", "1", "2", "3", "4") else DEFAULT_PRIORITY,
        tags=tags_of(as_list(issue.get("labels"))),
        depends_on=_needed(issue, _BLOCKING),
        feature=above if above not in seen else None,
        parent=parent,
        comments=comments_of(as_list(issue.get("comments")), "text", "author", "created_at"),
    )
