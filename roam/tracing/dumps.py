"""How many post-mortems a host leaves on disk, and what it needs of whoever writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from .statistics import DumpStatistics

if TYPE_CHECKING:
    from ..exit import CellExit
    from .peer import Remains

__all__ = ["DumpKeeper", "DumpLimits", "KeptDump"]


class _Limits(NamedTuple):
    most_count: int
    """How many dumps stay in the directory."""
    most_bytes: int
    """What they may take together."""
    burst_count: int
    """How many deaths in a row have a dump of their own, however fast they come."""
    rate_per_s: float
    """How many more each second brings."""


class DumpLimits(_Limits):
    """What dumps may take of a disk. Raises `ValueError` for limits that cannot work.

    When there are too many, or they are too large, the oldest go, whichever host wrote them, and never the newest of
    this one. A death beyond burst and rate leaves no file: its post-mortem is in memory, with the handle of the cell.
    """

    __slots__ = ()

    def __new__(
        cls,
        *,
        most_count: int = 1_000,
        most_bytes: int = 1 << 30,
        burst_count: int = 200,
        rate_per_s: float = 5.0,
    ) -> Self:
        """Check and keep the limits."""
        limits = super().__new__(cls, most_count, most_bytes, burst_count, rate_per_s)
        for name, value, most in zip(_Limits._fields, limits, (1 << 20, 1 << 50, 1 << 20, 1 << 20), strict=True):
            is_rate = name == "rate_per_s"
            if type(value) not in ((int, float) if is_rate else (int,)) or not (0 < value <= most):
                what = "a number above 0, at most" if is_rate else "an integer from 1 to"
                raise ValueError(f"DumpLimits({name}={value!r}): must be {what} {most}")
        return limits

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]:
        """For pickle and copy, which call `__new__`."""
        return (), self._asdict()


class KeptDump(NamedTuple):
    """What became of one post-mortem."""

    path: Path | None
    """Its file, None where there is none."""
    is_settled: bool
    """Whether the segment may go: the file is safe, or there is to be none. Else it is the evidence."""
    load: Callable[[], Any]
    """Gives the `PostMortem`, from the file or from memory."""


class DumpKeeper(Protocol):
    """Whoever writes the post-mortems of one host."""

    @property
    def directory(self) -> Path:
        """Where they go."""
        ...

    def statistics(self) -> DumpStatistics:
        """What became of them. Any thread."""
        ...

    def keep(self, remains: Remains, exit: CellExit, facts: Mapping[str, object]) -> KeptDump:
        """Write a post-mortem, as far as the limits allow. Never raises. Any thread."""
        ...

    def close(self) -> None:
        """No more deaths will come: say what has still to be said."""
        ...
