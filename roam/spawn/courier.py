"""Host side: pickling a call for a cell, with the reductions of `multiprocess`.

Plain pickle comes first: it sends classes and functions by reference, so they keep their identity, and the cell needs
no dill. What it cannot carry goes by dill. Queues, locks and connections of `multiprocess` are carried by either.
"""

from __future__ import annotations

import copyreg
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from multiprocess import context, reduction

from . import unsendable
from .by_value import reduce_by_reference
from .pickling import BY_DILL, BY_PICKLE, PROTOCOL, PicklerWithoutMain

__all__ = ["Courier", "ValuePickler", "encode_call"]


class Courier:
    """Stands where `multiprocess` expects the Popen object that is being started: it collects descriptors."""

    def __init__(self, method: str, first_index: int) -> None:
        self.fds: list[int] = []
        self._method = method
        self._first_index = first_index

    def duplicate_for_child(self, fd: int) -> int:
        """Have the cell inherit `fd`. Returns what finds it there: its number, or its place in the server's message."""
        self.fds.append(fd)
        return fd if self._method == "spawn" else self._first_index + len(self.fds) - 1

    def DupFd(self, handle: int) -> Any:  # noqa: N802  # the name `multiprocess` looks for
        """What `multiprocess` pickles in place of a descriptor."""
        if self._method == "spawn":
            from multiprocess.popen_spawn_posix import _DupFd
        else:
            from multiprocess.popen_forkserver import _DupFd
        return _DupFd(handle)

    @contextmanager
    def in_charge(self) -> Iterator[None]:
        """While it lasts, objects of `multiprocess` may be pickled in this thread."""
        before = context.get_spawning_popen()
        context.set_spawning_popen(self)
        try:
            yield
        finally:
            context.set_spawning_popen(before)


def _refuse(obj: object) -> Any:
    raise pickle.PicklingError(f"{type(obj).__name__} objects of multiprocessing do not pass")


def _dispatch_table() -> dict[Any, Any]:
    table: dict[Any, Any] = copyreg.dispatch_table | reduction.ForkingPickler._extra_reducers
    foreign = sys.modules.get("multiprocessing.connection")
    if foreign is not None:
        # It would pickle as a bare number, and fail in the cell or read somebody else's file.
        table[foreign.Connection] = _refuse
    return table


class ValuePickler(reduction.ForkingPickler):  # type: ignore[misc]  # multiprocess has no annotations
    """dill's pickler with the reductions of `multiprocess`, by reference where that is possible."""

    def __init__(self, file: IO[bytes], *, main_is_importable: bool, recurse: bool | None = None) -> None:
        super().__init__(file, PROTOCOL, recurse=not main_is_importable if recurse is None else recurse)
        self.dispatch_table = _dispatch_table()
        self._main_is_importable = main_is_importable

    def reducer_override(self, obj: Any) -> Any:
        """By name where the cell can find it, else dill's way."""
        return reduce_by_reference(obj, main_is_importable=self._main_is_importable, answer=False)


def _dump_by_value(call: object, file: IO[bytes], courier: Courier, *, main_is_importable: bool) -> None:
    start = file.tell()
    try:
        ValuePickler(file, main_is_importable=main_is_importable).dump(call)
    except RecursionError:
        # Looking for the globals that a function needs, dill never comes back from a closure that refers to itself.
        # Without that search the function arrives, and finds the globals that the cell's `__main__` has.
        file.seek(start)
        file.truncate()
        courier.fds.clear()
        ValuePickler(file, main_is_importable=main_is_importable, recurse=False).dump(call)


def encode_call(call: tuple[Any, ...], file: IO[bytes], courier: Courier, *, main_is_importable: bool) -> int:
    """Pickle `(target, args, kwargs)` at the file's position. Returns which pickler the cell needs.

    Raises `CannotSend`, or the KeyboardInterrupt and its like that arrive meanwhile.
    """
    start = file.tell()
    plain = (pickle.Pickler if main_is_importable else PicklerWithoutMain)(file, PROTOCOL)
    plain.dispatch_table = _dispatch_table()
    with courier.in_charge():
        try:
            plain.dump(call)
            return BY_PICKLE
        except Exception:
            file.seek(start)
            file.truncate()
            courier.fds.clear()
        unsendable.refuse_locks(call[1], call[2])
        try:
            _dump_by_value(call, file, courier, main_is_importable=main_is_importable)
            return BY_DILL
        except Exception as error:
            culprit = unsendable.find(call, lambda sink: ValuePickler(sink, main_is_importable=main_is_importable))
            raise unsendable.explain(culprit, error) from error
