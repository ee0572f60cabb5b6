"""A message that is appended to while the disk is full: it is marked incomplete once there is room again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from nexus_protocol import NexusError
from support.conversations import Conversations
from support.daemon import DaemonProcess, running
from support.faults import fill, on_small_disk
from support.raw import wait_until

from nexus.conversations.states import MessageStatus
from nexus.system.commands import SetSetting


def test_interrupted_message_is_marked_incomplete_once_the_disk_has_room(
    make_daemon: Callable[..., DaemonProcess],
) -> None:
    daemon = make_daemon()

    def use(disk: Path) -> None:
        watching, appending = Conversations(daemon), Conversations(daemon)
        appender = appending.append(watching.create())
        message_id = appender.began()["id"]
        appender.data(b"durable")
        appender.durable(7)
        filler = fill(disk)
        with contextlib.suppress(NexusError):  # the room within the write-ahead log
            for number in range(5000):
                watching.client.call(SetSetting(f"fill.{number}", "x" * 1000))
        appender.data(b", and this comes to a full disk")
        appending.close()
        wait_until(lambda: "cannot be marked incomplete yet" in daemon.log(), "the first attempt")
        message = watching.get(message_id)
        assert (message.status, message.content) == (MessageStatus.OPEN, "durable")
        filler.unlink()
        wait_until(lambda: watching.get(message_id).status is MessageStatus.INCOMPLETE, "the mark")
        assert watching.get(message_id).content == "durable, and this comes to a full disk"
        watching.close()
        assert daemon.stop() == 0

    on_small_disk(daemon.root / "state", 8 * 1024, running(daemon, use))
