"""An event loop waits for what will never happen."""

from __future__ import annotations

import signal

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.tools import KILLED_WHEN_HUNG

DEATH = Death(
    ExitKind.KILLED_BY_HOST,
    "hung: waits for input or events",
    signal=signal.SIGKILL,
    options=KILLED_WHEN_HUNG,
)


def plant() -> None:
    import asyncio

    asyncio.run(asyncio.Event().wait())  # dies here
