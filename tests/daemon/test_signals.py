"""A signal is answered by the loop, whichever thread receives it, and never kills the process in its last steps."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, os, signal, sys, threading, time
from nexus.daemon.signals import SignalCalls

async def serve(numbers):
    loop = asyncio.get_running_loop()
    signals = SignalCalls(loop)
    arrived = {number: asyncio.Event() for number in numbers}
    for number in numbers:
        signals.call(signal.Signals(number), arrived[number].set)
    # The main thread waits in the loop and blocks the signals, so that the other thread receives them.
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    for number in numbers:
        loop.call_later(0.05, os.kill, os.getpid(), number)
    await asyncio.gather(*(event.wait() for event in arrived.values()))
    signals.close()

numbers = [int(argument) for argument in sys.argv[1:]]
asyncio.run(serve(numbers))
for number in numbers:
    os.kill(os.getpid(), number)
print("served", flush=True)
class AtTheEnd:
    def __del__(self, kill=os.kill, own=os.getpid()):
        for number in numbers:
            kill(own, number)
sys.modules["kept until the modules go"] = AtTheEnd()
sys.exit(7)
"""


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGINT, signal.SIGHUP), (signal.SIGTERM,)])
def test_signals_reach_the_loop_from_any_thread_and_are_ignored_after_it(numbers: tuple[signal.Signals, ...]) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *(str(int(number)) for number in numbers)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (7, "served\n", "")
