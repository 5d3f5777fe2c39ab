"""An argument's module cannot be imported in the cell."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType

from roam.exit import ExitKind
from roam.stage import Stage
from tests.deaths.death import Death


@contextlib.contextmanager
def module_of_host() -> Iterator[tuple[object]]:
    module = ModuleType("not_there_in_cells")
    thing = type("Thing", (), {"__module__": module.__name__})
    module.Thing = thing  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    try:
        yield (thing(),)
    finally:
        del sys.modules[module.__name__]


DEATH = Death(
    ExitKind.START_FAILED,
    "exception",
    code=1,
    stage=Stage.UNPICKLE,
    raises="ModuleNotFoundError",
    around=module_of_host,
    methods=("forkserver", "spawn"),
)


def plant(thing: object) -> None:
    pass
