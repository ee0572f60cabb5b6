"""The documents match the code: COMMANDS.md is up to date, and SPEC.md has the codes, errors and limits."""

from __future__ import annotations

import re
import subprocess
import sys

import msgpack
import pytest
from nexus_protocol import (
    CONTEXT,
    CONTEXT_BYTES,
    HEADER_SIZE,
    INPUT_CREDIT,
    MAX_PAYLOAD,
    FrameDecoder,
    context_decoder,
    errors,
    frame,
)
from nexus_protocol.codec import MAX_DEPTH
from nexus_protocol.context import MAX_KEY, MAX_WHY_BYTES, RequestContext
from support.daemon import DaemonProcess
from support.vectors import PROTOCOL

from nexus import docs, store
from nexus.config import Limits
from nexus.paths import MAX_SOCKET_PATH
from nexus.system.commands import Ping

SPEC = (PROTOCOL / "SPEC.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the tables below a heading."""
    section = re.split(r"^## ", SPEC, flags=re.MULTILINE)
    (text,) = [part for part in section if part.startswith(heading + "\n")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


CONNECTION = ("closed", "stays", "closed on sequence 0, else stays")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", SPEC, flags=re.MULTILINE | re.DOTALL)


def test_commands_md_is_up_to_date() -> None:
    assert docs.COMMANDS_MD.read_text(encoding="utf-8") == docs.render(), "run python -m nexus.docs"


def test_docs_check_detects_a_stale_file(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert docs.main(["--check"]) == 0
    stale = type(docs.COMMANDS_MD)(str(tmp_path)) / "COMMANDS.md"
    monkeypatch.setattr(docs, "COMMANDS_MD", stale)
    assert docs.main(["--check"]) == 1
    assert "stale" in capsys.readouterr().err
    assert docs.main([]) == 0
    assert docs.main(["--check"]) == 0
    stale.write_text("something else", encoding="utf-8")
    assert docs.main(["--check"]) == 1
    assert docs.main(["--wrong"]) == 2


def test_docs_generator_runs_as_a_module() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "nexus.docs", "--check"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_spec_lists_every_error_code_and_its_effect_on_the_connection() -> None:
    listed = {row[0].strip("`"): row[2] for row in rows("Errors") if len(row) == 3 and row[2] in CONNECTION}
    closing = {cls.code for cls in errors.ProtocolError.__subclasses__()}
    codes = {
        cls.code
        for cls in vars(errors).values()
        if isinstance(cls, type) and issubclass(cls, errors.NexusError) and "code" in vars(cls)
    }
    assert codes <= listed.keys()
    assert {code for code in codes if listed[code] == "closed"} == closing


def test_spec_lists_the_errors_of_the_store() -> None:
    listed = {row[0].strip("`"): row[1].strip("`") for row in rows("Errors") if row[0].startswith("`store.")}
    start_only = {store.InitError, store.SchemaMismatch, store.DatabaseDamaged}
    # Errors of other modules concern maintenance without a daemon, and are never sent.
    sent = {cls for cls in subclasses(store.StoreError) if cls.__module__ == "nexus.store.base"} - start_only
    assert listed == {cls.type: cls.code for cls in sent}


def subclasses(cls: type[errors.NexusError]) -> set[type[errors.NexusError]]:
    return {inner for sub in cls.__subclasses__() for inner in {sub} | subclasses(sub)}


def test_spec_lists_every_limit_with_its_default() -> None:
    listed = {row[0].strip("`"): row[1] for row in rows("Limits")[2:]}
    assert listed == {name: str(value) for name, value in Limits()._asdict().items()}


def test_spec_has_the_frame_codes_of_the_engine() -> None:
    listed = {row[1]: row[0] for row in rows("Codes")}
    for name in ("Input", "Cancel", "Success", "Item", "Error"):
        assert int(listed[name], 16) == getattr(frame, name.upper())
    assert [row[0] for row in rows("Codes")[2:4]] == [f"0x0001 to 0x{frame.MAX_COMMAND:04X}", f"0x{frame.EXTRA:04X}"]


@pytest.mark.parametrize(
    "sentence",
    [
        f"frames of an {HEADER_SIZE}-byte header",
        f"client may send {INPUT_CREDIT} bytes (256 KiB)",
        f"may have {INPUT_CREDIT + 1024} bytes of payload",
        f"{MAX_DEPTH} levels deep at most",
        f"at most {MAX_SOCKET_PATH} bytes",
        f"above {MAX_PAYLOAD // 1024 // 1024} MiB",
    ],
)
def test_spec_has_the_limits_of_the_engine(sentence: str) -> None:
    assert sentence in " ".join(SPEC.split())


def test_annotated_frame_of_the_spec_decodes() -> None:
    (block,) = blocks("hex")
    data = bytes.fromhex("".join(re.match(r"((?:[0-9a-f]{2} )+) ", line)[1] for line in block.splitlines()))  # type: ignore[index]
    ((command, sequence, payload, _),), violation = FrameDecoder(lambda _: 100).feed(data)
    assert violation is None
    assert (command, sequence, msgpack.unpackb(payload)) == (42, 3, {"payload": b"hi"})


def test_annotated_request_with_a_context_of_the_spec_decodes() -> None:
    (block,) = blocks("context")
    data = bytes.fromhex("".join(re.match(r"((?:[0-9a-f]{2} )+) ", line)[1] for line in block.splitlines()))  # type: ignore[index]
    ((command, sequence, payload, flags),), violation = FrameDecoder(lambda _: 100, takes_context=True).feed(data)
    assert violation is None
    assert (command, sequence, flags) == (42, 5, CONTEXT)
    context, ping = context_decoder(Ping.info)(payload, 100)
    assert (context, ping) == (RequestContext(why="is it up"), Ping())


def test_spec_lists_the_fields_of_a_context() -> None:
    listed = {row[0].strip("`"): row[1] for row in rows("The context of a request")[2:]}
    assert listed.keys() == set(RequestContext.__struct_fields__)
    assert f"1 to {MAX_KEY} characters" in listed["key"]
    assert f"1 to {MAX_WHY_BYTES} bytes" in listed["why"]
    assert f"A context has {CONTEXT_BYTES} bytes at most" in " ".join(SPEC.split())


def test_example_session_of_the_spec_matches_the_daemon(daemon: DaemonProcess) -> None:
    with daemon.connect() as sock:
        unsent = b""
        for line in "".join(blocks("session")).splitlines():
            side, data = line[0], bytes.fromhex(line[1:])
            if side == "C":
                unsent += data
                continue
            sock.sendall(unsent)
            unsent = received = b""
            while len(received) < len(data) and (some := sock.recv(len(data) - len(received))):
                received += some
            assert received.hex() == data.hex()
        assert sock.recv(1) == b""


def test_every_link_in_the_spec_has_a_target() -> None:
    anchors = {
        re.sub(r"[^a-z -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)", SPEC, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", SPEC):
        if target.startswith("#"):
            assert target[1:] in anchors
        elif not target.startswith("https:"):
            assert (PROTOCOL / target).exists()
