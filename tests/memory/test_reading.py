"""Reading files below a folder: what is text, what is skipped and why, and that no link leads outside."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from nexus.memory.chunking.files import GONE
from nexus.memory.chunking.reading import FileChunks, chunk_files


def read(root: Path, *files: str) -> list[FileChunks]:
    return list(chunk_files(str(root), files))


@pytest.mark.parametrize(
    ("data", "content"),
    [
        (b"x = 1\r\ny = 2\r\n", "x = 1\ny = 2"),
        (b"x = 1\ry = 2\r", "x = 1\ny = 2"),
        (b"\xef\xbb\xbfx = 1\n", "x = 1"),
        (b"x = 1", "x = 1"),
        ("\n\n\tä = '\u2028\x0c'\n\n".encode(), "\tä = '\u2028\x0c'"),
    ],
    ids=["CRLF", "CR", "byte order mark", "no newline at the end", "what is no end of a line"],
)
def test_lines_end_in_each_way(root: Path, data: bytes, content: str) -> None:
    (root / "a.txt").write_bytes(data)
    (found,) = read(root, "a.txt")
    assert [chunk.content for chunk in found.chunks] == [content]
    assert (found.skipped, found.replaced) == (None, 0)


def test_python_with_carriage_returns_has_the_lines_of_an_editor(root: Path) -> None:
    (root / "a.py").write_bytes(b"\xef\xbb\xbfx = 1\r\n\r\ndef f():\r\n\treturn '''\r\n'''\r\n")
    (found,) = read(root, "a.py")
    assert [(one.start_line, one.end_line, one.chunk_type) for one in found.chunks] == [
        (1, 1, "module"),
        (3, 5, "function"),
    ]


@pytest.mark.parametrize("data", [b"", b"\n\n \t\n", b"\xef\xbb\xbf", b"}\n---\n"])
def test_a_file_without_a_word_has_no_chunks(root: Path, data: bytes) -> None:
    (root / "a.py").write_bytes(data)
    assert read(root, "a.py") == [FileChunks("a.py", [], None, 0)]


def test_what_is_not_utf8_is_replaced_and_counted(root: Path) -> None:
    (root / "a.py").write_bytes("name = 'é'\n".encode("latin-1") + "mark = '\ufffd'\n".encode())
    (found,) = read(root, "a.py")
    assert [chunk.content for chunk in found.chunks] == ["name = '\ufffd'\nmark = '\ufffd'"]
    assert found.replaced == 1


def test_each_reason_to_skip_is_told(root: Path) -> None:
    (root / "huge.py").touch()
    os.truncate(root / "huge.py", 50 * 1024 * 1024)
    (root / "largest.txt").write_bytes(b"x" * 1024 * 1024)
    (root / "larger.txt").write_bytes(b"x" * (1024 * 1024 + 1))
    (root / "binary.py").write_bytes(b"x = 1\n" * 10_000 + b"\0")
    (root / "uv.lock").write_text("x")
    (root / "folder").mkdir()
    (root / "link.py").symlink_to("largest.txt")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe")
    (root / "name\nline").write_text("x")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
    expected = {
        "huge.py": "it is larger than 1 MiB",
        "largest.txt": None,
        "larger.txt": "it is larger than 1 MiB",
        "binary.py": "it is binary",
        "uv.lock": "a program has written it",
        "folder": "it is a folder with a repository of its own",
        "link.py": "it is a link",
        "loop": "it is a link",
        "loop/a": "a link leads to it",
        "pipe": "it is a pipe",
        "socket": "it is a socket",
        "missing": GONE,
        "missing/a": GONE,
        "name\nline": "its name has a character that cannot be shown",
        "../outside": "its path leads elsewhere",
        "/etc/passwd": "its path leads elsewhere",
        "": "its path leads elsewhere",
        "x" * 2000: "its path is longer than 1 KiB",
    }
    assert {one.file: one.skipped for one in read(root, *expected)} == expected


def test_a_device_is_not_opened() -> None:
    (found,) = read(Path("/dev"), "null")
    assert found.skipped == "it is a device"


def test_a_file_of_no_size_is_read_to_its_bound() -> None:
    (found,) = read(Path("/proc/self"), "status")
    assert "Name:" in found.chunks[0].content


def test_a_folder_that_becomes_a_link_leads_nowhere(root: Path) -> None:
    for folder in ("web/a", "outside"):
        (root / folder).mkdir(parents=True)
        (root / folder / "b.py").write_text(f"in_{folder[:3]} = 1\n")
    reading = chunk_files(str(root / "web"), ["a/b.py", "a/b.py"])
    assert next(reading).skipped is None
    (root / "web" / "a").rename(root / "web" / "old")
    (root / "web" / "a").symlink_to(root / "outside")
    assert next(reading) == FileChunks("a/b.py", [], "a link leads to it", 0)


def descriptors() -> list[str]:
    return [path.name for path in Path("/proc/self/fd").iterdir()]


def test_no_descriptor_is_left_open(root: Path) -> None:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "c.py").write_text("x = 1\n")
    before = descriptors()
    read(root, "a/b/c.py", "a/b/missing", "a/missing/c", "a/b")
    reading = chunk_files(str(root), ["a/b/c.py"] * 2)
    next(reading)
    reading.close()
    assert descriptors() == before
