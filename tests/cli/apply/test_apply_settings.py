"""The section ``settings`` of ``nexus.toml``: what apply sets of a project, and what it refuses."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from support.cli import Cli


@pytest.fixture
def shop(shared: Cli, tmp_path: Path) -> Cli:
    """nexusctl in a folder of its own."""
    return Cli(shared.environment, tmp_path)


def test_settings_are_set_with_the_project_and_changed_later(shop: Cli, tmp_path: Path) -> None:
    file = tmp_path / "nexus.toml"
    file.write_text('project = "settled"\n[settings]\nmax_parallel_agents = 6\n')
    planned = shop.ok("apply", "--dry-run")
    assert '~ settings "settled"' in planned.out
    assert "max_parallel_agents: 4 (default) -> 6" in planned.out
    assert shop("project", "inspect", "settled").code == 4
    assert 'Updated settings "settled"' in shop.ok("apply", "-y").out
    # What the file does not name is the project's own.
    shop.ok("project", "update", "settled", "--settings", "theme=dark")
    shop.ok("apply", "-y")
    assert "Nothing to change" in shop.ok("apply", "-y", "--prune").out
    file.write_text('project = "settled"\n[settings]\nmax_parallel_agents = 2\ntest_coverage_target = 0\n')
    assert "max_parallel_agents: 6 -> 2" in shop.ok("apply", "-y").out
    settings = shop.ok("project", "inspect", "settled", "-o", "json").json["settings"]
    assert (settings["max_parallel_agents"], settings["test_coverage_target"]) == (2, 0)
    assert settings["theme"] == "dark"
    exported = tomllib.loads(shop.ok("export").out)
    assert exported["settings"] == {"max_parallel_agents": 2, "test_coverage_target": 0}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("max_parallel_agents = 0", "expected a whole number from 1 to 1000000"),
        ("test_coverage_target = true", "expected a whole number from 0 to 100"),
        ("max_task_minutes = { a = 1 }", "expected a whole number from 1 to 1000000"),
        ("max_parallel_agent = 3", "unknown key settings.max_parallel_agent (did you mean max_parallel_agents?)"),
    ],
)
def test_wrong_setting_is_refused_with_its_line(shop: Cli, tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "nexus.toml").write_text(f'project = "refused"\n[settings]\n{line}\n')
    result = shop("apply", "-y")
    assert result.code == 2
    assert told in result.err
    assert "line 3" in result.err
    assert shop("project", "inspect", "refused").code == 4
