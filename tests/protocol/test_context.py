"""The context of a request: strict, of exact size, decoded in one pass with the command, and refused by path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_protocol import (
    CONTEXT_BYTES,
    CommandInfo,
    InvalidArgument,
    command_decoder,
    context_decoder,
    declared_commands,
    encode_command,
)
from nexus_protocol.codec import MAX_DEPTH
from nexus_protocol.context import MAX_WHY_BYTES, RequestContext, check_key, check_why, encode_context
from support.strategies import bounded, free_values, values_of

from nexus.daemon.dispatch import load_capabilities
from nexus.system.commands import Batch, Ping, SetSetting
from nexus.vms.commands import CreateVm

load_capabilities()
COMMANDS = declared_commands()
LIMIT = 65536

pack = msgpack.packb
texts = st.text(max_size=70) | st.text("aé€😀\x00\x9f", max_size=600)


def by_name(info: CommandInfo) -> str:
    return info.name


def refused(info: CommandInfo, payload: bytes, limit: int = LIMIT) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        context_decoder(info)(payload, limit)
    assert caught.value.message.startswith("cannot ")
    return caught.value


@pytest.mark.parametrize("info", COMMANDS, ids=by_name)
@bounded(15)
@given(data=st.data())
def test_context_and_command_survive_client_encoding_and_daemon_decoding(
    info: CommandInfo, data: st.DataObject
) -> None:
    command, context = data.draw(values_of(info.request)), data.draw(values_of(RequestContext))
    fields = {name: getattr(context, name) for name in RequestContext.__struct_fields__}
    first = encode_context(**fields) or b"\x80"
    payload = first + (encode_command(command) or b"\x80")
    assert context_decoder(info)(payload, info.max_payload) == (context, command)


@pytest.mark.parametrize("info", COMMANDS, ids=by_name)
@bounded(30)
@given(payload=st.binary(max_size=40) | st.lists(free_values, max_size=3).map(lambda all: b"".join(map(pack, all))))
def test_context_decoder_raises_only_invalid_argument(info: CommandInfo, payload: bytes) -> None:
    refusal = None
    try:
        context, command = context_decoder(info)(payload, info.max_payload)
        assert isinstance(context, RequestContext)
        assert isinstance(command, info.request)
    except InvalidArgument as error:
        refusal = error
    if refusal is not None:
        assert isinstance(refusal.details["path"], str)
        assert refusal.message.startswith("cannot ")


@pytest.mark.parametrize("info", COMMANDS, ids=by_name)
@bounded(30)
@given(payload=free_values.map(pack))
def test_body_is_refused_as_it_is_without_a_context(info: CommandInfo, payload: bytes) -> None:
    def outcome(decode: Any, *arguments: Any) -> Any:
        try:
            return decode(*arguments)
        except InvalidArgument as error:
            return error.payload()

    plain = outcome(command_decoder(info), payload)
    flagged = outcome(context_decoder(info), b"\x81\xa3why\xa1w" + payload, info.max_payload)
    assert flagged == (plain if isinstance(plain, dict) else (RequestContext(why="w"), plain))


def test_no_command_has_a_field_that_the_paths_of_a_context_could_mean() -> None:
    assert [info.name for info in COMMANDS if "context" in info.request.__struct_fields__] == []


@pytest.mark.parametrize(
    ("context", "path", "words"),
    [
        ({"space": "a"}, "context.space", "cannot accept context.space: unknown field"),
        ({"project": ""}, "context.project", "cannot accept context.project: expected the id or the name of a project"),
        ({"project": "a" * 65}, "context.project", "at most 64 characters"),
        ({"project": "a\n"}, "context.project", "the id or the name"),
        ({"project": 1}, "context.project", "cannot accept context.project"),
        ({"project": {}}, "context.project.root", "required"),
        ({"project": {"root": "relative"}}, "context.project.root", "expected an absolute path"),
        ({"project": {"root": ""}}, "context.project.root", "expected an absolute path"),
        ({"project": {"root": "/a", "name": "b"}}, "context.project.name", "unknown field"),
        ({"lease": {"id": 1, "epoch": 1}}, "context.lease.id", "expected str, got int"),
        ({"at": 1}, "context.at", "unknown field"),
        ({"key": ""}, "context.key", "cannot accept context.key: expected 1 to 64 characters, no control characters"),
        ({"key": "k" * 65}, "context.key", "expected 1 to 64 characters"),
        ({"key": "a\n"}, "context.key", "no control characters"),
        ({"key": "a\x85"}, "context.key", "no control characters"),
        ({"key": None, "why": 3}, "context.why", "cannot accept context.why: expected str"),
        ({"why": "é" * 251}, "context.why", "expected text of 1 to 500 bytes in UTF-8"),
        ([], "context", "cannot accept context: expected a map, got an array"),
        (None, "context", "cannot accept context"),
        ({1: 2}, "context", "cannot accept context"),
    ],
)
def test_refused_context_is_named_with_the_reason(context: Any, path: str, words: str) -> None:
    error = refused(CreateVm.info, pack(context) + pack({"name": "web"}))
    assert error.details == {"path": path}
    assert words in error.message


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"", "ends too early"),
        (b"\x80", "ends too early"),
        (b"\x81\xa3why", "ends too early"),
        (b"\x80\x80\x80", "trailing characters (byte 2)"),
        (b"\x80\xc1", "(byte 1)"),
        (b"\x81\xa3why\xa2\xff\xfe\x80", "not UTF-8"),
        (b"\x80\x90", "expected a map, got an array"),
    ],
)
def test_payload_that_is_not_two_maps_is_refused(payload: bytes, words: str) -> None:
    error = refused(Ping.info, payload)
    assert error.details == {"path": ""}
    assert words in error.message


@pytest.mark.parametrize("levels", [100, 1024, 3000, 60_000])
@pytest.mark.parametrize("part", [b"\x81\xa3why", b"\x80\x82\xa3key\xa1a\xa5value", b"\x80\x81\xa4name"])
def test_deep_nesting_is_refused(part: bytes, levels: int) -> None:
    for info in (SetSetting.info, CreateVm.info):
        refused(info, part + b"\x91" * levels + b"\xc0\x80", 100_000)


def test_free_form_value_is_checked_beside_a_context() -> None:
    value: Any = None
    for _ in range(MAX_DEPTH):
        value = [value]
    _, command = context_decoder(SetSetting.info)(b"\x80" + pack({"key": "a", "value": value}), LIMIT)
    assert command == SetSetting("a", value)
    error = refused(SetSetting.info, b"\x80" + pack({"key": "a", "value": [value]}))
    assert error.details == {"path": "value"}


def padded(size: int) -> bytes:
    """A context of exactly ``size`` bytes."""
    head = b"\x82\xa3why\xda" + (size - 14).to_bytes(2, "big")
    return head + b"w" * (size - 14) + b"\xa3why\xa1w"


def test_context_has_4096_bytes_at_most_whatever_the_body_leaves() -> None:
    assert len(padded(CONTEXT_BYTES)) == CONTEXT_BYTES
    assert refused(Ping.info, padded(CONTEXT_BYTES) + b"\x80").details == {"path": "context.why"}
    error = refused(Ping.info, padded(CONTEXT_BYTES + 1) + b"\x80")
    assert error.details == {"path": "context", "limit": CONTEXT_BYTES}


@pytest.mark.parametrize("first", [b"\x80", b"\x81\xa3why\xa1w"])
@pytest.mark.parametrize("limit", [20, CONTEXT_BYTES, LIMIT])
def test_body_has_the_limit_of_the_command_whatever_the_context_leaves(first: bytes, limit: int) -> None:
    body = b"\x81\xa7payload\xc5" + (limit - 12).to_bytes(2, "big") + bytes(limit - 12)
    assert len(body) == limit
    if limit < LIMIT:
        _, command = context_decoder(Ping.info)(first + body, limit)
        assert command == Ping(bytes(limit - 12))
    else:  # within the limit of the payload, beyond that of the field
        assert refused(Ping.info, first + body, limit).details == {"path": "payload"}
    error = refused(Ping.info, first + body, limit - 1)
    assert error.details == {"path": "", "limit": limit - 1}


def test_error_in_a_part_of_a_field_names_the_part() -> None:
    element = {"code": 256, "payload": {}, "colour": "red"}
    for decode in (command_decoder(Batch.info), lambda body: context_decoder(Batch.info)(b"\x80" + body, LIMIT)):
        with pytest.raises(InvalidArgument) as caught:
            decode(pack({"commands": [element]}))
        assert caught.value.details == {"path": "commands[0].colour"}
        assert caught.value.message == "cannot accept commands[0].colour: unknown field"


def path_of_refusal(do: Callable[..., Any], *arguments: Any) -> str | None:
    """The path of the ``InvalidArgument`` that a call raises; None if it raises none."""
    try:
        do(*arguments)
    except InvalidArgument as error:
        return str(error.details["path"])
    return None


@bounded(300)
@given(texts)
def test_client_accepts_exactly_what_the_daemon_accepts(text: str) -> None:
    for field, check in (("key", check_key), ("why", check_why)):
        here = path_of_refusal(check, text)
        there = path_of_refusal(context_decoder(Ping.info), pack({field: text}) + b"\x80", LIMIT)
        assert (here, there) in ((None, None), (field, f"context.{field}"))


@pytest.mark.parametrize("text", ["\ud800", "a\udcff"])
def test_text_that_is_not_utf8_is_refused_by_the_client(text: str) -> None:
    for check in (check_key, check_why):
        with pytest.raises(InvalidArgument):
            check(text)


def test_encoded_context_has_only_the_given_fields() -> None:
    assert encode_context() == b""
    assert msgpack.unpackb(encode_context(why="w")) == {"why": "w"}
    assert msgpack.unpackb(encode_context(key="k", why="w")) == {"key": "k", "why": "w"}
    with pytest.raises(InvalidArgument):
        encode_context(why="w" * (MAX_WHY_BYTES + 1))
