"""It changes its working directory to one that is removed, then raises."""

from __future__ import annotations

import os
import tempfile

from roam.exit import ExitKind
from tests.deaths.death import Death, Mishap

DEATH = Death(ExitKind.RAISED, "exception", code=1, raises="tests.deaths.death.Mishap")


def plant() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
    raise Mishap("a step went wrong")  # dies here
