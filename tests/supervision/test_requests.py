"""Requests wake the task, end its waits, and a stop takes precedence."""

from __future__ import annotations

import asyncio

import pytest
from support.operations import an_operation

from nexus.supervision.requests import Reason, RequestPending, Requests, RestartRequest, StartOptions, StopRequest

ME = an_operation()
STOP = StopRequest(ME, Reason("requested", "stopped on demand"), on_demand=True)
RESTART = RestartRequest(ME, Reason("requested", "restarted on demand"))


def test_a_wait_ends_by_a_wake_by_its_timeout_and_by_a_request() -> None:
    async def scenario() -> None:
        requests = Requests()
        await requests.wait(0)
        requests.wake()
        await requests.wait()
        waiting = asyncio.ensure_future(requests.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        requests.restart = RESTART
        requests.wake()
        with pytest.raises(RequestPending):
            await waiting
        with pytest.raises(RequestPending):
            requests.check()

    asyncio.run(scenario())


def test_a_wake_before_the_wait_is_not_lost() -> None:
    async def scenario() -> None:
        requests = Requests()
        requests.wake()
        async with asyncio.timeout(30):
            await requests.wait()

    asyncio.run(scenario())


def test_interruptible_work_gives_its_result_or_its_error() -> None:
    async def scenario() -> None:
        requests = Requests()

        async def work(error: Exception | None) -> str:
            await asyncio.sleep(0)
            if error is not None:
                raise error
            return "done"

        assert await requests.interruptible(work(None)) == "done"
        with pytest.raises(KeyError):
            await requests.interruptible(work(KeyError()))

    asyncio.run(scenario())


def test_interruptible_work_is_cancelled_by_a_request_and_awaited() -> None:
    async def scenario() -> None:
        requests = Requests()
        ended: list[str] = []

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                ended.append("cleaned up")

        waiting = asyncio.ensure_future(requests.interruptible(work()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        requests.stop = STOP
        requests.wake()
        with pytest.raises(RequestPending):
            await waiting
        assert ended == ["cleaned up"]

    asyncio.run(scenario())


def test_an_environment_is_not_in_the_repr_of_start_options() -> None:
    assert "s3cret" not in repr(StartOptions(ME, {"TOKEN": "s3cret"}))
    assert "s3cret" not in repr(RESTART._replace(options=StartOptions(ME, {"TOKEN": "s3cret"})))
