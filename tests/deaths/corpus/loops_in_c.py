"""A loop in C that holds the interpreter: a regular expression that backtracks."""

from __future__ import annotations

import re
import signal

from roam.exit import ExitKind
from tests.deaths.death import Death
from tests.deaths.tools import KILLED_WHEN_HUNG

DEATH = Death(ExitKind.KILLED_BY_HOST, "hung: busy", signal=signal.SIGKILL, options=KILLED_WHEN_HUNG)


def plant() -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")  # dies here
