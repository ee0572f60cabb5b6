"""After any sequence of changes the search finds what a plain scan of the rows finds, and the index is whole."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import unicodedata
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.operations import an_operation
from support.soak import SOAK
from support.stores import make_store, running

from nexus.conversations import messages_store, steps_store, store, writing_store
from nexus.conversations.parts_store import PartRow, stored
from nexus.conversations.records import MessagePart
from nexus.conversations.states import MessageStatus, PartKind
from nexus.conversations.store import CONVERSATIONS
from nexus.journal.operation import Operation
from nexus.projects.store import PROJECTS
from nexus.records.matching import parse_words
from nexus.search.index import INDEX
from nexus.search.states import SearchOrder
from nexus.search.store import Conditions
from nexus.store import Reader, Transaction
from nexus.store.connection import connect
from nexus.store.fulltext import begin_rebuild, check_index, rebuild_step
from nexus.vms.store import VMS

STEPS = 200 if SOAK == 1 else 2000
WORDS = ("alpha", "Beta", "gammaDelta", "café", "CAFE", "x9", "get_user", "東京都", "京", "日本", "HTTPServer", "ab")
QUERIES = (
    *("alpha", "beta", "gamma", "delta", "gammadelta", "cafe", "x9", "user", "東京", "京都", "京", "日本", "server"),
    *("al*", "g*", "alpha beta", "alpha OR beta", "alpha -beta", "-alpha cafe", "http ab", "ab OR 日本 -cafe"),
)
DEFAULT = "00000000-0000-4000-8000-000000000000"


class Rollback(Exception):
    """Ends a change that is to leave nothing."""


def folded(text: str) -> str:
    """A text without case and accents."""
    return "".join(c for c in unicodedata.normalize("NFD", text.lower()) if not unicodedata.combining(c))


def tokens(text: str) -> set[str]:
    """The words of a text as the search has them, in a way of this test's own."""
    found = set(re.findall(r"[^\W_]+", folded(text)))
    found |= set(re.findall(r"[^\W_]+", folded(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", text))))
    return found


def has(word: str, text: str) -> bool:
    """Whether a text has the word of a query."""
    word = folded(word)
    if ord(word[0]) > 0x2E80:
        return word in text
    if word.endswith("*"):
        return any(token.startswith(word[:-1]) for token in tokens(text))
    return word in tokens(text)


def matches(query: str, name: str, text: str) -> bool:
    """Whether a row is to be found."""
    groups: list[list[str]] = []
    excluded: list[str] = []
    joins = False
    for word in query.split():
        if word == "OR":
            joins = True
        elif word.startswith("-"):
            excluded.append(word[1:])
        elif joins:
            groups[-1].append(word)
            joins = False
        else:
            groups.append([word])
    whole = f"{name}\n{text}"
    if any(has(word, whole) for word in excluded):
        return False
    if all(any(has(word, whole) for word in group) for group in groups):
        return True
    if excluded or any(len(word.rstrip("*")) < 3 for group in groups for word in group):
        return False
    within = name.lower()  # the index of names does not know accents
    return bool(name) and all(any(word.rstrip("*") in within for word in group) for group in groups)


ROWS = (
    "SELECT doc, title, '' FROM conversations WHERE hidden IS NULL",
    "SELECT messages.doc, '', content FROM messages JOIN conversations ON conversations.id = conversation_id "
    "WHERE hidden IS NULL AND messages.status <> 'open'",
    "SELECT message_parts.doc, coalesce(message_parts.tool, ''), body FROM message_parts "
    "JOIN messages ON messages.id = message_id JOIN conversations ON conversations.id = conversation_id "
    "WHERE hidden IS NULL AND message_parts.doc IS NOT NULL",
    "SELECT doc, name, '' FROM vms",
)
NAMED = {0, 3}


def scanned(reader: Reader, query: str) -> set[int]:
    """The numbers of what a query is to find, by looking at every row."""
    found = set()
    for index, sql in enumerate(ROWS):
        for doc, name, text in reader.all(sql):
            is_found = matches(query, name, text) if index in NAMED else matches(query, "", f"{name}\n{text}")
            if is_found:
                found.add(doc)
    return found


def searched(reader: Reader, query: str) -> set[int]:
    """The numbers of what a query finds."""
    words = parse_words(query, "query")
    hits = INDEX.query(reader, words, Conditions(), home=None, order=SearchOrder.RANK, limit=100_000)
    return {hit.doc for hit in hits}


class Changes:
    """Random changes of what the index covers, by the functions that requests use."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.open: dict[str, int] = {}
        """Open messages, with the number of their next piece."""

    def text(self) -> str:
        return " ".join(self.chance.choices(WORDS, k=self.chance.randrange(1, 6)))

    def one(self, tx: Transaction, sql: str) -> str | None:
        rows = tx.all(f"{sql} ORDER BY 1")
        return self.chance.choice(rows)[0] if rows else None

    def add_conversation(self, tx: Transaction, operation: Operation) -> None:
        CONVERSATIONS.insert(tx, operation, {"title": self.text(), "project_id": DEFAULT})

    def rename_conversation(self, tx: Transaction, operation: Operation) -> None:
        if (id_ := self.one(tx, "SELECT id FROM conversations WHERE hidden IS NULL")) is not None:
            CONVERSATIONS.update(tx, operation, CONVERSATIONS.get(tx, id_), {"title": self.text()})

    def hide_conversation(self, tx: Transaction, operation: Operation) -> None:
        id_ = self.one(tx, "SELECT id FROM conversations WHERE hidden IS NULL")
        if id_ is not None and self.chance.random() < 0.3:
            store.hide(tx, operation, CONVERSATIONS.get(tx, id_))

    def sweep(self, tx: Transaction, operation: Operation) -> None:
        if (id_ := self.one(tx, "SELECT id FROM conversations WHERE hidden IS NOT NULL")) is not None:
            steps_store.sweep_step(tx, operation, id_)

    def _parts(self) -> list[MessagePart]:
        kinds = self.chance.choices(list(PartKind), k=self.chance.randrange(1, 4))
        return [MessagePart(kind, self.text(), self.chance.choice([None, "bash"])) for kind in kinds]

    def add_message(self, tx: Transaction, operation: Operation) -> None:
        if (id_ := self.one(tx, "SELECT id FROM conversations WHERE hidden IS NULL")) is not None:
            kept = stored(self.text(), self._parts() if self.chance.random() < 0.5 else None, "")
            writing_store.add_message(tx, operation, CONVERSATIONS.get(tx, id_), kept, {"role": "user"})

    def edit_message(self, tx: Transaction, operation: Operation) -> None:
        found = self._message(tx, "complete")
        if found is not None:
            writing_store.change_message(tx, operation, found, stored(None, self._parts(), ""), {})

    def delete_message(self, tx: Transaction, operation: Operation) -> None:
        if (found := self._message(tx, "complete")) is not None:
            writing_store.delete_message(tx, operation, found)

    def _message(self, tx: Transaction, status: str) -> Any:
        sql = (
            "SELECT messages.id FROM messages JOIN conversations ON conversations.id = conversation_id "
            f"WHERE hidden IS NULL AND status = '{status}'"
        )
        id_ = self.one(tx, sql)
        return None if id_ is None else messages_store.message_by_id(tx, id_)

    def begin_message(self, tx: Transaction, operation: Operation) -> None:
        if (id_ := self.one(tx, "SELECT id FROM conversations WHERE hidden IS NULL")) is not None:
            values = {"role": "assistant", "status": MessageStatus.OPEN.value, "id": str(uuid.uuid4())}
            writing_store.add_message(tx, operation, CONVERSATIONS.get(tx, id_), stored("", None, ""), values)

    def append(self, tx: Transaction, _operation: Operation) -> None:
        if (found := self._message(tx, "open")) is None:
            return
        numbers = [
            row[0] for row in tx.all("SELECT number FROM message_parts WHERE message_id = ?", (found.message.id,))
        ]
        kind = self.chance.choice(["text", "tool_use"])
        rows = [PartRow(kind, body=self.text() + " "), PartRow(kind, body=self.text(), continues=1)]
        # Numbers of pieces that were joined are not given again.
        writing_store.add_flushed(tx, found.message.id, rows, max(numbers, default=0) + 1000, 10)

    def make_searchable(self, tx: Transaction, _operation: Operation) -> None:
        if (found := self._message(tx, "open")) is not None:
            writing_store.join_flushed(tx, found.message.id)

    def end_message(self, tx: Transaction, operation: Operation) -> None:
        if (found := self._message(tx, "open")) is not None:
            status = self.chance.choice([MessageStatus.COMPLETE, MessageStatus.INCOMPLETE])
            writing_store.end_message(tx, operation, found.message.id, status)

    def fork(self, tx: Transaction, operation: Operation) -> None:
        id_ = self.one(tx, "SELECT id FROM conversations WHERE hidden IS NULL")
        if id_ is None or self.chance.random() < 0.5:
            return
        of, fork_id = CONVERSATIONS.get(tx, id_), str(uuid.uuid4())
        steps_store.begin_fork(tx, operation, of, of.last_number, fork_id, self.text())
        if self.chance.random() < 0.7:
            copied = steps_store.Copied(0, {}, done=False)
            while not copied.done:
                copied = steps_store.copy_step(tx, operation, id_, fork_id, copied, of.last_number)
            steps_store.finish_fork(tx, operation, of, fork_id)

    def add_vm(self, tx: Transaction, operation: Operation) -> None:
        name = f"{self.chance.choice(['alpha', 'gammaDelta', 'x9'])}-{self.chance.randrange(10**9)}"
        cid = self.chance.randrange(3, 2**32 - 2)
        fields = {"role": "work", "state": "created", "vcpu_count": 1, "mem_size_mib": 128, "cid": cid}
        VMS.insert(tx, operation, {"name": name, "project_id": DEFAULT, **fields})

    def rename_vm(self, tx: Transaction, operation: Operation) -> None:
        if (id_ := self.one(tx, "SELECT id FROM vms")) is not None:
            VMS.update(tx, operation, VMS.get(tx, id_), {"name": f"Beta-cafe-{self.chance.randrange(10**9)}"})

    def delete_vm(self, tx: Transaction, operation: Operation) -> None:
        if (id_ := self.one(tx, "SELECT id FROM vms")) is not None:
            VMS.delete(tx, operation, VMS.get(tx, id_))

    def rebuild(self, tx: Transaction, _operation: Operation) -> None:
        if self.chance.random() < 0.05:
            begin_rebuild(tx)
            while not rebuild_step(tx):
                pass

    def any(self) -> list[Callable[[Transaction, Operation], None]]:
        """Some changes of one transaction."""
        often = [self.add_message] * 4 + [self.edit_message, self.delete_message, self.append] * 2
        others = [
            *(self.add_conversation, self.rename_conversation, self.hide_conversation, self.sweep),
            *(self.begin_message, self.make_searchable, self.end_message, self.fork),
            *(self.add_vm, self.rename_vm, self.delete_vm, self.rebuild),
        ]
        return self.chance.choices(often + others, k=self.chance.randrange(1, 4))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2))
def test_search_equals_a_scan_after_any_changes(root: Path, seed: int) -> None:
    chance = random.Random(f"search-{seed}-{SOAK}")
    changes = Changes(chance)
    state = make_store(root)

    async def scenario() -> None:
        async with running(state):
            assert state.read(lambda reader: PROJECTS.by_id(reader, DEFAULT)) is not None
            for step in range(STEPS):
                some, is_rolled_back = changes.any(), chance.random() < 0.15

                def change(
                    tx: Transaction, some: Any = some, is_rolled_back: bool = is_rolled_back, step: int = step
                ) -> None:
                    chance.seed(f"{seed}-{step}")  # it may run twice
                    operation = an_operation()
                    for each in some:
                        each(tx, operation)
                    if is_rolled_back:
                        raise Rollback

                with contextlib.suppress(Rollback):
                    await state.write(change)
                if step % 20 == 19:
                    query = QUERIES[step // 20 % len(QUERIES)]
                    assert state.read(lambda r, q=query: searched(r, q) ^ scanned(r, q)) == set(), (step, query)
            for query in QUERIES:
                assert state.read(lambda r, q=query: searched(r, q) ^ scanned(r, q)) == set(), query
            assert state.read(lambda r: any(scanned(r, query) for query in QUERIES))

    asyncio.run(scenario())
    with contextlib.closing(connect(state.path)) as connection:
        assert check_index(connection) is None
