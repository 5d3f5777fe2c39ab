"""The executable of the interpreter is another program, which fails."""

from __future__ import annotations

from roam.exit import ExitKind
from roam.stage import Stage
from tests.deaths.death import Death
from tests.deaths.scenery import another_executable

DEATH = Death(
    ExitKind.START_FAILED,
    "exited by itself",
    code=1,
    stage=Stage.EXEC,
    also=("unknown",),
    around=lambda: another_executable("/bin/false"),
    methods=("spawn",),
)


def plant() -> None:
    pass
