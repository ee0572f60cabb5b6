"""``nexusctl metric``: metrics are recorded, listed and summed."""

from __future__ import annotations

from support.cli import Cli
from support.daemon import DaemonProcess

from nexus.client import BlockingClient
from nexus.ledger.metrics.commands import ListMetrics, RecordMetric, SumMetrics
from nexus.ledger.metrics.states import MetricBucket, MetricGroup
from nexus.ledger.states import MetricType


def test_metrics_are_recorded_listed_and_summed(cli: Cli) -> None:
    assert cli("agent", "spawn", "ada", "coder").code == 0
    assert cli("metric", "record", "token_usage", "1834", "--agent", "ada").out == "Recorded token_usage 1834\n"
    assert cli("metric", "record", "task_duration", "2.5", "--at", "2026-03-02 12:00").out == (
        "Recorded task_duration 2.50\n"
    )
    refused = cli("metric", "record", "token_usage", "nan")
    assert refused.code == 2
    assert "nan is not a number from 0 to 1e+15" in refused.err
    assert [each["value"] for each in cli("metric", "list", "-o", "json").json] == [1834, 2.5]
    newest = cli("metric", "list", "--limit", "1")
    assert "1834" in newest.out
    assert "Older metrics are not shown" in newest.err
    by_agent = cli("metric", "sum", "--by", "agent", "--per", "day", "--since", "7d")
    assert by_agent.lines[0].split()[:3] == ["FROM", "AGENT", "TYPE"]
    assert "ada" in by_agent.out
    assert "2.50" not in by_agent.out
    assert cli("metric", "sum", "--type", "task_duration", "--by", "task", "-o", "json").json[0]["sum"] == 2.5
    assert "(did you mean 'sum'?)" in cli("metric", "total").err


def test_commands_do_what_the_verbs_do(daemon: DaemonProcess) -> None:
    with BlockingClient(daemon.socket_path) as client:
        client.call(RecordMetric(MetricType.QA_ITERATIONS, 3))
        assert [each.value for each in client.call(ListMetrics()).metrics] == [3]
        (total,) = client.call(SumMetrics(by=MetricGroup.AGENT, bucket=MetricBucket.WEEK)).sums
        assert total.sum == 3
