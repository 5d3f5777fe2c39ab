"""What tests of every kind share: waiting with a deadline, and an inventory of what a test could leave behind."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

__all__ = ["REPOSITORY", "SESSION_VARIABLE", "Inventory", "expect_none", "run_script", "sources", "wait_until"]

REPOSITORY = Path(__file__).resolve().parent.parent

SESSION_VARIABLE = "ROAM_TEST_SESSION"
"""In the environment of everything that a test session starts: finds processes that lost their parent, too."""

HELPERS = ("forkserver", "resource_tracker")
"""Processes of `multiprocessing` and `multiprocess` that live as long as the interpreter that started them."""

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout_s: float = 10.0, *, message: str = "") -> T:
    """Call `condition` until its answer is true, and return that answer. Fails the test when `timeout_s` is over."""
    deadline = time.monotonic() + timeout_s
    pause_s = 0.001
    while not (answer := condition()):
        if time.monotonic() > deadline:
            what = message or getattr(condition, "__name__", repr(condition))
            raise AssertionError(f"not within {timeout_s} s: {what}; the last answer was {answer!r}")
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.05)
    return answer


def expect_none(wrong: Iterable[object]) -> None:
    """Fail with one line for each thing in `wrong`."""
    found = [str(thing) for thing in wrong]
    assert not found, "\n" + "\n".join(found)


def sources(*directories: str) -> list[Path]:
    """Every Python file below these directories of the repository."""
    return [path for directory in directories for path in sorted((REPOSITORY / directory).rglob("*.py"))]


def run_script(
    *arguments: str | os.PathLike[str],
    timeout_s: float = 60.0,
    environ: dict[str, str] | None = None,
    cwd: Path | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run this interpreter on `arguments` with the repository importable and no stdin; return what it printed."""
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path, **(environ or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
    )
    if check:
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@dataclass(frozen=True)
class Inventory:
    """The processes, threads, descriptors and files that exist at one moment and could outlive a test."""

    processes: dict[int, str] = field(default_factory=dict)
    threads: frozenset[threading.Thread] = frozenset()
    descriptors: dict[int, str] = field(default_factory=dict)
    files: frozenset[Path] = frozenset()

    @classmethod
    def take(cls, run_root: Path) -> Inventory:
        """What exists now. Helper processes and the descriptors that lead to them do not count."""
        processes, helpers = session_processes()
        return cls(
            processes=processes,
            threads=frozenset(threading.enumerate()),
            descriptors=open_descriptors(helpers),
            files=frozenset(run_root.rglob("*")),
        )

    def news_since(self, before: Inventory) -> list[str]:
        """One line for everything that exists here and did not exist `before`."""
        return [
            *(f"process {pid}: {what}" for pid, what in self.processes.items() if pid not in before.processes),
            *(f"thread {thread.name}" for thread in self.threads - before.threads),
            *(f"descriptor {fd}: {to}" for fd, to in self.descriptors.items() if before.descriptors.get(fd) != to),
            *(f"file {path}" for path in sorted(self.files - before.files)),
        ]

    def wait_for_no_news(self, run_root: Path, timeout_s: float) -> tuple[Inventory, list[str]]:
        """Look again and again until nothing is new; return the last look and what is still new when the time is up."""
        deadline = time.monotonic() + timeout_s
        while True:
            now = Inventory.take(run_root)
            news = now.news_since(self)
            if not news or time.monotonic() > deadline:
                return now, news
            gc.collect()  # what only a cycle keeps open is no leak
            time.sleep(0.02)

    def kill_news_since(self, before: Inventory) -> None:
        """End the processes that are new, so that one leak fails one test and not all that follow."""
        for pid in self.processes.keys() - before.processes.keys():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def session_processes() -> tuple[dict[int, str], list[int]]:
    """Processes that this session started, by pid, apart from this one; and the pids of its own helper processes.

    Children are found by their parent, zombies among them; others by the session's variable, which a process keeps
    when it loses its parent, and which the cells of a fork server have from the server.
    """
    marker = f"{SESSION_VARIABLE}={os.environ.get(SESSION_VARIABLE, '')}".encode()
    processes, helpers = {}, []
    for pid, directory in process_directories():
        try:
            parent = int((directory / "stat").read_bytes().rpartition(b")")[2].split()[1])
            command = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            is_ours = parent == os.getpid() or marker in (directory / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # gone meanwhile, or another user's
        if parent == os.getpid() and any(name in command for name in HELPERS):
            helpers.append(pid)
        elif is_ours:
            processes[pid] = command or "(ended, not waited for)"
    return processes, helpers


def process_directories() -> Iterator[tuple[int, Path]]:
    """Every other process of this machine and its directory in /proc."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            yield int(entry.name), entry


def open_descriptors(helpers: list[int]) -> dict[int, str]:
    """The descriptors of this process and what they lead to, without those that belong to helper processes.

    Those are the pipes that both have open, the line to the fork server, and descriptors of the helper processes themselves.
    """
    module = sys.modules.get("roam.spawn.forkserver")
    line = module._server.control_fd if module is not None and module._server is not None else -1
    shared = {to for helper in helpers for to in descriptor_targets(helper).values() if to.startswith("pipe:")}
    return {
        fd: to
        for fd, to in descriptor_targets(os.getpid()).items()
        if fd != line and to not in shared and not (to == "anon_inode:[pidfd]" and process_of(fd) in helpers)
    }


def process_of(fd: int) -> int:
    """The pid that a process descriptor stands for; -1 once that process is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
            if line.startswith("Pid:"):
                return int(line.split()[1])
    return -1


def descriptor_targets(pid: int) -> dict[int, str]:
    """Descriptor number to the text of its link. The descriptor that reads the directory is gone again, thus left out."""
    targets = {}
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                targets[int(link.name)] = str(link.readlink())
    return targets
