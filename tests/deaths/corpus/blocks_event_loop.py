"""A coroutine sleeps without awaiting, and its event loop stands still."""

from __future__ import annotations

import signal
import time

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.tools import KILLED_WHEN_HUNG

DEATH = Death(ExitKind.KILLED_BY_HOST, "hung: sleeps", signal=signal.SIGKILL, options=KILLED_WHEN_HUNG)


def plant() -> None:
    import asyncio

    asyncio.run(block())


async def block() -> None:
    forget_to_await()


def forget_to_await() -> None:
    time.sleep(60)  # dies here
