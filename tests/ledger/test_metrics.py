"""Metrics: what is refused, how they are listed and summed, what messages add to them, and how long they are kept."""

from __future__ import annotations

import contextlib
import datetime
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from nexus_protocol import InvalidArgument, NotFound
from support.daemon import DaemonProcess
from support.raw import wait_until

from nexus.client import BlockingClient
from nexus.conversations.commands import CreateConversation, CreateMessage, DeleteConversation, ForkConversation
from nexus.conversations.import_commands import ImportMessages
from nexus.conversations.import_records import ImportedConversation, ImportedMessage
from nexus.conversations.states import Role
from nexus.journal.commands import WatchEvents
from nexus.ledger.agents.commands import CreateAgent, GetAgent
from nexus.ledger.metrics.commands import ListMetrics, RecordMetric, SumMetrics
from nexus.ledger.metrics.errors import MetricCursorInvalid, MetricInvalid, MetricSourceTaken, MetricTaskNotFound
from nexus.ledger.metrics.records import Metric
from nexus.ledger.metrics.states import MetricBucket, MetricGroup
from nexus.ledger.states import AgentType, MetricType
from nexus.projects.commands import CreateProject, DeleteProject, ProjectNotEmpty
from nexus.store.connection import connect
from nexus.system.commands import SetSetting

TOKENS, MINUTES, REJECTS = MetricType.TOKEN_USAGE, MetricType.TASK_DURATION, MetricType.QA_ITERATIONS
HOUR, DAY = 3_600_000, 24 * 3_600_000
NOON = int(datetime.datetime(2026, 3, 2, 12, tzinfo=datetime.UTC).timestamp() * 1000)
"""A Monday."""


@pytest.fixture
def nexus(daemon: DaemonProcess) -> Iterator[BlockingClient]:
    with BlockingClient(daemon.socket_path) as client:
        yield client


def listed(nexus: BlockingClient, **filters: Any) -> list[float]:
    return [metric.value for metric in nexus.call(ListMetrics(**filters)).metrics]


@pytest.mark.parametrize("value", [-1.0, -0.001, math.nan, math.inf, -math.inf, 1e16])
def test_value_is_a_number_and_not_negative(nexus: BlockingClient, value: float) -> None:
    with pytest.raises(MetricInvalid) as raised:
        nexus.call(RecordMetric(TOKENS, value))
    assert raised.value.details == {"path": "value"}
    assert listed(nexus) == []


def test_metric_is_listed_by_each_filter(nexus: BlockingClient) -> None:
    ada = nexus.call(CreateAgent("ada", AgentType.CODER))
    for number, type_ in enumerate([TOKENS, MINUTES, TOKENS, REJECTS]):
        agent = "ada" if number < 2 else None
        nexus.call(RecordMetric(type_, number, agent=agent, timestamp=NOON + number))
    nexus.call(CreateProject("shop"))
    nexus.call(RecordMetric(TOKENS, 9, timestamp=NOON + 9), project="shop")
    assert listed(nexus) == [3, 2, 1, 0]
    assert listed(nexus, type=TOKENS) == [2, 0]
    assert listed(nexus, agent="ada") == [1, 0]
    assert listed(nexus, agent=ada.id, type=MINUTES) == [1]
    assert listed(nexus, agent="gone") == []
    assert listed(nexus, since_at=NOON + 1, until_at=NOON + 3) == [2, 1]
    assert [each.value for each in nexus.call(ListMetrics(), project="*").metrics] == [9, 3, 2, 1, 0]
    found, cursor = [], None
    while True:
        page = nexus.call(ListMetrics(limit=1, cursor=cursor))
        found += [metric.value for metric in page.metrics]
        cursor = page.next_cursor
        if cursor is None:
            break
        with pytest.raises(MetricCursorInvalid):
            nexus.call(ListMetrics(type=TOKENS, cursor=cursor))
    assert found == [3, 2, 1, 0]


def test_tokens_are_added_to_the_agent(nexus: BlockingClient) -> None:
    nexus.call(CreateAgent("ada", AgentType.CODER))
    nexus.call(RecordMetric(TOKENS, 30, agent="ada"))
    nexus.call(RecordMetric(MINUTES, 5, agent="ada"))
    nexus.call(RecordMetric(TOKENS, 12, agent="ada"))
    ada = nexus.call(GetAgent("ada"))
    assert (ada.tokens_used, ada.revision, ada.state_revision) == (42, 1, 0)


def test_source_counts_once(nexus: BlockingClient) -> None:
    first = nexus.call(RecordMetric(TOKENS, 30, source="run 7", metadata={"model": "m"}))
    assert nexus.call(RecordMetric(TOKENS, 30, source="run 7", metadata={"model": "m"})) == first
    with pytest.raises(MetricSourceTaken):
        nexus.call(RecordMetric(TOKENS, 31, source="run 7", metadata={"model": "m"}))
    assert listed(nexus) == [30]
    with nexus.stream(WatchEvents(follow=False)) as stream:
        assert [event.detail for event in stream if event.kind == "metric.recorded"] == [
            {"type": "token_usage", "value": 30.0}
        ]


def test_what_it_names_must_be_there(nexus: BlockingClient) -> None:
    with pytest.raises(NotFound):
        nexus.call(RecordMetric(TOKENS, 1, agent="gone"))
    with pytest.raises(MetricTaskNotFound):
        nexus.call(RecordMetric(TOKENS, 1, task="#7"))
    with pytest.raises(InvalidArgument):
        nexus.call(RecordMetric(TOKENS, 1, metadata={"x": "y" * 20_000}))
    assert listed(nexus) == []


def test_sums_are_by_type_agent_and_task(nexus: BlockingClient, daemon: DaemonProcess) -> None:
    ada = nexus.call(CreateAgent("ada", AgentType.CODER))
    task = "0190f4a2-7c1e-4d5a-9b3e-2f6c8d1a4b72"
    with contextlib.closing(connect(str(daemon.database))) as database, database:
        database.execute(
            "INSERT INTO tasks (id, number, project_id, name, created_at, updated_at, doc) "
            "VALUES (?, 7, '00000000-0000-4000-8000-000000000000', 'wire it', 1, 1, 1000000)",
            (task,),
        )
    for value, agent, of in ((1, "ada", None), (2, "ada", "#7"), (4, None, "7")):
        nexus.call(RecordMetric(TOKENS, value, agent=agent, task=of))
    nexus.call(RecordMetric(MINUTES, 8, agent="ada"))

    def sums(**fields: Any) -> list[tuple[Any, ...]]:
        found = nexus.call(SumMetrics(**fields)).sums
        return [(each.type, each.agent, each.agent_id, each.task, each.task_id, each.count, each.sum) for each in found]

    assert sums() == [(MINUTES, None, None, None, None, 1, 8), (TOKENS, None, None, None, None, 3, 7)]
    assert sums(by=MetricGroup.AGENT, type=TOKENS) == [
        (TOKENS, None, None, None, None, 1, 4),
        (TOKENS, "ada", ada.id, None, None, 2, 3),
    ]
    assert sums(by=MetricGroup.TASK, agent="ada") == [
        (MINUTES, None, None, None, None, 1, 8),
        (TOKENS, None, None, None, None, 1, 1),
        (TOKENS, None, None, 7, task, 1, 2),
    ]
    assert sums(task="#7") == [(TOKENS, None, None, None, None, 2, 6)]
    (whole,) = nexus.call(SumMetrics(type=TOKENS)).sums
    assert (whole.lowest, whole.highest) == (1, 4)
    few = nexus.call(SumMetrics(limit=1))
    assert (len(few.sums), few.more) == (1, True)
    assert not nexus.call(SumMetrics(limit=2)).more


@pytest.mark.parametrize(
    ("bucket", "begins"),
    [
        (MetricBucket.HOUR, [NOON - 12 * HOUR - DAY + 23 * HOUR, NOON - 12 * HOUR, NOON, NOON + 6 * DAY + 11 * HOUR]),
        (MetricBucket.DAY, [NOON - 12 * HOUR - DAY, NOON - 12 * HOUR, NOON + 6 * DAY - 12 * HOUR]),
        (MetricBucket.WEEK, [NOON - 12 * HOUR - 7 * DAY, NOON - 12 * HOUR]),
    ],
)
def test_sums_are_by_time_in_utc(nexus: BlockingClient, bucket: MetricBucket, begins: list[int]) -> None:
    midnight = NOON - 12 * HOUR
    times = [midnight - 1, midnight, NOON, NOON + HOUR - 1, midnight + 7 * DAY - 1]
    for place, at in enumerate(times):
        nexus.call(RecordMetric(TOKENS, 2**place, timestamp=at))
    found = nexus.call(SumMetrics(bucket=bucket)).sums
    assert [each.begins_at for each in found] == begins
    assert sum(each.sum for each in found) == 31
    assert found[0].sum == 1
    since = nexus.call(SumMetrics(bucket=bucket, since_at=midnight, until_at=NOON)).sums
    assert [(each.begins_at, each.sum) for each in since] == [(midnight, 2)]


def test_messages_count_their_tokens_once(nexus: BlockingClient) -> None:
    talk = nexus.call(CreateConversation())
    nexus.call(CreateMessage(talk.id, Role.USER, content="hello"))
    said = nexus.call(CreateMessage(talk.id, Role.ASSISTANT, content="hi", tokens=5, model="m"))
    (metric,) = nexus.call(ListMetrics()).metrics
    assert (metric.type, metric.value, metric.source, metric.timestamp) == (TOKENS, 5, said.id, said.created_at)
    assert metric.metadata == {"conversation_id": talk.id, "model": "m"}
    nexus.call(ForkConversation(talk.id))
    assert listed(nexus) == [5]

    header = ImportedConversation(source="codex", source_id="s1")

    def read(tokens: int, content: str) -> None:
        message = ImportedMessage(source_id="m1", role=Role.ASSISTANT, content=content, tokens=tokens, created_at=NOON)
        nexus.call(ImportMessages(conversation=header, messages=[message]))

    def counted() -> list[tuple[float, str | None]]:
        found: list[Metric] = nexus.call(ListMetrics(until_at=said.created_at)).metrics
        return sorted((each.value, each.source) for each in found if each.source != said.id)

    for tokens, content in ((7, "a"), (7, "a"), (9, "a b"), (9, "a b"), (7, "a"), (9, "a b")):
        read(tokens, content)
    assert counted() == [(2, "codex:m1:9"), (7, "codex:m1")]


def test_what_is_read_again_after_its_deletion_counts_once(nexus: BlockingClient) -> None:
    header = ImportedConversation(source="codex", source_id="s1")
    messages = [ImportedMessage(source_id="m1", role=Role.ASSISTANT, content="a", tokens=7, created_at=NOON)]
    for _time in range(2):
        done = nexus.call(ImportMessages(conversation=header, messages=messages))
        assert listed(nexus) == [7]
        nexus.call(DeleteConversation(done.conversation_id))


def test_metrics_go_with_their_project(nexus: BlockingClient) -> None:
    nexus.call(CreateProject("shop"))
    for _time in range(3):
        nexus.call(RecordMetric(TOKENS, 1), project="shop")
    nexus.call(RecordMetric(TOKENS, 2))
    with pytest.raises(ProjectNotEmpty) as raised:
        nexus.call(DeleteProject("shop"))
    assert "it has 1 series of metrics" in raised.value.message
    nexus.call(DeleteProject("shop", cascade=True))
    assert [each.value for each in nexus.call(ListMetrics(), project="*").metrics] == [2]
    with nexus.stream(WatchEvents(follow=False), project="*") as stream:
        assert [event.detail for event in stream if event.kind == "metrics.deleted"] == [{"metrics": 3}]


def test_old_metrics_are_deleted(make_daemon: Callable[..., DaemonProcess]) -> None:
    daemon = make_daemon().start()
    now = int(time.time() * 1000)
    with BlockingClient(daemon.socket_path) as client:
        client.call(CreateAgent("ada", AgentType.CODER))
        client.call(SetSetting("metrics.keep_days", 2))
        for number in range(450):
            client.call(RecordMetric(TOKENS, 1, agent="ada", timestamp=now - 3 * DAY - number))
        client.call(RecordMetric(TOKENS, 2, agent="ada", timestamp=now - DAY))
    assert daemon.stop() == 0
    daemon.start()
    with BlockingClient(daemon.socket_path) as client:
        wait_until(lambda: listed(client) == [2], "the old metrics to go")
        assert client.call(GetAgent("ada")).tokens_used == 452
