"""The import of __main__ reads address 0 in the cell."""

from __future__ import annotations

import signal

from roam.exit import ExitKind
from roam.stage import Stage
from tests.deaths.death import Death
from tests.deaths.scenery import another_main

DEATH = Death(
    ExitKind.START_FAILED,
    "Segmentation fault",
    signal=signal.SIGSEGV,
    stage=Stage.IMPORT_MAIN,
    around=lambda: another_main("import ctypes\nctypes.string_at(0)\n"),
    methods=("forkserver", "spawn"),
)


def plant() -> None:
    pass
