"""A repository's own settings: reading it runs none of its programs, and a token goes to the host of repo_url alone."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nexus_protocol import NexusError
from support.git import GitWorld, HttpServer, http_servers, missing_for_http, secrets_of
from support.raw import RawClient

from nexus.git import errors
from nexus.git.repository import Repository, clone
from nexus.git.settings import MAX_ENTRIES
from nexus.services.commands import AddService, GetRepoStatus, GitListBranches, GitLog

TOKEN = "tok_0f9b3c"

needs_http = pytest.mark.skipif(missing_for_http() is not None, reason=str(missing_for_http()))


@pytest.fixture
def world(root: Path) -> GitWorld:
    return GitWorld(root)


class Trap:
    """A program that leaves a file when it runs, and the repository in which settings name it."""

    def __init__(self, world: GitWorld) -> None:
        self.world = world
        self.bare = world.bare("bare.git", world.repository("source", commits=2))
        self.path = world.cloned("web", self.bare)
        self.left = world.root / "left"
        self.program = world.root / "program"
        self.program.write_text(f'#!/bin/sh\necho "$0 $@" >> {self.left}\nexit 1\n')
        self.program.chmod(0o755)

    def set(self, key: str, value: str = "", *options: str) -> None:
        self.world.git(self.path, "config", *options, key, value or str(self.program))

    def touch(self) -> None:
        """Change a tracked file so that git must look at its content, which is the same."""
        file = self.path / "file"
        file.write_text(file.read_text())

    def attributes(self, text: str) -> None:
        self.world.commit(self.path, ".gitattributes", text)

    def runs(self, *command: str) -> bool:
        """Whether git by itself runs the program."""
        try:
            self.world.git(self.path, *command)
        except AssertionError:
            pass
        ran = self.left.exists()
        self.left.unlink(missing_ok=True)
        return ran


def fsmonitor(trap: Trap) -> list[str]:
    trap.set("core.fsmonitor")
    return ["status"]


def included(trap: Trap) -> list[str]:
    other = trap.path / ".git" / "other"
    other.write_text(f"[core]\n\tfsmonitor = {trap.program}\n")
    trap.set("include.path", "other")
    return ["status"]


def included_on_condition(trap: Trap) -> list[str]:
    (trap.path / ".git" / "other").write_text(f"[core]\n\tfsmonitor = {trap.program}\n")
    trap.set(f"includeIf.gitdir:{trap.path}/.path", "other")
    return ["status"]


def work_tree_scope(trap: Trap) -> list[str]:
    trap.set("extensions.worktreeConfig", "true")
    trap.set("core.fsmonitor", "", "--worktree")
    return ["status"]


def clean_filter(trap: Trap) -> list[str]:
    trap.attributes("file filter=Evil.one\n")
    trap.set("filter.Evil.one.clean")
    trap.set("filter.Evil.one.required", "true")
    trap.touch()
    return ["status"]


def filter_process(trap: Trap) -> list[str]:
    trap.attributes("file filter=evil\n")
    trap.set("filter.evil.process")
    trap.touch()
    return ["status"]


def filter_of_the_user(trap: Trap) -> list[str]:
    trap.world.settings.write_text(
        trap.world.settings.read_text() + '[filter "lfs"]\n\tclean = cat\n\trequired = true\n'
    )
    trap.attributes("file filter=lfs\n")
    trap.set("filter.lfs.clean")
    trap.touch()
    return ["status"]


def included_filter(trap: Trap) -> list[str]:
    trap.attributes("file filter=evil\n")
    (trap.path / ".git" / "other").write_text(f'[filter "evil"]\n\tclean = {trap.program}\n')
    trap.set("include.path", "other")
    trap.touch()
    return ["status"]


def hooks(trap: Trap) -> list[str]:
    folder = trap.world.root / "hooks"
    folder.mkdir()
    for name in ("post-index-change", "fsmonitor-watchman", "reference-transaction", "post-checkout"):
        (folder / name).symlink_to(trap.program)
    trap.set("core.hooksPath", str(folder))
    trap.touch()
    return ["status"]


def textconv(trap: Trap) -> list[str]:
    trap.attributes("file diff=evil\n")
    trap.set("diff.evil.textconv")
    return ["log", "-p"]


def diff_command(trap: Trap) -> list[str]:
    trap.attributes("file diff=evil\n")
    trap.set("diff.evil.command")
    trap.set("diff.external")
    return ["log", "-p", "--ext-diff"]


def pagers(trap: Trap) -> list[str]:
    for key in ("core.pager", "pager.log", "pager.status", "pager.branch", "pager.config", "pager.for-each-ref"):
        trap.set(key)
    return ["-p", "log"]


def aliases(trap: Trap) -> list[str]:
    for name in ("status", "log", "for-each-ref", "rev-parse", "config", "other"):
        trap.set(f"alias.{name}", f"!{trap.program}")
    return ["other"]


def signature_program(trap: Trap) -> list[str]:
    head = trap.world.git(trap.path, "cat-file", "commit", "HEAD").split("\n\n", 1)
    signed = f"{head[0]}\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n\n{head[1]}\n"
    made = trap.world.git(trap.path, "hash-object", "-t", "commit", "-w", "--stdin", stdin=signed.encode())
    trap.world.git(trap.path, "reset", "-q", "--hard", made)
    trap.set("gpg.program")
    trap.set("log.showSignature", "true")
    return ["log"]


def missing_objects(trap: Trap) -> list[str]:
    """A partial clone, whose missing objects git fetches when it needs them, from a remote that runs a program."""
    trap.set("remote.origin.promisor", "true")
    trap.set("extensions.partialClone", "origin")
    trap.set("remote.origin.uploadpack")
    trap.set("remote.origin.url", f"file://{trap.bare}")
    parent = trap.world.git(trap.path, "rev-parse", "HEAD~1")
    for file in (trap.path / ".git" / "objects" / parent[:2]).glob(parent[2:]):
        file.unlink()
    return ["log"]


def missing_objects_by_a_helper(trap: Trap) -> list[str]:
    command = missing_objects(trap)
    trap.set("remote.origin.url", f"ext::{trap.program}")
    trap.set("protocol.ext.allow", "always")
    return command


def missing_objects_by_ssh(trap: Trap) -> list[str]:
    command = missing_objects(trap)
    trap.set("remote.origin.url", "ssh://127.0.0.1/x")
    trap.set("core.sshCommand")
    return command


def submodule_settings(trap: Trap) -> list[str]:
    inner = trap.world.repository("inner")
    trap.world.git(trap.path, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner), "inner")
    trap.world.git(trap.path, "commit", "-q", "-m", "inner")
    trap.world.git(trap.path / "inner", "config", "core.fsmonitor", str(trap.program))
    trap.set("submodule.inner.update", f"!{trap.program}")
    trap.set("status.submoduleSummary", "true")
    trap.set("submodule.recurse", "true")
    trap.set("diff.ignoreSubmodules", "none")
    (trap.path / "inner" / "file").write_text("changed")
    return ["status"]


def others(trap: Trap) -> list[str]:
    for key in (
        "core.editor", "sequence.editor", "core.askPass", "core.gitProxy", "core.alternateRefsCommand",
        "merge.x.driver", "credential.helper", "gc.recentObjectsHook", "uploadpack.packObjectsHook",
        "interactive.diffFilter", "trailer.x.cmd", "difftool.x.cmd", "mergetool.x.cmd", "browser.x.cmd", "man.x.cmd",
        "gpg.ssh.defaultKeyCommand", "remote.origin.vcs", "remote.origin.receivepack", "sendemail.toCmd",
        "web.browser", "help.browser",
    ):  # fmt: skip
        trap.set(key)
    trap.set("alias.other", f"!{trap.program}")
    return ["other"]


TRAPS = (
    fsmonitor, included, included_on_condition, work_tree_scope, clean_filter, filter_process, filter_of_the_user,
    included_filter, hooks, textconv, diff_command, pagers, aliases, signature_program, missing_objects,
    missing_objects_by_a_helper, missing_objects_by_ssh, submodule_settings, others,
)  # fmt: skip


@pytest.mark.parametrize("make", TRAPS)
def test_reading_runs_no_program_that_the_repository_names(
    client: RawClient, world: GitWorld, make: Callable[[Trap], list[str]]
) -> None:
    trap = Trap(world)
    command = make(trap)
    client.call(AddService(name="web", repo_path=str(trap.path)))
    trap.left.unlink(missing_ok=True)
    for request in (GetRepoStatus("web"), GitLog("web"), GitListBranches("web", remote=True)):
        if make.__name__.startswith("missing") and isinstance(request, GitLog):
            assert client.call_error(request).message
        else:
            client.call(request)
    assert not trap.left.exists(), trap.left.read_text()
    trap.touch()
    # Some are not run by this version of git, or only on a terminal: then there is nothing to compare with.
    assert trap.runs(*command) or make in (filter_of_the_user, pagers, missing_objects_by_ssh), "the trap works"


def test_status_is_right_without_the_filter_of_the_repository(world: GitWorld) -> None:
    trap = Trap(world)
    clean_filter(trap)
    state = asyncio.run(Repository(trap.path, environment=world.environment).status())
    assert (state.dirty, state.changed) == (False, 0)


def test_filter_of_the_user_is_used(world: GitWorld) -> None:
    trap = Trap(world)
    world.settings.write_text(world.settings.read_text() + '[filter "up"]\n\tclean = tr a-z A-Z\n')
    trap.attributes("file filter=up\n")
    world.commit(trap.path, "file", "text")
    (trap.path / "file").write_text("TEXT")
    web = Repository(trap.path, environment=world.environment)
    assert asyncio.run(web.status()).changed == 0
    trap.set("filter.up.clean")
    assert asyncio.run(web.status()).changed == 0
    assert not trap.left.exists()


# Bounds


@pytest.mark.parametrize(
    "url",
    [
        "https://" + "a." * 30_000 + "b/x",
        "https://" + "a@" * 30_000 + "b/x",
        "a://" * 15_000,
        "https://u:secret@h/" + "x" * 60_000,
        "https://" + "secret@" * 9_000 + "/x",
        "ssh+" * 15_000 + "://u:secret@h/",
    ],
    ids=range(6),
)
def test_remote_url_of_any_length_is_shown_cut_and_without_credentials(
    client: RawClient, world: GitWorld, url: str
) -> None:
    path = world.repository("web")
    with (path / ".git" / "config").open("a") as config:
        config.write(f'[remote "origin"]\n\turl = "{url}"\n')
    client.call(AddService(name="web", repo_path=str(path)))
    shown = client.call(GetRepoStatus("web")).remote_url
    assert shown is not None
    assert len(shown) <= 1000
    assert "secret" not in shown
    with pytest.raises(errors.GitBadUrl, match="longer than 4,096"):
        asyncio.run(clone(url, world.root / "other", environment=world.environment))


def test_too_many_settings_are_refused(world: GitWorld) -> None:
    path = world.repository("web")
    with (path / ".git" / "config").open("a") as config:
        config.writelines(f'[remote "r{number}"]\n\turl = x\n' for number in range(MAX_ENTRIES))
    with pytest.raises(errors.GitFailed, match="more than 10,000 settings"):
        asyncio.run(Repository(path, environment=world.environment).status())


def test_too_many_programs_are_refused(world: GitWorld) -> None:
    path = world.repository("web")
    with (path / ".git" / "config").open("a") as config:
        config.writelines(f'[filter "f{number}"]\n\tclean = x\n' for number in range(1001))
    with pytest.raises(errors.GitFailed, match="more than 1,000 programs"):
        asyncio.run(Repository(path, environment=world.environment).log())


def test_answer_of_many_long_names_is_bounded(world: GitWorld) -> None:
    path = world.repository("web")
    head = world.git(path, "rev-parse", "HEAD")
    long = "/".join("x" * 200 for _ in range(10))
    refs = [f"{head} refs/heads/{long}/{number:05}\n" for number in range(9000)]
    (path / ".git" / "packed-refs").write_text("# pack-refs with: peeled fully-peeled sorted \n" + "".join(refs))
    web = Repository(path, environment=world.environment)
    with pytest.raises(errors.GitFailed, match="larger than 8 MiB"):
        asyncio.run(web.branches())
    (commit,) = asyncio.run(web.log())
    assert len(commit.refs) <= 101
    assert all(len(ref) <= 1000 for ref in commit.refs)


# Tokens


@pytest.fixture
def make_http(world: GitWorld) -> Iterator[Callable[..., HttpServer]]:
    with http_servers(world.root, TOKEN) as make:
        yield make


class Hosts:
    """The host of repo_url, another one, and a clone of the first with the token."""

    def __init__(self, world: GitWorld, make_http: Callable[..., HttpServer]) -> None:
        self.world = world
        world.bare("bare.git", world.repository("source"))
        self.first, self.second = make_http(), make_http()
        self.url = self.first.url("bare.git")
        self.path = world.root / "web"
        asyncio.run(clone(self.url, self.path, auth="token", token=TOKEN, environment=world.environment))
        assert set(secrets_of(self.first)) == {f"x-access-token:{TOKEN}"}
        self.first.authorizations.clear()
        self.web = Repository(self.path, url=self.url, auth="token", token=TOKEN, environment=world.environment)

    def set(self, key: str, value: str) -> None:
        self.world.git(self.path, "config", key, value)

    def push(self) -> str:
        commit = self.world.commit(self.world.root / "source", "file", "theirs")
        self.world.git(self.world.root / "source", "push", "-q")
        return commit


@pytest.fixture
def hosts(world: GitWorld, make_http: Callable[..., HttpServer]) -> Hosts:
    return Hosts(world, make_http)


def other_url(hosts: Hosts) -> None:
    hosts.set("remote.origin.url", hosts.second.url("bare.git"))


def other_url_with_a_user(hosts: Hosts) -> None:
    hosts.set("remote.origin.url", hosts.second.url("bare.git", user="ada"))


def other_name_of_the_host(hosts: Hosts) -> None:
    hosts.set("remote.origin.url", hosts.url.replace("127.0.0.1", "localhost"))


def instead_of(hosts: Hosts) -> None:
    hosts.set(f"url.{hosts.second.url('')}.insteadOf", hosts.first.url(""))


def other_remote(hosts: Hosts) -> None:
    hosts.set("remote.evil.url", hosts.second.url("bare.git"))
    hosts.set("remote.evil.fetch", "+refs/heads/*:refs/remotes/evil/*")
    hosts.set("branch.main.remote", "evil")


def proxy(hosts: Hosts) -> None:
    hosts.set("http.proxy", hosts.second.url(""))


def proxy_of_a_url(hosts: Hosts) -> None:
    hosts.set(f"http.{hosts.first.url('')}.proxy", hosts.second.url(""))


def proxy_of_a_remote(hosts: Hosts) -> None:
    hosts.set("remote.origin.proxy", hosts.second.url(""))


def resolved_elsewhere(hosts: Hosts) -> None:
    hosts.set("http.curloptResolve", "127.0.0.1:1:127.0.0.1")


def unverified(hosts: Hosts) -> None:
    hosts.set("http.sslVerify", "false")


def included_proxy(hosts: Hosts) -> None:
    (hosts.path / ".git" / "other").write_text(f"[http]\n\tproxy = {hosts.second.url('')}\n")
    hosts.set("include.path", "other")


@needs_http
@pytest.mark.parametrize(
    "change",
    [
        other_url, other_url_with_a_user, other_name_of_the_host, instead_of, other_remote, proxy, proxy_of_a_url,
        proxy_of_a_remote, resolved_elsewhere, unverified, included_proxy,
    ],
)  # fmt: skip
def test_token_is_not_sent_where_the_configuration_of_the_clone_leads(
    hosts: Hosts, change: Callable[[Hosts], None]
) -> None:
    hosts.push()
    change(hosts)
    with pytest.raises(errors.GitAuthentication) as raised:
        asyncio.run(hosts.web.pull())
    assert raised.value.hint
    assert TOKEN not in str(raised.value.payload())
    assert not hosts.first.authorizations
    assert not hosts.second.authorizations, "the other host was not even asked"
    unknown = hosts.web.checkout_branch("gone")
    with pytest.raises(NexusError):
        asyncio.run(unknown)
    assert not secrets_of(hosts.second)


@needs_http
def test_token_is_not_sent_where_the_host_redirects(hosts: Hosts) -> None:
    hosts.push()
    hosts.first.redirect = hosts.second.url("")[:-1]
    with pytest.raises(errors.GitAuthentication):
        asyncio.run(hosts.web.pull())
    assert hosts.second.authorizations
    assert not secrets_of(hosts.second)


@needs_http
def test_token_without_repo_url_is_sent_nowhere(hosts: Hosts) -> None:
    web = Repository(hosts.path, auth="token", token=TOKEN, environment=hosts.world.environment)
    with pytest.raises(errors.GitAuthentication, match="the token is for no host"):
        asyncio.run(web.pull())
    assert not hosts.first.authorizations


@needs_http
def test_token_is_sent_to_the_same_host_in_another_notation_and_path(hosts: Hosts) -> None:
    commit = hosts.push()
    hosts.set("remote.origin.url", hosts.url.replace("127.0.0.1", "LOCALHOST"))
    elsewhere = hosts.first.url("another/path.git").replace("127.0.0.1", "LocalHost")
    web = Repository(hosts.path, url=elsewhere, auth="token", token=TOKEN, environment=hosts.world.environment)
    assert asyncio.run(web.pull()).after == commit


@needs_http
@pytest.mark.parametrize("key", ["http.postBuffer", "http.version", "http.extraHeader"])
def test_settings_that_do_not_lead_elsewhere_are_allowed(hosts: Hosts, key: str) -> None:
    commit = hosts.push()
    hosts.set(key, {"http.postBuffer": "1000000", "http.version": "HTTP/1.1"}.get(key, "X-Trace: 1"))
    assert asyncio.run(hosts.web.pull()).after == commit


@needs_http
def test_no_program_of_the_repository_runs_with_the_token(hosts: Hosts) -> None:
    left = hosts.world.root / "left"
    # Each tries to read the token through the descriptors and the variables that it inherits.
    steal = f"env >> {left}; cat /proc/self/fd/* /proc/$PPID/fd/* >> {left} 2>/dev/null </dev/null; "
    program = hosts.world.root / "program"
    program.write_text(f"#!/bin/sh\n: > {left}.ran\ntimeout 1 sh -c {shlex.quote(steal)}\nexec cat\n")
    program.chmod(0o755)
    for name in ("reference-transaction", "post-merge", "post-index-change", "pre-auto-gc", "post-checkout"):
        (hosts.path / ".git" / "hooks").mkdir(exist_ok=True)
        (hosts.path / ".git" / "hooks" / name).symlink_to(program)
    for key in (
        "core.fsmonitor", "core.alternateRefsCommand", "core.askPass", "core.sshCommand", "credential.helper",
        f"credential.{hosts.first.url('')}.helper", "remote.origin.uploadpack", "core.gitProxy", "filter.x.smudge",
        "filter.x.clean", "gc.recentObjectsHook",
    ):  # fmt: skip
        hosts.set(key, str(program))
    hosts.set("gc.auto", "1")
    (hosts.path / ".git" / "info" / "attributes").write_text("* filter=x\n")
    commit = hosts.push()
    assert asyncio.run(hosts.web.pull()).after == commit
    assert set(secrets_of(hosts.first)) == {f"x-access-token:{TOKEN}"}
    assert Path(f"{left}.ran").exists(), "hooks and filters run for the checkout"
    assert TOKEN.encode() not in (left.read_bytes() if left.exists() else b"")
    assert b"NEXUS_GIT" not in (left.read_bytes() if left.exists() else b"")


@needs_http
def test_hooks_of_the_users_template_run_at_a_clone_and_do_not_see_the_token(
    world: GitWorld, make_http: Callable[..., HttpServer]
) -> None:
    world.bare("bare.git", world.repository("source"))
    template = world.root / "template"
    (template / "hooks").mkdir(parents=True)
    hook = template / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\nenv > {world.root}/seen\nls -l /proc/self/fd /proc/$PPID/fd >> {world.root}/seen\n")
    hook.chmod(0o755)
    world.settings.write_text(world.settings.read_text() + f"[init]\n\ttemplateDir = {template}\n")
    url = make_http().url("bare.git")
    web = asyncio.run(clone(url, world.root / "web", auth="token", token=TOKEN, environment=world.environment))
    assert (web.path / "file").exists()
    seen = (world.root / "seen").read_text()
    assert "NEXUS_GIT" not in seen
    assert "nexus-git-token" not in seen
