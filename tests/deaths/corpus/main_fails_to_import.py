"""The import of __main__ raises in the cell."""

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
    raises="ModuleNotFoundError",
    around=lambda: another_main("import not_there_at_all\n"),
    methods=("forkserver", "spawn"),
)


def plant() -> None:
    pass
