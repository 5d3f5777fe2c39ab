"""What this process, or the machine, has to be like around some deaths, and what it takes to make it so."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import roam
from tests.support import wait_until

__all__ = [
    "alone",
    "another_executable",
    "another_main",
    "memory_group",
    "no_memory_group",
    "no_mount",
    "no_root",
    "replaced_fork_server",
    "small_file_system",
]

MEMORY_LIMIT_BYTES = 32 << 20
FILE_SYSTEM_BYTES = 64 << 10
CAN_ADMINISTER = 1 << 21
"""The bit of CAP_SYS_ADMIN."""


@contextlib.contextmanager
def alone() -> Iterator[tuple[()]]:
    """As it is, but with no other cell about."""
    yield ()


@contextlib.contextmanager
def replaced_fork_server() -> Iterator[tuple[()]]:
    """The fork server will be killed; afterwards there is another one."""
    try:
        yield ()
    finally:
        with roam.TracingHost(forward=False) as host:
            roam.spawn_cell(int, host=host).join()


@contextlib.contextmanager
def another_main(source: str) -> Iterator[tuple[()]]:
    """As if this process had been started with that script."""
    with tempfile.NamedTemporaryFile("w", prefix="roam-deaths-", suffix=".py") as file:
        file.write(source)
        file.flush()
        main, real = ModuleType("__main__"), sys.modules["__main__"]
        main.__file__ = file.name
        sys.modules["__main__"] = main
        try:
            yield ()
        finally:
            sys.modules["__main__"] = real


@contextlib.contextmanager
def another_executable(path: str) -> Iterator[tuple[()]]:
    """Cells of start method `spawn` run that program instead of Python."""
    from multiprocess import resource_tracker, spawn

    resource_tracker.ensure_running()  # it is started with the same executable, and needs a real one
    real = spawn.get_executable()
    spawn.set_executable(path)
    try:
        yield ()
    finally:
        spawn.set_executable(real)


@contextlib.contextmanager
def memory_group() -> Iterator[tuple[str]]:
    """A control group with little memory; yields its directory. Whoever writes its pid to `cgroup.procs` is in it."""
    own = _own_memory_group()
    assert own is not None
    directory = Path(tempfile.mkdtemp(prefix="roam-deaths-", dir=own))
    try:
        (directory / "memory.limit_in_bytes").write_text(str(MEMORY_LIMIT_BYTES))
        yield (str(directory),)
    finally:
        wait_until(lambda: _is_removed(directory), message="the control group is empty")


def no_memory_group() -> str:
    """What is missing for `memory_group`."""
    own = _own_memory_group()
    return "" if own is not None and os.access(own, os.W_OK) else "a writable memory control group of version 1"


def _own_memory_group() -> Path | None:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return Path("/sys/fs/cgroup/memory") / path.lstrip("/")
    return None


def _is_removed(directory: Path) -> bool:
    with contextlib.suppress(OSError):
        directory.rmdir()
    return not directory.exists()


@contextlib.contextmanager
def small_file_system() -> Iterator[tuple[str]]:
    """A tmpfs of a few pages; yields its directory."""
    with tempfile.TemporaryDirectory(prefix="roam-deaths-") as directory:
        options = ["-t", "tmpfs", "-o", f"size={FILE_SYSTEM_BYTES}", "tmpfs"]
        subprocess.run(["mount", *options, directory], check=True)
        try:
            yield (directory,)
        finally:
            subprocess.run(["umount", directory], check=True)


def no_mount() -> str:
    """What is missing for `small_file_system`."""
    status = Path("/proc/self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return "" if int(effective, 16) & CAN_ADMINISTER else "the right to mount"


def no_root() -> str:
    """What is missing for a cell that becomes another user."""
    return "" if os.geteuid() == 0 else "root"
