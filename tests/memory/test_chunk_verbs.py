"""``nexusctl chunk``: an index of a repository is made, kept with as few changes as possible, and read."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.cli import Cli, Result
from support.daemon import DaemonProcess, short_directory
from support.raw import wait_until
from support.stores import look_at

from nexus.client import BlockingClient
from nexus.memory.chunks.commands import GetChunk, ListChunkHashes
from nexus.projects.commands import CreateProject, DeleteProject

A = "import os\n\n\ndef one():\n    return 1\n\n\ndef two():\n    return 2\n"
B = "class Tree:\n    def grow(self):\n        return 3\n"


class Repository(NamedTuple):
    """A project with a repository as its folder."""

    path: Path
    cli: Cli
    client: BlockingClient
    daemon: DaemonProcess

    def write(self, name: str, text: str | bytes) -> None:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode() if isinstance(text, str) else text)

    def run(self, *arguments: str, input: str = "") -> Result:
        return self.cli("-p", "shop", "chunk", *arguments, input=input)

    def index(self, *arguments: str) -> dict[str, Any]:
        done = self.run("index", *arguments, "-o", "json")
        assert done.code == 0, done
        found: dict[str, Any] = done.json
        return found

    def counts(self, *arguments: str) -> tuple[int, ...]:
        done = self.index(*arguments)
        return tuple(done[name] for name in ("created", "moved", "deleted", "unchanged"))

    def rows(self) -> dict[tuple[str, int], str]:
        return {
            (each.file, each.start_line): each.id for each in self.client.call(ListChunkHashes(), project="shop").hashes
        }

    def newest(self) -> tuple[int, int]:
        """The numbers of the newest event and the newest operation."""
        with look_at(self.daemon.database) as database:
            (found,) = database.execute(
                "SELECT (SELECT max(seq) FROM journal), (SELECT max(id) FROM operation)"
            ).fetchall()
            return int(found[0]), int(found[1])


@pytest.fixture
def shop(shared: DaemonProcess) -> Iterator[Repository]:
    """A repository with two files of code."""
    path = short_directory().resolve()
    with BlockingClient(shared.socket_path) as client:
        client.call(CreateProject("shop", root_path=str(path)))
        made = Repository(path, Cli(shared.environment, path), client, shared)
        subprocess.run(["git", "init", "-q", str(path)], check=True, env=made.cli.environment)
        made.write("src/a.py", A)
        made.write("src/b.py", B)
        try:
            yield made
        finally:
            client.call(DeleteProject("shop", cascade=True))
            shutil.rmtree(path)


def test_second_index_of_a_repository_writes_nothing(shop: Repository) -> None:
    first = shop.run("index")
    assert first.out == "Indexed 2 files: 5 chunks created, 0 moved, 0 deleted, 0 unchanged\n"
    before = shop.newest()
    assert shop.run("index").out == "Indexed 2 files: 0 chunks created, 0 moved, 0 deleted, 5 unchanged\n"
    assert shop.newest() == before
    shown = shop.cli("op", "list", "-p", "shop", "-o", "json").json
    assert [each["command"] for each in shown if each["command"] == "chunk.index"] == ["chunk.index"]


def test_rename_edit_and_deletion_change_what_they_touch(shop: Repository) -> None:
    shop.index()
    before = shop.rows()
    lines = [json.dumps({"id": id_, "embedding": [float(n), 1.0]}) for n, id_ in enumerate(before.values())]
    assert shop.run("embed", input="\n".join(lines)).out == "Set the embeddings of 5 chunks\n"
    embeddings = {id_: [float(n), 1.0] for n, id_ in enumerate(before.values())}

    (shop.path / "src/b.py").rename(shop.path / "src/tree.py")
    assert shop.counts() == (0, 2, 0, 3)
    assert {shop.rows()["src/tree.py", line] for line in (1, 2)} == {before["src/b.py", line] for line in (1, 2)}
    # Two lines more above: what follows has other lines and is the same.
    shop.write("src/a.py", A.replace("import os\n", "import os\nimport sys\nX = 1\n"))
    assert shop.counts() == (1, 2, 1, 2)
    assert shop.rows()["src/a.py", 6] == before["src/a.py", 4]
    shop.write("src/copy.py", "def two():\n    return 2\n")
    assert shop.counts() == (1, 0, 0, 5)
    shop.write("src/a.py", "def one():\n    return 1\n")
    assert shop.counts() == (0, 1, 2, 3)
    (shop.path / "src/tree.py").unlink()
    assert shop.counts() == (0, 0, 2, 2)

    left = {place: shop.client.call(GetChunk(id_, embedding=True)) for place, id_ in shop.rows().items()}
    assert list(left) == [("src/a.py", 1), ("src/copy.py", 1)]
    assert left["src/a.py", 1].embedding == embeddings[before["src/a.py", 4]]
    assert left["src/copy.py", 1].embedding == embeddings[before["src/a.py", 8]]


def test_index_of_a_path_leaves_the_others(shop: Repository) -> None:
    shop.write("docs/x.md", "# Words\n\nSome words.\n")
    shop.index()
    count = len(shop.rows())
    (shop.path / "docs/x.md").unlink()
    shop.write("src/b.py", B.replace("grow", "fall"))
    assert shop.counts("src/a.py") == (0, 0, 0, 3)
    assert shop.counts("src") == (1, 0, 1, 4)
    assert ("docs/x.md", 1) in shop.rows()
    assert shop.counts("docs") == (0, 0, 1, 0)
    assert len(shop.rows()) == count - 1
    gone = shop.run("index", "docs/x.md")
    assert (gone.code, "there is no such file or folder" in gone.err) == (1, True)
    for given, reason in (("..", "it is not below"), ("/etc", "it is not below"), ("nothing", "there is no such")):
        refused = shop.run("index", given)
        assert (refused.code, reason in refused.err) == (1, True), refused


def test_dry_run_changes_nothing(shop: Repository) -> None:
    before = shop.newest()
    assert shop.run("index", "--dry-run").out == (
        "Would index 2 files: 5 chunks created, 0 moved, 0 deleted, 0 unchanged\n"
    )
    assert (shop.rows(), shop.newest()) == ({}, before)


def test_files_that_cannot_be_indexed_are_told_and_the_others_are(shop: Repository) -> None:
    with (shop.path / "huge.py").open("wb") as file:
        file.truncate(50 * 1024 * 1024)
    shop.write("image.png", b"\x89PNG\0\0\0")
    shop.write("latin.py", b"def caf\xe9():\n    return 'caf\xe9'\n")
    shop.write("long.txt", "x" * 100_000)
    (shop.path / "loop").symlink_to(shop.path)
    (shop.path / "self.py").symlink_to("self.py")
    for git in ("--git", "--no-git"):
        done = shop.index(git)
        assert {each["file"]: each["reason"] for each in done["skipped"]} == {
            "huge.py": "it is larger than 1 MiB",
            "image.png": "it is binary",
            "loop": "it is a link",
            "self.py": "it is a link",
        }
        assert done["replaced"] == [{"file": "latin.py", "count": 2}]
        assert {file for file, _line in shop.rows()} == {"src/a.py", "src/b.py", "latin.py", "long.txt"}
    assert done["created"] == done["moved"] == done["deleted"] == 0
    told = shop.run("index")
    assert "huge.py: skipped, it is larger than 1 MiB" in told.err
    assert "latin.py: 2 characters that are not UTF-8 were replaced" in told.err
    # What was indexed before goes once it cannot be read.
    shop.write("src/b.py", b"\0")
    assert shop.counts("src") == (0, 0, 2, 3)


def test_interrupted_index_is_continued(shop: Repository) -> None:
    for number in range(400):
        shop.write(f"many/f{number}.py", "".join(f"def g{number}_{n}():\n    return {n}\n\n" for n in range(5)))
    process = shop.cli.start("-p", "shop", "chunk", "index")
    wait_until(lambda: shop.rows(), "something was written")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    if process.returncode == 0:
        assert out  # it was done before the signal came
    else:
        assert process.returncode == 130
        assert b"changes of the index were made" in err
    written = len(shop.rows())
    done = shop.counts()
    assert (done[1:3], done[0] + written) == ((0, 0), 2005)
    assert shop.counts() == (0, 0, 0, 2005)


def test_verbs_show_what_is_indexed(shop: Repository) -> None:
    shop.index()
    listed = shop.run("list", "src/a.py")
    assert listed.lines[0].split() == ["PLACE", "LINES", "TYPE", "LANGUAGE", "EMBEDDED", "SYMBOL"]
    assert [line.split()[0] for line in listed.lines[1:]] == ["src/a.py:1", "src/a.py:4", "src/a.py:8"]
    assert shop.run("list", "--type", "class", "-o", "json").json[0]["symbols"] == ["Tree"]
    shown = shop.run("inspect", "src/b.py:3")
    assert "Symbols:" in shown.out
    assert "2      def grow(self):" in shown.out
    assert [line.split()[:2] for line in shop.run("symbol", "grow").lines[1:]] == [["Tree.grow", "src/b.py:2"]]
    assert "class Tree :1" in " ".join(shop.run("map").out.replace(":1", " :1").split())
    assert shop.run("map", "src/a.py", "-o", "name").lines == ["src/a.py:1", "src/a.py:4", "src/a.py:8"]
    assert "src/b.py:2" in shop.cli("search", "grow kind:chunk").out
    assert "(did you mean 'index'?)" in shop.run("sync").err


def test_model_loop_by_lines_of_json(shop: Repository) -> None:
    shop.index()
    texts = [json.loads(line) for line in shop.run("list", "--unembedded", "-o", "jsonl").lines]
    assert [text["content"] for text in texts][1] == "def one():\n    return 1"
    lines = [json.dumps({"id": text["id"], "embedding": [len(text["content"]), 1]}) for text in texts]
    lines.append(json.dumps({"id": "00000000-0000-4000-8000-00000000000a", "embedding": [1, 1]}))
    assert shop.run("embed", input="\n".join(lines)).out == (
        "Set the embeddings of 5 chunks; 1 are not in the index any more\n"
    )
    empty = shop.run("list", "--unembedded", "-o", "jsonl")
    assert (empty.out, empty.err) == ("", "No chunks without embedding found.\n")
    shown = shop.run("inspect", "src/a.py:4", "--embedding", "-o", "json").json
    assert shown["embedding"] == [float(len("def one():\n    return 1")), 1.0]
    assert "embedding" not in shop.run("inspect", "src/a.py:4", "-o", "json").json
    for line in ("{}", "[1]", '{"id": 1, "embedding": []}', '{"id": "x", "embedding": ["a"]}', "\x00"):
        refused = shop.run("embed", input=f"\n{line}\n")
        assert (refused.code, "line 2 of standard input" in refused.err) == (2, True), refused


def test_delete_asks_and_takes_a_path_or_all(shop: Repository) -> None:
    shop.index()
    assert shop.run("delete").code == 2
    asked = shop.run("delete", "src/a.py")
    assert (asked.code, "nexusctl -p shop chunk delete --yes src/a.py" in asked.err) == (1, True)
    assert shop.run("delete", "src/a.py", "--yes").out == "Deleted 3 chunks\n"
    assert shop.run("delete", "--all", "--yes").out == "Deleted 2 chunks\n"
    assert shop.counts() == (5, 0, 0, 0)


def test_project_without_a_folder_needs_a_root(shop: Repository) -> None:
    refused = shop.cli("-p", "default", "chunk", "index")
    assert (refused.code, 'project "default" has no folder' in refused.err) == (1, True)
    done = shop.cli("-p", "default", "chunk", "index", "--root", str(shop.path), "--dry-run", "-o", "json").json
    assert (done["root"], done["created"]) == (str(shop.path), 5)
