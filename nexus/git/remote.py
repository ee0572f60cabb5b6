"""What git may reach, and with which credentials.

A token is in memory that a credential helper of git reads: it is on no command line, in no environment, URL, file or
log. It belongs to the scheme, host and port of one URL, which the owner of the token gives, and goes nowhere else,
whatever the configuration of a clone says.
"""

from __future__ import annotations

import base64
import fcntl
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple
from urllib.parse import quote

from nexus.git import errors
from nexus.git.process import with_config

__all__ = [
    "ANY_TRANSPORT",
    "NO_TRANSPORT",
    "URL_CHARACTERS",
    "Access",
    "Auth",
    "Remote",
    "mask_url",
    "parse_url",
    "without_credentials",
]

Auth = Literal["none", "ssh", "token"]

_SCHEMES = {
    "https": "https",
    "http": "http",
    "ssh": "ssh",
    "git+ssh": "ssh",
    "ssh+git": "ssh",
    "git": "git",
    "file": "file",
}
_DEFAULT_PORTS = {"https": 443, "http": 80}

ANY_TRANSPORT = "file:git:http:https:ssh"
"""For ``GIT_ALLOW_PROTOCOL``: what a work tree's own remotes may use; ``ext`` and other helpers run programs."""

NO_TRANSPORT = "none"
"""For ``GIT_ALLOW_PROTOCOL``: git contacts no remote, not even to fetch objects that a partial clone does not have."""

URL_CHARACTERS = 4096
"""The longest URL that is used."""

# Texts of two patterns, which are compiled when they are needed: the start of a daemon needs none of them.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_AUTHORITY = (
    r"(?:(?P<userinfo>[^/?#]*)@)?(?P<host>\[[0-9A-Fa-f:.%A-Za-z]*\]|[^/?#@:\[\]]*)(?::(?P<port>[0-9]{0,5}))?(?=[/?#]|$)"
)
_AUTHORITY_END = re.compile(r"[/?#\s'\"]")
_SCHEME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-")
_TOKEN_LIKE = r"(?:gh[a-z]|github|glpat|gl[a-z]+|ATATT|ATCTT|xox[a-z])[_-]|(?=.*[0-9])(?=.*[A-Za-z])[^@]{20,}$"
_ODD = re.compile(r"[%\\\s*]")
"""In a host, what git and the library that it uses for http may read differently."""
_LOOPBACK = re.compile(r"127(?:\.\d{1,3}){3}|localhost|\[::1\]")

DEFAULT_USER = "x-access-token"
"""The user name that is sent with a token where the URL has none; hosts that accept tokens ignore it."""

# Only builtins of the shell, so that no command line ever has the token; this text itself has only variable names.
# Git names the host that it is about to send the token to, after settings and redirects.
_HELPER = (
    '!f() { [ "$1" = get ] || return 0; set -f; protocol=; host=; username=; '
    'while IFS="=" read -r key value; do case "$key" in '
    "protocol) protocol=$value;; host) host=$value;; username) username=$value;; '') break;; esac; done; "
    'for origin in $NEXUS_GIT_ORIGINS; do [ "$protocol://$host" = "$origin" ] || continue; '
    'IFS= read -r token <"/proc/self/fd/$NEXUS_GIT_TOKEN_FD" || return 0; '
    f'printf \'username=%s\\npassword=%s\\n\' "${{username:-{DEFAULT_USER}}}" "$token"; return 0; done; }}; f'
)


class Remote(NamedTuple):
    """The parts of a repository's URL."""

    url: str
    transport: str
    """``https``, ``http``, ``ssh``, ``git`` or ``file``."""
    host: str
    """As written, with the port where there is one; empty for files."""
    user: str
    secret: bool
    """Whether the URL itself holds a password, or a user name that looks like a token."""

    @property
    def origin(self) -> str | None:
        """Scheme, host and port, in lower case and without the scheme's own port; None where there is no http."""
        if self.transport not in _DEFAULT_PORTS:
            return None
        name, port = self._name_and_port()
        return f"{self.transport}://{name}{'' if port == _DEFAULT_PORTS[self.transport] else f':{port}'}"

    def written_origins(self) -> set[str]:
        """The origin, in each form in which git may name it."""
        if self.origin is None:
            return set()
        name, port = self._name_and_port()
        return {self.origin, f"{self.transport}://{name}:{port}", f"{self.transport}://{self.host}"}

    def _name_and_port(self) -> tuple[str, int]:
        name, colon, digits = self.host.lower().rpartition(":")
        if not colon or digits.endswith("]"):  # an IPv6 address has colons of its own
            name, digits = self.host.lower(), ""
        return name, int(digits) if digits else _DEFAULT_PORTS[self.transport]

    @property
    def loopback(self) -> bool:
        """Whether the host is this machine, so that nothing is sent over a network."""
        return bool(_LOOPBACK.fullmatch(re.sub(r":\d*$", "", self.host).lower()))


def _bad_url(problem: str, hint: str) -> errors.GitBadUrl:
    return errors.GitBadUrl(f"cannot use this repository URL: {problem}", hint=hint)


_FORMS = "Give https://HOST/PATH, ssh://USER@HOST/PATH, USER@HOST:PATH, git://HOST/PATH or an absolute path."


def parse_url(url: str) -> Remote:
    """Parse a URL as git does.

    Raises:
        GitBadUrl: it is malformed, looks like an option, or uses a transport that is not allowed.
    """
    if not url or url.startswith("-") or any(c <= " " or c == "\x7f" for c in (url[0], url[-1])):
        raise _bad_url("it is empty, begins with '-', or has blanks around it", _FORMS)
    if len(url) > URL_CHARACTERS:
        raise _bad_url(f"it is longer than {URL_CHARACTERS:,} characters", _FORMS)
    if any(c < " " or c == "\x7f" for c in url):
        raise _bad_url("it has control characters", _FORMS)
    if re.match(r"[A-Za-z0-9+.-]*::", url):
        raise _bad_url("a URL of the form HELPER::ADDRESS runs a program of its own", _FORMS)
    scheme = _SCHEME.match(url)
    if scheme is None:
        before = url.partition("/")[0]
        if ":" not in before:
            return Remote(url, "file", "", "", False)
        where, user = before.partition(":")[0], ""
        if "@" in where:
            user, _, where = where.rpartition("@")
        if not where or where.startswith("-"):
            raise _bad_url("it names no host", _FORMS)
        return Remote(url, "ssh", where, user, False)
    transport = _SCHEMES.get(scheme[1].lower())
    if transport is None:
        raise _bad_url(f"the transport {scheme[1]!r} is not allowed", _FORMS)
    if transport == "file":
        return Remote(url, "file", "", "", False)
    authority = re.compile(_AUTHORITY).match(url, scheme.end())
    if (
        authority is None
        or not authority["host"]
        or authority["host"].startswith("-")
        or _ODD.search(authority["host"])
    ):
        raise _bad_url("it names no host", _FORMS)
    user, colon, _ = (authority["userinfo"] or "").partition(":")
    host = authority["host"] + (f":{authority['port']}" if authority["port"] is not None else "")
    secret = bool(colon) or (transport != "ssh" and bool(re.match(_TOKEN_LIKE, user)))
    return Remote(url, transport, host, user, secret)


def mask_url(text: str) -> str:
    """The URL, or any text with URLs in it, with what may be a credential replaced by ``***``.

    A scanner, since the text may be of any length: it goes over each part of it once.
    """
    pieces: list[str] = []
    taken = 0
    mark = text.find("://")
    while mark >= 0:
        start = mark + 3
        delimiter = _AUTHORITY_END.search(text, start)
        end = len(text) if delimiter is None else delimiter.start()
        at = text.rfind("@", start, end)
        if at > start:
            pieces += [text[taken:start], _masked(text[start:at], is_ssh="ssh" in _scheme_before(text, mark))]
            taken = at
        mark = text.find("://", max(start, end - 1))
    pieces.append(text[taken:])
    return "".join(pieces)


def _scheme_before(text: str, mark: int) -> str:
    start = mark
    while start > max(mark - 32, 0) and text[start - 1] in _SCHEME_CHARACTERS:
        start -= 1
    return text[start:mark].lower()


def _masked(userinfo: str, *, is_ssh: bool) -> str:
    user, colon, _ = userinfo.partition(":")
    if is_ssh:
        return f"{user}:***" if colon else user
    return "***"


def without_credentials(url: str) -> str:
    """The URL without credentials: an ssh user stays, everything else before the host is removed."""
    return mask_url(url).replace(":***@", "@").replace("***@", "")


class Access:
    """How git authenticates: not at all, with ssh's own keys and agent, or with a token. Its repr hides the token.

    The token is for the scheme, host and port of ``url``, and without a URL for none.
    """

    __slots__ = ("_bound", "_token", "auth")

    def __init__(self, auth: Auth, token: str | None, url: str | None = None) -> None:
        self.auth = auth
        self._token = token
        self._bound = parse_url(url) if auth == "token" and url is not None else None

    def __repr__(self) -> str:
        return f"Access({self.auth!r})"

    def check(self, remote: Remote, doing: str) -> None:
        """Refuse a remote that cannot be used with this authentication.

        Raises:
            GitAuthentication: there is no token, it cannot be used for this URL, or it is for another host.
        """
        if self.auth != "token":
            return
        if remote.transport == "ssh":
            raise errors.GitAuthentication(
                f"cannot {doing}: a token cannot be used over ssh",
                hint="Use the https URL of the repository, or ssh as its authentication.",
            )
        if remote.transport == "http" and not remote.loopback:
            raise errors.GitAuthentication(
                f"cannot {doing}: over http the token would be sent unencrypted",
                hint="Use the https URL of the repository.",
            )
        if remote.transport in ("https", "http") and not self._token:
            raise errors.GitAuthentication(
                f"cannot {doing}: it authenticates with a token, and none was given",
                hint="Give the token with the request, or name a file that holds it.",
            )
        if self._token and any(not " " < c < "\x7f" for c in self._token):
            raise errors.GitAuthentication(
                f"cannot {doing}: the token has blanks, control characters or characters beyond ASCII",
                hint="Give the token alone, without quotes and line ends.",
            )
        if remote.origin is not None and not self._is_for(remote):
            bound = self._bound.origin if self._bound is not None else None
            raise errors.GitAuthentication(
                f"cannot {doing}: the remote is at {remote.origin}, and the token is for {bound or 'no host'}",
                hint="The token is sent only to the host of repo_url: correct the URL of the remote in the clone, or "
                "repo_url.",
            )

    def sends_token(self, remote: Remote) -> bool:
        """Whether a git that contacts the remote is given the token."""
        return self.auth == "token" and bool(self._token) and self._is_for(remote)

    def _is_for(self, remote: Remote) -> bool:
        return self._bound is not None and remote.origin is not None and remote.origin == self._bound.origin

    @contextmanager
    def opened(
        self, remote: Remote, environment: Mapping[str, str], ssh_command: str | None, *, submodules: bool = False
    ) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
        """The environment for one git that contacts ``remote``, and the descriptors that it inherits.

        ``ssh_command`` is the user's own setting, where there is one. With ``submodules`` git contacts the remotes of
        the submodules of what it has from ``remote``: over the network by other transports, too, but only those of a
        local repository may be local.
        """
        allowed = {remote.transport, "https"} if remote.transport == "http" else {remote.transport}
        if submodules:
            allowed |= {"https", "ssh", "git"}
        made = with_config(
            {**environment, "GIT_ALLOW_PROTOCOL": ":".join(sorted(allowed))}, [("credential.helper", "")]
        )
        if "ssh" in allowed:
            made["GIT_SSH_COMMAND"] = self._ssh_command(environment, ssh_command)
        if not self.sends_token(remote):
            yield made, ()
            return
        assert self._bound is not None
        memory = os.memfd_create("nexus-git-token", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            # Each opening of it through /proc reads from its beginning: it serves any number of connections.
            os.write(memory, f"{self._token}\n".encode())
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
            made = with_config(made, [("http.followRedirects", "initial"), ("credential.helper", _HELPER)])
            made |= {
                "NEXUS_GIT_ORIGINS": " ".join(sorted(remote.written_origins() | self._bound.written_origins())),
                "NEXUS_GIT_TOKEN_FD": str(memory),
            }
            yield made, (memory,)
        finally:
            os.close(memory)

    def _ssh_command(self, environment: Mapping[str, str], configured: str | None) -> str:
        import shlex  # rarely needed

        command = environment.get("GIT_SSH_COMMAND") or configured
        if not command:
            command = shlex.quote(environment["GIT_SSH"]) if environment.get("GIT_SSH") else "ssh"
        try:
            program = os.path.basename(shlex.split(command)[0])  # noqa: PTH119
        except (ValueError, IndexError):
            return command
        if program != "ssh":
            # Another program has other options. It cannot prompt either: there is no terminal and no askpass.
            return command
        command += " -o BatchMode=yes"
        if self.auth != "ssh":
            command += " -o PubkeyAuthentication=no -o IdentityAgent=none"
        return command

    def clean(self, lines: Sequence[str]) -> list[str]:
        """Lines of git's output without secrets."""
        text = mask_url("\n".join(lines))
        if self._token:
            pair = f"{DEFAULT_USER}:{self._token}".encode()
            for secret in (self._token, quote(self._token, safe=""), base64.b64encode(pair).decode()):
                text = text.replace(secret, "***")
        return text.split("\n") if text else []
