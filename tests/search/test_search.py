"""What a daemon finds: words, identifiers, CJK, accents, filters and projects; and what it never shows."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from nexus_protocol import InvalidArgument, NexusError
from support.conversations import Conversations
from support.daemon import DaemonProcess
from support.raw import RawClient, wait_until

from nexus.client import BlockingClient
from nexus.conversations.commands import (
    CreateMessage,
    DeleteConversation,
    DeleteMessage,
    EditMessage,
    ForkConversation,
    ListConversations,
    ListMessages,
    UpdateConversation,
)
from nexus.conversations.records import Conversation, MessagePart
from nexus.conversations.states import PartKind, Role
from nexus.jobs.commands import CreateJob, DeleteJob, ListJobs, WaitJobs
from nexus.projects.commands import CreateProject, DeleteProject
from nexus.records.errors import QueryInvalid
from nexus.search.commands import RebuildSearchIndex, Search
from nexus.search.errors import SearchFilterNotFound
from nexus.search.records import Hit
from nexus.search.states import SearchKind, SearchOrder
from nexus.services.commands import AddService, ListServices, RemoveService
from nexus.store.connection import connect
from nexus.store.maintenance import check_database
from nexus.store.splitting import INDEXED_CHARACTERS
from nexus.vms.commands import CreateVm, DeleteVm, ListVms, UpdateVm


def hits(nexus: Conversations, query: str, **fields: object) -> list[Hit]:
    """What a query finds."""
    return nexus.client.call(Search(query, **fields)).hits  # type: ignore[arg-type]


def names(nexus: Conversations, query: str, **fields: object) -> list[str]:
    """The names of what a query finds, sorted."""
    return sorted(f"{hit.kind} {hit.name}" for hit in hits(nexus, query, **fields))


@pytest.fixture
def said(nexus: Conversations) -> Conversation:
    """A conversation with a message for each subject."""
    made = nexus.create("Deploy to Production")
    nexus.add(
        made,
        "please call getUserName() at once",
        "the get_user_name of HTTPServerPool",
        "im Café größer",
        "日本語のテスト、東京 python中文",
        "run out of memory -- twice",
        "foo->bar(x) and Foo->bar(y)",
    )
    return made


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ("call", [1]),
        ("CALL once", [1]),
        ("call memory", []),
        ("call OR memory", [1, 5]),
        ("user", [1, 2]),
        ("user -call", [2]),
        ("name user", [1, 2]),
        ('"user name"', [1, 2]),
        ('"name user"', []),
        ("getUserName", [1, 2]),
        ("get_user_name", [1, 2]),
        ("getuser*", [1]),
        ("server", [2]),
        ("http", [2]),
        ("serverpool", []),
        ("cafe", [3]),
        ("CAFÉ", [3]),
        ("cafe\u0301", [3]),
        ("grosser", []),
        ("größ*", [3]),
        ("gross*", []),
        ("日本", [4]),
        ("本語", [4]),
        ("日本語", [4]),
        ("日語", []),
        ("語", [4]),
        ("東京", [4]),
        ("テスト", [4]),
        ("中文", [4]),
        ("python", [4]),
        ("python中文", [4]),
        ('"out of memory"', [5]),
        ('"of out"', []),
        ("mem*", [5]),
        ('"out of mem"*', [5]),
        ("memo", []),
        ("bar(x)", [6]),
    ],
)
def test_messages_are_found_by(nexus: Conversations, said: Conversation, query: str, numbers: list[int]) -> None:
    assert names(nexus, f"kind:message {query}") == [f"message {said.name}:{number}" for number in numbers]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("o->bar(", [6]), ("Foo->bar(y", [6]), ("FOO->", []), ("->", [6]), ("日本語の", [4]), ("ut of mem", [5])],
)
def test_literal_finds_text_as_it_stands(
    nexus: Conversations, said: Conversation, text: str, numbers: list[int]
) -> None:
    assert names(nexus, text, literal=True) == [f"message {said.name}:{number}" for number in numbers]


def test_hits_say_what_they_are_and_how_to_open_them(nexus: Conversations, said: Conversation) -> None:
    (hit,) = hits(nexus, '"at once"')
    assert (hit.kind, hit.role, hit.title, hit.project) == (SearchKind.MESSAGE, "user", said.title, "default")
    assert hit.open == f"nexusctl message show {said.name}:1"
    assert hit.snippet == "please call getUserName() at once"
    assert [hit.snippet[start:end] for start, end in hit.highlights] == ["at once"]
    (hit,) = hits(nexus, "production")
    assert (hit.kind, hit.id, hit.open) == (
        SearchKind.CONVERSATION,
        said.id,
        f"nexusctl conversation show {said.name}",
    )


def test_filters(nexus: Conversations, said: Conversation) -> None:
    other = nexus.create("Other")
    nexus.add(other, "call here", role=Role.ASSISTANT)
    assert names(nexus, "call role:user") == [f"message {said.name}:1"]
    assert names(nexus, "call role:user role:assistant") == sorted(
        [f"message {said.name}:1", f"message {other.name}:1"]
    )
    assert names(nexus, f"call conversation:{other.name}") == [f"message {other.name}:1"]
    assert names(nexus, f"call conversation:{other.id[:8]}") == [f"message {other.name}:1"]
    assert names(nexus, "call project:default after:2026-01-01") != []
    assert names(nexus, "call before:2020-01-01") == []
    assert names(nexus, "call after:2999-01-01T00:00:00+02:00") == []
    assert names(nexus, "call kind:job kind:vm") == []
    assert names(nexus, "call node:local") == []
    for query, where in (
        ("call kind:mail", 6),
        ("call role:boss", 6),
        ("call after:tomorrow", 6),
        ("call project:a project:b", 16),
    ):
        error = nexus.client.call_error(Search(query))
        assert isinstance(error, QueryInvalid)
        assert error.details["at"] == where
        assert error.message.startswith("cannot search: ")
    error = nexus.client.call_error(Search("call conversation:9999"))
    assert isinstance(error, SearchFilterNotFound)
    assert error.message == 'cannot search: conversation "9999" not found'
    assert "project" in nexus.client.call_error(Search("call project:nowhere")).message


def test_newest_first_and_limits(nexus: Conversations) -> None:
    made = nexus.create()
    nexus.add(made, "needle needle needle", *["a needle in a long text of many other words"] * 25)
    found = nexus.client.call(Search("needle"))
    assert (len(found.hits), found.more) == (20, True)
    assert found.hits[0].name == f"{made.name}:1", "the one with the word most often"
    newest = nexus.client.call(Search("needle", sort=SearchOrder.TIME, limit=3))
    assert [hit.name for hit in newest.hits] == [f"{made.name}:{number}" for number in (26, 25, 24)]
    everything = nexus.client.call(Search("needle", limit=26))
    assert (len(everything.hits), everything.more) == (26, False)


def test_parts_with_a_text_of_their_own_are_found_and_others_once(nexus: Conversations) -> None:
    made = nexus.create()
    parts = [
        MessagePart(PartKind.TEXT, "visible words"),
        MessagePart(PartKind.TOOL_USE, '{"command": "listFiles"}', "bash", "c1"),
        MessagePart(PartKind.TOOL_RESULT, "secretPlan.txt", "bash", "c1"),
        MessagePart(PartKind.THINKING, "pondering deeply"),
        MessagePart(PartKind.RAW, "rawnoise"),
    ]
    nexus.client.call(CreateMessage(made.id, Role.ASSISTANT, parts=parts))
    reference = f"{made.name}:1"
    assert names(nexus, "visible") == [f"message {reference}"]
    assert names(nexus, "files") == [f"tool {reference}"]
    assert names(nexus, "bash kind:tool") == [f"tool {reference}"] * 2
    assert names(nexus, "plan role:assistant") == [f"tool {reference}"]
    assert names(nexus, "pondering") == [f"thinking {reference}"]
    assert names(nexus, "rawnoise") == []
    nexus.client.call(EditMessage(reference, parts=[MessagePart(PartKind.TEXT, "visible still")]))
    assert names(nexus, "files OR plan OR pondering") == []
    assert names(nexus, "still") == [f"message {reference}"]


def test_edited_and_deleted_messages_are_not_found_by_their_old_text(nexus: Conversations) -> None:
    made = nexus.create("first title")
    one, two = nexus.add(made, "alpha", "beta")
    nexus.client.call(EditMessage(one.id, "gamma"))
    nexus.client.call(DeleteMessage(two.id))
    nexus.client.call(UpdateConversation(made.id, title="second title"))
    assert names(nexus, "alpha OR beta OR first") == []
    assert names(nexus, "gamma OR second") == [f"conversation {made.name}", f"message {made.name}:1"]


def test_long_text_is_found_by_its_beginning_and_its_end_and_literally_by_all_of_it(nexus: Conversations) -> None:
    made = nexus.create()
    filler = "lorem ipsum dolor " * 4000
    text = f"headword {filler} middleword of it {filler} tailword"
    assert len(text) > 2 * INDEXED_CHARACTERS
    (message,) = nexus.add(made, text)
    found = [f"message {made.name}:1"]
    assert names(nexus, "headword") == names(nexus, "tailword") == names(nexus, "headword tailword") == found
    assert names(nexus, "middleword") == []
    assert names(nexus, "middleword of", literal=True) == found
    (hit,) = hits(nexus, "middleword of", literal=True)
    assert hit.snippet[slice(*hit.highlights[0])] == "middleword of"
    nexus.client.call(EditMessage(message.id, "short"))
    assert names(nexus, "headword OR tailword") == []
    assert names(nexus, "short") == found


def test_of_many_long_parts_the_first_are_found(nexus: Conversations) -> None:
    made = nexus.create()
    bodies = [f"number{number} {'x ' * (INDEXED_CHARACTERS // 2)}" for number in range(4)]
    parts = [MessagePart(PartKind.TOOL_RESULT, body, tool="cat") for body in bodies]
    nexus.client.call(CreateMessage(made.id, Role.TOOL, parts=parts))
    assert [bool(names(nexus, f"number{number}")) for number in range(4)] == [True, True, False, False]


def test_hidden_conversations_are_never_found(nexus: Conversations) -> None:
    made = nexus.create("vanishing title")
    nexus.add_many(made, 600, "vanishing text")
    nexus.client.call(DeleteConversation(made.id))
    # At once, while most of its messages have rows; and later, when these are gone.
    for literal in (False, True):
        assert hits(nexus, "vanishing", literal=literal) == []
    nexus.swept()
    assert hits(nexus, "vanishing") == []


def test_fork_is_found_once_it_is_complete(nexus: Conversations) -> None:
    made = nexus.create("original")
    parts = [MessagePart(PartKind.TEXT, "forked text"), MessagePart(PartKind.TOOL_RESULT, "forked result")]
    nexus.client.call(CreateMessage(made.id, Role.ASSISTANT, parts=parts))
    fork = nexus.client.call(ForkConversation(made.id, title="copy"))
    expected = [f"{kind} {one.name}:1" for kind in ("message", "tool") for one in (made, fork)]
    assert names(nexus, "forked") == sorted(expected)


def test_message_is_found_while_a_client_appends_once_it_is_idle(nexus: Conversations) -> None:
    made = nexus.create()
    appender = nexus.append(made)
    appender.began()
    appender.data(b"an unfinis")
    appender.durable(10)
    appender.data(b"hed thought")
    found = wait_until(lambda: hits(nexus, "unfinished"), "the message is idle")
    assert [(hit.kind, hit.name) for hit in found] == [(SearchKind.MESSAGE, f"{made.name}:1")]
    appender.data(b" goes on")
    appender.part(kind="tool_use", tool="bash", call_id="c1")
    appender.data(b"listing")
    appender.end()
    assert names(nexus, "thought goes") == [f"message {made.name}:1"]
    assert names(nexus, "unfinished") == [f"message {made.name}:1"]
    assert names(nexus, "listing") == [f"tool {made.name}:1"]
    assert nexus.get(f"{made.name}:1").content == "an unfinished thought goes on"


def test_jobs_services_and_vms_are_found(nexus: Conversations) -> None:
    client = nexus.client
    job = client.call(CreateJob("echo wonderOutput; echo oops >&2; exit 3", label="nightly-report"))
    client.call(WaitJobs(jobs=[job.id]))
    client.call(AddService("checkout-api", run_command="sleep 1"))
    client.call(CreateVm("data-gate"))
    try:
        for query in ("wonderoutput", "wonder oops", "nightly", "report kind:job", "echo node:local", "ightl"):
            assert names(nexus, query) == [f"job {job.name}"]
        assert names(nexus, "checkout") == ["service checkout-api"]
        assert names(nexus, "eckou") == ["service checkout-api"], "within a word of a name"
        assert names(nexus, "gate") == ["vm data-gate"]
        assert [hit.open for hit in hits(nexus, "gate OR checkout OR nightly", sort=SearchOrder.TIME)] == [
            "nexusctl vm inspect data-gate",
            "nexusctl service status checkout-api",
            f"nexusctl job inspect {job.name}",
        ]
        assert names(nexus, "oops", literal=True) == [f"job {job.name}"]
        client.call(UpdateVm("data-gate", name="data-door"))
        assert names(nexus, "gate") == []
        assert names(nexus, "door") == ["vm data-door"]
    finally:
        client.call(DeleteJob(job.id))
        client.call(RemoveService("checkout-api"))
        client.call(DeleteVm("data-door"))
    assert names(nexus, "wonder OR checkout OR door") == []


def test_lists_find_records_by_words(nexus: Conversations) -> None:
    client = nexus.client
    made = nexus.create("Deploy to Production")
    nexus.create("Other")
    parts = [MessagePart(PartKind.TEXT, "I look."), MessagePart(PartKind.TOOL_RESULT, "forty two files")]
    client.call(CreateMessage(made.id, Role.ASSISTANT, parts=parts))
    nexus.add(made, "look again", "nothing")
    jobs = [client.call(CreateJob(f"true {name}", stashed=True)) for name in ("alphaBeta", "gamma")]
    for name in ("shop-api", "shop-db"):
        client.call(AddService(name, run_command="sleep 1"))
        client.call(CreateVm(name))
    try:
        assert [one.title for one in client.call(ListConversations(match="product*")).conversations] == [made.title]
        assert [one.number for one in client.call(ListMessages(made.id, match="look")).messages] == [1, 2]
        assert [one.number for one in client.call(ListMessages(made.id, match="files")).messages] == [1]
        last = client.call(ListMessages(made.id, match="look", at_end=True, limit=1))
        assert ([one.number for one in last.messages], last.before) == ([2], 2)
        assert [one.id for one in client.call(ListJobs(match="beta")).jobs] == [jobs[0].id]
        assert client.call(ListJobs(match="beta", status="completed")).jobs == []  # type: ignore[arg-type]
        for command in (ListServices, ListVms):
            found = client.call(command(match="shop -db"))  # type: ignore[operator]
            assert [one.name for one in getattr(found, command.__struct_fields__ and found.__struct_fields__[0])] == [
                "shop-api"
            ]
        page = client.call(ListVms(match="shop", limit=1))
        assert page.next_cursor is not None
        rest = client.call(ListVms(match="shop", limit=1, cursor=page.next_cursor))
        assert {page.vms[0].name, rest.vms[0].name} == {"shop-api", "shop-db"}
        assert isinstance(client.call_error(ListVms(match="a", cursor=page.next_cursor)), InvalidArgument)
        for listing in (ListVms(match='"x'), ListMessages(made.id, match="OR")):
            assert isinstance(client.call_error(listing), QueryInvalid)
    finally:
        for job in jobs:
            client.call(DeleteJob(job.id))
        for name in ("shop-api", "shop-db"):
            client.call(RemoveService(name))
            client.call(DeleteVm(name))


def test_own_project_comes_first_and_others_follow(nexus: Conversations, root: Path) -> None:
    here = nexus.create("needle here")
    nexus.client.call(CreateProject("shop"))
    with BlockingClient(nexus.daemon.socket_path, project="shop") as shop:
        for number in range(3):
            shop.call(CreateVm(f"needle-{number}"))
        found = shop.call(Search("needle")).hits
        assert [hit.project for hit in found] == ["shop"] * 3 + ["default"]
        assert found[0].open.startswith("nexusctl vm inspect shop/needle-")
        assert found[3].open == f"nexusctl conversation show default/{here.name}"
    assert [hit.project for hit in hits(nexus, "needle", limit=2)] == ["default", "shop"]
    assert {hit.project for hit in hits(nexus, "needle project:shop")} == {"shop"}
    with BlockingClient(nexus.daemon.socket_path, project="*") as everywhere:
        assert {hit.project for hit in everywhere.call(Search("needle")).hits} == {"shop", "default"}
    nexus.client.call(DeleteProject("shop", cascade=True))
    assert [hit.project for hit in hits(nexus, "needle")] == ["default"]


@pytest.mark.parametrize("query", ['"' * 60_000, "a OR " * 10_000, '"' * 1_000_000, "-" * 900])
def test_hostile_query_is_refused_with_a_sentence(daemon: DaemonProcess, query: str) -> None:
    with BlockingClient(daemon.socket_path) as client:
        with pytest.raises(NexusError) as caught:
            client.call(Search(query))
        assert re.match(r"cannot search: ", caught.value.message), caught.value.message
        assert client.call(Search("quick")).hits == [], "the connection is good for other requests"


def test_index_is_rebuilt_beside_other_requests(own: Conversations) -> None:
    made = own.create()
    own.add_many(made, 600, "needle")
    sequence = own.client.begin(RebuildSearchIndex())
    with BlockingClient(own.daemon.socket_path) as other:
        other.call(CreateVm("needle-vm"))
        other.call(CreateMessage(made.id, Role.USER, "needle late"))
    own.client.payload(sequence)
    assert len(hits(own, "needle", limit=1000)) == 602
    assert check_database(own.daemon.database).behind is None


def test_rebuild_goes_on_when_its_client_ends(own: Conversations) -> None:
    made = own.create()
    own.add_many(made, 2000, "needle")
    with RawClient(own.daemon.socket_path) as other:
        other.begin(RebuildSearchIndex())
        wait_until(
            lambda: own.client.call(Search("needle")).behind is not None or "was rebuilt" in own.daemon.log(),
            "the beginning of the rebuild",
        )
    wait_until(lambda: "was rebuilt" in own.daemon.log(), "its end")
    assert check_database(own.daemon.database).behind is None


def test_index_is_whole_after_kills_while_it_is_rebuilt_and_written(own: Conversations) -> None:
    made = own.create()
    own.add_many(made, 300, "needle")
    for number in range(3):
        own.client.begin(RebuildSearchIndex())
        own.client.begin_many([CreateMessage(made.id, Role.USER, f"needle late {number}") for _ in range(20)])
        own.daemon.kill()
        own.begin_anew()
        wait_until(lambda: own.client.call(Search("needle")).behind is None, "the rebuild")
        assert check_database(own.daemon.database).behind is None
    rows = own.rows("SELECT count(*) FROM messages")[0][0]
    assert len(hits(own, "needle", limit=1000)) == rows


def test_rebuild_that_was_cut_off_goes_on_at_the_next_start(own: Conversations) -> None:
    made = own.create()
    own.add_many(made, 50, "needle")
    assert own.daemon.stop() == 0
    with contextlib.closing(connect(own.daemon.database)) as database, database:
        database.execute("INSERT INTO search_index (search_index) VALUES ('delete-all')")
        database.execute("INSERT INTO search_name (search_name) VALUES ('delete-all')")
        database.execute("UPDATE search_state SET indexed_to = 0")
    own.begin_anew()
    wait_until(lambda: own.client.call(Search("needle")).behind is None, "the rebuild")
    assert len(hits(own, "needle", limit=100)) == 50
    assert check_database(own.daemon.database).behind is None
