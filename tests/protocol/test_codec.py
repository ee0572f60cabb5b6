"""Payloads: strict for requests, tolerant for replies, the same values at both ends."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_protocol import (
    BadFrame,
    CommandInfo,
    Empty,
    InvalidArgument,
    NotFound,
    ServerConnection,
    command_decoder,
    declared_commands,
    decode_map,
    decode_reply,
    encode_command,
    encode_record,
)
from nexus_protocol.codec import MAX_DEPTH
from support.strategies import bounded, free_values, values_of

from nexus.daemon.dispatch import load_capabilities
from nexus.services.commands import AddService
from nexus.system.commands import Ping, Pong, SetSetting, Setting
from nexus.vms.commands import CreateVm, UpdateVm, Vm
from nexus.vms.states import VmRole, VmState

load_capabilities()
COMMANDS = declared_commands()
RECORDS = list(dict.fromkeys(t for info in COMMANDS for t in (info.reply, info.item) if t not in (None, Empty)))

decode_setting = command_decoder(SetSetting.info)


def by_name(thing: Any) -> str:
    return thing.name if isinstance(thing, CommandInfo) else thing.__name__


@pytest.mark.parametrize("info", COMMANDS, ids=by_name)
@bounded(25)
@given(data=st.data())
def test_command_survives_client_encoding_and_daemon_decoding(info: CommandInfo, data: st.DataObject) -> None:
    command = data.draw(values_of(info.request))
    assert command_decoder(info)(encode_command(command)) == command


@pytest.mark.parametrize("record", RECORDS, ids=by_name)
@bounded(25)
@given(data=st.data())
def test_record_survives_daemon_encoding_and_client_decoding(record: type[Any], data: st.DataObject) -> None:
    value = data.draw(values_of(record))
    assert decode_reply(record, encode_record(value)) == value


@pytest.mark.parametrize("record", RECORDS, ids=by_name)
@bounded(10)
@given(data=st.data())
def test_client_ignores_unknown_reply_fields(record: type[Any], data: st.DataObject) -> None:
    value = data.draw(values_of(record))
    body = decode_map(encode_record(value)) | {"from_the_future": {"deep": [1]}}
    assert decode_reply(record, msgpack.packb(body)) == value


@pytest.mark.parametrize("info", COMMANDS, ids=by_name)
@bounded(40)
@given(payload=st.binary(max_size=40) | free_values.map(msgpack.packb))
def test_command_decoder_raises_only_invalid_argument(info: CommandInfo, payload: bytes) -> None:
    refusal = None
    try:
        assert isinstance(command_decoder(info)(payload), info.request)
    except InvalidArgument as error:
        refusal = error
    if refusal is not None:
        assert isinstance(refusal.details["path"], str)
        assert refusal.message.startswith("cannot ")


@pytest.mark.parametrize("info", COMMANDS, ids=by_name)
def test_every_command_refuses_an_unknown_field(info: CommandInfo) -> None:
    with pytest.raises(InvalidArgument) as caught:
        command_decoder(info)(msgpack.packb({"no_such_field": 1}))
    assert caught.value.details["path"] == "no_such_field"


@bounded(100)
@given(st.binary(max_size=60) | free_values.map(msgpack.packb))
def test_reply_decoder_raises_only_bad_frame(payload: bytes) -> None:
    for type_ in (Vm, Setting, Pong):
        try:
            decode_reply(type_, payload)
        except BadFrame:
            pass


@pytest.mark.parametrize("levels", [100, 1000, 1023, 1024, 5000, 60_000])
def test_deep_nesting_raises_an_error_at_both_ends(levels: int) -> None:
    value = b"\x91" * levels + b"\x01"
    with pytest.raises(InvalidArgument):
        decode_setting(b"\x82\xa3key\xa1a\xa5value" + value)
    try:
        decode_reply(Setting, b"\x84\xa3key\xa1a\xa5value" + value + b"\xa4type\xa4json\xa6is_set\xc3")
    except BadFrame:
        assert levels > 1000


def test_free_form_value_may_be_nested_to_the_documented_depth() -> None:
    value: Any = None
    for _ in range(MAX_DEPTH):
        value = {"a": value}
    assert decode_setting(msgpack.packb({"key": "a", "value": value})).value == value  # type: ignore[attr-defined]
    with pytest.raises(InvalidArgument) as caught:
        decode_setting(msgpack.packb({"key": "a", "value": [value]}))
    assert caught.value.details == {"path": "value"}


def test_error_payload_stays_small_for_large_keys() -> None:
    value: Any = 1
    for _ in range(MAX_DEPTH + 1):
        value = {"k" * 1900: value}
    with pytest.raises(InvalidArgument) as caught:
        decode_setting(msgpack.packb({"key": "a", "value": value}))
    assert len(str(caught.value.payload())) < 300


def test_empty_payload_is_the_empty_map_at_both_ends() -> None:
    assert command_decoder(Ping.info)(b"") == command_decoder(Ping.info)(b"\x80") == Ping()
    assert encode_command(Ping()) == b""
    assert decode_map(b"") == decode_map(b"\x80") == {}
    assert decode_reply(Pong, b"") == decode_reply(Pong, b"\x80") == Pong()


def test_fields_at_their_defaults_are_not_encoded() -> None:
    assert decode_map(encode_command(CreateVm(name="web", vcpu_count=1))) == {"name": "web"}
    assert decode_map(encode_record(Pong())) == {}


def test_last_value_of_a_repeated_key_counts() -> None:
    assert command_decoder(CreateVm.info)(b"\x82\xa4name\xa1a\xa4name\xa1b") == CreateVm(name="b")


@pytest.mark.parametrize(
    ("info", "body", "words"),
    [
        (CreateVm.info, {"name": "-web"}, "cannot accept name: expected 1 to 64 of A-Z a-z 0-9 . _ -, the first"),
        (UpdateVm.info, {"vm": "web", "name": "a b"}, "cannot accept name: expected 1 to 64 of A-Z a-z 0-9 . _ -"),
        (CreateVm.info, {"name": "web", "role": "Work"}, "expected one of portal, work, service, got 'Work'"),
        (
            AddService.info,
            {"name": "web", "umask": "999"},
            "cannot accept umask: expected three octal digits",
        ),
        (CreateVm.info, {"name": "web", "mem_size_mib": 1}, "cannot accept mem_size_mib: expected int >= 16"),
        (CreateVm.info, {"nam": "web"}, "unknown field nam"),
        (CreateVm.info, {}, "missing required field name"),
    ],
)
def test_error_message_describes_the_expected_value(info: CommandInfo, body: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        command_decoder(info)(msgpack.packb(body))
    assert words in caught.value.message


@pytest.mark.parametrize("payload", [b"\xc1", b"\x90", b"\xc0", b"\x80\x80", b"\x81\x01\x02", b"\x81\xa1a"])
def test_reply_that_is_not_a_map_raises_bad_frame(payload: bytes) -> None:
    with pytest.raises(BadFrame):
        decode_map(payload)


def test_reply_without_a_required_field_is_refused_with_a_hint() -> None:
    with pytest.raises(BadFrame) as caught:
        decode_reply(Vm, msgpack.packb({"id": "x"}))
    assert "another version" in (caught.value.hint or "")


def test_file_name_that_is_not_utf8_is_encoded_with_question_marks() -> None:
    name = os.fsdecode(b"/home/ada/caf\xe9")
    setting = Setting(key="k", value=[name, b"\xff"], type="json", is_set=True)
    assert decode_reply(Setting, encode_record(setting)).value == ["/home/ada/caf?", b"\xff"]
    frame = ServerConnection().send_error(1, NotFound(f"cannot open {name}", details={"path": name}))
    assert decode_map(frame[18:])["message"] == "cannot open /home/ada/caf?"


def test_reply_may_hold_an_unknown_enumerated_value() -> None:
    vm = {
        "id": "x",
        "project_id": "y",
        "project": "default",
        "name": "web",
        "role": "work",
        "state": "hibernating",
        "cid": 3,
    }
    vm |= {
        "cid": 3,
        "vcpu_count": 1,
        "mem_size_mib": 128,
        "created_at": 1,
        "updated_at": 1,
        "revision": 1,
        "state_revision": 0,
    }
    decoded = decode_reply(Vm, msgpack.packb(vm))
    assert decoded.state == "hibernating"
    assert isinstance(decoded.state, VmState)
    assert decoded.role is VmRole.WORK


def test_request_may_not_hold_an_unknown_enumerated_value() -> None:
    decode = command_decoder(CreateVm.info)
    with pytest.raises(InvalidArgument) as caught:
        decode(msgpack.packb({"name": "web", "role": "hibernating"}))
    assert caught.value.details == {"path": "role"}


def test_threads_may_decode_the_first_reply_of_a_type_at_once() -> None:
    """msgspec itself ends the process: each round has types that were never decoded before."""
    program = """
import sys, threading
from nexus_protocol.codec import as_reply
from nexus_protocol.command import Record, WireEnum

sys.setswitchinterval(1e-6)
for _ in range(200):
    class Kind(WireEnum):
        A = "a"

    class Inner(Record):
        number: int
        text: str | None = None

    class Outer(Record):
        id: str
        kind: Kind
        inner: list[Inner]

    together = threading.Barrier(6)
    found = []

    def decode():
        together.wait()
        found.append(as_reply(Outer, {"id": "x", "kind": "a", "inner": [{"number": 1}]}))

    threads = [threading.Thread(target=decode) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [Outer(id="x", kind=Kind.A, inner=[Inner(number=1)])] * 6
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
