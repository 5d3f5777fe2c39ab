"""The host closes while the cell waits, and the cell returns."""

from __future__ import annotations

from roam.exit import ExitKind
from roam.stage import Stage
from tests.deaths.death import Death
from tests.deaths.scenery import alone
from tests.deaths.tools import wait_for_stop

DEATH = Death(
    ExitKind.STOPPED, "stopped by its host", code=0, stage=Stage.EXIT, act=lambda cell: cell._host.close(), around=alone
)


def plant() -> None:
    wait_for_stop()
