"""Reaches the daemon of another host by the system's ssh, as ``ssh HOST nexusctl dial-stdio``.

It knows the URL of a host and how ssh ends, and nothing of the protocol but how it begins. ssh has the user's own
configuration, keys and agent; no port is opened.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from nexus_protocol.errors import InvalidArgument
from nexus_protocol.frame import MAGIC

from nexus.client.errors import ConnectError, ConnectionLost, ConnectTimeout, lost_error
from nexus.hints import command_line, joined

if TYPE_CHECKING:
    import asyncio

__all__ = ["SSH_TIMEOUT_S", "Host", "HostSocket", "connect_host", "connect_host_async", "parse_host", "program_there"]

SSH_TIMEOUT_S = 30.0
"""How long a host may take until the daemon there has replied."""
_END_S = 2.0
"""How long ssh may take to end, once its output or this side of it has ended."""
_REFUSAL_S = 0.5
"""How long after words that are no protocol a shell that refuses may take to end."""
_LOOK_S = 0.01
_ALIVE_S, _ALIVE_COUNT = 15, 4
"""A host that has not replied to so many questions of ssh, one each interval, is taken for lost."""
_SHOWN_LINES = 5
_ERROR_BYTES = 64 * 1024

_NOT_RUNNING, _USAGE, _NOT_FOUND, _SSH_FAILED = 3, 2, 127, 255
"""Exit codes: of dial-stdio without a daemon, of a program without dial-stdio, of a shell, of ssh itself (ssh(1))."""

_URL = re.compile(r"ssh://(?:(?P<user>[^@/]*)@)?(?P<place>[^@/]*)(?P<path>/.*)?", re.DOTALL)
_PLACE = re.compile(r"(?:\[(?P<address>[^]]*)\]|(?P<name>[^][:]*))(?::(?P<port>.*))?", re.DOTALL)
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*\$?")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%[A-Za-z0-9._-]+)?")

_FIND = (
    'command -v nexusctl >/dev/null 2>&1 && exec nexusctl "$@"; '
    'test -x "$HOME/.local/bin/nexusctl" && exec "$HOME/.local/bin/nexusctl" "$@"; exit 127'
)
"""Run by sh on the host. It has no single quote, so that every login shell passes it on unchanged."""

# ssh ignores Ctrl-C and the end of the terminal, because this process still sends its Cancel through it. The subshell
# ends ssh when the pipe (fd 3) ends with this process, also a killed one; a line on the pipe means that this process
# ends ssh itself. ssh stays in the process group, since one in the background may not ask on the terminal.
_RUN = 'trap "" INT HUP; exec 3<&0; (read -r _ <&3 || kill "$$") >/dev/null 2>&1 & exec "$@" <&1 3<&-'


class Host(NamedTuple):
    """A host of a URL ``ssh://[USER@]HOST[:PORT][/SOCKET]``."""

    url: str
    name: str
    """As ssh knows it: a name, an alias of its configuration, or an address."""
    user: str | None = None
    port: int | None = None
    socket: str | None = None
    """The path of the daemon's socket there; None is the one that ``nexusctl`` finds there."""

    def ssh_words(self) -> list[str]:
        """The options of ssh that lead there, and the name."""
        words = [*(("-l", self.user) if self.user else ()), *(("-p", str(self.port)) if self.port else ())]
        return [*words, self.name]

    def remote_command(self) -> str:
        """The command line for the login shell there: ``NEXUS_REMOTE_COMMAND``, else the first nexusctl that is found.

        It is looked for in the ``PATH`` there, then at ``~/.local/bin/nexusctl``.
        """
        words = [*(("--socket", self.socket) if self.socket else ()), "dial-stdio"]
        arguments = " ".join(f"'{word}'" for word in words)
        own = os.environ.get("NEXUS_REMOTE_COMMAND")
        return f"{own} {arguments}" if own else f"exec sh -c '{_FIND}' nexusctl {arguments}"


def program_there() -> str:
    """What a command line for a host begins with: ``NEXUS_REMOTE_COMMAND``, else ``nexusctl``."""
    return os.environ.get("NEXUS_REMOTE_COMMAND") or "nexusctl"


def parse_host(url: str) -> Host:
    """Parse the URL of a host.

    Raises:
        InvalidArgument: it has another form, or a part that ssh or a shell could take for something else.
    """
    shown = re.sub(r"(?<!ssh):.*@", ":…@", url, flags=re.DOTALL)  # a password is not repeated
    found = _URL.fullmatch(url)
    if found is None:
        raise _invalid(shown, f"expected ssh://[USER@]HOST[:PORT][/SOCKET]{_did_you_mean(url)}")
    user, place, path = found["user"], found["place"], found["path"] or "/"
    if user is not None and ":" in user:
        raise _invalid(shown, "leave the password out, since other users could see it")
    if user is not None and not _USER.fullmatch(user):
        raise _invalid(shown, "the user may have only letters, digits and . _ + -, and no - at its beginning")
    parts = _PLACE.fullmatch(place)
    address = parts["address"].replace("%25", "%") if parts and parts["address"] is not None else None
    name = address if address is not None else parts["name"] if parts else ""
    if not (_NAME if address is None else _IPV6).fullmatch(name):
        raise _invalid(
            shown,
            "the host may have only letters, digits and . _ -, and no - at its beginning; an IPv6 address is in [ ]",
        )
    port = parts["port"] if parts else None
    if port is not None and not (port.isascii() and port.isdecimal() and len(port) <= 5 and 0 < int(port) < 65536):
        raise _invalid(shown, "the port must be 1 to 65535")
    return Host(url.removesuffix("/"), name, user, int(port) if port else None, _socket_path(path, shown))


def _did_you_mean(url: str) -> str:
    """The same text as a URL, if it is one but for its beginning, as ssh itself takes it."""
    if "://" in url:
        return ""
    try:
        parse_host(f"ssh://{url}")
    except InvalidArgument:
        return ""
    return f" (did you mean ssh://{url}?)"


def _socket_path(path: str, shown: str) -> str | None:
    if "?" in path or "#" in path:
        raise _invalid(shown, "a URL with ? or # has no meaning here; in a path they are written %3F and %23")
    if "%" in path:
        from urllib.parse import unquote

        path = unquote(path, errors="surrogateescape")
    if not path.isprintable() or "'" in path or "\\" in path:
        raise _invalid(shown, "the path of the socket may have no quote, no backslash and no control character")
    return path if path.strip("/") else None


def _invalid(shown: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"cannot use host {shown!r}: {problem}", details={"path": "host"})


class HostSocket(socket.socket):
    """A stream to the daemon of a host: one end of a socket pair, whose other end are ssh's standard streams.

    Closing it ends ssh, and so does the end of this process.
    """

    def __init__(self, host: Host, timeout_s: float | None, *, may_ask: bool) -> None:
        """Start ssh. Only with ``may_ask`` and a terminal it may ask, and then the user has all the time to answer.

        Raises:
            ConnectError: ssh cannot be started.
        """
        self.host = host
        asks = may_ask and _is_in_foreground()
        self.limit_s = timeout_s if timeout_s is not None else None if asks else SSH_TIMEOUT_S
        program = shutil.which("ssh")
        if program is None:
            raise self._error("there is no ssh here", "Install the client of OpenSSH.")
        options = {
            "BatchMode": "no" if asks else "yes",
            # One second more, so that of two limits it is always this side's that ends the wait.
            "ConnectTimeout": str(int(timeout_s or SSH_TIMEOUT_S) + 1),
            "ServerAliveInterval": str(_ALIVE_S),
            "ServerAliveCountMax": str(_ALIVE_COUNT),
            "ControlMaster": "no",  # as one it could not end before the other sessions; it may use one that runs
            "ClearAllForwardings": "yes",
            "RemoteCommand": "none",
        }
        words = [program, "-T", "-a", "-x", *(word for pair in options.items() for word in ("-o", "=".join(pair)))]
        ours, theirs = socket.socketpair()
        super().__init__(fileno=ours.detach())
        watched, self._alive = os.pipe()
        self._errors, errors = os.pipe()
        os.set_blocking(self._errors, False)
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _RUN, "sh", *words, *self._last_words()],
                stdin=watched,
                stdout=theirs.fileno(),
                stderr=errors,
            )
        except OSError as error:
            os.close(self._alive)
            os.close(self._errors)
            super().close()
            raise self._error(f"cannot start ssh: {error.strerror}") from None
        finally:
            theirs.close()
            os.close(watched)
            os.close(errors)

    def _last_words(self) -> list[str]:
        *options, name = self.host.ssh_words()
        return [*options, "--", name, self.host.remote_command()]

    def close(self) -> None:
        """Close the stream, and end ssh."""
        if self.fileno() < 0:
            return
        super().close()
        with contextlib.suppress(OSError):  # the subshell was killed
            os.write(self._alive, b"\n")
        os.close(self._alive)
        os.close(self._errors)
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    # The beginning

    def is_decided(self) -> bool:
        """After the first bytes, or their end, were received: whether ``check`` need not wait."""
        try:
            first = self.recv(len(MAGIC), socket.MSG_PEEK)
        except ConnectionResetError:
            first = b""
        return (bool(first) and MAGIC.startswith(first)) or self._process.poll() is not None

    def check(self) -> None:
        """After the first bytes were received: see whether the protocol begins there.

        Raises:
            ConnectError: it does not. Where ssh has ended, this waits for its exit code.
        """
        try:
            first = self.recv(256, socket.MSG_PEEK)
        except ConnectionResetError:
            first = b""
        if not first:
            raise self._failure()
        if not first.startswith(MAGIC[: len(first)]):
            line = first.decode(errors="replace").splitlines()[0]
            code = self._exit_code(_REFUSAL_S)
            if code in (_NOT_RUNNING, _USAGE, _NOT_FOUND, _SSH_FAILED):
                raise self._failure()
            if code is not None:  # nologin(8), say, or a start-up file that exits
                raise self._error(
                    f"the shell there has ended, and has written {line[:80]!r}",
                    f"To see whether it runs commands: {self._try_line()}",
                )
            raise self._error(
                f"the protocol does not begin there, but {line[:80]!r} was received",
                "The start-up files of the shell there must print nothing where no terminal is.",
            )

    def silent(self) -> ConnectTimeout:
        """The error for a host that has not replied within the limit."""
        said = joined(*self._said()[-_SHOWN_LINES:], f"To see how ssh gets there: {self._try_line()}")
        return ConnectTimeout(
            f"cannot connect to Nexus daemon at {self.host.url}: no reply within {self.limit_s:g} seconds", said
        )

    def _failure(self) -> ConnectError:
        """Why ssh has ended, by its exit code."""
        code = self._exit_code(_END_S)
        said = self._said()
        last = said[-1].rstrip(".") if said else f"the exit code of ssh is {code}"
        more = said[-_SHOWN_LINES:-1]
        if code == _NOT_RUNNING:
            return self._error(None, "The daemon there does not appear to be running.", not_running=True)
        if code == _NOT_FOUND:
            own = os.environ.get("NEXUS_REMOTE_COMMAND")
            if own:
                return self._error("NEXUS_REMOTE_COMMAND was not found there", f"It is set to {own!r}.")
            return self._error(
                "no nexusctl was found there",
                "Looked for it in the PATH of a command of ssh, then at ~/.local/bin/nexusctl.\n"
                "Where it is at another place, set NEXUS_REMOTE_COMMAND here to its path there.",
            )
        if code == _USAGE:
            return self._error(last, joined(*more, "The nexusctl there may be older than this one: update it there."))
        if code == _SSH_FAILED:
            return self._error(last, joined(*more, f"To see how ssh gets there: {self._try_line()}"))
        if not said and code in (0, None):
            last = "the connection was closed before the daemon replied"
        return self._error(last, joined(*more))

    def _exit_code(self, timeout_s: float) -> int | None:
        """The exit code of ssh; None if it has not ended within the time."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def _try_line(self) -> str:
        return command_line("ssh", *self.host.ssh_words(), "true")

    def _error(self, problem: str | None, hint: str | None = None, *, not_running: bool = False) -> ConnectError:
        sentence = f"cannot connect to Nexus daemon at {self.host.url}" + (f": {problem}" if problem else "")
        return ConnectError(sentence, hint, not_running=not_running)

    def _said(self) -> list[str]:
        """The lines that ssh, and dial-stdio through it, have written to standard error and were not read before."""
        try:
            text = os.read(self._errors, _ERROR_BYTES).decode(errors="replace")
        except OSError:
            return []
        return [line.strip() for line in text.splitlines() if line.strip()]

    # The end

    def why_lost(self) -> ConnectionLost:
        """The error for a connection that ended after the daemon had replied once."""
        usual, said = lost_error(), self._said()
        reason = f": {said[-1].rstrip('.')}" if said else ""
        return ConnectionLost(f"the connection to the daemon at {self.host.url} was lost{reason}", usual.hint)


def _is_in_foreground() -> bool:
    """Whether there is a terminal on which ssh may ask: one that does not stop this process group when it reads."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def connect_host(url: str, timeout_s: float | None, greeting: bytes, *, may_ask: bool = True) -> HostSocket:
    """Connect to the daemon of a host and send it ``greeting``; returns once its reply begins, without reading it.

    Raises:
        ConnectError: it cannot be reached, or does not reply within ``timeout_s`` (default: ``SSH_TIMEOUT_S``, and no
            limit where ssh may ask).
        InvalidArgument: the URL is not valid.
    """
    sock = HostSocket(parse_host(url), timeout_s, may_ask=may_ask)
    try:
        if not greeting:
            return sock  # there would be no reply
        with contextlib.suppress(BrokenPipeError):  # ``check`` says why
            sock.sendall(greeting)
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        if not poller.poll(None if sock.limit_s is None else sock.limit_s * 1000):
            raise sock.silent()
        sock.check()
    except BaseException:
        sock.close()
        raise
    return sock


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def connect_host_async(url: str, timeout_s: float | None, greeting: bytes, *, may_ask: bool = True) -> HostSocket:
    """Like ``connect_host``; returns a non-blocking socket for an asyncio transport."""
    import asyncio  # here, so that the blocking client does not pay for it

    loop = asyncio.get_running_loop()
    sock = HostSocket(parse_host(url), timeout_s, may_ask=may_ask)
    try:
        sock.setblocking(False)
        if not greeting:
            return sock
        with contextlib.suppress(BrokenPipeError):  # ``check`` says why
            sock.sendall(greeting)
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(sock, _set, readable)
        try:
            async with asyncio.timeout(sock.limit_s):
                await readable
        except TimeoutError:
            raise sock.silent() from None
        finally:
            loop.remove_reader(sock)
        for _ in range(int(_END_S / _LOOK_S)):  # else the wait of ``check`` would hold up the event loop
            if sock.is_decided():
                break
            await asyncio.sleep(_LOOK_S)
        sock.check()
    except BaseException:
        sock.close()
        raise
    return sock
