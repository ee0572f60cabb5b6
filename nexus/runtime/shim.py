"""The shim in Python, used where no compiler was available; ``native/nexus-shim.c`` describes what it does.

It is executed as a file by ``python -I -S``, so it imports nothing of the project and is one file, longer than 500
lines. Every change must be made in both.
"""

from __future__ import annotations

import _socket as socket  # the module socket takes longer to import than all others together
import collections
import contextlib
import ctypes
import errno
import fcntl
import os
import re
import resource
import select
import signal
import struct
import sys
import termios
import time

__all__ = ["LogWriter", "main"]

_CHUNK_BYTES = 64 * 1024
_ENTRY = struct.Struct("=QII")
_MIN_SEGMENTS = 8
_MAX_SEGMENT_BYTES = 32 * 1024 * 1024
_MIN_FREE_BYTES = 128
_MERGE_MS = 2
_RUN_BYTES, _EXIT_AT, _DONE_AT, _LINE_BYTES = 256, 256, 384, 128
_MAX_KILL_PAUSE_MS = 250
_DRAIN_S = 1.0
_LOST, _MARK, _WITHIN_LINE = 0x80, 0x40, 0x20
_UINT32_MAX = 2**32 - 1

_INPUT_GIVEN, _INPUT_OPEN, _INPUT_TERMINAL = 0, 1, 2
_MAX_CLIENTS, _MAX_PLACES = 16, 32
_MESSAGE_BYTES = 16 * 1024
_HELLO_BYTES = 7
_MAX_BACKLOG_BYTES = 1024 * 1024
_RING_BYTES, _RING_PARTS = 64 * 1024, 1024
_LISTEN_BACKLOG = 64
_ACCEPT_PAUSE_S = 1.0
_SIZE = struct.Struct(">HH")
_WINDOW = struct.Struct("=HHHH")
_IUTF8 = 0o40000
_BUSY = (errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM)

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_SEGMENT_NAME = re.compile(r"(\d+)\.(log|idx)")
_FAILURE = struct.Struct("=i8s")

_libc = ctypes.CDLL(None, use_errno=True)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _read_stat(pid: int) -> tuple[int, int] | None:
    """The parent and the start time of a process; None when it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            raw = file.read()
    except OSError:
        return None
    fields = raw[raw.rindex(b")") + 1 :].split()
    return int(fields[1]), int(fields[19])


class _Spec:
    """What to start, parsed from the spec's memfd."""

    def __init__(self, text: bytes) -> None:
        fields = iter(text.split(b"\0"))
        version = next(fields)
        if version not in (b"1", b"2", b"3"):
            raise OSError(errno.EINVAL, "spec of an unknown format")
        self.directory = next(fields)
        self.log_bytes, self.stop_signal, self.grace_ms, self.descriptor_limit = (int(next(fields)) for _ in range(4))
        self.umask = 0o022 if version == b"1" else int(next(fields))
        self.input = int(next(fields)) if version == b"3" else _INPUT_GIVEN
        if self.input not in (_INPUT_GIVEN, _INPUT_OPEN, _INPUT_TERMINAL):
            raise OSError(errno.EINVAL, "standard input of an unknown kind")
        self.arguments = [next(fields) for _ in range(int(next(fields)))]
        variables = [next(fields) for _ in range(int(next(fields)))]
        self.variables = dict(variable.split(b"=", 1) for variable in variables)


class LogWriter:
    """Writes segments and their indexes within a bound; the daemon writes so what it copies from other hosts."""

    def __init__(self, folder: int, bound: int) -> None:
        self.folder = folder
        self.bound = bound
        self.segment_bound = min(bound // _MIN_SEGMENTS, _MAX_SEGMENT_BYTES)
        self.segment = -1
        self.data = self.index = -1
        self.data_bytes = self.index_bytes = 0
        self.last: tuple[int, int, int] | None = None
        self.lost = [0, 0, 0]
        self.total = [0, 0, 0]
        self.within_line = [False, False, False]
        self.marks_due = self.run_begins = False
        self._resume()

    def _scan_segments(self) -> tuple[int, list[int]]:
        """The size of the log, and the numbers of its segments."""
        total = 0
        numbers = set()
        with contextlib.suppress(OSError):
            for name in os.listdir(self.folder):
                found = _SEGMENT_NAME.fullmatch(name)
                if found:
                    numbers.add(int(found[1]))
                    with contextlib.suppress(OSError):
                        total += os.stat(name, dir_fd=self.folder, follow_symlinks=False).st_size
        return total, sorted(numbers)

    def _drop_oldest(self) -> bool:
        _total, numbers = self._scan_segments()
        if not numbers or numbers[0] == self.segment:
            return False
        dropped = False
        for kind in ("idx", "log"):
            with contextlib.suppress(OSError):
                os.unlink(f"{numbers[0]}.{kind}", dir_fd=self.folder)
                dropped = True
        return dropped

    def _enforce_bound(self, size: int) -> None:
        """Delete the oldest segments until the log can grow by ``size`` bytes."""
        while self._scan_segments()[0] + size > self.bound and self._drop_oldest():
            pass

    def close(self) -> None:
        """Close the files."""
        for fd in (self.data, self.index):
            if fd >= 0:
                os.close(fd)
        self.data = self.index = -1

    def _open(self, number: int) -> None:
        self.close()
        self.last = None
        self.marks_due = number > 0
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self.data = os.open(f"{number}.log", flags, 0o600, dir_fd=self.folder)
        self.index = os.open(f"{number}.idx", flags, 0o600, dir_fd=self.folder)
        self.segment = number
        self.data_bytes = self.index_bytes = 0

    def _open_next(self) -> bool:
        number = self.segment + 1
        # Set before the new segment exists, so that _drop_oldest may delete the previous segment, too.
        self.segment = number
        self._enforce_bound(self.segment_bound)
        while True:
            try:
                self._open(number)
            except OSError as error:
                if error.errno not in _DISK_FULL or not self._drop_oldest():
                    self.close()
                    self.segment = number - 1
                    return False
            else:
                return True

    def _free_bytes(self) -> int:
        return self.segment_bound - self.data_bytes - self.index_bytes

    def _resume(self) -> None:
        """Continue after the previous run's output; repair a torn end that a killed writer may have left."""
        numbers = self._scan_segments()[1]
        if not numbers:
            self._open_next()
            return
        self.segment = numbers[-1]
        try:
            self._open(numbers[-1])
            self._repair_end()
        except OSError:
            self._open_next()
            self.run_begins = True
            return
        if self._free_bytes() < _MIN_FREE_BYTES:
            self._open_next()
        else:
            self._enforce_bound(self._free_bytes())
        self.marks_due = self.run_begins = True

    def _count(self, at: int, length: int, stream: int) -> None:
        if stream & 3 in (1, 2):
            self.total[stream & 3] = at if stream & _MARK else self.total[stream & 3] + length

    def _count_segment(self, number: int) -> None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.suppress(OSError), open(os.open(f"{number}.idx", flags, dir_fd=self.folder), "rb") as file:
            while len(raw := file.read(_ENTRY.size)) == _ENTRY.size:
                self._count(*_ENTRY.unpack(raw))

    def _repair_end(self) -> None:
        size = os.fstat(self.data).st_size
        covered = entries = 0
        first = os.pread(self.index, _ENTRY.size, 0)
        if len(first) < _ENTRY.size or not _ENTRY.unpack(first)[2] & _MARK:
            self._count_segment(self.segment - 1)
        while len(raw := os.pread(self.index, _ENTRY.size, entries * _ENTRY.size)) == _ENTRY.size:
            at, length, stream = _ENTRY.unpack(raw)
            if not stream & (_LOST | _MARK):
                if covered >= size:
                    break
                if covered + length > size:
                    length = size - covered
                    os.pwrite(self.index, _ENTRY.pack(at, length, stream), entries * _ENTRY.size)
                covered += length
            self._count(at, length, stream)
            entries += 1
        self.data_bytes, self.index_bytes = covered, entries * _ENTRY.size
        os.ftruncate(self.index, self.index_bytes)
        os.ftruncate(self.data, self.data_bytes)

    def write_marks(self, now: int) -> None:
        """Write the marks that must precede newer output: where the segment or the run begins, and what was lost."""
        within = [stream | (_WITHIN_LINE if self.within_line[stream] else 0) for stream in range(3)]
        if self.marks_due:
            marks = [(self.total[stream], int(self.run_begins), _MARK | within[stream]) for stream in (1, 2)]
            self._write_entries(marks, self.index_bytes)
            self.index_bytes += 2 * _ENTRY.size
            self.last = None
            self.marks_due = self.run_begins = False
        for stream in (1, 2):
            if self.lost[stream]:
                length = min(self.lost[stream], _UINT32_MAX)
                self._write_entries([(now, length, _LOST | within[stream])], self.index_bytes)
                self.index_bytes += _ENTRY.size
                self.last = None
                self.lost[stream] -= length
                self.total[stream] += length

    def write_last_marks(self) -> None:
        """Mark what was lost at the end of the run."""
        if any(self.lost) and (self.index >= 0 or self._open_next()):
            self.write_marks(_now_ms())

    def _write_entries(self, entries: list[tuple[int, int, int]], at: int) -> None:
        data = b"".join(_ENTRY.pack(*entry) for entry in entries)
        if os.pwrite(self.index, data, at) != len(data):
            raise OSError(errno.ENOSPC, "an entry was written in part")

    def _lose(self, stream: int, data: memoryview) -> None:
        self.lost[stream] += len(data)
        self.within_line[stream] = data[-1] != 10

    def _append_some(self, stream: int, data: memoryview) -> int:
        """Write some of the bytes and return how many, at least one.

        Raises:
            OSError: none could be written.
        """
        now = _now_ms()
        self.write_marks(now)
        at, length, position = now, 0, self.index_bytes
        if self.last is not None and self.last[2] == stream and 0 <= now - self.last[0] < _MERGE_MS:
            at, length, _ = self.last
            position -= _ENTRY.size
        count = min(len(data), self._free_bytes() - (position + _ENTRY.size - self.index_bytes))
        self._write_entries([(at, length + count, stream)], position)
        written, failure = 0, None
        try:
            written = os.pwrite(self.data, data[:count], self.data_bytes)
        except OSError as error:
            failure = error
        if written < count:
            with contextlib.suppress(OSError):
                if length + written:
                    self._write_entries([(at, length + written, stream)], position)
                else:
                    os.ftruncate(self.index, self.index_bytes)
            if not written:
                raise failure or OSError(errno.ENOSPC, "nothing was written")
        self.data_bytes += written
        self.index_bytes = position + _ENTRY.size
        self.last = (at, length + written, stream)
        self.total[stream] += written
        self.within_line[stream] = data[written - 1] != 10
        return written

    def append(self, stream: int, data: bytes) -> None:
        """Append output. While the disk is full the oldest segments are deleted, and then the new bytes are lost."""
        left = memoryview(data)
        while left:
            # While the disk is full, marks alone can fill a segment.
            if (self.index < 0 or self._free_bytes() < _MIN_FREE_BYTES) and not self._open_next():
                self._lose(stream, left)
                return
            try:
                left = left[self._append_some(stream, left) :]
            except OSError as error:
                if error.errno not in _DISK_FULL or not self._drop_oldest():
                    self._lose(stream, left)
                    return
            # Opened as soon as the segment is full: a waiting reader sees it grow, and checks for the next segment.
            if self._free_bytes() < _MIN_FREE_BYTES:
                self._open_next()


def _children(parent: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{parent}/task"):
            try:
                with open(f"/proc/{parent}/task/{thread}/children", "rb") as file:
                    found += map(int, file.read().split())
            except FileNotFoundError:
                if not os.path.exists("/proc/thread-self/children"):
                    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
                    return [pid for pid in pids if (_read_stat(pid) or (0,))[0] == parent]
    return found


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def _send_group(group: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(group, number)


def _execute(arguments: list[bytes], variables: dict[bytes, bytes]) -> int:
    """Call ``execve``, with the program looked up in the child's own PATH.

    Returns the most informative errno: that of a file that was found rather than ENOENT.
    """
    program = arguments[0]
    if b"/" in program:
        try:
            os.execve(program, arguments, variables)
        except OSError as error:
            return error.errno or 0
    result = errno.ENOENT
    for folder in variables.get(b"PATH", b"/usr/local/bin:/usr/bin:/bin").split(b":"):
        try:
            os.execve(folder + b"/" + program if folder else program, arguments, variables)
        except OSError as error:
            number = error.errno or 0
            if number not in (errno.ENOENT, errno.ENOTDIR):
                result = number
            if result not in (errno.ENOENT, errno.EACCES):
                break
    return result


def _exec_child(spec: _Spec, shim: int, standard: tuple[int, int, int], go: int, failed: int) -> None:
    """In the forked child, wait for the shim's go-ahead (``go`` -1: do not), and execute the program; never returns.

    ``standard`` are the descriptors that become its standard input, output and error.
    """
    try:
        os.setsid()
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != shim or (go >= 0 and not os.read(go, 1)):
            os._exit(127)
        for number in range(1, 65):
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        os.umask(spec.umask)
        if spec.descriptor_limit >= 0:
            with contextlib.suppress(OSError, ValueError):
                hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
                soft = spec.descriptor_limit if hard == resource.RLIM_INFINITY else min(spec.descriptor_limit, hard)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd, source in enumerate(standard):
            os.dup2(source, fd)
        step = b"shim"
        try:
            if spec.input == _INPUT_TERMINAL:
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            step = b"chdir"
            os.chdir(spec.directory)
        except OSError as error:
            os.write(failed, _FAILURE.pack(error.errno or 0, step))
        else:
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            os.write(failed, _FAILURE.pack(_execute(spec.arguments, spec.variables), b"exec"))
    finally:
        os._exit(127)


class _Client:
    """One connection of an attached client."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.greeted = self.wants_output = self.closed = False
        self.gone = False
        """It takes no more messages, and what it has sent still goes to the program."""
        self.size: tuple[int, int] | None = None
        self.input = memoryview(b"")
        self.input_begun = False
        """A part of ``input`` was written."""
        self.backlog: collections.deque[bytes] = collections.deque()
        self.backlog_bytes = 0

    def fileno(self) -> int:
        return self.socket.fileno()


class _Clients:
    """The clients that are attached to a terminal or an open standard input; ``native/nexus-shim.c`` describes them.

    ``input_fd`` is where input goes: the master of the terminal, or the child's pipe.
    """

    def __init__(self, run: int, input_fd: int, terminal: int) -> None:
        self.input_fd = input_fd
        self.terminal = terminal
        self._run = run
        self._clients: list[_Client] = []
        self._input_ends = False
        self._accept_again_s = 0.0
        self._ring: collections.deque[tuple[int, bytearray]] = collections.deque()
        self._ring_bytes = 0
        self._ring_cut = False
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.setblocking(False)
        os.umask(0o177)
        self._listener.bind(f"/proc/self/fd/{run}/attach")
        os.umask(0o077)
        self._listener.listen(_LISTEN_BACKLOG)

    # Output

    def put(self, stream: int, data: bytes) -> None:
        """Send output to the clients, and keep it for replays."""
        if self._ring and self._ring[-1][0] == stream:
            self._ring[-1][1].extend(data)
        else:
            self._ring.append((stream, bytearray(data)))
        self._ring_bytes += len(data)
        while self._ring_bytes > _RING_BYTES or len(self._ring) > _RING_PARTS:
            oldest = self._ring[0][1]
            count = len(oldest) if len(self._ring) > _RING_PARTS else min(len(oldest), self._ring_bytes - _RING_BYTES)
            del oldest[:count]
            self._ring_bytes -= count
            self._ring_cut = True
            if not oldest:
                self._ring.popleft()
        for at in range(0, len(data), _MESSAGE_BYTES):
            message = b"O%c" % stream + data[at : at + _MESSAGE_BYTES]
            for client in list(self._clients):
                if client.wants_output:
                    self._send(client, message)

    def _send_replay(self, client: _Client) -> None:
        for stream, data in self._ring:
            for at in range(0, len(data), _MESSAGE_BYTES):
                self._send(client, b"R%c%c" % (stream, self._ring_cut) + data[at : at + _MESSAGE_BYTES])

    def _send(self, client: _Client, message: bytes) -> None:
        """Send a message, or keep it until the socket has space for it; a client with too many of these is left."""
        if client.closed or client.gone:
            return
        client.backlog.append(message)
        client.backlog_bytes += len(message) + 4
        if len(client.backlog) == 1:
            self._flush(client)
        if client.backlog_bytes > _MAX_BACKLOG_BYTES:
            self._leave(client)

    def _flush(self, client: _Client) -> None:
        while client.backlog:
            try:
                client.socket.send(client.backlog[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError as error:
                if error.errno not in _BUSY:
                    self._leave(client)
                return
            client.backlog_bytes -= len(client.backlog.popleft()) + 4

    # The end of a connection

    def _leave(self, client: _Client) -> None:
        """End the connection of a client that has closed it or is too slow."""
        with contextlib.suppress(OSError):
            client.socket.shutdown(socket.SHUT_RDWR)
        client.backlog.clear()
        client.backlog_bytes = 0
        client.gone, client.wants_output = True, False
        self._drop_size(client)

    def _close(self, client: _Client) -> None:
        if not client.closed:
            client.closed = True
            client.wants_output = False
            client.input = memoryview(b"")
            client.socket.close()
            self._clients.remove(client)
            self._drop_size(client)

    def _drop_size(self, client: _Client) -> None:
        if client.size is not None:
            client.size = None
            self._set_size(redraw=False)

    # The size of the terminal

    def _set_size(self, *, redraw: bool) -> None:
        """Give the terminal the smallest rows and columns of all clients, and keep its size where none has any.

        The program gets SIGWINCH if the size changes, or else if it shall redraw.
        """
        sizes = [client.size for client in self._clients if client.size is not None]
        if self.terminal < 0 or not sizes:
            return
        wanted = (min(rows for rows, _ in sizes), min(columns for _, columns in sizes))
        with contextlib.suppress(OSError):
            now = _WINDOW.unpack(fcntl.ioctl(self.terminal, termios.TIOCGWINSZ, bytes(_WINDOW.size)))[:2]
            if now != wanted:
                fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, _WINDOW.pack(*wanted, 0, 0))
            elif redraw and (group := os.tcgetpgrp(self.terminal)) > 1:
                os.killpg(group, signal.SIGWINCH)

    def _take_size(self, client: _Client, data: bytes) -> None:
        rows, columns = _SIZE.unpack(data[: _SIZE.size])
        first = client.size is None
        client.size = (rows, columns) if rows and columns else None
        self._set_size(redraw=first and client.size is not None)

    # Input

    def _refuse_input(self, client: _Client) -> None:
        """Take no more messages of a client, which learns of it when it sends one.

        What it has sent already goes nowhere; a client whose socket stays full would wait for ever.
        """
        with contextlib.suppress(OSError):
            client.socket.shutdown(socket.SHUT_RD)
            while client.socket.recv(1, socket.MSG_DONTWAIT):
                pass

    def close_input(self) -> None:
        """Take no more input of any client."""
        if self.input_fd >= 0 and self.input_fd != self.terminal:
            os.close(self.input_fd)
        self.input_fd = -1
        for client in list(self._clients):
            client.input = memoryview(b"")
            if client.gone:
                self._close(client)
            elif client.greeted:
                self._refuse_input(client)

    def write_input(self) -> None:
        """Give the program what clients have sent, as far as it takes it now."""
        while self.input_fd >= 0:
            waiting = [client for client in self._clients if client.input]
            if not waiting:
                break
            # No other message may come between the halves of one.
            client = next((each for each in waiting if each.input_begun), waiting[0])
            try:
                written = os.write(self.input_fd, client.input)
            except OSError as error:
                if error.errno not in _BUSY:
                    self.close_input()
                return
            client.input = client.input[written:]
            client.input_begun = bool(client.input)
            if not client.input:
                # The last one in turn from now on.
                self._clients.remove(client)
                self._clients.append(client)
        if self._input_ends and self.input_fd >= 0:
            self.close_input()

    def _add_input(self, client: _Client, data: bytes) -> None:
        if self.input_fd >= 0 and data:
            client.input = memoryview(data)
            self.write_input()

    def _end_input(self, client: _Client) -> None:
        if self.terminal < 0:
            self._input_ends = True
            self.write_input()
            return
        with contextlib.suppress(termios.error):
            end = termios.tcgetattr(self.terminal)[6][termios.VEOF]
            if end != b"\0":
                self._add_input(client, end)

    # Messages

    def _greet(self, client: _Client, hello: bytes) -> None:
        client.greeted = True
        if self.input_fd < 0:  # before the client may send any
            self._refuse_input(client)
        self._send(client, b"W1%c" % (self.terminal >= 0))
        if hello[2] & 2:
            self._send_replay(client)
        self._send(client, b"L")
        client.wants_output = bool(hello[2] & 1) and not client.gone
        if not client.gone:
            self._take_size(client, hello[3:])

    def _read(self, client: _Client) -> None:
        """Read one message of a client."""
        try:
            message = client.socket.recv(_MESSAGE_BYTES + 2, socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno == errno.ECONNRESET:
                # Told once where it has closed before it read all; then come its messages.
                self._leave(client)
            elif error.errno not in _BUSY:
                self._close(client)
            return
        kind = message[:1]
        if not message or len(message) > 1 + _MESSAGE_BYTES:
            self._close(client)
        elif not client.greeted and not client.gone and message[:2] == b"H1" and len(message) >= _HELLO_BYTES:
            self._greet(client, message)
        elif client.greeted and kind == b"I":
            self._add_input(client, message[1:])
        elif client.greeted and kind == b"S" and len(message) > _SIZE.size:
            if not client.gone:
                self._take_size(client, message[1:])
        elif client.greeted and kind == b"E":
            self._end_input(client)
        else:
            self._close(client)

    def _make_room(self) -> bool:
        """Whether there is a place for another client.

        Those that have not greeted make room, and so does the input of one that is gone, but for these only where all
        places are taken.
        """
        for client in [each for each in self._clients if not each.gone and not each.greeted]:
            if sum(not each.gone for each in self._clients) < _MAX_CLIENTS:
                break
            self._read(client)  # its hello may be waiting
            if not client.greeted:
                self._close(client)
        if sum(not each.gone for each in self._clients) >= _MAX_CLIENTS:
            return False
        if len(self._clients) >= _MAX_PLACES:
            self._close(next(each for each in self._clients if each.gone))
        return True

    def _accept(self) -> None:
        for _ in range(_MAX_CLIENTS):
            try:
                connection = socket.socket(fileno=self._listener._accept()[0])  # type: ignore[attr-defined]
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EINTR, errno.ECONNABORTED):
                    self._accept_again_s = time.monotonic() + _ACCEPT_PAUSE_S  # no descriptor is left
                return
            if self._make_room():
                self._clients.append(_Client(connection))
                continue
            with contextlib.suppress(OSError):
                connection.send(b"X", socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            connection.close()

    # The main loop

    def watch(self, events: dict[int, int], timeout_ms: float | None) -> float | None:
        """Fill in what to wait for; returns for how long, given for how long at most."""
        for client in self._clients:
            is_held = client.input or (client.greeted and (self.input_fd < 0 or self._input_ends))
            if is_held and client.gone:
                continue  # its hangup would be told again and again
            events[client.fileno()] = (0 if is_held else select.POLLIN) | (select.POLLOUT if client.backlog else 0)
        pending = any(client.input for client in self._clients)
        if self.input_fd >= 0 and (pending or self.input_fd != self.terminal):
            events[self.input_fd] = events.get(self.input_fd, 0) | (select.POLLOUT if pending else 0)
        pause_s = self._accept_again_s - time.monotonic()
        if pause_s <= 0:
            events[self._listener.fileno()] = select.POLLIN
            return timeout_ms
        return pause_s * 1000 if timeout_ms is None else min(timeout_ms, pause_s * 1000)

    def serve(self, ready: dict[int, int]) -> None:
        """Take and send the messages for which the poll has ended."""
        if ready.get(self.input_fd, 0) & select.POLLOUT:
            self.write_input()
        elif self.input_fd in ready and self.input_fd != self.terminal:
            self.close_input()  # the program has closed its standard input
        for client in list(self._clients):
            events = 0 if client.closed else ready.get(client.fileno(), 0)
            if events & select.POLLOUT:
                self._flush(client)
            if events & (select.POLLHUP | select.POLLERR) and not client.gone:
                self._leave(client)
            elif events & select.POLLIN and (not client.greeted or (self.input_fd >= 0 and not client.input)):
                self._read(client)
            if client.gone and self.input_fd < 0:
                self._close(client)  # what it has sent goes nowhere
        if self._listener.fileno() in ready:
            self._accept()

    def finish(self) -> None:
        """Give the clients the rest of their messages, for a limited time, and close their connections."""
        with contextlib.suppress(OSError):
            os.unlink("attach", dir_fd=self._run)
        self._listener.close()
        for client in list(self._clients):
            if client.greeted:
                self._send(client, b"E")
        until_s = time.monotonic() + _DRAIN_S
        while (left_s := until_s - time.monotonic()) > 0:
            waiting = {client.fileno(): client for client in self._clients if client.backlog}
            if not waiting:
                break
            poll = select.poll()
            for fd in waiting:
                poll.register(fd, select.POLLOUT)
            for fd, _events in poll.poll(left_s * 1000):
                self._flush(waiting[fd])
        for client in list(self._clients):
            self._close(client)


def _open_terminal() -> tuple[int, int]:
    """Open a pseudo-terminal of 80 columns and 24 rows, which does not become the shim's own: master and slave."""
    terminal, slave = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, _WINDOW.pack(24, 80, 0, 0))
    settings = termios.tcgetattr(slave)
    settings[0] |= _IUTF8  # erasing a character erases all of its bytes
    termios.tcsetattr(slave, termios.TCSANOW, settings)
    return terminal, slave


class _Tree:
    """One child, and everything that it leaves behind."""

    def __init__(self) -> None:
        self.child = 0
        self.child_exited = False
        self.stage = "running"
        self.stop_signal = 0
        self.deadline_s = 0.0
        self.pause_ms = 1
        # The handler does nothing: the byte that Python writes to the wakeup descriptor ends the poll.
        self.signals, wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])

    def _write_exit(self, info: os.waitid_result) -> None:
        """Record how the child ended: each kind of shim writes it elsewhere."""
        raise NotImplementedError

    def _reap(self) -> bool:
        """Reap ended processes except the child; returns whether any process of the run is alive."""
        while not self.child_exited:
            info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if info is None:
                return True
            if info.si_pid == self.child:
                self.child_exited = True
                self._write_exit(info)
            else:
                os.waitpid(info.si_pid, os.WNOHANG)
        while True:
            others = reaped = False
            for pid in _children(os.getpid()):
                if pid != self.child:
                    if os.waitpid(pid, os.WNOHANG)[0]:
                        reaped = True
                    else:
                        others = True
            if not reaped:
                return others

    def _signal_escaped(self, number: int) -> None:
        """Send a signal to every descendant outside the child's own group."""
        pids = _children(os.getpid())
        for pid in pids:
            stat = _read_stat(pid)
            if pid == self.child or stat is None:
                continue
            with contextlib.suppress(OSError):
                if os.getpgid(pid) != self.child:
                    fd = os.pidfd_open(pid)
                    try:
                        if (_read_stat(pid) or (0, 0))[1] == stat[1]:
                            signal.pidfd_send_signal(fd, number)
                            signal.pidfd_send_signal(fd, signal.SIGCONT)
                    finally:
                        os.close(fd)
            pids += _children(pid)

    def kill_round(self) -> None:
        """Kill the direct children and their groups; what these leave behind are direct children in the next round."""
        for pid in _children(os.getpid()):
            with contextlib.suppress(OSError):
                group = os.getpgid(pid)
                if group > 1 and group != os.getpgrp():
                    _send_group(group, signal.SIGKILL)
            _send(pid, signal.SIGKILL)

    def _advance_stop(self) -> float | None:
        """Take the next step of the stop sequence if it is due; returns for how long to wait, in ms."""
        if self.stage == "running":
            return None
        left_s = self.deadline_s - time.monotonic()
        if self.stage == "stopping":
            if left_s > 0:
                return min(left_s * 1000 + 1, 60_000)
            self.pause_ms = 1
        self.stage = "killing"
        self.kill_round()
        self.pause_ms = min(self.pause_ms * 2, _MAX_KILL_PAUSE_MS)
        return self.pause_ms / 2

    def _read_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.signals, _CHUNK_BYTES)

    def _reap_all(self) -> None:
        """Reap the child, and what may be left after the last look."""
        os.waitpid(self.child, 0)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, os.WNOHANG)
                self.kill_round()
                time.sleep(0.001)


def _exit_text(info: os.waitid_result) -> str:
    kind = "exit" if info.si_code == os.CLD_EXITED else "signal"
    return f"{kind} {info.si_status} {int(info.si_code == os.CLD_DUMPED)} {_now_ms()}"


class _Shim(_Tree):
    """Runs one child that outlives the daemon."""

    def __init__(self, run: int, log: int) -> None:
        self.run = run
        self.log_folder = log
        self.status = os.open("status", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=run)
        self.control = os.open("control", os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=run)
        self.commands = b""
        self.pipes: dict[int, int] = {}
        self.terminal = -1
        self.clients: _Clients | None = None
        super().__init__()

    def write_status(self, at: int, size: int, text: str) -> None:
        """Write a line into allocated space with one call, so that a reader never sees half of it."""
        with contextlib.suppress(OSError):
            os.pwrite(self.status, text.encode()[: size - 1].ljust(size - 1) + b"\n", at)

    def start_child(self, spec: _Spec, given: int | None) -> tuple[str, int] | None:
        """Fork the child and let it execute the program; returns the failed step and its errno, or None.

        ``given`` becomes its standard input.
        """
        self.spec = spec
        standard, own_input = self._open_standard(given)
        if spec.input != _INPUT_GIVEN:
            self.clients = _Clients(self.run, own_input, self.terminal)
        go, go_end = os.pipe2(os.O_CLOEXEC)
        failed, failed_end = os.pipe2(os.O_CLOEXEC)
        self.log = LogWriter(self.log_folder, spec.log_bytes)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for fd in range(3):
            os.dup2(null, fd)
        os.close(null)
        started, shim = _now_ms(), os.getpid()
        self.child = os.fork()
        if self.child == 0:
            os.close(go_end)
            _exec_child(spec, shim, standard, go, failed_end)
        # Recorded before the child executes the program, so that no program ever runs unrecorded.
        self._write_run(started, standard)
        # The slave stays open: otherwise the terminal would end while no process has it open; one may open it again.
        ends = [fd for fd in standard if fd > 2] if self.terminal < 0 else []
        for fd in (*ends, failed_end, go):
            os.close(fd)
        os.write(go_end, b"\0")
        os.close(go_end)
        failure = os.read(failed, _FAILURE.size)
        os.close(failed)
        if len(failure) == _FAILURE.size:
            os.waitpid(self.child, 0)
            number, step = _FAILURE.unpack(failure)
            return step.rstrip(b"\0").decode(), number
        for fd in (*self.pipes, own_input):
            if fd >= 0:
                os.set_blocking(fd, False)
        return None

    def _open_standard(self, given: int | None) -> tuple[tuple[int, int, int], int]:
        """Open the child's standard input, output and error; returns these, and the end of the input that is written.

        What the shim reads is in ``pipes``.
        """
        if self.spec.input == _INPUT_TERMINAL:
            self.terminal, slave = _open_terminal()
            self.pipes = {self.terminal: 1}
            return (slave, slave, slave), self.terminal
        own_input = -1
        if self.spec.input == _INPUT_OPEN:
            given, own_input = os.pipe2(os.O_CLOEXEC)
        out, out_end = os.pipe2(os.O_CLOEXEC)
        err, err_end = os.pipe2(os.O_CLOEXEC)
        self.pipes = {out: 1, err: 2}
        return (0 if given is None else given, out_end, err_end), own_input

    def _write_run(self, started: int, standard: tuple[int, int, int]) -> None:
        boot = "-"
        with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        start, own = (stat[1] if (stat := _read_stat(pid)) else 0 for pid in (self.child, os.getpid()))
        log_end = f"{self.log.segment} {self.log.index_bytes} {self.log.data_bytes}"
        files = [os.fstat(fd) for fd in standard]
        if self.terminal >= 0:
            pipes = f"0 0 0 {files[0].st_rdev} {files[0].st_ctime_ns}"
        else:
            pipes = f"{files[1].st_ino} {files[2].st_ino}"
            pipes += f" {files[0].st_ino}" if self.clients is not None else ""
        text = f"run 1 {boot} {self.child} {start} {started} {os.getpid()} {own} {log_end} {pipes}"
        self.write_status(0, _RUN_BYTES, text)

    def _write_exit(self, info: os.waitid_result) -> None:
        self.write_status(_EXIT_AT, _LINE_BYTES, _exit_text(info))

    def _stop(self, number: int, grace_ms: int) -> None:
        until_s = time.monotonic() + grace_ms / 1000
        if self.stage == "running" or (self.stage == "stopping" and number != self.stop_signal):
            _send_group(self.child, number)
            _send_group(self.child, signal.SIGCONT)
            if self.child_exited:
                self._signal_escaped(number)
        if self.stage == "running" or until_s < self.deadline_s:
            self.deadline_s = until_s
        if self.stage == "running":
            self.stage = "stopping"
        self.stop_signal = number

    def _read_commands(self) -> None:
        try:
            self.commands += os.read(self.control, 4096)
        except OSError:
            return
        *lines, self.commands = self.commands.split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):
                word, *numbers = line.split()
                values = [int(number) for number in numbers]
                if word == b"stop" and len(values) == 2:
                    number, grace_ms = values
                    self._stop(
                        self.spec.stop_signal if number < 0 else number,
                        self.spec.grace_ms if grace_ms < 0 else grace_ms,
                    )
                elif word == b"signal" and len(values) == 1:
                    _send_group(self.child, values[0])
                elif word == b"kill":
                    self._stop(signal.SIGKILL, 0)

    def _pump(self, fd: int) -> bool:
        """Read at most a chunk of output; False when none is available now."""
        try:
            data = os.read(fd, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""  # the terminal was hung up
        if not data:
            del self.pipes[fd]
            if fd != self.terminal:  # which still has a size
                os.close(fd)
            elif self.clients is not None:
                self.clients.close_input()
            return False
        with contextlib.suppress(OSError):
            # A terminal gives a page at most.
            while fd == self.terminal and (more := os.read(fd, _CHUNK_BYTES - len(data))):
                data += more
        self.log.append(self.pipes[fd], data)
        if self.clients is not None:
            self.clients.put(self.pipes[fd], data)
        return True

    def supervise(self) -> None:
        """Run until the child and everything that it left behind have ended."""
        while True:
            exited_before, others = self.child_exited, self._reap()
            if self.child_exited and not others:
                return
            if self.child_exited and not exited_before:
                if self.stage == "running":
                    self._stop(self.spec.stop_signal, self.spec.grace_ms)
                elif self.stage == "stopping":
                    self._signal_escaped(self.stop_signal)
            events = dict.fromkeys((*self.pipes, self.signals, self.control), select.POLLIN)
            timeout_ms = self._advance_stop()
            if self.clients is not None:
                timeout_ms = self.clients.watch(events, timeout_ms)
            poll = select.poll()
            for fd, wanted in events.items():
                poll.register(fd, wanted)
            ready = dict(poll.poll(timeout_ms))
            for fd in [fd for fd in self.pipes if fd in ready]:
                self._pump(fd)
            if self.signals in ready:
                self._read_signals()
            if self.control in ready:
                self._read_commands()
            if self.clients is not None:
                self.clients.serve(ready)

    def finish(self) -> None:
        """Read the rest of the output, reap everything, and record that the run is done."""
        until_s = time.monotonic() + _DRAIN_S
        for fd in list(self.pipes):
            while fd in self.pipes and self._pump(fd) and time.monotonic() < until_s:
                pass
        with contextlib.suppress(OSError):
            self.log.write_last_marks()
        if self.clients is not None:
            self.clients.finish()
        self._reap_all()
        self.write_status(_DONE_AT, _LINE_BYTES, f"done {_now_ms()}")


class _Command(_Tree):
    """Runs one short-lived child, which ends with the daemon, that is when the other end of ``control`` is closed."""

    def __init__(self, control: int) -> None:
        self.control = control
        self.failed = -1
        super().__init__()

    def report(self, text: str) -> None:
        """Send a message to the daemon, if it is still there."""
        with contextlib.suppress(OSError):
            os.write(self.control, text.encode())

    def start_child(self, spec: _Spec, descriptors: list[int]) -> None:
        """Fork the child; afterwards only it has the descriptors, so that their other ends see when they are closed."""
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.failed, failed_end = os.pipe2(os.O_CLOEXEC)
        for fd in descriptors:
            os.set_inheritable(fd, True)
        shim = os.getpid()
        self.child = os.fork()
        if self.child == 0:
            _exec_child(spec, shim, (0, 1, 2), -1, failed_end)
        for fd in (failed_end, *descriptors):
            os.close(fd)
        for fd in range(3):
            os.dup2(null, fd)
        if null > 2:
            os.close(null)
        os.set_blocking(self.failed, False)

    def _report_start(self) -> None:
        """Tell the daemon whether the child has executed its program, once that is known."""
        if self.failed < 0:
            return
        try:
            failure = os.read(self.failed, _FAILURE.size)
        except BlockingIOError:
            return
        os.close(self.failed)
        self.failed = -1
        if len(failure) == _FAILURE.size:
            number, step = _FAILURE.unpack(failure)
            self.report(f"fail {step.rstrip(bytes(1)).decode()} {number}")
        else:
            self.report(f"ok {self.child}")

    def _write_exit(self, info: os.waitid_result) -> None:
        self._report_start()
        self.report(_exit_text(info))

    def _read_control(self) -> bool:
        """Read a command of the daemon; False when it has closed the socket or has ended."""
        try:
            words = os.read(self.control, _LINE_BYTES).split()
        except InterruptedError:
            return True
        except OSError:
            return False
        if len(words) == 2 and words[0] == b"signal":
            try:
                os.killpg(self.child, int(words[1]))
            except OSError:
                _send(self.child, int(words[1]))
            _send_group(self.child, signal.SIGCONT)
        return bool(words)

    def supervise(self) -> None:
        """Run until the child has ended and everything that it left behind is killed."""
        listening = True
        while True:
            self._report_start()
            others = self._reap()
            if self.child_exited and not others:
                break
            if self.stage == "running" and (self.child_exited or not listening):
                self.stage = "stopping"  # without a grace time: the next step kills
            poll = select.poll()
            watched = [
                self.signals,
                *([self.control] if listening else []),
                *([self.failed] if self.failed >= 0 else []),
            ]
            for fd in watched:
                poll.register(fd, select.POLLIN)
            ready = {fd for fd, _events in poll.poll(self._advance_stop())}
            if self.signals in ready:
                self._read_signals()
            if self.control in ready:
                listening = self._read_control()
        self._reap_all()


def _close_others(keep: list[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd not in keep:
            with contextlib.suppress(OSError):
                os.close(fd)
    for fd in keep:
        fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)


def _become_supervisor(keep: list[int]) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.umask(0o077)
    _close_others(keep)
    with contextlib.suppress(OSError):
        os.setsid()
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    os.chdir("/")


def _read_spec(fd: int) -> _Spec:
    return _Spec(os.pread(fd, os.fstat(fd).st_size, 0))


def _run_command(keep: list[int]) -> int:
    spec_fd, control, *descriptors = keep
    _become_supervisor(keep)
    command = _Command(control)
    try:
        spec = _read_spec(spec_fd)
        os.close(spec_fd)
        command.start_child(spec, descriptors)
    except OSError as error:
        command.report(f"fail shim {error.errno or 0}")
        return 2
    command.supervise()
    return 0


def main(argv: list[str]) -> int:
    """Run the shim; the arguments are those of ``nexus-shim``."""
    if argv[1] == "--command":
        return _run_command([int(argument) for argument in argv[3:]])
    spec_fd, report_fd, run_fd, log_fd, _lock_fd, *given = keep = [int(argument) for argument in argv[2:8]]
    _become_supervisor(keep)
    failure: tuple[str, int] | None
    try:
        shim = _Shim(run_fd, log_fd)
        # The spec stays open, so that the daemon can read it.
        failure = shim.start_child(_read_spec(spec_fd), given[0] if given else None)
    except OSError as error:
        failure = ("shim", error.errno or 0)
    if failure is not None:
        line = f"fail {failure[0]} {failure[1]}"
        with contextlib.suppress(OSError, NameError):
            shim.write_status(_EXIT_AT, _LINE_BYTES, line)
        with contextlib.suppress(OSError):
            os.write(report_fd, line.encode() + b"\n")
        return 1
    with contextlib.suppress(OSError):
        os.write(report_fd, b"ok\n")
    os.close(report_fd)
    shim.supervise()
    shim.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
