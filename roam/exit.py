"""How a cell ended."""

from __future__ import annotations

import enum
import signal as signals
from dataclasses import dataclass

from .stage import ExceptionText, Stage

__all__ = ["CellExit", "Confidence", "ExitKind", "signal_name"]


class ExitKind(enum.StrEnum):
    """What ended a cell, as far as the host knows."""

    RETURNED = "returned"
    """The target returned."""
    RAISED = "raised"
    """The target raised an exception other than SystemExit."""
    EXITED = "exited"
    """The process ended with an exit code of its own: `sys.exit`, `os._exit`."""
    SIGNALED = "signaled"
    """A signal that the host did not send."""
    START_FAILED = "start_failed"
    """The cell ended before its target ran."""
    STOPPED = "stopped"
    """The host asked it to stop, and it ended before SIGTERM was due."""
    KILLED_BY_HOST = "killed_by_host"
    """A signal that the host sent."""
    LOST = "lost"
    """The process is gone and nobody can say how. In a post-mortem of a cell that still runs: not yet."""


class Confidence(enum.StrEnum):
    """How sure a verdict is."""

    CERTAIN = "certain"
    """The evidence admits no other cause."""
    LIKELY = "likely"
    """The evidence points there, and something else could look the same."""
    UNKNOWN = "unknown"
    """Nothing says why."""


def signal_name(number: int) -> str:
    """`SIGSEGV` for 11; `signal 40` where the number has no name."""
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CellExit:
    """How a cell ended. Times are wall-clock nanoseconds since the epoch; what nobody can know is None, never 0.

    Its texts can hold what the cell wrote, as it wrote it: to show them on a terminal use `roam.postmortem.escape`.
    """

    kind: ExitKind
    code: int | None = None
    """The exit code where the process ended by itself, else None."""
    signal: int | None = None
    """The number of the signal that ended the process, else None."""
    stage: Stage = Stage.EXEC
    """The last stage the cell said it had entered."""
    exception: ExceptionText | None = None
    """The exception that left the target or the start-up, if there was one, with all that hangs on it."""
    started_ns: int
    ended_ns: int
    cpu_s: float | None = None
    """User and system time of the process, in seconds."""
    max_rss_bytes: int | None = None
    """Peak resident memory of the process."""
    core_dumped: bool | None = None
    last_beat_ns: int | None = None
    """When the cell last gave a sign of life: a record, a span or `roam.current_cell().beat()`."""
    steps: tuple[str, ...] = ()
    """What this host did to end it, in order, with the time since the start in seconds."""
    verdict: str = "unknown"
    """The cause in a few words, said only where `evidence` supports it."""
    confidence: Confidence = Confidence.UNKNOWN
    """How sure the verdict is."""
    evidence: tuple[str, ...] = ()
    """What speaks for the verdict, or is known where it is unknown."""

    @property
    def is_normal(self) -> bool:
        """True for returned, `sys.exit(0)` and stopped: the ends that leave no post-mortem. An exit with code 0 in the
        middle of things, as by `os._exit`, is none of them."""
        if self.kind is ExitKind.EXITED:
            return self.code == 0 and self.stage is Stage.EXIT
        return self.kind in (ExitKind.RETURNED, ExitKind.STOPPED)

    @property
    def exitcode(self) -> int | None:
        """As `multiprocessing.Process.exitcode`: the code, minus the signal number, or None where unknown."""
        return -self.signal if self.signal is not None else self.code

    def describe(self) -> str:
        """One clause without a full stop: `killed with SIGSEGV (signal 11) in stage run`. The message of an exception is in it
        as the cell wrote it."""
        if self.signal is not None:
            by = " by its host" if self.kind is ExitKind.KILLED_BY_HOST else ""
            return f"killed{by} with {signal_name(self.signal)} (signal {self.signal}) in stage {self.stage.label}"
        if self.exception is not None:
            first_line = self.exception.message.partition("\n")[0]
            said = f": {first_line}" if first_line else ""
            where = "" if self.stage is Stage.RUN else f" in stage {self.stage.label}"
            return f"raised {self.exception.type}{said}{where}"
        if self.kind is ExitKind.RETURNED:
            return "returned"
        if self.kind is ExitKind.LOST:
            return f"lost; nobody knows how it ended, last seen in stage {self.stage.label}"
        if self.kind is ExitKind.STOPPED:
            return "stopped when asked to"
        return f"exited with code {self.code} in stage {self.stage.label}"
