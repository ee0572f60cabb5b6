"""The search finds features, tasks and requirements, and opens them by their numbers."""

from __future__ import annotations

import contextlib

from support.daemon import DaemonProcess

from nexus.client import BlockingClient
from nexus.ledger.features.commands import CreateFeature, DeleteFeature, UpdateFeature
from nexus.ledger.requirements.commands import CreateRequirement
from nexus.ledger.states import RequirementCategory
from nexus.records.scope import DEFAULT_ID
from nexus.search.commands import RebuildSearchIndex, Search
from nexus.store.connection import connect


def test_search_finds_features_tasks_and_requirements(daemon: DaemonProcess) -> None:
    with BlockingClient(daemon.socket_path) as client:

        def found(query: str, **fields: bool) -> list[str]:
            return sorted(hit.open for hit in client.call(Search(query, **fields)).hits)  # type: ignore[arg-type]

        client.call(CreateFeature("Walrus pool", description="where the otter swims"))
        client.call(
            CreateRequirement(
                RequirementCategory.FUNCTIONAL, "The walrus swims.", acceptance_criteria=["It uses getPoolDepth()."]
            )
        )
        with contextlib.closing(connect(str(daemon.database), isolation_level=None)) as database:
            database.execute("UPDATE record_number SET last = last + 1 WHERE kind = 'doc'")
            database.execute(
                "INSERT INTO tasks (id, number, project_id, name, description, created_at, updated_at, doc) "
                "VALUES ('6f1c0f7e-2f0c-4b60-9a63-3f1d5e0c1a04', 7, ?, 'Feed the walrus', 'with herring', 1, 1, "
                "(SELECT max(last) FROM record_number WHERE kind = 'doc'))",
                (DEFAULT_ID,),
            )
        client.call(RebuildSearchIndex())
        feature, task, requirement = (
            "nexusctl feature inspect 1",
            "nexusctl task inspect 7",
            "nexusctl requirement inspect 1",
        )
        assert found("walrus") == [feature, requirement, task]
        assert found("walrus kind:feature") == [feature]
        assert found("herring kind:task") == [task]
        assert found("pool depth") == [requirement]
        assert found("lrus sw", literal=True) == [requirement]
        assert found("otter kind:requirement") == []
        (hit,) = client.call(Search("otter")).hits
        assert (hit.kind, hit.name, hit.title) == ("feature", "1", "Walrus pool")
        assert "otter" in hit.snippet
        client.call(UpdateFeature("1", name="Seal pool"))
        assert found("walrus kind:feature") == []
        assert found("seal") == [feature]
        client.call(DeleteFeature("1"))
        assert found("seal") == []
