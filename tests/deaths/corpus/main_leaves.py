"""__main__ leaves by os._exit(9) while the cell imports it."""

from __future__ import annotations

from roam.exit import ExitKind
from roam.stage import Stage
from tests.deaths.death import Death
from tests.deaths.scenery import another_main

DEATH = Death(
    ExitKind.START_FAILED,
    "os._exit",
    code=9,
    stage=Stage.IMPORT_MAIN,
    around=lambda: another_main("import os\nos._exit(9)\n"),
    methods=("forkserver", "spawn"),
)


def plant() -> None:
    pass
