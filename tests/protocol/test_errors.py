"""The error tree: every error is decoded as its own class, and no payload makes the decoding raise."""

from __future__ import annotations

from typing import Any

import nexus_protocol.errors
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_protocol import Internal, NexusError, NotFound, ProtocolError, declared_commands, error_from_payload
from support.strategies import bounded, free_values

from nexus.daemon.dispatch import load_capabilities

load_capabilities()


def subclasses(cls: type[NexusError]) -> list[type[NexusError]]:
    return [cls] + [inner for sub in cls.__subclasses__() for inner in subclasses(sub)]


CORE = [cls for cls in vars(nexus_protocol.errors).values() if isinstance(cls, type) and issubclass(cls, NexusError)]
CODED = [cls for cls in CORE if cls not in (NexusError, ProtocolError)]
DOMAIN = list(dict.fromkeys(error for info in declared_commands() for error in info.errors))


def named(cls: type[NexusError]) -> str:
    return cls.__name__


@pytest.mark.parametrize("cls", [*CODED, *DOMAIN], ids=named)
def test_every_error_is_decoded_as_its_own_class(cls: type[NexusError]) -> None:
    sent = cls("cannot do it", hint="Try again.", details={"limit": 5})
    received = error_from_payload(sent.payload())
    assert type(received) is cls
    assert received.payload() == sent.payload()
    assert (received.message, received.hint, received.details, str(received)) == (
        "cannot do it",
        "Try again.",
        {"limit": 5},
        "cannot do it",
    )


def test_each_error_code_is_the_snake_case_name_of_its_class() -> None:
    assert len({cls.code for cls in CODED}) == len(CODED) == 14
    for cls in CODED:
        words = "".join("_" + c.lower() if c.isupper() else c for c in cls.__name__).lstrip("_")
        assert cls.code == cls.type == words


@pytest.mark.parametrize("cls", DOMAIN, ids=named)
def test_domain_error_has_a_dotted_type_a_known_code_and_a_docstring(cls: type[NexusError]) -> None:
    assert cls.type.count(".") == 1
    assert cls.code in {core.code for core in CODED}
    assert cls.__doc__


def test_error_types_are_unique() -> None:
    types = [cls.type for cls in DOMAIN]
    assert len(set(types)) == len(types)


def test_unknown_error_type_is_decoded_by_its_code_and_keeps_its_type() -> None:
    error = error_from_payload({"code": "not_found", "message": "cannot find it", "type": "robot.not_found"})
    assert type(error) is NotFound
    assert error.type == "robot.not_found"
    assert error.payload()["type"] == "robot.not_found"


def test_unknown_error_code_is_internal_with_the_daemons_message() -> None:
    error = error_from_payload({"code": "on_fire", "message": "cannot go on", "type": "on_fire"})
    assert type(error) is Internal
    assert error.message == "cannot go on"


def test_error_type_that_contradicts_its_code_is_ignored() -> None:
    assert type(error_from_payload({"code": "not_found", "message": "", "type": "vm.name_taken"})) is NotFound


@bounded(200)
@given(st.dictionaries(st.sampled_from(["code", "message", "type", "hint", "details"]) | st.text(), free_values))
def test_decoding_an_error_payload_never_raises(body: dict[str, Any]) -> None:
    error = error_from_payload(body)
    assert isinstance(error, NexusError)
    assert isinstance(error.message, str)
    assert isinstance(error.details, dict)
    assert error.hint is None or isinstance(error.hint, str)


def test_unset_error_members_are_not_encoded() -> None:
    assert NotFound("gone").payload() == {"code": "not_found", "message": "gone", "type": "not_found"}
