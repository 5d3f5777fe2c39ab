"""What the host can say of a dead cell's process and of the machine, for its verdict and its post-mortem.

Gathering it never raises: what is not to be had is left out.
"""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from . import procfs

if TYPE_CHECKING:
    from .cell import Cell

__all__ = ["Corpse", "examine", "gather"]


@dataclass(frozen=True, slots=True)
class Corpse:
    """What the kernel still knows of a process that has ended, until it is reaped. Empty where it was reaped already."""

    limits: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)
    """Soft and hard, by name."""
    cgroups: dict[str, str] = field(default_factory=dict)


def examine(pid: int) -> Corpse:
    """Look at a process that is dead and not reaped."""
    if procfs.state(pid) != "Z":
        # The number may be somebody else's by now.
        return Corpse()
    return Corpse(procfs.limits(pid), procfs.cgroups(pid))


def gather(cell: Cell, corpse: Corpse) -> dict[str, object]:
    """Facts by name, units last. Called once per abnormal exit, and per hang that is reported. Any thread."""
    facts: dict[str, object] = {
        "start_method": cell.start_method,
        "target": cell.target_name,
        "host_argv": list(getattr(sys, "argv", [])),
        "host_executable": sys.executable,
    }
    with contextlib.suppress(OSError):
        facts["host_cwd"] = os.getcwd()
    facts |= {f"limit_{name}": soft for name, (soft, _) in corpse.limits.items() if soft is not None}
    group = corpse.cgroups.get("", "/")
    if group != "/":
        facts["cgroup"] = group
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
    return facts
