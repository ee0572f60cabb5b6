"""Readers of other trackers: what they find in small samples, what they leave out, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from nexus_protocol.errors import InvalidArgument

from nexus.ledger.importing import parsed
from nexus.ledger.importing.parsed import Outline, ReadTask, TrackerFormat, TrackerUnreadable, tags_of
from nexus.ledger.importing.reading import detect, read
from nexus.ledger.states import FeatureStatus, TaskKind, TaskStatus


def by_id(outline: Outline) -> dict[str, ReadTask]:
    return {task.source_id: task for task in outline.tasks}


def lines(*values: Any) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def edge(id_: str, type_: str = "blocks") -> dict[str, str]:
    return {"depends_on_id": id_, "type": type_}


def issue(id_: str, **fields: Any) -> dict[str, Any]:
    return {"id": id_, "title": f"Do {id_}", "status": "open", **fields}


def test_beads_has_epics_dependencies_and_parents(tmp_path: Path) -> None:
    (tmp_path / ".beads").mkdir()
    text = lines(
        issue("x-1", issue_type="epic", status="in_progress", description="All of it", labels=["Big one"]),
        issue("x-2", issue_type="bug", priority=0, design="Like so", dependencies=[edge("x-1", "parent-child")]),
        issue("x-2.1", status="closed", close_reason="Done", priority="P3"),
        issue(
            "x-3",
            status="deferred",
            labels=["a b", "a b", "-"],
            dependencies=[edge("x-2"), edge("x-2"), edge("x-9"), edge("x-1"), edge("x-3"), edge("x-4", "related")],
        ),
        issue("x-4", status="odd"),
        issue("x-5", status="tombstone"),
    )
    (tmp_path / ".beads" / "issues.jsonl").write_text(text + "{broken\n[]\n", encoding="utf-8")
    assert detect(tmp_path) is TrackerFormat.BEADS
    outline = read(tmp_path)
    assert outline == read(tmp_path / ".beads" / "issues.jsonl")
    (epic,) = outline.features
    assert (epic.source_id, epic.name, epic.status, epic.description, epic.tags) == (
        *("x-1", "Do x-1", FeatureStatus.IN_PROGRESS, "All of it"),
        ["Big-one"],
    )
    tasks = by_id(outline)
    assert list(tasks) == ["x-2", "x-2.1", "x-3", "x-4"]
    assert (tasks["x-2"].kind, tasks["x-2"].priority, tasks["x-2"].feature) == (TaskKind.BUG, 1, "x-1")
    assert tasks["x-2"].description == "## Design\n\nLike so"
    part = tasks["x-2.1"]
    assert (part.parent, part.feature, part.status, part.reason, part.priority) == (
        *("x-2", "x-1", TaskStatus.COMPLETED, "Done"),
        7,
    )
    third = tasks["x-3"]
    assert (third.depends_on, third.status, third.reason, third.tags) == (
        *(["x-2"], TaskStatus.BLOCKED, "deferred"),
        ["a-b"],
    )
    assert (tasks["x-4"].status, tasks["x-4"].priority) == (TaskStatus.PENDING, 5)
    assert outline.skipped == {
        "line that is no issue": 2,
        "deleted issue": 1,
        "status: odd": 1,
        "dependency on a feature": 1,
        "dependency on what is not there": 1,
    }


def test_beads_whose_parents_go_in_a_circle_end(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    one, two = [issue(a, dependencies=[edge(b, "parent-child")]) for a, b in (("a", "b"), ("b", "a"))]
    file.write_text(lines(one, two, issue("a", title="Again")), encoding="utf-8")
    outline = read(file)
    assert [task.feature for task in outline.tasks] == [None, None]
    assert by_id(outline)["a"].name == "Again"
    assert outline.skipped == {"given twice": 1}


BACKLOG = """---
id: TASK-10
title: 'It''s the "second"'
status: In Progress
assignee: []
labels: [web-ui, "two words"]
dependencies:
  - task-2
  - task-99
priority: high
milestone: v1
parent_task_id: task-2
---

## Description

<!-- SECTION:DESCRIPTION:BEGIN -->
Make it so.
<!-- SECTION:DESCRIPTION:END -->

## Acceptance Criteria
- [ ] #1 It is so
"""


def test_backlog_has_a_file_for_each_task(tmp_path: Path) -> None:
    for folder in ("tasks", "completed", "drafts"):
        (tmp_path / "backlog" / folder).mkdir(parents=True)
    tasks = tmp_path / "backlog" / "tasks"
    (tasks / "task-10 - Second.md").write_text(BACKLOG, encoding="utf-8")
    (tasks / "task-2 - First.md").write_text("---\nid: task-2\ntitle: >-\n  The\n  first\nstatus: Odd\n---\n")
    (tasks / "task-3 - Draft.md").write_text("---\nid: task-3\ntitle: x\nstatus: Draft\n---\n")
    (tasks / "readme.md").write_text("# Tasks\n")
    (tmp_path / "backlog" / "completed" / "task-1 - Old.md").write_text(
        "---\nid: task-1\ntitle: Old\nstatus: Done\n---"
    )
    (tmp_path / "backlog" / "drafts" / "task-7 - No.md").write_text("---\nid: task-7\ntitle: No\n---\n")
    assert detect(tmp_path) is detect(tmp_path / "backlog") is TrackerFormat.BACKLOG
    outline = read(tmp_path)
    found = by_id(outline)
    assert list(found) == ["task-2", "task-10", "task-1"]
    second = found["task-10"]
    assert second == ReadTask(
        "task-10",
        'It\'s the "second"',
        "Make it so.\n\n## Acceptance Criteria\n- [ ] #1 It is so",
        TaskStatus.IN_PROGRESS,
        priority=3,
        tags=["web-ui", "two-words"],
        depends_on=["task-2"],
        feature="milestone:v1",
        parent="task-2",
    )
    assert (found["task-2"].name, found["task-1"].status) == ("The first", TaskStatus.COMPLETED)
    assert [feature.name for feature in outline.features] == ["v1"]
    assert outline.skipped == {
        "file without front matter": 1,
        "draft": 1,
        "status: odd": 1,
        "dependency on what is not there": 1,
    }


CHECKLIST = """# Plan

- [ ] Begin #urgent
  with care
  - [x] Look
    - [-] Not this
  1. [~] Go
- [ ] Begin #urgent

## Later ##

```
- [ ] no item
```
* [X] Rest
no more
    of it
"""


def test_checklist_has_sections_and_parts(tmp_path: Path) -> None:
    file = tmp_path / "todo.md"
    file.write_text(CHECKLIST, encoding="utf-8")
    assert detect(file) is TrackerFormat.CHECKLIST
    outline = read(file)
    first, look, go, again, rest = outline.tasks
    assert [feature.name for feature in outline.features] == ["Plan", "Later"]
    plan, later = [feature.source_id for feature in outline.features]
    assert [task.feature for task in outline.tasks] == [plan, plan, plan, plan, later]
    assert (first.name, first.description, first.tags) == ("Begin #urgent", "with care", ["urgent"])
    assert [task.parent for task in outline.tasks] == [None, first.source_id, first.source_id, None, None]
    assert [task.status for task in (look, go, rest)] == [
        *(TaskStatus.COMPLETED, TaskStatus.IN_PROGRESS),
        TaskStatus.COMPLETED,
    ]
    assert (again.name, rest.description) == (first.name, None)
    assert len({task.source_id for task in outline.tasks}) == 5
    assert outline.skipped == {"item that was dropped": 1}
    # What is added elsewhere, and what is checked off, changes no id.
    file.write_text("- [ ] New\n" + CHECKLIST.replace("[ ] Begin", "[x] Begin"), encoding="utf-8")
    assert [task.source_id for task in read(file).tasks][1:] == [task.source_id for task in outline.tasks]


def test_github_has_milestones_and_named_dependencies(tmp_path: Path) -> None:
    issues = [
        {"number": 1, "title": "One", "state": "CLOSED", "stateReason": "NOT_PLANNED", "labels": [{"name": "bug"}]},
        {
            "number": 2,
            "title": "Two",
            "state": "open",
            "labels": ["priority: high", "area/ui"],
            "body": "Depends on #1, #3 and #4.\nSee #9. Blocked by: #3",
            "milestone": {"title": "v2", "state": "closed", "description": "Second"},
        },
        {"number": 3, "title": "Three", "state": "closed", "body": None, "milestone": None, "labels": [{"name": "P0"}]},
        {"number": 4, "title": "A change", "state": "open", "pull_request": {}},
    ]
    file = tmp_path / "issues.json"
    for value in (issues, {"items": issues}):
        file.write_text(json.dumps(value), encoding="utf-8")
        assert detect(file) is TrackerFormat.GITHUB
        outline = read(file)
        tasks = by_id(outline)
        assert list(tasks) == ["1", "2", "3"]
        assert (tasks["1"].status, tasks["1"].reason, tasks["1"].kind) == (
            *(TaskStatus.FAILED, "not planned"),
            TaskKind.BUG,
        )
        assert (tasks["2"].depends_on, tasks["2"].priority, tasks["2"].tags, tasks["2"].feature) == (
            *(["1", "3"], 3, ["priority:-high", "area/ui"]),
            "milestone:v2",
        )
        assert (tasks["3"].status, tasks["3"].priority) == (TaskStatus.COMPLETED, 1)
        assert [(each.name, each.status, each.description) for each in outline.features] == [
            ("v2", FeatureStatus.DONE, "Second")
        ]
        assert outline.skipped == {"pull request": 1, "dependency on what is not there": 1}


@pytest.mark.parametrize(
    "content",
    [b"", b"# Notes\n\n- no item\n", b"{}", b'[{"title": "x"}]', b"[" * 100_000, b'{"id": "x"}\n', b"\0- [ ] x\n"],
)
def test_what_is_of_no_tracker_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    assert detect(file) is None
    with pytest.raises(TrackerUnreadable) as raised:
        read(file)
    assert isinstance(raised.value, InvalidArgument)
    assert detect(tmp_path) is None


def test_bounds_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "todo.md"
    text = "x" * 300 + "\x1b[31m"
    file.write_text(f"- [ ] {text}\n" + "".join(f"  {'y' * 99}\n" for _line in range(1000)), encoding="utf-8")
    (task,) = read(file).tasks
    assert (len(task.name), task.name[-1]) == (200, "…")
    assert task.description is not None
    assert len(task.description) == 32_768
    file.write_text("- [ ] a\x1b[31mb\n- [ ] two\n- [ ] three\n", encoding="utf-8")
    assert read(file).tasks[0].name == "a [31mb"
    file.write_text(f"# a{' ' * 1_000_000}x\n- [ ] {' ' * 5000}y\n- [ ] one\n", encoding="utf-8")
    assert [(task.name, task.feature) for task in read(file).tasks] == [("one", None)]
    file.write_text("- [ ] one\n- [ ] two\n- [ ] three\n", encoding="utf-8")
    monkeypatch.setattr(parsed, "MAX_TASKS", 2)
    with pytest.raises(TrackerUnreadable, match="more than 2"):
        read(file)
    file.write_bytes(b"- [ ] x\n" + b" " * (4 * 1024 * 1024))
    with pytest.raises(TrackerUnreadable, match="larger than 4096 KiB"):
        read(file)


@pytest.mark.parametrize(
    ("words", "tags"),
    [
        (["Good first issue", "area:ui", "a/b"], ["Good-first-issue", "area:ui", "a/b"]),
        (["..x", "é", "", 7, None, "x" * 70], ["x", "7", "x" * 64]),
        ([str(number) for number in range(100)], [str(number) for number in range(64)]),
    ],
)
def test_words_become_tags(words: list[Any], tags: list[str]) -> None:
    assert tags_of(words) == tags
