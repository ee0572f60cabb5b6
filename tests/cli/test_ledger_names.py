"""What people read in the ledger: numbers and names instead of ids, requirements of a feature, bars of metrics."""

from __future__ import annotations

from support.cli import Cli


def test_people_read_numbers_and_names_and_programs_ids(shared: Cli) -> None:
    shared.ok("agent", "spawn", "ada", "coder")
    shared.ok("feature", "create", "Sign in")
    shared.ok("sub-feature", "create", "1", "With a key")
    first = shared.ok("task", "create", "Draw the form", "-o", "json").json["id"]
    shared.ok("task", "create", "Ship it", "--sub-feature", "1", "--depends-on", "1")
    shared.ok("project", "create", "shop")
    shared.ok("-p", "shop", "task", "create", "Elsewhere")
    shared.ok("task", "depend", "2", "shop/1")
    shared.ok("task", "block", "2", "--blocked-by", "1")
    fields = [line.split(None, 2) for line in shared.ok("task", "inspect", "2").lines]
    text = "\n".join(" ".join(field) for field in fields)
    for wanted in (
        "#1 Sign in",
        "#1 With a key",
        "on: #1 Draw the form",
        "on: shop/1 Elsewhere",
        "by: #1 Draw the form",
    ):
        assert wanted in text, text
    plain = shared.ok("task", "inspect", "2", "-o", "json").json
    assert plain["blocked_by"] == plain["depends_on"][0] == first
    assert plain["names"][first] == "#1 Draw the form"
    shared.ok("task", "claim", "1", "--agent", "ada")
    shared.ok("-p", "shop", "task", "claim", "1", "--agent", "ada")
    assert "ada" in [line.split()[-1] for line in shared.ok("task", "inspect", "1").lines if line.startswith("Agent")]
    listed = shared.ok("-A", "lease", "list").lines
    assert any("task #1 Draw the form " in line and line.split()[-1] == "ada" for line in listed), listed
    assert any("task #1 Elsewhere " in line for line in listed), listed
    lease = shared.ok("lease", "list", "-o", "json").json[0]
    assert lease["resource_id"] == first
    shown = shared.ok("lease", "inspect", lease["id"]).out
    assert "task #1 Draw the form" in shown
    assert first not in shown
    assert " shop/1 Elsewhere" in shared.ok("agent", "list").out
    assert " shop/1 Elsewhere\n" in shared.ok("agent", "inspect", "ada").out


def test_requirements_are_listed_by_feature(shared: Cli) -> None:
    sign_in, search = (shared.ok("feature", "create", name, "-o", "name").out.strip() for name in ("Log in", "Search"))
    for features in ((sign_in,), (search,), (sign_in, search), ()):
        options = [word for feature in features for word in ("--feature", feature)]
        shared.ok("requirement", "create", "functional", "must", *options)
    both = shared.ok("requirement", "list", "--feature", search, "-o", "name").lines
    assert both == ["2", "3"]
    assert shared.ok("requirement", "list", "--feature", f"#{search}", "--priority", "low").out == ""
    shared.ok("requirement", "unlink", "3", search)
    assert shared.ok("requirement", "list", "--feature", search, "-o", "name").lines == ["2"]
    assert shared.ok("requirement", "list", "--feature", "99").out == ""
    assert f"#{sign_in} Log in" in shared.ok("requirement", "inspect", "3").out


def test_sums_over_time_are_drawn(shared: Cli) -> None:
    for day, value in ((1, "80"), (3, "10"), (4, "40")):
        shared.ok("metric", "record", "token_usage", value, "--at", f"2026-03-0{day} 12:00")
    shared.ok("metric", "record", "qa_iterations", "2", "--at", "2026-03-04 12:00")
    *_, empty, rejects, tokens = shared.ok("metric", "sum", "--per", "day").lines
    assert empty == ""
    assert rejects == "qa_iterations     █"
    assert tokens == "token_usage    █ ▁▄"
    assert "█" not in shared.ok("metric", "sum").out
    assert len(shared.ok("metric", "sum", "--per", "day", "-o", "json").json) == 4
