"""Repositories for tests, and two ways to reach them: an sshd and a token-checking HTTP server, both on loopback."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from support.raw import WAIT_S, wait_until

__all__ = [
    "GitWorld",
    "HttpServer",
    "SshAgent",
    "SshServer",
    "http_servers",
    "make_key",
    "missing_for_http",
    "missing_for_ssh",
    "processes_in",
    "processes_showing",
    "secrets_of",
]

IDENTITY = "[user]\n\tname = Ada\n\temail = ada@example.org\n[init]\n\tdefaultBranch = main\n"


class GitWorld:
    """A folder with git settings of its own, in which repositories are made by git itself."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "home").mkdir(exist_ok=True)
        self.settings = root / "home" / ".gitconfig"
        self.settings.write_text(IDENTITY)
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "SSH_", "XDG_"))
        } | {"HOME": str(root / "home"), "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": str(self.settings)}

    def git(self, directory: Path, *arguments: str, stdin: bytes | None = None) -> str:
        """Run git; gives its standard output."""
        done = subprocess.run(
            ["git", *arguments], cwd=directory, env=self.environment, input=stdin, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return done.stdout.decode(errors="replace").strip()

    def repository(self, name: str, *, commits: int = 1) -> Path:
        """A work tree with commits ``one``, ``two`` … of its own."""
        path = self.root / name
        self.git(self.root, "init", "-q", str(path))
        for number in range(1, commits + 1):
            self.commit(path, "file", f"{number}\n", f"commit {number}")
        return path

    def commit(self, path: Path, name: str, text: str | bytes, message: str = "change") -> str:
        """Write a file and commit it; gives the commit's id."""
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        self.git(path, "add", "--force", "--", name)
        self.git(path, "commit", "-q", "-m", message)
        return self.git(path, "rev-parse", "HEAD")

    def bare(self, name: str, source: Path) -> Path:
        """A bare clone of ``source``, which becomes the remote ``origin`` of ``source``."""
        path = self.root / name
        self.git(self.root, "clone", "-q", "--bare", str(source), str(path))
        self.git(source, "remote", "add", "origin", str(path))
        self.git(source, "push", "-q", "-u", "origin", "HEAD")
        return path

    def cloned(self, name: str, url: Path | str) -> Path:
        """A clone, made by git itself."""
        path = self.root / name
        self.git(self.root, "clone", "-q", str(url), str(path))
        return path


def processes_showing(secret: str) -> list[str]:
    """The command lines and environments, of all readable processes, that contain a secret, as ``pid/file``."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            for name in ("cmdline", "environ"):
                with contextlib.suppress(OSError):
                    if secret.encode() in Path(entry.path, name).read_bytes():
                        found.append(f"{entry.name}/{name}")
    return found


def processes_in(folder: Path) -> list[str]:
    """The processes whose working directory is a folder or below it, as ``pid name``."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if Path(entry.path, "cwd").readlink().is_relative_to(folder):
                    found.append(f"{entry.name} {Path(entry.path, 'comm').read_text().strip()}")
    return found


# ssh


def _sshd() -> str | None:
    return shutil.which("sshd", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")


def missing_for_ssh() -> str | None:
    """Why an sshd cannot be run here, None where it can."""
    for program in ("ssh", "ssh-agent", "ssh-keygen", "ssh-add"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if _sshd() is None:
        return "sshd is not installed"
    shell = Path(pwd.getpwuid(os.geteuid()).pw_shell).name
    return f"this user's shell is {shell}" if shell in ("nologin", "false") else None


class SshAgent:
    """An ssh-agent of the test's own, with the keys that it is given."""

    def __init__(self, root: Path) -> None:
        self.socket = root / "agent.sock"
        self.process = subprocess.Popen(
            ["ssh-agent", "-D", "-a", str(self.socket)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        wait_until(self._listens, "the agent")

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.socket)) == 0

    def add(self, key: Path) -> None:
        """Load a private key."""
        environment = {**os.environ, "SSH_AUTH_SOCK": str(self.socket)}
        subprocess.run(["ssh-add", "-q", str(key)], env=environment, check=True, capture_output=True)

    def close(self) -> None:
        """End the agent."""
        self.process.terminate()
        self.process.wait(WAIT_S)
        self.socket.unlink(missing_ok=True)


def make_key(path: Path) -> Path:
    """A new key pair without a passphrase."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, capture_output=True)
    return path


class _SeparationFolder:
    """The folder that sshd requires as root, and that the system's own sshd makes when it starts.

    Where it is not there, the first of all test processes makes it, and the last one removes it: each holds a lock.
    """

    _PATH = Path("/run/sshd")
    _MODE = 0o711
    """That of one that was made here."""

    def __init__(self) -> None:
        self._fd: int | None = None
        while self._fd is None and os.geteuid() == 0:
            with contextlib.suppress(FileExistsError):
                self._PATH.mkdir(self._MODE)
            with contextlib.suppress(FileNotFoundError):  # another process has just removed it
                fd = os.open(self._PATH, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(fd, fcntl.LOCK_SH)
                if self._PATH.exists() and os.path.samestat(os.fstat(fd), self._PATH.stat()):
                    self._fd = fd
                else:
                    os.close(fd)

    def close(self) -> None:
        """Remove it, if it was made here and no other process has it."""
        if self._fd is None:
            return
        with contextlib.suppress(BlockingIOError):
            if stat.S_IMODE(os.fstat(self._fd).st_mode) == self._MODE:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._PATH.rmdir()
        os.close(self._fd)


class SshServer:
    """An sshd with a host key of its own on a free loopback port; one process for each connection.

    With ``listens`` it is one that listens by itself, as it does on a host, and ``more`` are further settings.
    The key is that of ``user``, by default of this process.
    """

    def __init__(self, root: Path, *, listens: bool = False, more: str = "", user: str | None = None) -> None:
        self.root = root
        self.user = user or pwd.getpwuid(os.geteuid()).pw_name
        self.host_key = make_key(root / "host_key")
        self.user_key = make_key(root / "user_key")
        self.log = root / "sshd.log"
        settings = root / "sshd_config"
        settings.write_text(
            f"HostKey {self.host_key}\nAuthorizedKeysFile {self.user_key}.pub\nStrictModes no\nUsePAM no\n"
            "PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPidFile none\n" + more
        )
        self._separation = _SeparationFolder()
        self._command = [str(_sshd()), "-i", "-e", "-f", str(settings)]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        if listens:
            self._listener.close()
            self._command = [
                self._command[0],
                "-D",
                *self._command[2:],
                "-p",
                str(self.port),
                "-o",
                "AddressFamily=inet",
            ]
            self._thread = threading.Thread(target=str)
            self.start()
            return
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def start(self) -> None:
        """Listen, where that was ended; returns once it does."""
        with self.log.open("ab") as log:
            self._processes.append(subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stderr=log))
        wait_until(self._accepts, "the sshd")

    def _accepts(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """End the sshd that listens by itself, with every connection to it."""
        listener = self._processes[-1]
        listener.send_signal(signal.SIGSTOP)  # it accepts no further one
        self.cut()
        listener.kill()
        listener.wait(WAIT_S)
        self._processes.pop()

    def connections(self) -> list[int]:
        """The processes of its connections."""
        found = []
        for listener in self._processes:
            for task in Path(f"/proc/{listener.pid}/task").glob("*/children"):
                found += [int(pid) for pid in _text_of(task).split()]
        return found

    def cut(self) -> None:
        """Cut every connection, as a broken network does: neither end gets a word."""
        for pid in self.connections():
            for child in _text_of(Path(f"/proc/{pid}/task/{pid}/children")).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Have sshd hang, with every connection: it is reached and says nothing."""
        pids = [process.pid for process in self._processes]
        for pid in self.connections():
            pids += [pid, *map(int, _text_of(Path(f"/proc/{pid}/task/{pid}/children")).split())]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, self.log.open("ab") as log:
                self._processes.append(
                    subprocess.Popen(self._command, stdin=connection, stdout=connection, stderr=log, close_fds=True)
                )

    def sessions(self) -> list[subprocess.Popen[bytes]]:
        """The process of each connection so far."""
        return list(self._processes)

    def url(self, path: Path) -> str:
        """The URL of a repository on this machine."""
        return f"ssh://{self.user}@127.0.0.1:{self.port}{path}"

    def client(self, *, known: Path | None) -> str:
        """An ssh command whose known_hosts has the public key ``known`` for this host, or no key."""
        hosts = self.root / "known_hosts"
        line = f"[127.0.0.1]:{self.port} {known.read_text()}" if known is not None else ""
        hosts.write_text(line)
        settings = self.root / "ssh_config"
        settings.write_text(
            f"UserKnownHostsFile {hosts}\nGlobalKnownHostsFile /dev/null\nIdentityFile {self.root}/none\n"
        )
        return f"ssh -F {settings}"

    def close(self) -> None:
        """Stop listening, and end the processes."""
        if self._listener.fileno() >= 0:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._thread.join(WAIT_S)
        self.cut()
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            process.wait(WAIT_S)
        self._separation.close()


def _text_of(file: Path) -> str:
    """The text of a file of /proc; empty once the process is gone."""
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


# HTTP


def _backend() -> Path:
    shown = subprocess.run(["git", "--exec-path"], capture_output=True, check=True, text=True)
    return Path(shown.stdout.strip()) / "git-http-backend"


def missing_for_http() -> str | None:
    """Why repositories cannot be served over HTTP here, None where they can."""
    return None if _backend().exists() else "git http-backend is not installed"


class HttpServer:
    """Serves the repositories below ``root`` to clients with ``token``; can pause in the middle of a pack."""

    def __init__(self, root: Path, token: str | None = None) -> None:
        self.root = root
        self.token = token
        self.stall_after: int | None = None
        """The server waits for ``go_on`` after so many bytes of a pack."""
        self.stalled = threading.Event()
        self.go_on = threading.Event()
        self.redirect: str | None = None
        self.authorizations: list[str | None] = []
        self.backend = _backend()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def url(self, name: str, user: str = "") -> str:
        """The URL of the repository ``name``."""
        return f"http://{user}{'@' if user else ''}127.0.0.1:{self._server.server_port}/{name}"

    def close(self) -> None:
        """Release paused responses, and stop."""
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(WAIT_S)

    def allowed(self, header: str | None) -> bool:
        """Whether a request with this Authorization header is accepted."""
        if self.token is None:
            return True
        scheme, _, pair = (header or "").partition(" ")
        return scheme == "Basic" and base64.b64decode(pair).decode().partition(":")[2] == self.token

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                self.answer(b"")

            def do_POST(self) -> None:
                self.answer(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

            def answer(self, body: bytes) -> None:
                header = self.headers.get("Authorization")
                server.authorizations.append(header)
                if server.redirect is not None:
                    self.send_response(302)
                    self.send_header("Location", server.redirect + self.path)
                    self.end_headers()
                elif not server.allowed(header):
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="repositories"')
                    self.end_headers()
                else:
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                        self.write(server.run(self.command, self.path, self.headers, body))

            def write(self, answer: bytes) -> None:
                self.wfile.write(b"HTTP/1.0 200 OK\r\n")
                if server.stall_after is not None and len(answer) > server.stall_after:
                    self.wfile.write(answer[: server.stall_after])
                    self.wfile.flush()
                    server.stalled.set()
                    server.go_on.wait(WAIT_S)
                    answer = answer[server.stall_after :]
                self.wfile.write(answer)

        return Handler

    def run(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
        """The response of git-http-backend."""
        path, _, query = target.partition("?")
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.root),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": headers.get("Git-Protocol", ""),
        }
        done = subprocess.run([str(self.backend)], env=environment, input=body, capture_output=True, check=False)
        return done.stdout


@contextlib.contextmanager
def http_servers(root: Path, default: str) -> Iterator[Callable[..., HttpServer]]:
    """A function that starts a server of the repositories below ``root``; all that it started are closed at the end.

    Its argument is the server's token: without one ``default``; None is a server for everyone.
    """
    with contextlib.ExitStack() as stack:

        def make(token: str | None = default) -> HttpServer:
            server = HttpServer(root, token)
            stack.callback(server.close)
            return server

        yield make


def secrets_of(server: HttpServer) -> list[str]:
    """The ``user:password`` pairs that a server was sent."""
    pairs = [header for header in server.authorizations if header]
    return [base64.b64decode(header.split(" ")[1]).decode() for header in pairs]
