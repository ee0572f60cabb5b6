"""The vectors against the engine: good frames in both directions, bad frames with their documented error."""

from __future__ import annotations

from typing import Any

import msgpack
import msgspec
import pytest
from nexus_protocol import (
    CONTEXT,
    AckReceived,
    CancelReceived,
    ClientConnection,
    ConnectionFailed,
    ErrorReceived,
    InputReceived,
    InvalidArgument,
    ItemReceived,
    RequestReceived,
    ServerConnection,
    SuccessReceived,
    UnknownCommand,
    context_decoder,
    declared_commands,
    decode_map,
    decode_reply,
    encode_command,
    encode_frame,
    encode_record,
    error_from_payload,
)
from nexus_protocol.frame import CANCEL, ERROR, INPUT, ITEM, SUCCESS
from support.vectors import BadVector, GoodVector, bad_vectors, good_vectors

from nexus.config import Limits
from nexus.daemon.budgets import Budgets
from nexus.daemon.client_session import SessionContext
from nexus.daemon.dispatch import load_capabilities

DISPATCH = load_capabilities()
INFOS = {info.name: info for info in declared_commands()}
GOOD, BAD = good_vectors(), bad_vectors()
CODES = {"success": SUCCESS, "item": ITEM, "error": ERROR, "input": INPUT, "cancel": CANCEL}

LIMITS = Limits()
LIMIT = DISPATCH.payload_limit(LIMITS.max_payload_bytes, LIMITS.max_frame_payload_bytes)

good = pytest.mark.parametrize("vector", GOOD, ids=lambda v: v.name)


def server() -> ServerConnection:
    return ServerConnection(LIMIT)


def session_context() -> SessionContext:
    """What the sessions share, of which only the decoding is used."""
    none: Any = None
    return SessionContext(
        none, none, DISPATCH, LIMITS, Budgets(LIMITS, none, lambda: None), none, lambda _session: None
    )


def test_vector_names_are_unique() -> None:
    for vectors in (GOOD, BAD):
        names = [vector.name for vector in vectors]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", INFOS)
def test_every_command_has_request_success_and_item_vectors(name: str) -> None:
    kinds = {vector.kind for vector in GOOD if vector.command == name}
    wanted = {"request", "success"} | ({"item"} if INFOS[name].item is not None else set())
    assert wanted <= kinds, f"add the vectors of {name} to protocol/vectors/good.json"


@good
def test_good_vector_values_encode_to_its_frame(vector: GoodVector) -> None:
    body = msgpack.packb(vector.payload) if vector.payload else b""
    if vector.context is not None:
        whole = msgpack.packb(vector.context) + (body or b"\x80")
        assert vector.frame.hex() == encode_frame(vector.code, vector.sequence, whole, CONTEXT).hex()
        return
    wanted = {encode_frame(vector.code, vector.sequence, body)}
    if not body:
        wanted.add(encode_frame(vector.code, vector.sequence, b"\x80"))
    assert vector.frame in wanted, f"expected {' or '.join(frame.hex() for frame in wanted)}"


@good
def test_good_vector_code_fits_its_kind(vector: GoodVector) -> None:
    if vector.kind == "request":
        assert vector.command is not None
        assert vector.code == INFOS[vector.command].code
    else:
        assert vector.code == CODES[vector.kind]
    assert vector.sender == ("client" if vector.kind in ("request", "input", "cancel") else "daemon")


@pytest.mark.parametrize("vector", [v for v in GOOD if v.sender == "client"], ids=lambda v: v.name)
def test_daemon_engine_decodes_good_vector(vector: GoodVector) -> None:
    if vector.kind == "request":
        assert vector.command is not None
        (event,) = server().receive_data(vector.frame)
        flags = 0 if vector.context is None else CONTEXT
        assert event == RequestReceived(vector.code, vector.sequence, vector.frame[18:], flags)
        if vector.context is None:
            command = DISPATCH.entries[vector.code].decode(vector.frame[18:])
        else:
            context, command = context_decoder(INFOS[vector.command])(vector.frame[18:], LIMIT(vector.code))
            assert msgspec.to_builtins(context) == vector.context
        assert type(command).__name__ == vector.command
        # Fields at their defaults need not be encoded; all others must be.
        assert vector.payload.items() >= decode_map(encode_command(command)).items()
        for name, value in vector.payload.items():
            assert decode_map(encode_record({name: getattr(command, name)})) == {name: value}
        return
    engine = ServerConnection(input_commands={42})
    engine.receive_data(encode_frame(42, vector.sequence))
    (event,) = engine.receive_data(vector.frame)
    if vector.kind == "cancel":
        assert event == CancelReceived(vector.sequence)
    else:
        assert event == InputReceived(vector.sequence, vector.frame[18:])
        assert decode_map(vector.frame[18:]) == vector.payload


@pytest.mark.parametrize("vector", [v for v in GOOD if v.sender == "daemon"], ids=lambda v: v.name)
def test_client_engine_decodes_good_vector(vector: GoodVector) -> None:
    engine = ClientConnection()
    engine._last = vector.sequence - 1
    if vector.sequence:
        engine.send_request(42, takes_input=vector.name.startswith("Input"))
    (event,) = engine.receive_data(vector.frame)
    assert not isinstance(event, ConnectionFailed)
    if isinstance(event, AckReceived):
        assert vector.payload == {"ack": event.size}
        return
    assert decode_map(event.payload) == vector.payload
    if isinstance(event, ErrorReceived):
        assert error_from_payload(vector.payload).payload() == vector.payload
        return
    assert isinstance(event, {"success": SuccessReceived, "item": ItemReceived}[vector.kind])
    assert vector.command is not None
    info = INFOS[vector.command]
    record = decode_reply(info.item if vector.kind == "item" and info.item else info.reply, event.payload)
    assert decode_map(encode_record(record)) == vector.payload


@good
def test_good_vector_decodes_the_same_byte_by_byte(vector: GoodVector) -> None:
    def events(engine: Any, pieces: list[bytes]) -> list[Any]:
        return [event for piece in pieces for event in engine.receive_data(piece)]

    def engine() -> Any:
        if vector.sender == "client":
            return server()
        client = ClientConnection()
        client._last = vector.sequence - 1
        if vector.sequence:
            client.send_request(42)
        return client

    assert events(engine(), [bytes([byte]) for byte in vector.frame]) == events(engine(), [vector.frame])


@pytest.mark.parametrize("vector", BAD, ids=lambda v: v.name)
def test_bad_vector_is_refused_as_documented(vector: BadVector) -> None:
    events = server().receive_data(vector.data)
    refusals: list[dict[str, Any]] = []
    for event in events:
        if isinstance(event, ConnectionFailed):
            refusals.append(event.error.payload() | {"sequence": event.error.sequence})
            assert event is events[-1]
        elif isinstance(event, RequestReceived):
            try:
                entry = DISPATCH.entries.get(event.command)
                if entry is None:
                    raise UnknownCommand("cannot carry it out")
                if event.flags:
                    session_context().decode_with_context(entry, event.payload)
                else:
                    entry.decode(event.payload)
            except (InvalidArgument, UnknownCommand) as error:
                refusals.append(error.payload() | {"sequence": event.sequence})
    assert vector.closed == bool(events and isinstance(events[-1], ConnectionFailed))
    if vector.error is None:
        assert refusals == []
        return
    (refusal,) = refusals
    assert (refusal["sequence"], refusal["code"]) == (vector.error["sequence"], vector.error["code"])
    if "path" in vector.error:
        assert refusal["details"]["path"] == vector.error["path"]
    assert refusal.get("details", {}).items() >= vector.error.get("details", {}).items()
