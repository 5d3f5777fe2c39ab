"""What is traced, as the host decides and the cell obeys."""

from __future__ import annotations

import os
from typing import Any, NamedTuple, Self

from ..errors import FilterError
from .filter import Filter

__all__ = ["DISABLED", "ConfigResult", "TracingConfig"]

DEFAULT_FILTER = "info"


class _Settings(NamedTuple):
    capture: Filter
    """Decides in the cell what is written."""
    forward: Filter | None
    """Decides at the host what goes on to subscribers and logging; None for all."""
    span_events: bool
    """Whether spans are written as records. The open-span table is kept either way."""


class TracingConfig(_Settings):
    """What cells capture and what the host passes on. Immutable.

    `capture` is the filter that decides in the cell, `ROAM_FILTER` or `info` where it is not given. `forward` is the
    filter for subscribers and the host's logging, where it should be narrower; it cannot ask for spans. Raises
    `FilterError` for a filter that does not parse.
    """

    __slots__ = ()

    def __new__(
        cls, capture: str | Filter | None = None, *, forward: str | Filter | None = None, span_events: bool = True
    ) -> Self:
        """Parse the filters."""
        if capture is None:
            capture = _filter_from_environment()
        if not isinstance(capture, Filter):
            capture = Filter(capture)
        if forward is not None and not isinstance(forward, Filter):
            forward = Filter(forward)
        if forward is not None:
            forward.require_targets_only()
        return super().__new__(cls, capture, forward, bool(span_events))

    def __getnewargs_ex__(self) -> tuple[tuple[Filter], dict[str, Any]]:
        """For pickle and copy, which call `__new__`."""
        return (self.capture,), {"forward": self.forward, "span_events": self.span_events}

    def to_bytes(self) -> bytes:
        """What travels to the cell: `<span_events> <filter>` as UTF-8."""
        return f"{int(self.span_events)} {self.capture}".encode()

    @classmethod
    def from_bytes(cls, body: bytes) -> TracingConfig:
        """The cell's reading of `to_bytes`. Raises `FilterError` or `ValueError` for anything else."""
        span_events, _, text = body.decode().partition(" ")
        return cls(text, span_events=bool(int(span_events)))


def _filter_from_environment() -> Filter:
    try:
        # Set and empty is as good as not set.
        return Filter(os.environ.get("ROAM_FILTER") or DEFAULT_FILTER)
    except FilterError as error:
        # Nothing at the call that fails says where this filter comes from.
        error.add_note("This filter is the value of the environment variable ROAM_FILTER.")
        raise


DISABLED = TracingConfig("off", span_events=False)
"""In force wherever `ROAM_DISABLE` is set."""


class ConfigResult(NamedTuple):
    """What became of a configuration at one cell."""

    generation: int
    applied: bool
    """True once every later record of the cell is judged by it; False where the cell had not emitted by the timeout
    (it takes the configuration with its next emit) or is gone."""

    def __bool__(self) -> bool:
        return self.applied
