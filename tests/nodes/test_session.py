"""What a host writes over its session, also where it does not keep to the protocol."""

from __future__ import annotations

import pytest
from support.nodes import NodeHost, Remote

from nexus.jobs.states import JobStatus
from nexus.nodes.commands import CheckNode
from nexus.remote.session import Parser


def test_replies_are_found_in_pieces_of_any_size() -> None:
    text = b"Welcome to nexus-a!\nnexus-a ok 3\nabcnexus-a gone 0\nnexus-a error 9\nnexus-a \n"
    for size in range(1, len(text)):
        parser = Parser(b"nexus-a")
        found = [reply for at in range(0, len(text), size) for reply in parser.feed(text[at : at + size])]
        assert found == [("ok", b"abc"), ("gone", b""), ("error", b"nexus-a \n")]
        assert parser.held_bytes < 16


@pytest.mark.parametrize(
    "text",
    [b"nexus-a " + b"x" * 128, b"nexus-a ok\n", b"nexus-a ok -1\n", b"nexus-a ok 99999999\n", b"nexus-a ok 1 1\n"],
)
def test_what_is_no_reply_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="no reply"):
        Parser(b"nexus-a").feed(text)


def test_endless_noise_is_not_kept() -> None:
    parser = Parser(b"nexus-a")
    for _ in range(1000):
        assert parser.feed(b"nexus- " * 2000) == []
        assert parser.held_bytes < 128
    assert parser.feed(b"nexus-a ok 1\nx") == [("ok", b"x")]


def test_host_that_writes_without_end_is_left(remote: Remote, host: NodeHost) -> None:
    host.ssh.write_text("""#!/bin/sh
IFS= read -r line
eval "$line"
printf '%s ' "$token"
exec cat /dev/zero
""")
    error = remote.call_error(CheckNode("there"))
    assert error.message == 'lost the connection to node "there": its reply is none'
    assert remote.ended(remote.submit("true")).status is JobStatus.COMPLETED
