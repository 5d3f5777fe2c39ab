"""Unpickling an argument reads address 0 in the cell."""

from __future__ import annotations

import contextlib
import ctypes
import signal

from roam.exit import ExitKind
from roam.stage import Stage
from tests.deaths.death import Death


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return ctypes.string_at, (0,)


DEATH = Death(
    ExitKind.START_FAILED,
    "Segmentation fault",
    signal=signal.SIGSEGV,
    stage=Stage.UNPICKLE,
    around=lambda: contextlib.nullcontext((Trap(),)),
    methods=("forkserver", "spawn"),
)


def plant(trap: object) -> None:
    pass
