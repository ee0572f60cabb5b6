"""Cancellation: awaited, delivered again after work that has to be completed, and not delivered where it is over."""

from __future__ import annotations

import asyncio

import pytest

from nexus.tasks import cancel_and_wait, deliver_again, uninterrupted


def test_cancelled_tasks_have_ended_with_their_cleanup() -> None:
    async def scenario() -> None:
        ended: list[int] = []

        async def work(number: int) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                ended.append(number)

        tasks = [asyncio.create_task(work(number)) for number in range(3)]
        await asyncio.sleep(0)
        await cancel_and_wait(*tasks, None)
        assert ended == [0, 1, 2]
        await cancel_and_wait(*tasks, None)

    asyncio.run(scenario())


def test_errors_of_cancelled_tasks_stay_with_them() -> None:
    async def scenario() -> None:
        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise KeyError("at its end")

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        await cancel_and_wait(task)
        with pytest.raises(KeyError):
            task.result()

    asyncio.run(scenario())


@pytest.mark.parametrize("times", [1, 3])
def test_uninterrupted_work_is_completed_and_the_cancellation_comes_after_it(times: int) -> None:
    async def scenario() -> None:
        gate = asyncio.Event()
        seen: list[object] = []

        async def work() -> str:
            await gate.wait()
            return "done"

        async def caller() -> None:
            seen.append(await uninterrupted(work()))
            await asyncio.Event().wait()

        task = asyncio.create_task(caller())
        await asyncio.sleep(0)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        gate.set()
        async with asyncio.timeout(30):
            await asyncio.wait({task})
        assert task.cancelled()
        assert seen == ["done"]

    asyncio.run(scenario())


def test_a_task_whose_last_step_was_uninterrupted_ends_with_its_result() -> None:
    async def scenario() -> None:
        gate = asyncio.Event()

        async def work() -> str:
            await gate.wait()
            return "done"

        task = asyncio.create_task(uninterrupted(work()))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        gate.set()
        assert await task == "done"

    asyncio.run(scenario())


def test_a_cancellation_that_was_taken_back_is_not_delivered() -> None:
    async def scenario() -> None:
        async def caller() -> str:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                deliver_again()
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()  # as a deadline does at the end of its block
            await asyncio.sleep(0.01)
            return "done"

        task = asyncio.create_task(caller())
        await asyncio.sleep(0)
        task.cancel()
        assert await task == "done"

    asyncio.run(scenario())
