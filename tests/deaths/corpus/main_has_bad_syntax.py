"""__main__ cannot be compiled in the cell."""

from __future__ import annotations

from roam.exit import ExitKind
from roam.stage import Stage
from tests.deaths.death import Death
from tests.deaths.scenery import another_main

DEATH = Death(
    ExitKind.START_FAILED,
    "exception",
    code=1,
    stage=Stage.IMPORT_MAIN,
    raises="SyntaxError",
    around=lambda: another_main("def broken(:\n"),
    methods=("forkserver", "spawn"),
)


def plant() -> None:
    pass
