"""The settings of projects that the daemon knows are checked, others are free."""

from __future__ import annotations

from typing import Any

import pytest
from nexus_protocol import InvalidArgument
from support.projects import Speaker

from nexus.projects.commands import CreateProject, UpdateProject


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_parallel_agents", 0),
        ("max_parallel_agents", True),
        ("test_coverage_target", 101),
        ("test_coverage_target", -1),
        ("max_task_minutes", 1.5),
        ("qa_max_iterations", "50"),
        ("checkpoint_interval_hours", None),
    ],
)
def test_known_setting_out_of_bounds_is_refused(nexus: Speaker, key: str, value: Any) -> None:
    client = nexus.at(None)
    with pytest.raises(InvalidArgument, match=f'cannot create project "shop": the setting {key} is a whole number'):
        client.call(CreateProject("shop", settings={key: value}))
    client.call(CreateProject("shop", settings={"theme": value}))
    with pytest.raises(InvalidArgument, match='cannot update project "shop"') as refused:
        client.call(UpdateProject("shop", settings={"theme": 1, key: value}))
    assert refused.value.details == {"path": f"settings.{key}"}


def test_known_settings_within_their_bounds_are_kept(nexus: Speaker) -> None:
    settings = {
        "max_parallel_agents": 1,
        "test_coverage_target": 0,
        "max_task_minutes": 30,
        "qa_max_iterations": 5,
        "checkpoint_interval_hours": 24,
    }
    assert nexus.at(None).call(CreateProject("shop", settings=settings)).settings == settings
