"""An argument's __setstate__ raises in the cell."""

from __future__ import annotations

import contextlib

from roam.exit import ExitKind
from roam.stage import Stage
from tests.deaths.death import Death, Mishap


class Trap:
    def __init__(self) -> None:
        self.is_set = True

    def __setstate__(self, state: object) -> None:
        raise Mishap("a trap")  # dies here


DEATH = Death(
    ExitKind.START_FAILED,
    "exception",
    code=1,
    stage=Stage.UNPICKLE,
    raises="tests.deaths.death.Mishap",
    around=lambda: contextlib.nullcontext((Trap(),)),
    methods=("forkserver", "spawn"),
)


def plant(trap: object) -> None:
    pass
