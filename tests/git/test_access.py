"""Credentials: ssh to an sshd of the tests' own, and a token that only its host gets and no process shows."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nexus_protocol import NexusError
from support.git import (
    GitWorld,
    HttpServer,
    SshAgent,
    SshServer,
    http_servers,
    make_key,
    missing_for_http,
    missing_for_ssh,
    processes_showing,
    secrets_of,
)

from nexus.git import errors
from nexus.git.remote import Access, mask_url, parse_url
from nexus.git.repository import Repository, clone

TOKEN = "tok_0f9b=/+%~s3cr3t"

needs_ssh = pytest.mark.skipif(missing_for_ssh() is not None, reason=f"no sshd: {missing_for_ssh()}")
needs_http = pytest.mark.skipif(missing_for_http() is not None, reason=str(missing_for_http()))


@pytest.fixture
def world(root: Path) -> GitWorld:
    world = GitWorld(root)
    world.bare("bare.git", world.repository("source"))
    return world


def push(world: GitWorld) -> str:
    """One more commit at the remote."""
    commit = world.commit(world.root / "source", "file", "theirs")
    world.git(world.root / "source", "push", "-q")
    return commit


# ssh


@pytest.fixture
def ssh(world: GitWorld) -> Iterator[SshServer]:
    server = SshServer(world.root)
    yield server
    server.close()


@pytest.fixture
def agent(world: GitWorld) -> Iterator[SshAgent]:
    agent = SshAgent(world.root)
    world.environment["SSH_AUTH_SOCK"] = str(agent.socket)
    yield agent
    agent.close()


@needs_ssh
def test_clone_and_pull_over_ssh_use_a_key_of_the_agent(world: GitWorld, ssh: SshServer, agent: SshAgent) -> None:
    agent.add(ssh.user_key)
    world.environment["GIT_SSH_COMMAND"] = ssh.client(known=Path(f"{ssh.host_key}.pub"))
    url = ssh.url(world.root / "bare.git")
    web = asyncio.run(clone(url, world.root / "web", auth="ssh", environment=world.environment))
    assert asyncio.run(web.status()).remote_url == url
    commit = push(world)
    assert asyncio.run(web.pull()).after == commit
    with pytest.raises(errors.GitRemoteNotFound, match="there is no repository at"):
        asyncio.run(clone(ssh.url(world.root / "no.git"), world.root / "no", auth="ssh", environment=world.environment))


@needs_ssh
@pytest.mark.parametrize("place", ["local", "worktree", "included"])
def test_fetch_uses_the_ssh_command_of_the_user_and_none_of_the_repository(
    world: GitWorld, ssh: SshServer, agent: SshAgent, place: str
) -> None:
    agent.add(ssh.user_key)
    path = world.cloned("web", world.root / "bare.git")
    world.git(path, "remote", "set-url", "origin", ssh.url(world.root / "bare.git"))
    world.git(path, "config", "--global", "core.sshCommand", ssh.client(known=Path(f"{ssh.host_key}.pub")))
    ran = world.root / "ran"
    if place == "worktree":
        world.git(path, "config", "extensions.worktreeConfig", "true")
    if place == "included":
        world.git(path, "config", "include.path", "more")
    where = ["--file", str(path / ".git" / "more")] if place == "included" else [f"--{place}"]
    world.git(path, "config", *where, "core.sshCommand", f"touch {ran};")
    commit = push(world)
    assert asyncio.run(Repository(path, auth="ssh", environment=world.environment).pull()).after == commit
    assert not ran.exists()


@needs_ssh
@pytest.mark.parametrize(
    ("key", "known", "auth", "error", "words"),
    [
        ("wrong", "right", "ssh", errors.GitAuthentication, "rejected the credentials"),
        ("none", "right", "ssh", errors.GitAuthentication, "rejected the credentials"),
        ("right", "right", "none", errors.GitAuthentication, "requires credentials"),
        ("right", "unknown", "ssh", errors.GitHostKey, "is unknown"),
        ("right", "wrong", "ssh", errors.GitHostKey, "has changed"),
    ],
)
def test_clone_with_a_wrong_user_or_host_key_raises_its_error(
    world: GitWorld,
    ssh: SshServer,
    agent: SshAgent,
    key: str,
    known: str,
    auth: Any,
    error: type[NexusError],
    words: str,
) -> None:
    wrong = make_key(world.root / "wrong_key")
    if key != "none":
        agent.add(ssh.user_key if key == "right" else wrong)
    keys = {"right": Path(f"{ssh.host_key}.pub"), "wrong": Path(f"{wrong}.pub"), "unknown": None}
    world.environment["GIT_SSH_COMMAND"] = ssh.client(known=keys[known])
    with pytest.raises(error, match=rf"cannot clone into .*127.0.0.1:{ssh.port}.*{words}") as raised:
        asyncio.run(
            clone(ssh.url(world.root / "bare.git"), world.root / "web", auth=auth, environment=world.environment)
        )
    assert raised.value.hint
    assert not (world.root / "web").exists()


def test_clone_from_a_port_without_a_listener_is_unreachable(world: GitWorld) -> None:
    for url in ("git://127.0.0.1:1/x", "http://127.0.0.1:1/x"):
        with pytest.raises(errors.GitUnreachable, match=r"127\.0\.0\.1:1 cannot be reached"):
            asyncio.run(clone(url, world.root / "web", environment=world.environment))


# Tokens


@pytest.fixture
def make_http(world: GitWorld) -> Iterator[Callable[..., HttpServer]]:
    with http_servers(world.root, TOKEN) as make:
        yield make


@needs_http
def test_token_gives_access_and_is_in_no_process_file_or_log(
    world: GitWorld, make_http: Callable[..., HttpServer], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    stored = world.root / "stored"
    world.settings.write_text(world.settings.read_text() + f"[credential]\n\thelper = store --file={stored}\n")
    server = make_http()
    server.stall_after = 1
    seen: list[str] = []
    searched: list[str] = []

    async def use() -> Repository:
        task = asyncio.ensure_future(
            clone(server.url("bare.git"), world.root / "web", auth="token", token=TOKEN, environment=world.environment)
        )
        await asyncio.to_thread(server.stalled.wait, 30)
        while not server.go_on.is_set():
            # During an exchange, when git and its helpers run.
            seen.extend(await asyncio.to_thread(processes_showing, TOKEN))
            searched.extend(await asyncio.to_thread(processes_showing, "NEXUS_GIT_ORIGIN"))
            if len(server.authorizations) > 1:
                server.go_on.set()
                server.stall_after = None
            await asyncio.sleep(0)
        return await task

    web = asyncio.run(use())
    commit = push(world)
    assert asyncio.run(web.pull()).after == commit
    assert secrets_of(server)
    assert set(secrets_of(server)) == {f"x-access-token:{TOKEN}"}
    assert searched, "git's own environment was among those that were searched"
    assert seen == []
    files = [path for path in world.root.rglob("*") if path.is_file()]
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []
    assert not stored.exists()
    assert TOKEN not in f"{web!r} {web.__dict__!r} {asyncio.run(web.status())!r} {caplog.text}"


@needs_http
def test_wrong_token_raises_an_error_that_hides_it(world: GitWorld, make_http: Callable[..., HttpServer]) -> None:
    server = make_http("another")
    with pytest.raises(errors.GitAuthentication, match="rejected the credentials") as raised:
        asyncio.run(
            clone(server.url("bare.git"), world.root / "web", auth="token", token=TOKEN, environment=world.environment)
        )
    assert TOKEN not in str(raised.value.payload())


@needs_http
def test_git_without_credentials_never_prompts(world: GitWorld, make_http: Callable[..., HttpServer]) -> None:
    asked = world.root / "asked"
    ask = world.root / "ask"
    ask.write_text(f"#!/bin/sh\n: > {asked}\necho {TOKEN}\n")
    ask.chmod(0o755)
    world.settings.write_text(
        world.settings.read_text() + f'[core]\n\taskPass = {ask}\n[credential]\n\thelper = "!{ask}"\n'
    )
    world.environment |= {"SSH_ASKPASS": str(ask), "GIT_ASKPASS": str(ask)}
    server = make_http()
    for auth in ("none", "ssh"):
        with pytest.raises(errors.GitAuthentication) as raised:
            asyncio.run(
                clone(server.url("bare.git"), world.root / "web", auth=auth, environment=world.environment)  # type: ignore[arg-type]
            )
        assert raised.value.hint
    assert not asked.exists()
    assert secrets_of(server) == []


@needs_http
def test_token_is_not_sent_to_a_host_that_the_remote_redirects_to(
    world: GitWorld, make_http: Callable[..., HttpServer]
) -> None:
    first, second = make_http(None), make_http()
    first.redirect = second.url("")[:-1]
    with pytest.raises(errors.GitAuthentication):
        asyncio.run(
            clone(first.url("bare.git"), world.root / "web", auth="token", token=TOKEN, environment=world.environment)
        )
    assert first.authorizations
    assert second.authorizations
    assert secrets_of(first) + secrets_of(second) == []


@needs_http
def test_user_name_of_the_url_is_sent_with_the_token(world: GitWorld, make_http: Callable[..., HttpServer]) -> None:
    server = make_http()
    url = server.url("bare.git", user="ada")
    asyncio.run(clone(url, world.root / "web", auth="token", token=TOKEN, environment=world.environment))
    # Git first tries the name alone.
    assert set(secrets_of(server)) == {"ada:", f"ada:{TOKEN}"}


@needs_http
def test_hooks_do_not_see_the_token(world: GitWorld, make_http: Callable[..., HttpServer]) -> None:
    server = make_http()
    url = server.url("bare.git")
    web = asyncio.run(clone(url, world.root / "web", auth="token", token=TOKEN, environment=world.environment))
    hook = web.path / ".git" / "hooks" / "post-merge"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\nenv > {world.root}/hook; ls -l /proc/self/fd >> {world.root}/hook\n")
    hook.chmod(0o755)
    push(world)
    asyncio.run(web.pull())
    text = (world.root / "hook").read_text()
    assert TOKEN not in text
    assert "NEXUS_GIT" not in text
    assert "credential.helper" not in text


@pytest.mark.parametrize(
    ("url", "token", "words"),
    [
        ("https://example.org/x", None, "none was given"),
        ("http://example.org/x", TOKEN, "the token would be sent unencrypted"),
        ("http://127.0.0.1.example.org/x", TOKEN, "the token would be sent unencrypted"),
        ("ssh://git@example.org/x", TOKEN, "cannot be used over ssh"),
        ("git@example.org:x", TOKEN, "cannot be used over ssh"),
        ("https://example.org/x", "a\nb", "control characters"),
    ],
)
def test_unusable_token_is_refused_before_anything_is_sent(
    world: GitWorld, url: str, token: str | None, words: str
) -> None:
    with pytest.raises(errors.GitAuthentication, match=words) as raised:
        asyncio.run(clone(url, world.root / "web", auth="token", token=token, environment=world.environment))
    assert not token or token not in str(raised.value.payload())


# Output and URLs


def test_secrets_are_masked_in_the_output_of_git() -> None:
    access = Access("token", TOKEN)
    pair = base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()
    said = [f"a {TOKEN} b", f"Basic {pair}", "fatal: https://ada:pw@example.org/x", "tok_0f9b%3D%2F%2B%25~s3cr3t"]
    assert access.clean(said) == ["a *** b", "Basic ***", "fatal: https://***@example.org/x", "***"]
    assert TOKEN not in repr(access)


@pytest.mark.parametrize(
    ("url", "transport", "host", "user"),
    [
        ("https://example.org/x", "https", "example.org", ""),
        ("HTTPS://Example.org:8443/x", "https", "Example.org:8443", ""),
        ("ssh://git@[::1]:22/x", "ssh", "[::1]:22", "git"),
        ("git@example.org:a/b", "ssh", "example.org", "git"),
        ("example.org:a/b", "ssh", "example.org", ""),
        ("/srv/a:b", "file", "", ""),
        ("./a:b", "file", "", ""),
        ("file:///srv/x", "file", "", ""),
        ("git://example.org/x", "git", "example.org", ""),
    ],
)
def test_parse_url_agrees_with_git(url: str, transport: str, host: str, user: str) -> None:
    remote = parse_url(url)
    assert (remote.transport, remote.host, remote.user, remote.secret) == (transport, host, user, False)


def test_mask_url_masks_every_url_of_a_text() -> None:
    text = "https://a:b@x/1 and 'http://tok@y/2', ssh://git@z/3 but not a@b:c"
    assert mask_url(text) == "https://***@x/1 and 'http://***@y/2', ssh://git@z/3 but not a@b:c"
    assert mask_url(os.fspath("/srv/x@y")) == "/srv/x@y"
