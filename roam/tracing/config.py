"""What is traced, as the host decides and the cell obeys."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Self

import msgspec

from ..errors import ConfigTooLarge, FilterError
from ..shm.layout import LANES, SUPPRESSED_SLOTS
from ..shm.mailbox import LIMIT_BYTES
from ..shm.overflow import DROP_OLDEST, Overflow, parse_overflow
from .filter import Filter
from .redaction import REDACTED_NAMES
from .sampling import Rule, parse_rules, rate_text

__all__ = ["DISABLED", "ConfigResult", "TracingConfig", "enclosed", "slots_for", "slots_of"]

DEFAULT_FILTER = "info"


class _Settings(NamedTuple):
    capture: Filter
    """Decides in the cell what is written."""
    forward: Filter | None
    """Decides at the host what goes on to subscribers and logging; None for all."""
    span_events: bool
    """Whether spans are written as records. The open-span table is kept either way."""
    overflow: tuple[Overflow, ...]
    """What becomes of records that the host has no room for: for the lanes life, vital and bulk."""
    redact: tuple[str, ...]
    """Names of fields whose values are never written."""
    exception_locals: bool
    """Whether exceptions show the local variables of their innermost frames."""
    rules: tuple[Rule, ...]
    """What is sampled, and what has a rate limit."""


class TracingConfig(_Settings):
    """What cells capture and what the host passes on. Immutable.

    `capture` is the filter that decides in the cell, `ROAM_FILTER` or `info` where it is not given. `forward` is the
    filter for subscribers and the host's logging, where it should be narrower; it cannot ask for spans. Raises
    `FilterError` for a filter that does not parse.

    `overflow` says what happens where a cell writes faster than its host reads: `drop_oldest`, which is the default and
    costs an emit nothing; `drop_newest`; or `block(seconds)`, which waits in the emit, then drops, and drops at once
    until the host moves again. It is one policy for all lanes, or one for each of `life` (exceptions), `vital`
    (WARNING and above) and `bulk`. Every record that is dropped is counted. Raises `ValueError` for anything else.

    `redact` names the fields whose values never leave the cell, see `roam.tracing.redaction`; to name more write
    `redact=(*roam.REDACTED_NAMES, "iban")`, to write everything `redact=()`. With `exception_locals` the last frames of
    an exception show their local variables, each cut to 160 bytes, secret ones redacted by their names.

    `sample={"app.tick": 0.01}` writes that share of a target's records, and of traces whose outermost span has it;
    `rate={"app.spam": "100/s"}` so many of its events in a second (`m`, `h`), and as many at once; spans follow shares
    only. WARNING and above are only kept out where the key names a level, as in `"app.tick=error"`. A target has one
    key, and there are up to 48. See `roam.tracing.sampling`.

    What a cell prints are events of level INFO and of the targets `stdout` and `stderr`. The host makes them, so that
    `capture` and `forward` hold for them, outside of all spans, and nothing else does.

    Raises `TypeError` or `ValueError` for an option that is none of this.
    """

    __slots__ = ()

    def __new__(
        cls,
        capture: str | Filter | None = None,
        *,
        forward: str | Filter | None = None,
        span_events: bool = True,
        overflow: str | Mapping[str, str] = "drop_oldest",
        redact: Iterable[str] = REDACTED_NAMES,
        exception_locals: bool = False,
        sample: Mapping[str, float] | None = None,
        rate: Mapping[str, str] | None = None,
    ) -> Self:
        """Parse everything."""
        if capture is None:
            capture = _filter_from_environment()
        if not isinstance(capture, Filter):
            capture = Filter(capture)
        if forward is not None and not isinstance(forward, Filter):
            forward = Filter(forward)
        if forward is not None:
            forward.require_targets_only()
        return super().__new__(
            cls,
            capture,
            forward,
            bool(span_events),
            _policies(overflow),
            _names(redact),
            bool(exception_locals),
            _rules({} if sample is None else sample, {} if rate is None else rate),
        )

    def __getnewargs_ex__(self) -> tuple[tuple[Filter], dict[str, Any]]:
        """For pickle and copy, which call `__new__`."""
        options = self._asdict() | {"overflow": self._overflow_texts(), "sample": self.sample, "rate": self.rate}
        del options["rules"]
        return (options.pop("capture"),), options

    @property
    def sample(self) -> dict[str, float]:
        """Key to share."""
        return {rule.key: rule.share for rule in self.rules if rule.share is not None}

    @property
    def rate(self) -> dict[str, str]:
        """Key to rate."""
        return {rule.key: rate_text(rule.rate) for rule in self.rules if rule.rate is not None}

    def to_bytes(self, slots: Mapping[str, int] | None = None) -> bytes:
        """What travels to the cell; `slots` says where it counts what the keys of sampling keep out."""
        redact = None if self.redact == REDACTED_NAMES else self.redact
        return msgspec.json.encode(
            _Wire(
                str(self.capture),
                self.span_events,
                self._overflow_texts(),
                redact,
                self.exception_locals,
                self.sample,
                self.rate,
                dict(slots or {}),
            )
        )

    @classmethod
    def from_bytes(cls, body: bytes) -> TracingConfig:
        """The cell's reading of `to_bytes`. Raises `ValueError`, of which `FilterError` is one, for anything else."""
        wire = msgspec.json.decode(body, type=_Wire)
        return cls(
            wire.capture,
            span_events=wire.span_events,
            overflow=wire.overflow,
            redact=REDACTED_NAMES if wire.redact is None else wire.redact,
            exception_locals=wire.exception_locals,
            sample=wire.sample,
            rate=wire.rate,
        )

    def _overflow_texts(self) -> dict[str, str]:
        """Lane to policy, where it is not the default."""
        return {lane: str(policy) for lane, policy in zip(LANES, self.overflow, strict=True) if policy != DROP_OLDEST}


def enclosed(config: TracingConfig, before: Mapping[str, int]) -> tuple[TracingConfig, bytes, dict[str, int]]:
    """What goes to a peer whose keys have the slots `before`: the configuration for it, the same as bytes, and its slots
    from then on. Raises `TypeError` for what is no configuration, `ConfigTooLarge`, or `ValueError` for too many keys."""
    if not isinstance(config, TracingConfig):
        raise TypeError(f"a configuration is a TracingConfig, as in TracingConfig('info'), not {config!r}")
    config = DISABLED if os.environ.get("ROAM_DISABLE") else config
    slots = slots_for(config, before)
    body = config.to_bytes(slots)
    if len(body) > LIMIT_BYTES:
        raise ConfigTooLarge(size_bytes=len(body), limit_bytes=LIMIT_BYTES)
    return config, body, slots


def slots_for(config: TracingConfig, before: Mapping[str, int]) -> dict[str, int]:
    """Where a cell is to count, by key: a key that had a slot before keeps it. Raises `ValueError` where there are more
    keys than slots."""
    slots = dict(before)
    for rule in config.rules:
        slots.setdefault(rule.key, len(slots))
    if len(slots) > SUPPRESSED_SLOTS:
        raise ValueError(
            f"a cell counts for {SUPPRESSED_SLOTS} keys of sample and rate in its life, and this would be {len(slots)}"
        )
    return slots


def slots_of(body: bytes) -> dict[str, int]:
    """Where a cell counts, by key, as `TracingConfig.to_bytes` was told. Raises `ValueError` for what is none of that."""
    slots = msgspec.json.decode(body, type=_Wire).slots
    return {key: slot for key, slot in slots.items() if 0 <= slot < SUPPRESSED_SLOTS}


class _Wire(msgspec.Struct, array_like=True):
    """A configuration as the mailbox holds it."""

    capture: str
    span_events: bool
    overflow: dict[str, str]
    redact: tuple[str, ...] | None
    exception_locals: bool
    sample: dict[str, float]
    rate: dict[str, str]
    slots: dict[str, int]


def _names(redact: Iterable[str]) -> tuple[str, ...]:
    if isinstance(redact, (str, bytes)):
        raise TypeError(f"redact={redact!r} is one name and not several: write redact=[{redact!r}]")
    if not isinstance(redact, Iterable):
        raise TypeError(f"redact={redact!r}: expected names of fields, as in redact=['iban'], or redact=() for none")
    names: tuple[Any, ...] = tuple(redact)
    for name in names:
        if not isinstance(name, str) or not any(map(str.isalnum, name)):
            raise ValueError(f"redact: {name!r} is no name of a field; one has letters or digits")
    return names


def _rules(sample: Mapping[str, float], rate: Mapping[str, str]) -> tuple[Rule, ...]:
    rules = parse_rules(sample, rate)
    if len(rules) > SUPPRESSED_SLOTS:
        raise ValueError(f"sample and rate: {len(rules)} keys; a cell counts for up to {SUPPRESSED_SLOTS} keys")
    return rules


def _policies(overflow: str | Mapping[str, str]) -> tuple[Overflow, ...]:
    if isinstance(overflow, str):
        return (parse_overflow(overflow),) * len(LANES)
    if not isinstance(overflow, Mapping):
        raise TypeError(f"overflow={overflow!r}: expected a policy, as in 'drop_oldest', or policies by lane")
    unknown = [lane for lane in overflow if lane not in LANES]
    if unknown:
        raise ValueError(f"overflow: there is no lane {unknown[0]!r}; the lanes are {', '.join(LANES)}")
    for lane, policy in overflow.items():
        if not isinstance(policy, str):
            raise TypeError(f"overflow[{lane!r}] = {policy!r}: a policy is a text, as in 'drop_oldest'")
    return tuple(parse_overflow(overflow.get(lane, "drop_oldest")) for lane in LANES)


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
    """What became of a configuration at one cell: applied, refused, or, where it is neither, not yet acknowledged. Then
    the cell had not emitted by the timeout, and takes it with its next emit."""

    generation: int
    """Its number at that cell; 0 where it was refused before it got one."""
    applied: bool
    """Whether every later record of the cell is judged by it, or by a newer one."""
    refused: str = ""
    """Why the cell goes on without it, as one sentence; empty where it does not."""

    def __bool__(self) -> bool:
        return self.applied
