"""Requirements: their links to features, their validation, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from nexus_protocol import InvalidArgument
from support.cli import Cli
from support.daemon import DaemonProcess
from support.stores import look_at

from nexus.client import BlockingClient
from nexus.ledger.features.commands import CreateFeature, DeleteFeature
from nexus.ledger.features.errors import FeatureNotFound
from nexus.ledger.requirements.commands import (
    CreateRequirement,
    DeleteRequirement,
    GetRequirement,
    LinkRequirement,
    ListRequirements,
    UnlinkRequirement,
    UpdateRequirement,
    ValidateRequirement,
)
from nexus.ledger.requirements.errors import RequirementChanged, RequirementElsewhere, RequirementIdTaken
from nexus.ledger.states import RequirementCategory, RequirementPriority
from nexus.projects.commands import CreateProject

ID = "6f1c0f7e-2f0c-4b60-9a63-3f1d5e0c1a02"
UI, TECHNICAL = RequirementCategory.UI_UX, RequirementCategory.TECHNICAL


@pytest.fixture
def nexus(daemon: DaemonProcess) -> Iterator[BlockingClient]:
    """A client of a daemon without records."""
    with BlockingClient(daemon.socket_path) as client:
        yield client


def test_requirement_has_what_it_was_created_with(nexus: BlockingClient) -> None:
    feature = nexus.call(CreateFeature("Log in"))
    command = CreateRequirement(
        UI,
        "People log in.",
        priority=RequirementPriority.MUST,
        source="the first interview",
        user_stories=["As a person I log in."],
        acceptance_criteria=["A wrong key is refused."],
        features=["#1", feature.id],
        confidence=0.25,
        tags=["auth"],
        id=ID,
    )
    made = nexus.call(command)
    assert (made.number, made.linked_features, made.validated, made.confidence) == (1, [feature.id], False, 0.25)
    found = nexus.call(GetRequirement("1"))
    assert found.names == {feature.id: "#1 Log in"}
    assert msgspec.structs.replace(found, names={}) == made
    assert nexus.call(command) == made
    with pytest.raises(RequirementIdTaken):
        nexus.call(CreateRequirement(UI, "People log out.", id=ID))


@pytest.mark.parametrize("confidence", [-0.1, 1.1])
def test_confidence_is_from_0_to_1(nexus: BlockingClient, confidence: float) -> None:
    with pytest.raises(InvalidArgument):
        nexus.call(CreateRequirement(UI, "x", confidence=confidence))
    assert nexus.call(CreateRequirement(UI, "x", confidence=0)).confidence == 0


def test_links_are_kept_in_their_order_and_as_rows(daemon: DaemonProcess, nexus: BlockingClient) -> None:
    ids = [nexus.call(CreateFeature(f"feature {number}")).id for number in (1, 2, 3)]
    nexus.call(CreateRequirement(UI, "x"))
    assert nexus.call(LinkRequirement("1", ["3", "1"])).linked_features == [ids[2], ids[0]]
    linked = nexus.call(LinkRequirement("1", ["1", "2"]))
    assert linked.linked_features == [ids[2], ids[0], ids[1]]
    assert nexus.call(LinkRequirement("1", ["1"])).revision == linked.revision  # nothing was to change
    assert nexus.call(UnlinkRequirement("1", ["3"])).linked_features == ids[:2]
    nexus.call(DeleteFeature("2"))
    assert nexus.call(GetRequirement("1")).linked_features == ids[:1]
    with look_at(daemon.database) as database:
        assert [row[0] for row in database.execute("SELECT feature_id FROM requirement_feature")] == ids[:1]
    nexus.call(DeleteRequirement("1"))
    with look_at(daemon.database) as database:
        assert database.execute("SELECT count(*) FROM requirement_feature").fetchone()[0] == 0


def test_feature_of_another_project_is_not_linked(nexus: BlockingClient) -> None:
    nexus.call(CreateProject("shop"))
    other = nexus.call(CreateFeature("Pay"), project="shop")
    nexus.call(CreateRequirement(UI, "x"))
    with pytest.raises(RequirementElsewhere, match='feature "1" is in the project "shop"'):
        nexus.call(LinkRequirement("1", [other.id]))
    with pytest.raises(FeatureNotFound):
        nexus.call(LinkRequirement("1", ["1"]))


def test_requirements_are_validated_and_listed_by_what_they_have(nexus: BlockingClient) -> None:
    def listed(**filters: Any) -> list[int]:
        return [one.number for one in nexus.call(ListRequirements(**filters)).requirements]

    nexus.call(CreateRequirement(UI, "The walrus is green.", tags=["walrus"]))
    nexus.call(CreateRequirement(TECHNICAL, "x", acceptance_criteria=["It ends within a second."]))
    nexus.call(ValidateRequirement("2", if_revision=1))
    with pytest.raises(RequirementChanged):
        nexus.call(ValidateRequirement("2", validated=False, if_revision=1))
    assert (listed(), listed(validated=True), listed(validated=False)) == ([1, 2], [2], [1])
    assert (listed(category=UI), listed(tag="walrus"), listed(match="second")) == ([1], [1], [2])
    nexus.call(ValidateRequirement("2", validated=False))
    assert listed(validated=True) == []
    assert nexus.call(UpdateRequirement("1", priority=RequirementPriority.CRITICAL)).revision == 2
    assert listed(priority=RequirementPriority.CRITICAL) == [1]


def test_verbs_of_requirements_link_and_validate(daemon: DaemonProcess) -> None:
    cli = Cli(daemon.environment)

    def run(*words: str) -> str:
        return cli.ok(*words).out

    run("feature", "create", "Log in")
    made = run("requirement", "create", "functional", "People log in.", "--criterion", "Fast.", "--confidence", "0.5")
    assert made == 'Created requirement "1"\n'
    assert run("requirement", "link", "1", "1") == 'Linked requirement "1": 1 linked\n'
    assert run("requirement", "validate", "1") == 'Validated requirement "1"\n'
    assert run("requirement", "list", "--validated", "-o", "name") == "1\n"
    assert run("requirement", "invalidate", "1") == 'Invalidated requirement "1"\n'
    assert run("requirement", "unlink", "1", "1") == 'Unlinked requirement "1": 0 linked\n'
    assert "Fast." in run("requirement", "inspect", "1")
    assert run("requirement", "delete", "1", "--yes") == 'Deleted requirement "1"\n'
