"""From what is known of a dead cell to its `CellExit`."""

from __future__ import annotations

from collections.abc import Callable

from ..exit import CellExit, Confidence, ExitKind
from ..stage import ExceptionText, Stage
from ..tracing.peer import Remains
from ..tracing.records import Event
from . import answer, last_words
from .activity import Activity
from .causes import Case, conclude
from .facts import Corpse
from .ladder import Interference
from .memory import MemoryKill
from .status import Status

__all__ = ["judge", "of_hang"]


def judge(
    status: Status,
    remains: Remains,
    found: answer.Answer | None,
    did: Interference,
    *,
    corpse: Corpse,
    find_memory_kill: Callable[[], MemoryKill | None] = lambda: None,
) -> CellExit:
    """How the cell ended, and why. `find_memory_kill` is asked only after a death that it could explain."""
    exitcode = status.exitcode
    signal = -exitcode if exitcode is not None and exitcode < 0 else None
    code = exitcode if exitcode is not None and exitcode >= 0 else None
    kind = _kind(signal, code, remains, found, did)
    exception = found.text if found is not None else None
    if exception is None and kind in (ExitKind.START_FAILED, ExitKind.RAISED):
        exception = _last_failure(remains)
    cpu_s, max_rss_bytes = status.cpu_s, status.max_rss_bytes
    if remains.said_goodbye:
        # Its own last word; from a cell that died without one it would be any old number.
        if cpu_s is None and remains.cpu_ns is not None:
            cpu_s = remains.cpu_ns / 1e9
        max_rss_bytes = max_rss_bytes or remains.max_rss_bytes
    verdict = conclude(
        Case(
            kind=kind,
            signal=signal,
            code=code,
            exception=exception,
            cpu_s=cpu_s,
            outcome=found.outcome if found is not None else None,
            last_word=last_words.read(remains),
            remains=remains,
            corpse=corpse,
            did=did,
            find_memory_kill=find_memory_kill,
        )
    )
    return CellExit(
        kind=kind,
        code=code,
        signal=signal,
        # A process that said goodbye and ended well has come to its end, wherever it was started.
        stage=Stage.EXIT if remains.said_goodbye and code == 0 else remains.stage,
        exception=exception,
        started_ns=did.started_ns,
        ended_ns=remains.died_ns,
        cpu_s=cpu_s,
        max_rss_bytes=max_rss_bytes,
        core_dumped=status.core_dumped,
        last_beat_ns=_last_beat_ns(remains),
        steps=tuple(did.steps),
        verdict=verdict.text,
        confidence=verdict.confidence,
        evidence=verdict.evidence,
    )


def of_hang(hang: Activity, remains: Remains, did: Interference) -> CellExit:
    """What stands for the end in the post-mortem of a cell that is hung and alive."""
    return CellExit(
        kind=ExitKind.LOST,
        stage=remains.stage,
        started_ns=did.started_ns,
        ended_ns=remains.died_ns,
        last_beat_ns=_last_beat_ns(remains),
        steps=tuple(did.steps),
        verdict=f"hung: {hang}",
        confidence=Confidence.CERTAIN,
        evidence=(f"no sign of life for {hang.silent_s:.1f} s", f"its process is {hang.kind}"),
    )


def _last_beat_ns(remains: Remains) -> int | None:
    beat_ns = remains.last_beat_ns
    return None if beat_ns is None else remains.anchor.to_wall_ns(beat_ns)


def _kind(
    signal: int | None, code: int | None, remains: Remains, found: answer.Answer | None, did: Interference
) -> ExitKind:
    outcome = found.outcome if found is not None else None
    if signal is not None:
        if signal in did.signals or signal in did.unanswered:
            return ExitKind.KILLED_BY_HOST
        return ExitKind.SIGNALED if remains.stage >= Stage.RUN else ExitKind.START_FAILED
    if code is None and not (remains.said_goodbye and outcome is not None):
        return ExitKind.LOST
    if remains.stage < Stage.RUN:
        return ExitKind.START_FAILED
    if outcome == answer.RAISED and code in (1, None):
        return ExitKind.RAISED
    if code in (0, None):
        if did.stop_requested and not did.signals:
            return ExitKind.STOPPED
        if outcome == answer.RETURNED:
            return ExitKind.RETURNED
    return ExitKind.EXITED


def _last_failure(remains: Remains) -> ExceptionText | None:
    for record in reversed(remains.records()):
        if isinstance(record, Event) and record.exception is not None and "stage" in record.fields:
            return record.exception
    return None
