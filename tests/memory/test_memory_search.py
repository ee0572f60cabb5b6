"""The search of memory: by text, by vectors, and by both, ranked by the sum of 1 / (60 + rank)."""

from __future__ import annotations

import random

import pytest
from nexus_protocol import NexusError
from support.daemon import DaemonProcess
from support.remembered import Memory, cosines

from nexus.client import BlockingClient
from nexus.memory.recall.commands import SearchMemory
from nexus.memory.vectors.errors import VectorDimensionMismatch, VectorInvalid
from nexus.memory.vectors.states import Collection
from nexus.records.errors import QueryInvalid

CHUNKS, EPISODES = Collection.CHUNKS, Collection.EPISODES


def test_text_finds_episodes_and_chunks_of_the_project_alone(
    shared: DaemonProcess, client: BlockingClient, memory: Memory
) -> None:
    episode = memory.episode("The pool retries when the connection is reset.", summary="Retry on reset")
    chunk = memory.chunk("src/pool.py", "def retry(): ...", symbols=["Pool.retryReset"])
    memory.chunk("src/other.py", "def other(): ...")
    found = client.call(SearchMemory("reset"))
    assert {hit.id for hit in found.hits} == {episode, chunk}
    assert (found.by_text, found.by_vectors, found.engine, found.behind) == (True, [], None, None)
    assert sorted((hit.name, hit.text) for hit in found.hits) == [
        ("1", "Retry on reset"),
        ("src/pool.py:3-9", "def retry(): ..."),
    ]
    assert [(hit.text_rank, hit.vector_rank, hit.cosine) for hit in found.hits] == [(1, None, None), (2, None, None)]
    assert [hit.id for hit in client.call(SearchMemory("reset", collections=[CHUNKS])).hits] == [chunk]
    assert [hit.id for hit in client.call(SearchMemory("pool.py")).hits] == [chunk]  # by its name
    limited = client.call(SearchMemory("reset", limit=1))
    assert (len(limited.hits), limited.more) == (1, True)
    with BlockingClient(shared.socket_path) as elsewhere:
        assert elsewhere.call(SearchMemory("reset")).hits == []


def test_best_hits_of_a_project_are_found_behind_many_of_another(
    shared: DaemonProcess, client: BlockingClient, memory: Memory
) -> None:
    crowd = Memory(shared.database)
    with crowd.together():
        crowd_ids = [crowd.chunk(f"crowded{number}.py", "needle") for number in range(700)]
    id_ = memory.episode("a needle in a much longer text, so that its rank is lower than that of all others")
    assert [hit.id for hit in client.call(SearchMemory("needle")).hits] == [id_]
    crowd.delete("chunks", crowd_ids)
    crowd.close()


def test_both_rankings_are_fused(client: BlockingClient, memory: Memory) -> None:
    chance = random.Random(2)
    words = ["reset"] * 12 + ["other"] * 20
    with memory.together():
        for number, word in enumerate(words):
            memory.episode(f"{word} " * (1 + number % 5) + "filler " * number, [chance.gauss(0, 1) for _ in range(3)])
        memory.chunk("reset.py", "reset", [1.0, 2.0])
    query = [0.5, 1.0, -1.0]
    both = client.call(SearchMemory("reset", episode_vector=query, limit=100))
    assert (both.by_text, both.by_vectors, both.engine) == (True, [EPISODES], "numpy")
    by_text = [hit.id for hit in client.call(SearchMemory("reset", limit=100)).hits]
    near = cosines(memory.vectors["episodes"], query)
    by_vector = sorted(near, key=lambda id_: -near[id_])
    expected = {
        id_: sum(1 / (60 + ranking.index(id_) + 1) for ranking in (by_text, by_vector) if id_ in ranking)
        for id_ in {*by_text, *by_vector}
    }
    assert {hit.id for hit in both.hits} == expected.keys()
    assert [hit.score for hit in both.hits] == sorted((hit.score for hit in both.hits), reverse=True)
    for hit in both.hits:
        assert hit.score == pytest.approx(expected[hit.id], abs=1e-6)
        assert hit.text_rank == (by_text.index(hit.id) + 1 if hit.id in by_text else None)
        assert hit.vector_rank == (by_vector.index(hit.id) + 1 if hit.id in by_vector else None)
        assert hit.cosine == (pytest.approx(near[hit.id], abs=2e-6) if hit.id in near else None)
    alone = client.call(SearchMemory(episode_vector=query, limit=5))
    assert (alone.by_text, [hit.id for hit in alone.hits]) == (False, by_vector[:5])
    two = client.call(SearchMemory(episode_vector=query, chunk_vector=[1.0, 0.0]))
    assert two.by_vectors == [EPISODES, CHUNKS]
    assert {hit.collection for hit in two.hits if hit.vector_rank == 1} == {EPISODES, CHUNKS}


def test_vector_for_a_collection_without_embeddings_is_told(client: BlockingClient, memory: Memory) -> None:
    id_ = memory.episode("reset")
    found = client.call(SearchMemory("reset", episode_vector=[1.0, 2.0]))
    assert ([hit.id for hit in found.hits], found.by_vectors, found.engine) == ([id_], [], None)


@pytest.mark.parametrize(
    ("command", "error", "sentence"),
    [
        (SearchMemory(), QueryInvalid, "it needs a text, a vector, or both"),
        (SearchMemory("-reset"), QueryInvalid, "cannot search"),
        (SearchMemory("x" * 1001), QueryInvalid, "1001 characters"),
        (SearchMemory(chunk_vector=[1.0], collections=[EPISODES]), QueryInvalid, "a vector for chunks, which are not"),
        (SearchMemory("a", episode_vector=[0.0]), VectorInvalid, "all of its values are 0"),
        (SearchMemory("a", episode_vector=[1.0] * 9000), VectorInvalid, "it has 9000 values"),
        (SearchMemory(episode_vector=[1.0]), VectorDimensionMismatch, "has 1 values, and those of the coll"),
    ],
)  # fmt: skip
def test_what_is_no_search_is_refused(
    client: BlockingClient, memory: Memory, command: SearchMemory, error: type[NexusError], sentence: str
) -> None:
    memory.episode("reset", [1.0, 2.0])
    with pytest.raises(error, match=sentence):
        client.call(command)


def test_episode_that_is_found_does_not_count_as_accessed(client: BlockingClient, memory: Memory) -> None:
    id_ = memory.episode("reset", [1.0, 2.0])
    assert [hit.id for hit in client.call(SearchMemory("reset", episode_vector=[1.0, 1.0])).hits] == [id_]
    with memory.together() as tx:
        assert tx.one("SELECT access_count, last_accessed_at FROM episodes WHERE id = ?", (id_,)) == (0, None)
