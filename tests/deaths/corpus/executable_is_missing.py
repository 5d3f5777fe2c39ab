"""The executable of the interpreter is not there: no process, no handle, and the call says so."""

from __future__ import annotations

from roam.exit import ExitKind
from roam.stage import Stage
from tests.deaths.death import Death
from tests.deaths.scenery import another_executable

DEATH = Death(
    ExitKind.START_FAILED,
    "unknown",
    stage=Stage.EXEC,
    is_refused=True,
    around=lambda: another_executable("/nonexistent/python"),
    methods=("spawn",),
)


def plant() -> None:
    pass
