"""From what is known of a dead cell to its `CellExit`.

A cause is named only where there is evidence for it.
"""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass, field

from ..exit import CellExit, ExitKind, signal_name
from ..stage import ExceptionText, Stage
from ..tracing.peer import Remains
from ..tracing.records import Event
from . import answer
from .status import Status

__all__ = ["Interference", "judge", "oom_kill_count"]

_FATAL = b"Fatal Python error: "
_SIGKILL = 9
_OOM_KILL = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)
_READ_BYTES = 64 << 10


@dataclass(slots=True)
class Interference:
    """What the host itself did to a cell."""

    stop_requested: bool = False
    signals: list[int] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    """The same as text, with the time since the start in seconds."""


def judge(
    status: Status,
    remains: Remains,
    found: answer.Answer | None,
    did: Interference,
    *,
    started_ns: int,
    oom_kills: int = 0,
) -> CellExit:
    """How the cell ended. `oom_kills` is by how much the kernel's count of memory kills grew while the cell lived."""
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
    verdict, evidence = _verdict(kind, signal, code, exception, remains, did, oom_kills)
    return CellExit(
        kind=kind,
        code=code,
        signal=signal,
        stage=remains.stage,
        exception=exception,
        started_ns=started_ns,
        ended_ns=remains.died_ns,
        cpu_s=cpu_s,
        max_rss_bytes=max_rss_bytes,
        core_dumped=status.core_dumped,
        verdict=verdict,
        evidence=evidence,
    )


def _kind(
    signal: int | None, code: int | None, remains: Remains, found: answer.Answer | None, did: Interference
) -> ExitKind:
    outcome = found.outcome if found is not None else None
    if signal is not None:
        if signal in did.signals:
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


def _verdict(
    kind: ExitKind,
    signal: int | None,
    code: int | None,
    exception: ExceptionText | None,
    remains: Remains,
    did: Interference,
    oom_kills: int,
) -> tuple[str, tuple[str, ...]]:
    if kind is ExitKind.KILLED_BY_HOST or kind is ExitKind.STOPPED:
        return ("killed by its host" if signal else "stopped by its host"), tuple(did.steps)
    if signal == _SIGKILL and oom_kills > 0:
        return "out of memory", (
            f"the kernel's count of memory kills grew by {oom_kills} while the cell lived",
            "SIGKILL",
        )
    if signal is not None and remains.fault_text.startswith(_FATAL):
        said = remains.fault_text[len(_FATAL) :].partition(b"\n")[0].decode("utf-8", "backslashreplace")
        return said, (f"the fault file begins with {_FATAL.decode()}{said}", signal_name(signal))
    if signal is not None:
        return "unknown", (f"{signal_name(signal)}, not sent by this host",)
    if exception is not None:
        if exception.type == "MemoryError":
            return "out of memory", ("MemoryError",)
        return "exception", (exception.type,)
    if kind is ExitKind.RETURNED:
        return "returned", ()
    if kind is ExitKind.EXITED:
        return "exited by itself", (f"exit code {code}",)
    return "unknown", ()


def oom_kill_count() -> int:
    """How often the kernel has killed for memory in this process's control group, or anywhere if that cannot be read."""
    for path in (_cgroup_events(), "/proc/vmstat"):
        found = _OOM_KILL.search(_read(path)) if path else None
        if found is not None:
            return int(found[1])
    return 0


@functools.cache
def _cgroup_events() -> str:
    for line in _read("/proc/self/cgroup").splitlines():
        if line.startswith(b"0::/"):
            return f"/sys/fs/cgroup/{os.fsdecode(line[4:])}/memory.events"
    return ""


def _read(path: str) -> bytes:
    # Twice for every cell, so without what `open` does for text.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, _READ_BYTES)
    except OSError:
        return b""
    finally:
        os.close(fd)
