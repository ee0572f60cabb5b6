"""The public names of the packages: names may be added here, but not removed without a reason."""

from __future__ import annotations

from types import ModuleType

import nexus_protocol
import pytest

import nexus.client

PROTOCOL = """
AckReceived BadFrame CONTEXT CONTEXT_BYTES CancelReceived Cancelled ClientConnection Command CommandInfo Conflict
ConnectionFailed DEFAULT_MAX_PAYLOAD DeadlineExceeded Effect Empty ErrorReceived FailedPrecondition Frame FrameDecoder
FrameTooLarge HEADER_SIZE INPUT_CREDIT InputReceived Internal InvalidArgument ItemReceived MAGIC MAX_PAYLOAD NexusError
NotFound PermissionDenied ProtocolError Record ReportedError RequestReceived ResourceExhausted ServerConnection
StreamCommand SuccessReceived Unavailable UnknownCommand UnsupportedVersion VERSION WireEnum command command_decoder
context_decoder declared_commands decode_map decode_reply encode_command encode_frame encode_record error_from_payload
"""

CLIENT = """
BlockingClient BlockingStream Client ConnectError ConnectTimeout ConnectionFailure ConnectionLost DaemonTooOld
Interrupted Stream
"""


@pytest.mark.parametrize(("module", "names"), [(nexus_protocol, PROTOCOL), (nexus.client, CLIENT)])
def test_public_names_have_not_changed(module: ModuleType, names: str) -> None:
    assert sorted(module.__all__) == sorted(names.split())
    for name in module.__all__:
        assert getattr(module, name) is not None
