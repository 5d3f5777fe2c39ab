"""What a file of the corpus declares: how the host has to call its death, and what has to be done for it.

Cells import this, too, with the death that they die of.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from roam.exit import ExitKind
from roam.stage import Stage

__all__ = ["Death", "Mishap"]


class Mishap(Exception):
    """The exception that nobody catches."""


@dataclass(frozen=True)
class Death:
    """One way to die, and how the host has to call it."""

    kind: ExitKind
    verdict: str
    """The right one. A last `…` stands for any text."""
    code: int | None = None
    signal: int | None = None
    stage: Stage = Stage.RUN
    also: tuple[str, ...] = ()
    """Verdicts that are not wrong either: what is less than the host could know, or the same in other words."""
    is_refused: bool = False
    """Whether the call of `spawn_cell` itself raises `SpawnFailed`, so that there is nothing to judge."""
    may_be_lost: bool = False
    """Whether it is right as well that nobody knows: `lost`, without a signal."""
    raises: str | None = None
    """The exception that leaves the target, and with it the spans."""
    innermost: str | None = "plant"
    """The innermost Python function, where a fatal signal leaves stacks; None where it differs."""
    stderr: str = ""
    """What of its standard error stream has to be in the post-mortem."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """For `spawn_cell`."""
    act: Callable[[Any], object] | None = None
    """What the host does to a cell that waits for it. What `multiprocess.Process` can do as well is done to one, too."""
    around: Callable[[], AbstractContextManager[tuple[object, ...]]] | None = None
    """What this process, or the machine, has to be like from before the start until after the end: it yields further
    arguments of the target. Such a death is not for others to live through: it runs alone."""
    after: Callable[[list[Any]], list[str]] | None = None
    """Looks, with the records at hand, at what lives on, ends it, and says what is wrong with that."""
    needs: Callable[[], str] | None = None
    """Says what this machine lacks, else `""`."""
    methods: tuple[str, ...] = ("forkserver", "spawn", "fork")

    def as_known(self, kind: ExitKind) -> Death:
        """What is expected where the host says that `kind`."""
        if self.may_be_lost and kind is ExitKind.LOST:
            return dataclasses.replace(self, kind=kind, verdict="lost", code=None, signal=None)
        return self

    def lack(self) -> str:
        """What this machine lacks for it, else `""`."""
        return self.needs() if self.needs is not None else ""

    def scene(self) -> AbstractContextManager[tuple[object, ...]]:
        """`around`, or nothing at all."""
        return self.around() if self.around is not None else contextlib.nullcontext(())

    @property
    def leaves_dump(self) -> bool:
        """False for a normal end: there the handle alone has to tell."""
        is_normal = self.kind in (ExitKind.RETURNED, ExitKind.STOPPED)
        return not is_normal and not (self.code == 0 and self.stage is Stage.EXIT)

    @property
    def reaches_target(self) -> bool:
        """False where the target never runs, and so writes no record."""
        return self.stage >= Stage.RUN

    @property
    def is_for_company(self) -> bool:
        """Whether others may live and die beside it, under the fork server and by `spawn`."""
        return self.around is None and self.needs is None and {"forkserver", "spawn"} <= set(self.methods)

    @property
    def unwound_by(self) -> str | None:
        """The exception that leaves the spans before the process ends, `""` where they end in peace; None where they
        stay open."""
        return "" if self.stage is Stage.EXIT and self.raises is None else self.raises

    def allows(self, verdict: str) -> bool:
        """Whether a verdict is right, or at least not wrong."""
        return any(
            verdict.startswith(allowed[:-1]) if allowed.endswith("…") else verdict == allowed
            for allowed in (self.verdict, *self.also)
        )
