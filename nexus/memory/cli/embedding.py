"""``chunk embed``: sends embeddings that a program wrote as JSON lines, in requests of bounded size."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

import click
import msgspec

from nexus.cli.output import Printer
from nexus.cli.result import made
from nexus.memory.chunks.commands import MAX_EMBEDDINGS, SetChunkEmbeddings
from nexus.memory.chunks.records import ChunkEmbedding, ChunksEmbedded

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["embed"]

_VALUES = 200_000
"""Values in one request: 1.8 MB."""
_LINE_BYTES = 1024 * 1024


class _Line(msgspec.Struct):
    id: str
    embedding: list[float]


def embed(app: App, out: Printer, given: str | None) -> int:
    """Send the embeddings of a file, or of standard input; returns the exit code."""
    embedded = gone = 0
    name = "standard input" if given in (None, "-") else str(given)
    with _open(given) as file:
        for batch in _batches(_lines(file, name)):
            reply = app.call(SetChunkEmbeddings(batch))
            embedded, gone = embedded + reply.embedded, gone + reply.gone
    plain = {"embedded": embedded, "gone": gone}
    out.one(made(ChunksEmbedded(embedded, gone), plain), name=lambda one: one.embedded, sentence=_tell)
    return 0


def _tell(done: ChunksEmbedded) -> None:
    gone = f"; {done.gone} are not in the index any more" if done.gone else ""
    click.echo(f"Set the embeddings of {done.embedded} chunk{'s' * (done.embedded != 1)}{gone}")


def _open(given: str | None) -> contextlib.AbstractContextManager[IO[bytes]]:
    if given in (None, "-"):
        return contextlib.nullcontext(sys.stdin.buffer)
    try:
        return open(str(given), "rb")
    except OSError as error:
        raise click.UsageError(f"cannot read {given}: {error.strerror}") from None


def _lines(file: IO[bytes], name: str) -> Iterator[ChunkEmbedding]:
    decode = msgspec.json.Decoder(_Line).decode
    for number, line in enumerate(iter(lambda: file.readline(_LINE_BYTES), b""), 1):
        if not line.strip():
            continue
        try:
            one = decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise click.UsageError(
                f'cannot set the embeddings: line {number} of {name} is no object with "id" and "embedding": {error}'
            ) from None
        yield ChunkEmbedding(one.id, one.embedding)


def _batches(embeddings: Iterator[ChunkEmbedding]) -> Iterator[list[ChunkEmbedding]]:
    batch: list[ChunkEmbedding] = []
    size = 0
    for one in embeddings:
        if batch and (len(batch) == MAX_EMBEDDINGS or size + len(one.embedding) > _VALUES):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += len(one.embedding)
    if batch:
        yield batch
