"""The application of the stack: counts visits in the database and answers in the cache, and returns both numbers.

It reaches both by its tunnels and has no other addresses.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType
from typing import BinaryIO

TIMEOUT_S = 20.0


class BackendError(Exception):
    """The database or the cache has sent an error or closed the connection."""


def tunnel(name: str) -> tuple[str, int]:
    """The address of a dependency's tunnel."""
    return os.environ[f"NEXUS_{name}_HOST"], int(os.environ[f"NEXUS_{name}_PORT"])


def read_exactly(stream: BinaryIO, size: int) -> bytes:
    """Read ``size`` bytes, no fewer."""
    data = stream.read(size)
    if len(data) < size:
        raise BackendError("the connection ended")
    return data


def query(statement: str) -> list[str]:
    """The columns, as text, of the last row of a statement's result; PostgreSQL's protocol 3.0, simple query."""
    parameters = b"user\0app\0database\0postgres\0\0"
    startup = struct.pack("!ii", 8 + len(parameters), 3 << 16) + parameters
    text = statement.encode() + b"\0"
    with socket.create_connection(tunnel("DB"), TIMEOUT_S) as connection, connection.makefile("rb") as stream:
        connection.sendall(startup + b"Q" + struct.pack("!i", 4 + len(text)) + text)
        row: list[str] = []
        ready = 0
        while ready < 2:  # ReadyForQuery comes after the startup and after the query
            kind, size = struct.unpack("!ci", read_exactly(stream, 5))
            body = read_exactly(stream, size - 4)
            if kind == b"E":
                raise BackendError(body.replace(b"\0", b" ").decode())
            if kind == b"D":
                row = columns(body)
            ready += kind == b"Z"
        connection.sendall(b"X" + struct.pack("!i", 4))
    return row


def columns(body: bytes) -> list[str]:
    """The columns of a DataRow."""
    found, at = [], 2
    for _ in range(struct.unpack_from("!h", body)[0]):
        (size,) = struct.unpack_from("!i", body, at)
        found.append(body[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return found


def increment(key: str) -> int:
    """Send INCR to Redis in its serialization protocol."""
    with socket.create_connection(tunnel("CACHE"), TIMEOUT_S) as connection, connection.makefile("rb") as stream:
        connection.sendall(f"*2\r\n$4\r\nINCR\r\n${len(key)}\r\n{key}\r\n".encode())
        line = stream.readline()
    if not line.startswith(b":"):
        raise BackendError(line.decode() or "the connection ended")
    return int(line[1:])


class Handler(BaseHTTPRequestHandler):
    """Counts one visit per request."""

    def do_GET(self) -> None:
        """Reply with both numbers, or with 503 and the missing backend."""
        missing = "the database"
        try:
            (visits,) = query("INSERT INTO visit DEFAULT VALUES; SELECT count(*) FROM visit")
            missing = "the cache"
            self._answer(200, {"visits": int(visits), "answers": increment("answers")})
        except (OSError, BackendError) as error:
            self._answer(503, {"missing": missing, "reason": str(error)})

    def _answer(self, status: int, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def exit_on_sigterm(_number: int, _frame: FrameType | None) -> None:
    """Exit with 0 at a stop."""
    sys.exit(0)


def main() -> None:
    """Serve on PORT until SIGTERM."""
    signal.signal(signal.SIGTERM, exit_on_sigterm)
    with ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler) as server:
        print(f"serving on port {server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
