"""The SQL of which conversations a source has, so that one that was deleted here comes back on demand alone."""

from __future__ import annotations

from nexus.conversations.import_records import ImportedConversation
from nexus.journal.rows import derived
from nexus.store import Reader, Transaction

__all__ = ["forget_origins", "is_left_alone", "leave_alone", "mark_deleted", "number_deleted", "take_origin"]

derived("conversation_origins", "the batches of imports: which conversations a source has")


def is_left_alone(reader: Reader, header: ImportedConversation, file_id: str | None, *, is_there: bool) -> bool:
    """Whether what follows a source makes nothing of a conversation: it was deleted, and not imported again since.

    ``is_there`` says that an import of another source has made it again.
    """
    of = (header.source, header.source_id)
    row = reader.one(
        "SELECT deleted FROM conversation_origins WHERE source = ? AND source_id = ? AND file_id = ?", (*of, file_id)
    )
    if row is not None:
        return bool(row[0])
    return not is_there and (
        reader.one("SELECT 1 FROM conversation_origins WHERE source = ? AND source_id = ? AND deleted = 1 LIMIT 1", of)
        is not None
    )


def leave_alone(tx: Transaction, header: ImportedConversation, file_id: str) -> None:
    """Write that a source has a conversation that was deleted here."""
    tx.execute(
        "INSERT INTO conversation_origins (source, source_id, file_id, deleted) VALUES (?, ?, ?, 1) "
        "ON CONFLICT (source, source_id, file_id) DO UPDATE SET deleted = 1",
        (header.source, header.source_id, file_id),
    )


def take_origin(tx: Transaction, header: ImportedConversation, file_id: str, added: int) -> None:
    """Write that a source has a conversation, and how many of its messages came from there."""
    tx.execute(
        "INSERT INTO conversation_origins (source, source_id, file_id, messages) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (source, source_id, file_id) "
        "DO UPDATE SET messages = conversation_origins.messages + excluded.messages, deleted = 0",
        (header.source, header.source_id, file_id, added),
    )


def mark_deleted(tx: Transaction, source: str, source_id: str) -> dict[str, int]:
    """Write that a conversation was deleted here.

    Returns how many of its messages came from each of its sources, by their ids.
    """
    found = tx.all(
        "SELECT file_id, messages FROM conversation_origins WHERE source = ? AND source_id = ?", (source, source_id)
    )
    if found:
        tx.execute(
            "UPDATE conversation_origins SET messages = 0, deleted = 1 WHERE source = ? AND source_id = ?",
            (source, source_id),
        )
    return dict(found)


def number_deleted(reader: Reader, file_id: str) -> int:
    """How many conversations of a source were deleted here, and not imported again."""
    row = reader.one("SELECT count(*) FROM conversation_origins WHERE file_id = ? AND deleted = 1", (file_id,))
    assert row is not None
    return int(row[0])


def forget_origins(tx: Transaction, file_id: str) -> None:
    """Forget which conversations a source has; that one was deleted is kept."""
    tx.execute("DELETE FROM conversation_origins WHERE file_id = ? AND deleted = 0", (file_id,))
