"""Every error that roam raises on purpose.

The tree::

    RoamError
     ├── SpawnFailed            a cell that never got to run its target
     ├── CannotSend             a target or argument that no pickler can carry (also TypeError)
     ├── CellFailed             the target raised, and its exception could not be rebuilt
     ├── CellCrashed            the cell died in any other way
     ├── StacksUnavailable      a cell cannot write its stacks now
     ├── HostClosed             the call needs a host that is still open
     ├── FilterError            a filter directive that does not parse (also ValueError)
     ├── ConfigTooLarge         a configuration that does not fit the mailbox (also ValueError)
     ├── SegmentError
     │    ├── SegmentCorrupt    bytes that are not what the ABI says
     │    ├── SegmentVersionMismatch
     │    ├── SegmentTaken      a second writer in one segment
     │    └── NoSpace           the backing store is too small
     ├── TicketError            `ROAM_TICKET` does not lead to a segment
     ├── RecordError            a record body that does not decode
     ├── DumpError              a post-mortem file that cannot be written or read
     └── UnsupportedPlatform    no way to run cells here

Errors carry their facts as attributes, survive pickling, and say in one sentence what happened and in a
second one what to do next. The data plane (`roam.info` and its family) raises none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from .exit import CellExit

__all__ = [
    "CannotSend",
    "CellCrashed",
    "CellFailed",
    "ConfigTooLarge",
    "DumpError",
    "FilterError",
    "HostClosed",
    "NoSpace",
    "RecordError",
    "RoamError",
    "SegmentCorrupt",
    "SegmentError",
    "SegmentTaken",
    "SegmentVersionMismatch",
    "SpawnFailed",
    "StacksUnavailable",
    "TicketError",
    "UnsupportedPlatform",
]


class RoamError(Exception):
    """Base of every error of roam. `message` is the whole text; subclasses add fields.

    Subclasses define `__init__` with keyword-only facts and call `super().__init__(text, **facts)`, which
    stores each fact as an attribute and makes the error picklable without running `__init__` again.
    """

    def __init__(self, text: str, /, **facts: object) -> None:
        super().__init__(text)
        self.__dict__.update(facts)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, dict(self.__dict__)))


def _rebuild(kind: type[RoamError], args: tuple[Any, ...], facts: dict[str, Any]) -> RoamError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


class SpawnFailed(RoamError):
    """The cell ended before its target ran. `stage` names how far it came: exec, bootstrap, import_main, unpickle.

    `detail` is what the kernel said, or the traceback or the last lines of the cell, as it wrote them.
    """

    name: str
    stage: str
    exit: CellExit | None
    detail: str

    def __init__(self, *, name: str, stage: str, exit: CellExit | None, detail: str) -> None:
        text = f"cell {name!r} could not be started: it ended in stage {stage}."
        super().__init__(f"{text}\n{detail}" if detail else text, name=name, stage=stage, exit=exit, detail=detail)


class CannotSend(RoamError, TypeError):
    """A target, argument or result that cannot be sent. `path` names the attribute, `reason` is the pickler's word."""

    path: str
    reason: str

    def __init__(self, *, path: str, reason: str, remedy: str) -> None:
        super().__init__(f"{path} cannot be sent between host and cell: {reason}. {remedy}", path=path, reason=reason)


class CellFailed(RoamError):
    """The target raised. `remote_traceback` is its text in the cell; `post_mortem` the loaded post-mortem or None."""

    name: str
    remote_traceback: str
    post_mortem: object

    def __init__(self, *, name: str, remote_traceback: str, post_mortem: object = None) -> None:
        super().__init__(
            f"the target of cell {name!r} raised; its own traceback follows.\n{remote_traceback.rstrip()}",
            name=name,
            remote_traceback=remote_traceback,
            post_mortem=post_mortem,
        )


class CellCrashed(RoamError):
    """The cell died without a result. `exit` says how; `dump_path` is the post-mortem file or None.

    The text ends with the post-mortem in brief, which is made when somebody asks for it, or pickles the error.
    """

    name: str
    exit: CellExit
    dump_path: str | None

    def __init__(
        self, *, name: str, exit: CellExit, dump_path: str | None, brief: Callable[[], str] | None = None
    ) -> None:
        # What a cell said of itself gets no further than into a representation.
        text = f"cell {name!r} died: {repr(exit.describe())[1:-1]}."
        remedy = "Look at its `post_mortem`" if dump_path is None else f"Run `roam show {dump_path}`"
        super().__init__(f"{text} {remedy} to see its last records.", name=name, exit=exit, dump_path=dump_path)
        self._brief = brief

    def __str__(self) -> str:
        brief, self._brief = self._brief, None
        if brief is not None:
            self.args = (f"{self.args[0]}\n{brief()}",)
        return super().__str__()

    def __reduce__(self) -> tuple[Any, ...]:
        str(self)
        return super().__reduce__()


class HostClosed(RoamError):
    """The call needs an open `TracingHost`."""

    def __init__(self, operation: str) -> None:
        super().__init__(f"{operation} needs an open host, but this one is closed. Make a new TracingHost.")


class StacksUnavailable(RoamError):
    """The stacks of a cell cannot be had; `why` says for what reason."""

    why: str

    def __init__(self, why: str, remedy: str = "Look at Cell.activity, or try again.") -> None:
        super().__init__(f"there are no stacks: {why}. {remedy}", why=why)


class FilterError(RoamError, ValueError):
    """A filter that does not parse. `column` counts from 1; `expected` and `hint` say what would be right."""

    text: str
    column: int
    expected: str

    def __init__(self, *, text: str, column: int, expected: str, hint: str = "") -> None:
        message = f"filter {text!r}: column {column}: expected {expected}."
        super().__init__(f"{message} {hint}" if hint else message, text=text, column=column, expected=expected)


class ConfigTooLarge(RoamError, ValueError):
    """A configuration that does not fit a mailbox slot; the one in force stays."""

    size_bytes: int
    limit_bytes: int

    def __init__(self, *, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(
            f"the configuration takes {size_bytes} bytes and a segment holds {limit_bytes}. Use fewer or shorter directives.",
            size_bytes=size_bytes,
            limit_bytes=limit_bytes,
        )


class SegmentError(RoamError):
    """Base of what can be wrong with a segment. `path` is the file, or a description where there is none."""

    path: str


class SegmentCorrupt(SegmentError):
    """Bytes in a segment that contradict the ABI. `offset` is where, `why` is what."""

    offset: int
    why: str

    def __init__(self, *, path: str, offset: int, why: str) -> None:
        super().__init__(
            f"{path} is not a sound segment: {why} (at byte {offset}). Nothing in it can be used.",
            path=path,
            offset=offset,
            why=why,
        )


class SegmentVersionMismatch(SegmentError):
    """A segment written by another ABI version."""

    found: int
    wanted: int

    def __init__(self, *, path: str, found: int, wanted: int) -> None:
        super().__init__(
            f"{path} has ABI version {found}, and this roam reads {wanted}. Use the roam that wrote it.",
            path=path,
            found=found,
            wanted=wanted,
        )


class SegmentTaken(SegmentError):
    """A segment has one writing process; `pid` is the one that claimed it."""

    pid: int

    def __init__(self, *, path: str, pid: int) -> None:
        super().__init__(
            f"{path} is already written by process {pid}. A second writer would destroy its stream; ask the host for a new ticket.",
            path=path,
            pid=pid,
        )


class NoSpace(SegmentError):
    """The backing file system cannot hold a segment. Sizes are in bytes."""

    needed_bytes: int
    free_bytes: int

    def __init__(self, *, path: str, needed_bytes: int, free_bytes: int) -> None:
        super().__init__(
            f"{path} cannot hold a segment: {needed_bytes} bytes are needed and {free_bytes} are free. "
            "Make it larger (docker: --shm-size), set ROAM_DIR to a larger file system, or ask for smaller lanes with SegmentConfig.",
            path=path,
            needed_bytes=needed_bytes,
            free_bytes=free_bytes,
        )


class TicketError(RoamError):
    """`ROAM_TICKET` is set but does not lead to a segment of this process."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the ticket in ROAM_TICKET cannot be used: {why}. Start the process with pass_fds=peer.ticket.fds and env=os.environ | peer.ticket.environ."
        )


class RecordError(RoamError):
    """A record body that does not decode. `why` names the first thing that is wrong."""

    why: str

    def __init__(self, why: str) -> None:
        super().__init__(f"not a record: {why}. It was damaged, or written by another version.", why=why)


class DumpError(RoamError):
    """A post-mortem file that cannot be written or read."""

    path: str
    why: str

    def __init__(self, *, path: str, why: str, remedy: str = "") -> None:
        text = f"{path}: {why}."
        super().__init__(f"{text} {remedy}" if remedy else text, path=path, why=why)


class UnsupportedPlatform(RoamError):
    """roam imports here, but cannot run cells."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"cells cannot run here: {why}. roam needs Linux 5.10 or newer, 64-bit little-endian, CPython 3.11 or newer."
        )
