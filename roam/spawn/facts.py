"""What the host can say of a dead cell's process and of the machine, for its post-mortem.

Gathering it never raises: what is not to be had is left out.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cell import Cell

__all__ = ["gather"]


def gather(cell: Cell) -> dict[str, object]:
    """Facts by name, units last. Called in the host's second thread, once per abnormal exit."""
    facts: dict[str, object] = {
        "start_method": cell.start_method,
        "target": cell.target_name,
        "host_argv": list(getattr(sys, "argv", [])),
        "host_executable": sys.executable,
    }
    with contextlib.suppress(OSError):
        facts["host_cwd"] = os.getcwd()
    # Imported late: only a process that had a cell die pays for it.
    with contextlib.suppress(Exception):
        import psutil

        memory = psutil.virtual_memory()
        facts |= {
            "machine_memory_bytes": memory.total,
            "machine_memory_available_bytes": memory.available,
            "machine_load": list(psutil.getloadavg()),
            "machine_cpu_count": psutil.cpu_count(),
        }
        facts |= _of_zombie(psutil, cell)
    return facts


def _of_zombie(psutil: Any, cell: Cell) -> dict[str, object]:
    found: dict[str, object] = {}
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(cell.pid)
        with process.oneshot():
            if process.status() == psutil.STATUS_ZOMBIE:
                times = process.cpu_times()
                found = {"cpu_user_s": times.user, "cpu_system_s": times.system, "parent_pid": process.ppid()}
    return found
