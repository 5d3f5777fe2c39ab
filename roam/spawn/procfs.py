"""What the kernel says of a process, alive or a zombie, in `/proc`; nothing where it says nothing.

A process id names the same process as long as whoever asks holds on to it: a living cell, or a dead one that nobody
has reaped.
"""

from __future__ import annotations

import os

from ..shm.descriptors import close_quietly

__all__ = ["cgroups", "cpu_ns", "limits", "read", "session", "signal_is_caught", "state", "tracer", "waits_in"]

_READ_BYTES = 64 << 10
_MOST_THREADS = 1_000
_LIMITS = {
    b"Max cpu time": "cpu_s",
    b"Max file size": "file_bytes",
    b"Max data size": "data_bytes",
    b"Max stack size": "stack_bytes",
    b"Max address space": "address_space_bytes",
    b"Max open files": "open_files_count",
}


def read(path: str) -> bytes:
    """The beginning of a file, 64 KiB at most; nothing where it cannot be read."""
    # Without what `open` does for text: some are read for every cell.
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, _READ_BYTES)
    except OSError:
        return b""
    finally:
        close_quietly(fd)


def _stat_fields(path: str) -> list[bytes]:
    # Behind the name, which may hold anything.
    return read(path).rpartition(b")")[2].split()


def state(pid: int) -> str:
    """`R` running, `S` asleep, `D` asleep and not to be woken, `T` stopped, `t` held by a tracer, `Z` dead; `""` where
    there is none."""
    fields = _stat_fields(f"/proc/{pid}/stat")
    return fields[0].decode() if fields else ""


def session(pid: int) -> int:
    """The session of a process that lives; 0 where there is none."""
    fields = _stat_fields(f"/proc/{pid}/stat")
    return int(fields[3]) if len(fields) > 3 and fields[0] not in (b"Z", b"X") else 0


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")[:_MOST_THREADS]
    except OSError:
        return []


def cpu_ns(pid: int) -> int:
    """Processor time of all its threads that live, in nanoseconds."""
    total = 0
    for thread in _threads(pid):
        found = read(f"/proc/{pid}/task/{thread}/schedstat").split()
        total += int(found[0]) if found else 0
    if total:
        return total
    fields = _stat_fields(f"/proc/{pid}/stat")
    return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK") if fields else 0


def waits_in(pid: int) -> str:
    """The kernel function that its main thread sleeps in; `""` where it runs, or the kernel does not tell."""
    found = read(f"/proc/{pid}/wchan")
    return "" if found == b"0" else found.decode("ascii", "replace")


def _status_line(pid: int, name: bytes) -> bytes:
    for line in read(f"/proc/{pid}/status").splitlines():
        if line.startswith(name + b":"):
            return line.partition(b":")[2].strip()
    return b""


def tracer(pid: int) -> int:
    """The process that traces it; 0 for none."""
    return int(_status_line(pid, b"TracerPid") or 0)


def signal_is_caught(pid: int, number: int) -> bool | None:
    """Whether its main thread takes a signal by a handler of its own: False where the signal is blocked or has its
    default, None where there is no such process."""
    caught, blocked = _status_line(pid, b"SigCgt"), _status_line(pid, b"SigBlk")
    if not caught:
        return None
    bit = 1 << (number - 1)
    return bool(int(caught, 16) & bit and not int(blocked or b"0", 16) & bit)


def limits(pid: int) -> dict[str, tuple[int | None, int | None]]:
    """Soft and hard resource limits by name, units last; None stands for no limit."""
    found = {}
    for line in read(f"/proc/{pid}/limits").splitlines():
        for title, name in _LIMITS.items():
            if line.startswith(title):
                soft, hard = line[len(title) :].split()[:2]
                found[name] = _limit(soft), _limit(hard)
    return found


def _limit(text: bytes) -> int | None:
    return int(text) if text.isdigit() else None


def cgroups(pid: int | str) -> dict[str, str]:
    """Its control groups: the path by controller, that of the unified hierarchy under `""`."""
    found = {}
    for line in read(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(b":", 2)
        for controller in controllers.split(b","):
            found[controller.decode()] = os.fsdecode(path)
    return found
