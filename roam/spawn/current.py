"""What a cell knows of itself."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..tracing.cell import CellTracing
    from ..tracing.records import Peer

__all__ = ["CurrentCell", "current_cell", "set_current"]

_current: CurrentCell | None = None
_pid = 0


class CurrentCell:
    """The cell this code runs in. Obtained from `current_cell`."""

    def __init__(self, name: str, tracing: CellTracing) -> None:
        self._name = name
        self._tracing = tracing

    @property
    def name(self) -> str:
        """The name given to `spawn_cell`."""
        return self._name

    @property
    def peer(self) -> Peer:
        """This attachment, as the host's records name it."""
        return self._tracing.peer

    @property
    def stopping(self) -> bool:
        """True once the host has asked this cell to stop. Costs one read of shared memory; poll it in loops."""
        return self._tracing.stopping

    def beat(self) -> None:
        """Say that this cell makes progress, where it writes no records meanwhile; see `hang_after` of `spawn_cell`.
        Costs one store into shared memory."""
        self._tracing.beat()

    def __repr__(self) -> str:
        return f"<CurrentCell {self._name!r}>"


def current_cell() -> CurrentCell | None:
    """The cell this code runs in; None in any other process, also in one that a cell forked. Any thread."""
    return _current if _current is not None and _pid == os.getpid() else None


def set_current(name: str, tracing: CellTracing) -> None:
    """Called once by the bootstrap."""
    global _current, _pid
    _current, _pid = CurrentCell(name, tracing), os.getpid()
