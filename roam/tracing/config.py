"""What is traced, as the host decides and the cell obeys."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .filter import Filter

__all__ = ["ConfigResult", "TracingConfig"]

DEFAULT_FILTER = "info"


@dataclass(frozen=True, slots=True, init=False)
class TracingConfig:
    """What cells capture and what the host passes on.

    `capture` is the filter that decides in the cell, `ROAM_FILTER` or `info` where it is not given. `forward` is the
    filter for subscribers and the host's logging, where it should be narrower. Raises `FilterError` for a filter
    that does not parse.
    """

    capture: Filter
    forward: Filter | None
    span_events: bool
    """Whether spans are written as records. The open-span table is kept either way."""

    def __init__(
        self, capture: str | Filter | None = None, *, forward: str | Filter | None = None, span_events: bool = True
    ) -> None:
        if capture is None:
            # Set and empty is as good as not set.
            capture = os.environ.get("ROAM_FILTER") or DEFAULT_FILTER
        object.__setattr__(self, "capture", capture if isinstance(capture, Filter) else Filter(capture))
        if forward is not None and not isinstance(forward, Filter):
            forward = Filter(forward)
        object.__setattr__(self, "forward", forward)
        object.__setattr__(self, "span_events", bool(span_events))

    def to_bytes(self) -> bytes:
        """What travels to the cell: `<span_events> <filter>` as UTF-8."""
        return f"{int(self.span_events)} {self.capture}".encode()

    @classmethod
    def from_bytes(cls, body: bytes) -> TracingConfig:
        """The cell's reading of `to_bytes`. Raises `FilterError` or `ValueError` for anything else."""
        span_events, _, text = body.decode().partition(" ")
        return cls(text, span_events=bool(int(span_events)))


@dataclass(frozen=True, slots=True)
class ConfigResult:
    """What became of a configuration at one cell."""

    generation: int
    applied: bool
    """True once every later record of the cell is judged by it; False where the cell had not emitted by the timeout
    (it takes the configuration with its next emit) or is gone."""

    def __bool__(self) -> bool:
        return self.applied
