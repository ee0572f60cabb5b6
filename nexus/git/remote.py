"""What git may reach, and with which credentials.

A token goes through a pipe that a credential helper of git reads: it is on no command line, in no environment, URL,
file or log, and only the host of the remote gets it.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple
from urllib.parse import quote

from nexus.git import errors
from nexus.git.process import with_config

__all__ = ["Access", "Auth", "Remote", "mask_url", "parse_url", "without_credentials"]

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
_ALLOWED = "file:git:https:ssh"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_AUTHORITY = re.compile(
    r"(?:(?P<userinfo>[^/?#]*)@)?(?P<host>\[[0-9A-Fa-f:.%A-Za-z]*\]|[^/?#@:\[\]]*)(?::(?P<port>[0-9]{0,5}))?(?=[/?#]|$)"
)
_URL_CREDENTIALS = re.compile(r"(?i)\b(?P<scheme>[a-z][a-z0-9+.-]*://)(?P<userinfo>[^/?#\s'\"]+)@")
_TOKEN_LIKE = re.compile(
    r"(?:gh[a-z]|github|glpat|gl[a-z]+|ATATT|ATCTT|xox[a-z])[_-]|(?=.*[0-9])(?=.*[A-Za-z])[^@]{20,}$"
)
_LOOPBACK = re.compile(r"127(?:\.\d{1,3}){3}|localhost|\[::1\]")

DEFAULT_USER = "x-access-token"
"""The user name that is sent with a token where the URL has none; hosts that accept tokens ignore it."""

_TOKEN_COPIES = 8
"""One operation may open several connections, and the credential helper reads one copy for each."""

# Only builtins of the shell, so that no command line ever has the token; this text itself has only variable names.
_HELPER = (
    '!f() { [ "$1" = get ] || return 0; protocol=; host=; username=; '
    'while IFS="=" read -r key value; do case "$key" in '
    "protocol) protocol=$value;; host) host=$value;; username) username=$value;; '') break;; esac; done; "
    '[ "$protocol://$host" = "$NEXUS_GIT_ORIGIN" ] || return 0; '
    'IFS= read -r token <"/proc/self/fd/$NEXUS_GIT_TOKEN_FD" || return 0; '
    f'printf \'username=%s\\npassword=%s\\n\' "${{username:-{DEFAULT_USER}}}" "$token"; }}; f'
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
    authority = _AUTHORITY.match(url, scheme.end())
    if authority is None or not authority["host"] or authority["host"].startswith("-") or "%" in authority["host"]:
        raise _bad_url("it names no host", _FORMS)
    user, colon, _ = (authority["userinfo"] or "").partition(":")
    host = authority["host"] + (f":{authority['port']}" if authority["port"] is not None else "")
    secret = bool(colon) or (transport != "ssh" and bool(_TOKEN_LIKE.match(user)))
    return Remote(url, transport, host, user, secret)


def mask_url(url: str) -> str:
    """The URL, or any text with URLs in it, with what may be a credential replaced by ``***``."""

    def mask(match: re.Match[str]) -> str:
        user, colon, _ = match["userinfo"].partition(":")
        if "ssh" in match["scheme"].lower():
            return f"{match['scheme']}{user}{':***' if colon else ''}@"
        return f"{match['scheme']}***@"

    return _URL_CREDENTIALS.sub(mask, url)


def without_credentials(url: str) -> str:
    """The URL without credentials: an ssh user stays, everything else before the host is removed."""
    return mask_url(url).replace(":***@", "@").replace("***@", "")


class Access:
    """How git authenticates: not at all, with ssh's own keys and agent, or with a token. Its repr hides the token."""

    __slots__ = ("_token", "auth")

    def __init__(self, auth: Auth, token: str | None) -> None:
        self.auth = auth
        self._token = token

    def __repr__(self) -> str:
        return f"Access({self.auth!r})"

    def check(self, remote: Remote, doing: str) -> None:
        """Refuse a remote that cannot be used with this authentication.

        Raises:
            GitAuthentication: there is no token, or it cannot be used for this URL.
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

    @contextmanager
    def opened(
        self, remote: Remote, environment: Mapping[str, str], ssh_command: str | None
    ) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
        """The environment for one git that contacts ``remote``, and the descriptors that it inherits.

        ``ssh_command`` is the user's own setting, where there is one.
        """
        allowed = _ALLOWED + (":http" if remote.transport == "http" else "")
        made = with_config({**environment, "GIT_ALLOW_PROTOCOL": allowed}, [("credential.helper", "")])
        if remote.transport == "ssh":
            made["GIT_SSH_COMMAND"] = self._ssh_command(environment, ssh_command)
        if self.auth != "token" or self._token is None or remote.transport not in ("https", "http"):
            yield made, ()
            return
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            # At most 8 x 4 KiB into a pipe of 64 KiB: it fits, and the write cannot block.
            os.set_blocking(writer, False)
            os.write(writer, f"{self._token}\n".encode() * _TOKEN_COPIES)
            os.close(writer)
            writer = -1
            made = with_config(made, [("credential.helper", _HELPER)])
            made |= {
                "NEXUS_GIT_ORIGIN": f"{remote.transport}://{remote.host}",
                "NEXUS_GIT_TOKEN_FD": str(reader),
            }
            yield made, (reader,)
        finally:
            os.close(reader)
            if writer >= 0:
                os.close(writer)

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
        if self.auth == "none":
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
