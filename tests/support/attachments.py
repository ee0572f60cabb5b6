"""Helpers for tests of attached clients: waiting for output, and clients that are processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from nexus.runtime import Attachment, Log
from support.raw import WAIT_S

__all__ = ["CLIENT", "client_process", "open_socket", "read_all", "read_until", "wait_for_log"]

CLIENT = """
import asyncio, sys
from pathlib import Path
from nexus.runtime import Runtime

async def main():
    directory, owner, run_id, rows, columns = sys.argv[1:]
    attachment = await Runtime(Path(directory), scopes=False).attach(owner, run_id, size=(int(rows), int(columns)))
    print("attached", flush=True)
    while sys.stdin.readline():
        print(await attachment.receive(), flush=True)

asyncio.run(main())
"""


async def read_until(attachment: Attachment, *words: bytes) -> bytes:
    """Receive until all of the words came; returns what came."""
    data = b""
    try:
        async with asyncio.timeout(WAIT_S):
            while not all(word in data for word in words):
                piece = await attachment.receive()
                assert piece is not None, data[-1000:]
                data += piece[1]
    except TimeoutError:
        raise AssertionError(f"waited {WAIT_S:g} s in vain for {words}: {data[-3000:]!r}") from None
    return data


async def read_all(attachment: Attachment, stream: int | None = None) -> bytes:
    """Receive until the run has ended; returns the output of one stream, or of both."""
    data = bytearray()
    while (piece := await attachment.receive()) is not None:
        if stream in (None, piece[0]):
            data += piece[1]
    return bytes(data)


async def wait_for_log(log: Log, word: bytes) -> None:
    """Wait until a log has a word."""
    data = b""
    async for piece in log.pieces(follow=True):
        data = data[-1000:] + piece.data
        if word in data:
            return


@contextlib.contextmanager
def client_process(directory: Path, owner: str, run_id: str, size: tuple[int, int]) -> Iterator[subprocess.Popen[str]]:
    """A process that is attached to a run, receives a message for each line of its input, and may be killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(directory), owner, run_id, *map(str, size)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "attached\n"
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def open_socket(folder: Path) -> socket.socket:
    """A connection to the socket in a run's folder, without a hello; it blocks, for a minute at most."""
    place = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.connect(f"/proc/self/fd/{place}/attach")
        connection.settimeout(60)
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(place)
    return connection
