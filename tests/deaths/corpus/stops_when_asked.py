"""The host asks it to stop, and it returns."""

from __future__ import annotations

from roam.exit import ExitKind
from roam.stage import Stage
from tests.deaths.death import Death
from tests.deaths.tools import wait_for_stop

DEATH = Death(ExitKind.STOPPED, "stopped by its host", code=0, stage=Stage.EXIT, act=lambda cell: cell.stop())


def plant() -> None:
    wait_for_stop()
