"""What the cells of the soak run. It imports little: every cell of the fork server imports it anew."""

from __future__ import annotations

import os
import signal
import time

import roam

__all__ = ["FILLING", "WAYS", "live"]

WAYS = ("return", "raise", "SIGKILL", "kill()")
"""How a cycle ends; the last is the host's doing."""
FILLING = "x" * 200


def live(number: int, way: str) -> int:
    """Write a few records and end."""
    for index in range(20):
        roam.info("record", number=number, index=index, filling=FILLING)
    if way == "raise":
        raise ValueError(number)
    if way == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "kill()":
        roam.warning("ready")
        time.sleep(600)
    return number
