"""What a cell says of its own life: how far it has come, and the exception that ended a part of it."""

from __future__ import annotations

import enum
from typing import NamedTuple

__all__ = ["ExceptionText", "Stage"]


class Stage(enum.IntEnum):
    """How far a cell had come. The number is the stage word of the segment; the cell stores it as each stage begins."""

    EXEC = 0
    BOOTSTRAP = 1
    IMPORT_MAIN = 2
    UNPICKLE = 3
    RUN = 4
    EXIT = 5

    @property
    def label(self) -> str:
        """The name used in texts: `exec`, `bootstrap`, `import_main`, `unpickle`, `run`, `exit`."""
        return self.name.lower()


class ExceptionText(NamedTuple):
    """An exception as text, bounded and safe to keep: qualified type name, message, formatted traceback."""

    type: str
    message: str
    traceback: str
