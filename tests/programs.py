"""Programs that tests write and run as processes of their own: as a script, from the command line, or to talk to."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import REPOSITORY, wait_until

__all__ = ["METHODS", "Program", "is_alive", "resident_bytes", "write_program"]

METHODS = ("forkserver", "spawn", "fork")


def write_program(directory: Path, text: str, name: str = "program.py") -> Path:
    """Write a script, its common indentation removed."""
    path = directory / name
    path.write_text(textwrap.dedent(text))
    return path


class Program:
    """A running script whose standard output is read line by line; it is killed at the end of the `with` block."""

    def __init__(self, *arguments: str | os.PathLike[str], cwd: Path | None = None, **environ: str) -> None:
        path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, "PYTHONPATH": path, **environ},
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._text = b""

    @property
    def pid(self) -> int:
        """Of the process itself."""
        return self.process.pid

    def line(self, timeout_s: float = 30.0) -> str:
        """The next line that it prints, without the end of line. Fails the test when there is none in time."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._text:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            data = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            assert data, f"no further line within {timeout_s} s: it printed {self._text!r}, {self.process.poll()=}"
            self._text += data
        line, _, self._text = self._text.partition(b"\n")
        return line.decode()

    def say(self, line: str) -> None:
        """Give it a line to read."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        """Send a signal; after SIGSTOP, wait until it has stopped."""
        self.process.send_signal(number)
        if number is signal.SIGSTOP:
            wait_until(lambda: state_of(self.pid) == "T", message="the program stops")

    def wait(self, timeout_s: float = 30.0) -> int:
        """Wait for its end; returns the exit code as `subprocess` has it."""
        return self.process.wait(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def state_of(pid: int) -> str:
    """The letter that the kernel gives for the state of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_alive(pid: int) -> bool:
    """Whether a process runs, or could; one that has ended and was not waited for does not."""
    return state_of(pid) not in {"", "Z", "X"}


def resident_bytes(pid: int | str = "self") -> int:
    """Resident memory of a process that is its own: neither of a file nor shared with others, as segments are."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not say")
