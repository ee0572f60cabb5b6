"""Submodules: a clone initialises them, a pull moves them, and their URLs follow the rules of the repository's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.git import GitWorld, HttpServer, http_servers, missing_for_http, secrets_of

from nexus.git import errors
from nexus.git.repository import Repository, clone

TOKEN = "tok_0f9b3c"
ALLOW = ("-c", "protocol.file.allow=always")

needs_http = pytest.mark.skipif(missing_for_http() is not None, reason=str(missing_for_http()))


@pytest.fixture
def world(root: Path) -> GitWorld:
    return GitWorld(root)


class Nested:
    """Bare repositories: web has the submodule libs/one, and that has two; each names the next by ``url``."""

    def __init__(self, world: GitWorld, one: str = "../one.git", two: str = "../two.git") -> None:
        self.world = world
        self.sources: dict[str, Path] = {}
        self._make("two")
        self._make("one", "two", two)
        self._make("web", "libs/one", one)

    def _make(self, name: str, path: str = "", url: str = "") -> None:
        world = self.world
        source = self.sources[name] = world.repository(f"{name}.source")
        if url:
            inner = self.sources[Path(path).name]
            world.git(source, *ALLOW, "submodule", "--quiet", "add", str(inner), path)
            world.git(source, "config", "--file", ".gitmodules", f"submodule.{path}.url", url)
            world.git(source, "commit", "-q", "-a", "-m", "submodule")
        world.bare(f"{name}.git", source)

    def advance(self, text: str = "new") -> None:
        """A new commit in each, from the innermost outwards."""
        for name, path in (("two", ""), ("one", "two"), ("web", "libs/one")):
            source = self.sources[name]
            if path:
                self.world.git(source / path, "fetch", "-q")
                self.world.git(source / path, "checkout", "-q", "origin/HEAD")
                self.world.git(source, "add", path)
            (source / "file").unlink()
            self.world.commit(source, "file", text)
            self.world.git(source, "push", "-q", "origin", "HEAD")

    def clone(self, url: str | Path | None = None, **options: Any) -> Repository:
        url = str(url or self.world.root / "web.git")
        return asyncio.run(clone(url, self.world.root / "web", environment=self.world.environment, **options))


def contents(web: Repository) -> list[str]:
    return [(web.path / name).read_text() for name in ("file", "libs/one/file", "libs/one/two/file")]


def missing(web: Repository) -> list[str]:
    return asyncio.run(web.status()).uninitialized_submodules


def test_clone_initialises_submodules_and_those_of_submodules(world: GitWorld) -> None:
    web = Nested(world).clone()
    assert contents(web) == ["1\n", "1\n", "1\n"]
    state = asyncio.run(web.status())
    assert (state.dirty, state.changed, state.uninitialized_submodules) == (False, 0, [])
    assert world.git(web.path, "submodule", "status", "--recursive").count("\n") == 1


def test_pull_moves_submodules_to_the_commits_that_it_brings(world: GitWorld) -> None:
    nested = Nested(world)
    web = nested.clone()
    nested.advance()
    asyncio.run(web.pull())
    assert contents(web) == ["new", "new", "new"]
    assert asyncio.run(web.status()).changed == 0


def test_pull_initialises_a_new_submodule_of_a_clone_that_has_all(world: GitWorld) -> None:
    nested = Nested(world)
    web = nested.clone()
    world.git(nested.sources["web"], *ALLOW, "submodule", "--quiet", "add", str(nested.sources["two"]), "another one")
    world.git(nested.sources["web"], "commit", "-q", "-m", "another")
    world.git(nested.sources["web"], "push", "-q", "origin", "HEAD")
    asyncio.run(web.pull())
    assert (web.path / "another one" / "file").exists()
    assert missing(web) == []


def test_clone_without_submodules_tells_which_are_missing_and_a_pull_leaves_them(world: GitWorld) -> None:
    nested = Nested(world)
    web = nested.clone(submodules=False)
    assert missing(web) == ["libs/one"]
    assert asyncio.run(web.status()).dirty is False
    nested.advance()
    asyncio.run(web.pull())
    assert missing(web) == ["libs/one"]
    assert (web.path / "file").read_text() == "new"
    assert not list((web.path / "libs" / "one").iterdir())


def test_pull_completes_submodules_that_an_earlier_one_could_not_get(world: GitWorld) -> None:
    nested = Nested(world)
    web = nested.clone()
    world.git(web.path, "submodule", "deinit", "--quiet", "--all")
    assert missing(web) == ["libs/one"]
    asyncio.run(web.pull())
    assert contents(web) == ["1\n", "1\n", "1\n"]


def test_pull_keeps_a_submodule_that_was_moved_by_hand(world: GitWorld) -> None:
    nested = Nested(world)
    web = nested.clone()
    own = world.commit(web.path / "libs" / "one", "own", "mine")
    nested.advance()
    asyncio.run(web.pull())
    assert world.git(web.path / "libs" / "one", "rev-parse", "HEAD") == own
    assert (web.path / "file").read_text() == "new"


def test_clone_whose_submodule_cannot_be_reached_leaves_nothing(world: GitWorld) -> None:
    nested = Nested(world, two="../gone.git")
    with pytest.raises(errors.GitRemoteNotFound, match="its submodules cannot be updated"):
        nested.clone()
    assert not (world.root / "web").exists()
    assert not [path for path in world.root.iterdir() if "nexus-clone" in path.name]
    assert missing(nested.clone(submodules=False)) == ["libs/one"]


def test_repository_that_names_no_submodule_rightly_is_read(world: GitWorld) -> None:
    path = world.repository("web")
    listed = path / ".gitmodules"
    web = Repository(path, environment=world.environment)
    for text in ("[", '[submodule "x"]\n\tpath = ../../etc\n', '[submodule "x"]\n\tpath = .\n', "x" * 2_000_000):
        listed.write_text(text)
        assert missing(web) == []
    listed.unlink()
    listed.symlink_to("/dev/zero")
    assert missing(web) == []


@pytest.mark.parametrize("url", ["ext::touch %s", "fd::17", "-u./x", "--upload-pack=touch %s"])
def test_submodule_with_a_url_that_runs_a_program_is_refused(world: GitWorld, url: str) -> None:
    marker = world.root / "pwned"
    world.settings.write_text(world.settings.read_text() + '[protocol "ext"]\n\tallow = always\n')
    nested = Nested(world, one=url.replace("%s", str(marker)))
    with pytest.raises((errors.GitBadUrl, errors.GitFailed)):
        nested.clone()
    assert not marker.exists()


def test_programs_that_the_settings_of_a_submodule_name_do_not_run_with_a_pull(world: GitWorld) -> None:
    nested = Nested(world)
    web = nested.clone()
    left = world.root / "left"
    program = world.root / "program"
    program.write_text(f"#!/bin/sh\necho $0 >> {left}\ncat\n")
    program.chmod(0o755)
    world.git(web.path, "config", "submodule.libs/one.update", f"!{program}")
    for inner in (web.path / "libs" / "one", web.path / "libs" / "one" / "two"):
        git_dir = Path(world.git(inner, "rev-parse", "--absolute-git-dir"))
        for key in ("core.fsmonitor", "core.hooksPath", "filter.x.smudge", "filter.x.clean"):
            world.git(inner, "config", key, str(program))
        (git_dir / "info").mkdir(exist_ok=True)
        (git_dir / "info" / "attributes").write_text("* filter=x\n")
        (git_dir / "hooks").mkdir(exist_ok=True)
        (git_dir / "hooks" / "post-checkout").symlink_to(program)
    nested.advance()
    asyncio.run(web.pull())
    assert contents(web) == ["new", "new", "new"]
    world.git(web.path / "libs" / "one" / "two", "config", "remote.origin.uploadpack", str(program))
    nested.advance("newer")
    with pytest.raises(errors.GitFailed, match=r"remote\.origin\.uploadpack names a program"):
        asyncio.run(web.pull())
    assert not left.exists(), left.read_text()


# The network


@pytest.fixture
def make_http(world: GitWorld) -> Iterator[Callable[..., HttpServer]]:
    with http_servers(world.root, TOKEN) as make:
        yield make


@needs_http
def test_token_reaches_submodules_at_the_same_host(world: GitWorld, make_http: Callable[..., HttpServer]) -> None:
    server = make_http()
    nested = Nested(world, two=server.url("two.git"))
    web = nested.clone(server.url("web.git"), auth="token", token=TOKEN)
    assert contents(web) == ["1\n", "1\n", "1\n"]
    nested.advance()
    asyncio.run(web.pull())
    assert contents(web) == ["new", "new", "new"]
    assert set(secrets_of(server)) == {f"x-access-token:{TOKEN}"}
    assert TOKEN.encode() not in b"".join(path.read_bytes() for path in web.path.rglob("*") if path.is_file())


@needs_http
def test_token_reaches_any_number_of_submodules(world: GitWorld, make_http: Callable[..., HttpServer]) -> None:
    server = make_http()
    source = world.repository("source")
    inner = world.repository("inner")
    world.bare("inner.git", inner)
    for number in range(12):
        world.git(source, *ALLOW, "submodule", "--quiet", "add", "--name", f"n{number}", str(inner), f"n{number}")
        world.git(source, "config", "--file", ".gitmodules", f"submodule.n{number}.url", "../inner.git")
    world.git(source, "commit", "-q", "-a", "-m", "many")
    world.bare("many.git", source)
    url, path = server.url("many.git"), world.root / "many"
    web = asyncio.run(clone(url, path, auth="token", token=TOKEN, environment=world.environment))
    assert missing(web) == []


@needs_http
def test_token_is_not_sent_to_the_other_host_of_a_submodule(
    world: GitWorld, make_http: Callable[..., HttpServer]
) -> None:
    first, second = make_http(), make_http()
    nested = Nested(world, one=second.url("one.git"))
    with pytest.raises(errors.GitAuthentication, match="its submodules"):
        nested.clone(first.url("web.git"), auth="token", token=TOKEN)
    assert secrets_of(first)
    assert second.authorizations
    assert not secrets_of(second)
    second.token = None
    web = nested.clone(first.url("web.git"), auth="token", token=TOKEN)
    assert (web.path / "libs" / "one" / "file").exists(), "a public submodule needs no token"
    assert not secrets_of(second)


@needs_http
def test_token_is_not_sent_where_the_settings_of_a_submodule_lead(
    world: GitWorld, make_http: Callable[..., HttpServer]
) -> None:
    first, second = make_http(), make_http()
    nested = Nested(world)
    web = nested.clone(first.url("web.git"), auth="token", token=TOKEN)
    inner = web.path / "libs" / "one"
    nested.advance()
    world.git(inner, "config", "http.proxy", second.url(""))
    with pytest.raises(errors.GitAuthentication, match=r"http\.proxy"):
        asyncio.run(web.pull())
    world.git(inner, "config", "--unset", "http.proxy")
    world.git(inner, "config", "remote.origin.url", second.url("one.git"))
    world.git(web.path, "config", "submodule.libs/one.url", second.url("one.git"))
    nested.advance("newer")
    with pytest.raises(errors.GitAuthentication):
        asyncio.run(web.pull())
    assert not secrets_of(second)


@needs_http
def test_submodule_of_a_remote_repository_is_not_a_local_path(
    world: GitWorld, make_http: Callable[..., HttpServer]
) -> None:
    nested = Nested(world, one=str(world.root / "one.git"))
    with pytest.raises(errors.GitBadUrl):
        nested.clone(make_http(None).url("web.git"))
    assert nested.clone(), "of a local one it is"
