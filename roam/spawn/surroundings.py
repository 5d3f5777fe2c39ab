"""What a cell takes over from its host besides its target: paths, arguments, environment, limits.

`describe` runs in the host, `apply` in the cell. A fork cell has everything already, a spawn cell inherits what the
kernel passes on, a cell of the fork server would otherwise get the server's.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from ..shm.layout import STACKS_SIGNAL

__all__ = ["apply", "describe"]


def describe(method: str) -> dict[str, Any]:
    """The host's surroundings as a cell of this start method needs them: plain data."""
    if method == "fork":
        return {}
    from multiprocess import process

    original_dir = process.ORIGINAL_DIR
    described: dict[str, Any] = {
        "sys_path": [original_dir if entry == "" and original_dir else entry for entry in sys.path],
        "argv": list(getattr(sys, "argv", [])),
    }
    if method == "forkserver":
        import resource
        import signal

        described |= {
            "environ": dict(os.environ),
            "cwd": _working_directory(),
            "umask": _umask(),
            "affinity": os.sched_getaffinity(0),
            "limits": {number: resource.getrlimit(number) for number in _limits(resource)},
            "blocked_signals": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ()) - {STACKS_SIGNAL}),
        }
    return described


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None  # it was removed; the cell keeps the fork server's


def _limits(resource: Any) -> list[int]:
    return sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})


def _umask() -> int | None:
    # os.umask() can only be read by changing it, for all threads at once.
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return None


def apply(described: dict[str, Any]) -> None:
    """Make them this process's own. What the kernel refuses (a limit above the hard one) stays as it is."""
    if "sys_path" in described:
        sys.path[:] = described["sys_path"]
        sys.argv = described["argv"]
    if "environ" not in described:
        os.environ.pop("ROAM_TICKET", None)
        return
    # r[impl spawn.surroundings]
    _apply_environment(described["environ"])
    if described["cwd"] is not None:
        os.chdir(described["cwd"])
    if described["umask"] is not None:
        os.umask(described["umask"])
    import resource
    import signal

    for number, limit in described["limits"].items():
        if resource.getrlimit(number) != limit:
            _try(resource.setrlimit, number, limit)
    if os.sched_getaffinity(0) != described["affinity"]:
        _try(os.sched_setaffinity, 0, described["affinity"])
    signal.pthread_sigmask(signal.SIG_SETMASK, described["blocked_signals"])


def _apply_environment(wanted: dict[str, str]) -> None:
    wanted.pop("ROAM_TICKET", None)
    if dict(os.environ) == wanted:
        return
    before = os.environ.get("TZ")
    for name in [name for name in os.environ if name not in wanted]:
        del os.environ[name]
    for name, value in wanted.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    if wanted.get("TZ") != before:
        import time

        time.tzset()


def _try(change: Any, *arguments: Any) -> None:
    try:
        change(*arguments)
    except (OSError, ValueError):
        return
