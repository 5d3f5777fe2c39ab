"""What a cell says of its own life: how far it has come, and the exception that ended a part of it."""

from __future__ import annotations

import enum
from typing import NamedTuple

__all__ = ["ExceptionText", "Frame", "Stage"]


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


class Frame(NamedTuple):
    """One frame of a traceback, as text: the code of a cell may be nowhere on its host."""

    file: str
    line: int
    """0 where there is none."""
    function: str
    source: str
    """The line of source, stripped; empty where it cannot be had."""


class ExceptionText(NamedTuple):
    """An exception as text, bounded and safe to keep.

    Records carry type, message and traceback alone. The exception that ended a stage of a cell has its parts as well, and
    those of all that hangs on it, itself in this form.
    """

    type: str
    """Qualified name."""
    message: str
    traceback: str
    """What the interpreter prints, causes and members included; empty for what hangs on another."""
    frames: tuple[Frame, ...] = ()
    """Outermost first; of a long stack the same number from both ends."""
    frames_left_out: int = 0
    """How many are missing in the middle of `frames`."""
    notes: tuple[str, ...] = ()
    notes_left_out: int = 0
    cause: ExceptionText | None = None
    context: ExceptionText | None = None
    """What was being handled, unless that is the cause."""
    is_context_suppressed: bool = False
    """True after `raise ... from ...`: the interpreter does not print the context."""
    members: tuple[ExceptionText, ...] = ()
    """The exceptions in a group."""
    left_out: int = 0
    """Causes, contexts and members of this one that are not here: too many, too deep, or here already."""
