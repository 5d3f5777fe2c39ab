"""`spawn_cell`, and the host of a process that does not make one."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from ..errors import HostClosed, SpawnFailed, UnsupportedPlatform
from ..postmortem import check_dump_dir, default_dump_dir
from ..stage import Stage
from ..tracing import host as hosts
from ..tracing.dumps import DumpLimits
from ..tracing.host import TracingHost
from ..tracing.link import PeerLink
from . import kin, launch, lifeline, main_module, surroundings
from .cell import Cell
from .dumps import DumpStore
from .feed import Feed
from .handover import Handover
from .orphans import salvage_orphans
from .parcel import Parcel
from .registered import RegisteredPeer
from .stdio import MODES, Stdio
from .watchdog import WatchedCell, watch

__all__ = ["TracingHost", "close_default_host", "default_host", "spawn_cell"]

_counter = itertools.count(1)
_lock = threading.RLock()
_default: TracingHost | None = None


def spawn_cell(
    target: Callable[..., Any],
    /,
    *args: Any,
    kwargs: Mapping[str, Any] | None = None,
    name: str | None = None,
    host: TracingHost | None = None,
    start_method: str | None = None,
    stdio: str = "tee",
    die_with_host: bool = True,
    start_timeout: float = 30.0,
    hang_after: float | None = None,
    on_hang: str = "report",
) -> Cell:
    """Start a child process that runs `target(*args, **kwargs)`, traced from before its `__main__` is imported.

    Returns as soon as there is a process that has its parcel. What fails later, up to the first line of the target,
    shows at once as `SpawnFailed` from `Cell.result` and as `Cell.exit`.

    `start_method` is `"forkserver"` (the default), `"spawn"` or `"fork"`. `stdio` says what becomes of what the cell
    prints, see `roam.spawn.stdio`: `"tee"` (records of the cell, and shown here), `"capture"` (records only), `"inherit"`
    (it has this process's own streams) or `"null"`. `die_with_host=False` lets the cell live on when this process is
    gone. `start_timeout` is in seconds. Without `host`, a host that belongs to the process is used.

    A cell that gives no sign of life for `hang_after` seconds is hung: it wrote no record, entered no span and did not call
    `roam.current_cell().beat()`. Then its stacks are taken, and with `on_hang="report"` a post-mortem is written while it
    goes on (`Cell.hangs`); with `"kill"` it is killed, with what it has started, as in `Cell.stop`. Without `hang_after` nothing
    is ever called hung.

    Raises `CannotSend` (names what cannot be sent), `SpawnFailed`, `HostClosed`, `NoSpace`, `UnsupportedPlatform`;
    RuntimeError while `__main__` is still being imported in a cell; TypeError and ValueError for wrong arguments.
    """
    method = _check(target, kwargs, host, start_method, stdio)
    _check_times(start_timeout, hang_after, on_hang)
    host = host if host is not None else default_host()
    if not host.is_open:
        raise HostClosed("spawn_cell")
    target_name = _name_of(target)
    name = name if name is not None else f"{target_name.rpartition('.')[2].strip('<>')}-{next(_counter)}"
    cell = Cell(name=name, host=host, start_method=method, target_name=target_name, has_session=stdio != "inherit")
    with _refusals_told(name):
        _start(cell, host, (target, args, dict(kwargs or {})), stdio, start_timeout, die_with_host=die_with_host)
    if hang_after is not None:
        watch(WatchedCell(weakref.ref(cell), hang_after, on_hang == "kill"))
    return cell


def _start(
    cell: Cell, host: TracingHost, call: tuple[Any, ...], stdio: str, timeout_s: float, *, die_with_host: bool
) -> None:
    """Everything from the parcel to the process. What was made by then is taken back where a step fails."""
    method = cell.start_method
    with contextlib.ExitStack() as undo:
        head = _head(cell.name, method)
        # r[impl spawn.unsendable] Before anything is reserved.
        parcel = _pack(method, head, call)
        undo.callback(parcel.close)
        link = host.register_peer(cell.name, owner=cell)
        undo.callback(link.abandon)
        lifeline_fd = lifeline.acquire()
        undo.callback(lifeline.release)
        start = partial(
            launch.Start,
            method=method,
            ticket=link.ticket,
            parcel=parcel,
            lifeline_fd=lifeline_fd,
            die_with_host=die_with_host,
            # Only those of the terminal's foreground group may use it.
            process_group=os.getpgrp() if stdio == "inherit" else 0,
            deadline=time.monotonic() + timeout_s,
            head=head,
            call=call,
        )
        feed, launched = _launch(Stdio(stdio, link), undo, start)
        cell.adopt(link, feed, parcel, launched)
        undo.pop_all()


def _check(target: object, kwargs: object, host: object, start_method: str | None, stdio: str) -> str:
    if not callable(target):
        raise TypeError(f"spawn_cell(target): {target!r} cannot be called")
    if kwargs is not None and not (isinstance(kwargs, Mapping) and all(isinstance(key, str) for key in kwargs)):
        raise TypeError(f"spawn_cell(kwargs={kwargs!r}): a mapping from names to arguments of the target is needed")
    if host is not None and not isinstance(host, TracingHost):
        raise TypeError(f"spawn_cell(host={host!r}): a TracingHost is needed")
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        raise UnsupportedPlatform(f"this is {sys.platform}, or a Python without pidfd_open")
    method = start_method if start_method is not None else "forkserver"
    if method not in launch.METHODS:
        raise ValueError(f"spawn_cell(start_method={method!r}): choose one of {', '.join(launch.METHODS)}")
    if stdio not in MODES:
        raise ValueError(f"spawn_cell(stdio={stdio!r}): choose one of {', '.join(MODES)}")
    from multiprocess import spawn

    # In a cell that still imports the user's `__main__`, another cell would do the same, for ever.
    # r[impl spawn.guard]
    spawn._check_not_importing_main()
    return method


def _check_times(start_timeout: object, hang_after: object, on_hang: object) -> None:
    if on_hang not in ("report", "kill"):
        raise ValueError(f"spawn_cell(on_hang={on_hang!r}): choose 'report' or 'kill'")
    for name, value in (("start_timeout", start_timeout), ("hang_after", hang_after)):
        if value is None and name == "hang_after":
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"spawn_cell({name}={value!r}): a number of seconds is needed")
        if not 0 < value < math.inf:
            raise ValueError(f"spawn_cell({name}={value!r}): a time is longer than nothing, and ends")


def _head(name: str, method: str) -> dict[str, Any]:
    return {
        "kin": kin.describe(name, method),
        "surroundings": surroundings.describe(method),
        "main": main_module.describe() if method != "fork" else None,
    }


def _pack(method: str, head: dict[str, Any], call: tuple[Any, ...]) -> Parcel:
    if method == "fork":
        return Parcel([])
    return Parcel.pack(method, head, call, main_is_importable=head["main"] is not None, first_index=Handover.FD_COUNT)


def _launch(
    streams: Stdio, undo: contextlib.ExitStack, start: Callable[..., launch.Start]
) -> tuple[Feed | None, launch.Launched]:
    try:
        if streams.feed is not None:
            undo.callback(streams.feed.finish)
        fds = {"stdin_fd": streams.stdin_fd, "stdout_fd": streams.stdout_fd, "stderr_fd": streams.stderr_fd}
        launched = launch.launch(start(**fds))
        undo.callback(launch.discard, launched)
        return streams.feed, launched
    finally:
        streams.close()


@contextlib.contextmanager
def _refusals_told(name: str) -> Iterator[None]:
    """What the kernel refuses before there is a process is a failed start."""
    try:
        yield
    except (launch.LaunchFailed, OSError) as error:
        raise SpawnFailed(name=name, stage=Stage.EXEC.label, exit=None, detail=str(error)) from error


def _name_of(target: Any) -> str:
    named = getattr(target, "func", target)  # a partial is called after its function
    qualname = getattr(named, "__qualname__", type(named).__qualname__)
    return f"{getattr(named, '__module__', None) or '?'}.{qualname}"


def default_host() -> TracingHost:
    """The host of this process, made on first use. At interpreter exit it waits for its cells, then closes. Any thread."""
    global _default
    with _lock:
        if _default is None or not _default.is_open:
            _default = TracingHost()
            # After, and so run before, what closes every host without waiting.
            atexit.unregister(_wait_at_exit)
            atexit.register(_wait_at_exit)
        return _default


def close_default_host() -> None:
    """Stop the cells of the default host and close it, if there is one; the next cell makes a new one."""
    global _default
    with _lock:
        host, _default = _default, None
    if host is not None:
        host.close()


def _wait_at_exit() -> None:
    host = _default
    if host is None or not host.is_open:
        return
    try:
        for owner in host.cells:
            if isinstance(owner, Cell):
                owner.join()
    except KeyboardInterrupt:
        # The first press has ended the main thread, this is the second.
        host.abort()
        raise
    host.close()


def _after_fork_in_child() -> None:
    global _default, _lock
    _lock = threading.RLock()
    _default = None


class _Undertaker:
    """What stands above every host of this process."""

    def prepare(self, dump_dir: str | os.PathLike[str] | None, limits: DumpLimits) -> DumpStore:
        directory = check_dump_dir(dump_dir if dump_dir is not None else default_dump_dir())
        salvage_orphans(directory)
        return DumpStore(directory, limits)

    def adopt(self, link: PeerLink) -> None:
        keeper: Any = link._keeper
        link.owner = RegisteredPeer(link, keeper.dumps)


hosts.undertaker = _Undertaker()
os.register_at_fork(after_in_child=_after_fork_in_child)
