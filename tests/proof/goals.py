"""Every goal of the proof, in the order of the table."""

from __future__ import annotations

from .config_kills import ConfigKills
from .deaths import Deaths
from .exact_kills import ExactKills
from .flood import Flood
from .fuzz_bodies import FuzzBodies
from .fuzz_dumps import FuzzDumps
from .fuzz_segments import FuzzSegments
from .goal import Goal
from .host_deaths import HostDeaths
from .hostile import HostileCell
from .interleavings import Interleavings
from .kills import RandomKills
from .mutants import Mutants
from .nth_failure import NthFailure
from .paced import PacedLoad
from .reentrancy import Reentrancy
from .soak import Soak
from .spared import SparedFlood

__all__ = ["GOALS"]

GOALS: dict[str, Goal] = {
    goal.name: goal
    for goal in (
        RandomKills(),
        ExactKills(),
        ConfigKills(),
        Interleavings(),
        Mutants(),
        FuzzSegments(),
        FuzzDumps(),
        FuzzBodies(),
        Flood(),
        SparedFlood(),
        PacedLoad(),
        Deaths(),
        HostDeaths(),
        Reentrancy(),
        NthFailure(),
        HostileCell(),
        Soak(),
    )
}
"""By name."""
