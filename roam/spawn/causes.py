"""Why a cell ended: rules in the order of their strength, each with its evidence.

A rule speaks only where something was written down: by the host about itself, by the kernel, by the dying process.
What no rule explains is "unknown", which is better than a guess.
"""

from __future__ import annotations

import os
import re
import signal as signals
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..exit import Confidence, ExitKind, signal_name
from ..postmortem.stacks import FRAMES_SHOWN, crashing_stack, fatal_error
from ..stage import ExceptionText
from ..tracing.peer import Remains
from . import answer
from .facts import Corpse
from .ladder import Interference
from .last_words import LastWord
from .memory import MemoryKill

__all__ = ["Case", "Verdict", "conclude"]

_CERTAIN, _LIKELY, _UNKNOWN = Confidence.CERTAIN, Confidence.LIKELY, Confidence.UNKNOWN

_FAULTS = {
    "Segmentation fault": signals.SIGSEGV,
    "Aborted": signals.SIGABRT,
    "Bus error": signals.SIGBUS,
    "Floating point exception": signals.SIGFPE,
    "Floating-point exception": signals.SIGFPE,
    "Illegal instruction": signals.SIGILL,
}
"""What `faulthandler` calls the signals that it handles."""

_NEAR = 0.9
"""The kernel compares the limit with a count of clock ticks, which runs ahead of the exact time."""
_RECURSIONS = 10
"""A cycle of at most ten functions."""
_LAST_LINES_BYTES = 16 << 10
_LAST_WORDS_BYTES = 1 << 10
_LONGEST_QUOTE = 300
_PYTHON_FATAL = re.compile(rb"^Fatal Python error: (.*)$", re.MULTILINE)
_TERMINATE = re.compile(rb"^(?:terminate called .*|libc\+\+abi: terminating.*)$", re.MULTILINE)
_WHAT = re.compile(rb"^  what\(\):  (.*)$", re.MULTILINE)
_GLIBC = re.compile(
    rb"^(?:.*: )?((?:free|malloc|realloc|munmap_chunk|malloc_consolidate|calloc)\(\): .+|double free or corruption.*"
    rb"|corrupted .+|\*\*\* .+ detected \*\*\*.*|.*: Assertion `.+' failed\.)$",
    re.MULTILINE,
)


class Verdict(NamedTuple):
    """A cause, how sure it is, and what speaks for it."""

    text: str
    confidence: Confidence
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """All that is known of an end before its cause is."""

    kind: ExitKind
    signal: int | None
    code: int | None
    exception: ExceptionText | None
    cpu_s: float | None
    outcome: int | None
    """Of the cell's answer, see `answer`; None where there is none."""
    last_word: LastWord | None
    remains: Remains
    corpse: Corpse
    did: Interference
    find_memory_kill: Callable[[], MemoryKill | None]


def conclude(case: Case) -> Verdict:
    """The first rule that has something to say decides."""
    # r[impl spawn.verdict]
    for rule in _RULES:
        found = rule(case)
        if found is not None:
            return found
    return Verdict("unknown", _UNKNOWN, _what_is_known(case))


def _by_host(case: Case) -> Verdict | None:
    hang = case.did.hang
    if case.kind is ExitKind.STOPPED:
        return Verdict("stopped by its host", _CERTAIN, ("it was asked to stop",))
    if case.kind is not ExitKind.KILLED_BY_HOST or case.signal is None:
        return None
    sent = f"this host sent {signal_name(case.signal)}"
    if hang is not None:
        silence = f"no sign of life for {hang.silent_s:.1f} s"
        return Verdict(f"hung: {hang}", _CERTAIN, (silence, f"its process was {hang.kind}", sent))
    return Verdict("killed by its host", _CERTAIN, (sent,))


def _returned(case: Case) -> Verdict | None:
    return Verdict("returned", _CERTAIN, ()) if case.kind is ExitKind.RETURNED else None


def _by_limit(case: Case) -> Verdict | None:
    soft, hard = case.corpse.limits.get("cpu_s", (None, None))
    if case.signal == signals.SIGXCPU and soft is not None and _has_used(case, soft - 1):
        # The kernel adds a second with each signal.
        return Verdict("processor time limit", _LIKELY, ("SIGXCPU", f"RLIMIT_CPU was {soft - 1} s"))
    if case.signal == signals.SIGKILL and _has_used(case, hard):
        used = f"it had used {case.cpu_s:.2f} s of processor time, and the hard limit was {hard} s"
        return Verdict("processor time limit", _LIKELY, ("SIGKILL", used))
    size = case.corpse.limits.get("file_bytes", (None, None))[0]
    if case.signal == signals.SIGXFSZ and size is not None:
        return Verdict("file size limit", _LIKELY, ("SIGXFSZ", f"RLIMIT_FSIZE was {size} bytes"))
    return None


def _has_used(case: Case, limit_s: int | None) -> bool:
    return limit_s is not None and case.cpu_s is not None and case.cpu_s >= _NEAR * limit_s


def _for_memory(case: Case) -> Verdict | None:
    if case.signal == signals.SIGKILL:
        kill = case.find_memory_kill()
        if kill is not None:
            text = "unknown" if kill.confidence is _UNKNOWN else "out of memory"
            return Verdict(text, kill.confidence, ("SIGKILL, not sent by this host", kill.evidence))
    if case.exception is not None and case.exception.type == "MemoryError":
        for name in ("address_space_bytes", "data_bytes"):
            limit = case.corpse.limits.get(name, (None, None))[0]
            if limit is not None:
                what = name.removesuffix("_bytes").replace("_", " ")
                return Verdict("memory limit", _LIKELY, ("MemoryError", f"the limit of its {what} was {limit} bytes"))
    return None


def _last_lines(case: Case) -> bytes:
    return case.remains.stderr_tail[-_LAST_LINES_BYTES:]


def _quote(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")[:_LONGEST_QUOTE]


def _last(pattern: re.Pattern[bytes], text: bytes) -> re.Match[bytes] | None:
    found = None
    for found in pattern.finditer(text):  # noqa: B007 -- the last one counts
        continue
    return found


def _aborted(case: Case) -> Verdict | None:
    """An abort says on standard error why, in one of three ways."""
    if case.signal != signals.SIGABRT:
        return None
    said = _last_lines(case)
    # The interpreter takes the handler away before it aborts: where that has written its stacks, somebody else did.
    handled = fatal_error(case.remains.fault_text.decode("utf-8", "backslashreplace")) == "Aborted"
    fatal = None if handled else _last(_PYTHON_FATAL, said)
    if fatal is not None and fatal[1] != b"Aborted":
        text = _quote(fatal[1])
        return Verdict(f"Py_FatalError: {text}", _LIKELY, ("SIGABRT", f"standard error: Fatal Python error: {text}"))
    # These are the last that the process says.
    said = said[-_LAST_WORDS_BYTES:]
    terminated = _last(_TERMINATE, said)
    if terminated is not None:
        what = _last(_WHAT, said[terminated.end() :])
        text = _quote(what[1] if what is not None else terminated[0])
        return Verdict(f"C++ terminate: {text}", _LIKELY, ("SIGABRT", f"standard error: {_quote(terminated[0])}"))
    glibc = _last(_GLIBC, said)
    if glibc is not None:
        text = _quote(glibc[1])
        return Verdict(f"glibc abort: {text}", _LIKELY, ("SIGABRT", f"standard error: {text}"))
    return None


def _full_file_system(case: Case) -> Verdict | None:
    if case.signal != signals.SIGBUS:
        return None
    full = _full_tmpfs()
    if full:
        return Verdict("file system full", _LIKELY, ("SIGBUS", f"no room is left in memory file system {full[0]}"))
    return None


def _full_tmpfs() -> list[str]:
    """Writable file systems in memory that are full now."""
    from .procfs import read

    found = []
    for line in read("/proc/self/mounts").splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[2] == b"tmpfs" and b"rw" in fields[3].split(b","):
            place = os.fsdecode(fields[1])
            try:
                space = os.statvfs(place)
            except OSError:
                continue
            if space.f_blocks and not space.f_bavail:
                found.append(place)
    return found


def _by_fault(case: Case) -> Verdict | None:
    """A fatal signal whose stacks were written, to the fault file or, where the program wants them there, to stderr."""
    text, where, sure = case.remains.fault_text.decode("utf-8", "backslashreplace"), "the fault file", _CERTAIN
    said = fatal_error(text)
    if said is None or _FAULTS.get(said) != case.signal:
        # Where a child of the cell could have written as well.
        text, where, sure = _last_lines(case).decode("utf-8", "backslashreplace"), "standard error", _LIKELY
        said = fatal_error(text)
    if case.signal is None or said is None or _FAULTS.get(said) != case.signal:
        return None
    evidence = (f"{where} says: Fatal Python error: {said}", signal_name(case.signal))
    stack = crashing_stack(text)
    count = stack.count(stack[0]) if len(stack) >= FRAMES_SHOWN else 0
    if case.signal == signals.SIGSEGV and count >= _RECURSIONS:
        # Where it called something else, that is as likely to have crashed, however deep.
        deep = f"{FRAMES_SHOWN} calls deep, and more; the call in which it died is {count} of the last {FRAMES_SHOWN}"
        return Verdict("stack overflow", _LIKELY, (*evidence, deep))
    return Verdict(said, sure, evidence)


def _by_signal(case: Case) -> Verdict | None:
    """A fault that left no stacks is still that fault."""
    fault = next((name for name, number in _FAULTS.items() if number == case.signal), None)
    if fault is None or case.signal is None:
        return None
    why = "no stacks were written: a thread had no stack left, or the program took the handler or its file away"
    if case.last_word is not None and case.last_word.program:
        why = f"it had become {case.last_word.program} before"
    return Verdict(fault, _LIKELY, (signal_name(case.signal), why))


def _by_exception(case: Case) -> Verdict | None:
    if case.exception is None or case.signal is not None:
        return None
    return Verdict("exception", _CERTAIN, (case.exception.type,))


def _lost(case: Case) -> Verdict | None:
    if case.kind is not ExitKind.LOST:
        return None
    return Verdict(
        "lost", _UNKNOWN, ("whoever was told its exit status is gone or silent, and the kernel does not tell it",)
    )


def _by_exit_code(case: Case) -> Verdict | None:
    if case.kind not in (ExitKind.EXITED, ExitKind.START_FAILED) or case.code is None:
        return None
    if case.outcome == answer.EXITED:
        return Verdict("sys.exit", _CERTAIN, (f"exit code {case.code}",))
    word = case.last_word
    if word is not None and word.code in (None, case.code):
        program = f"it became {word.program}" if word.program else f"it said so before: {word.kind}({word.code})"
        where = (f"called at {word.where}",) if word.where else ()
        return Verdict(word.kind, _CERTAIN, (f"exit code {case.code}", program, *where))
    if case.kind is ExitKind.START_FAILED:
        return None
    return Verdict("exited by itself", _CERTAIN, (f"exit code {case.code}",))


def _what_is_known(case: Case) -> tuple[str, ...]:
    if case.signal is not None:
        known = [f"{signal_name(case.signal)}, not sent by this host; nobody can know by whom"]
        if case.signal == signals.SIGKILL:
            known.append("no kill for memory was counted meanwhile")
        return tuple(known)
    if case.code is not None:
        return (f"exit code {case.code}",)
    return ()


_RULES = (
    _by_host,
    _returned,
    _by_limit,
    _for_memory,
    _aborted,
    _full_file_system,
    _by_fault,
    _by_signal,
    _by_exception,
    _lost,
    _by_exit_code,
)
