"""The corpus as a table: one entry for each file of `tests/deaths/corpus`."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

from . import corpus
from .death import Death

__all__ = ["DEATHS", "Planted"]

_MARK = "  # dies here"


@dataclass(frozen=True)
class Planted:
    """One file of the corpus. `DEATH` says what is expected, and `plant` is what the cell does to itself."""

    module: ModuleType

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.module.__name__.rpartition(".")[2]

    @property
    def what(self) -> str:
        """What it plants, in one line."""
        return (self.module.__doc__ or "").partition("\n")[0]

    @property
    def death(self) -> Death:
        """How the host has to call it."""
        found = self.module.DEATH
        assert isinstance(found, Death)
        return found

    @property
    def path(self) -> str:
        """The file that stacks and tracebacks have to name."""
        return str(self.module.__file__)

    @cached_property
    def line(self) -> int | None:
        """The line that they have to name, which says `dies here`; None where the death leaves no stack."""
        lines = Path(self.path).read_text().splitlines()
        return next((number for number, line in enumerate(lines, 1) if line.endswith(_MARK)), None)


def _load() -> dict[str, Planted]:
    names = sorted(module.name for module in pkgutil.iter_modules(corpus.__path__))
    return {name: Planted(importlib.import_module(f"{corpus.__name__}.{name}")) for name in names}


DEATHS = _load()
"""By name, in the order of the alphabet."""
