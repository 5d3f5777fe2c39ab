"""A cell's place among the processes of `multiprocess`: current process, parent, authentication key, resource tracker.

A spawn cell does not import `multiprocess`, which brings dill with it, until the user's code does; then, and before
that code can use it, the cell takes its place. So `current_process().name` is right in every cell.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["Kin", "describe", "expect", "join", "leave_inheriting"]

Kin = dict[str, Any]
"""What a cell must know of its family: plain data, part of the parcel's head."""


def describe(name: str, method: str) -> Kin:
    """Host side: the family as a cell called `name` sees it. Starts the resource tracker if it is not running."""
    import os

    from multiprocess import process, resource_tracker

    me = process.current_process()
    return {
        "name": name,
        "method": method,
        "authkey": bytes(me.authkey),
        "orig_dir": process.ORIGINAL_DIR,
        "parent_name": me.name,
        "parent_pid": os.getpid(),
        "tracker_fd": resource_tracker.getfd() if method == "spawn" else None,
    }


def join(kin: Kin, *, sentinel: int, inheriting: bool) -> None:
    """Cell side: take the place described. `sentinel` becomes readable when the parent is gone.

    `inheriting` says that the user's `__main__` is being imported, when `multiprocess` refuses to start processes.
    """
    import itertools
    import threading

    from multiprocess import context, process, util

    context._force_start_method(kin["method"])
    # The old process object stays alive until the callbacks of the fork have run.
    forebear = process._current_process
    me = process.BaseProcess(name=kin["name"])
    me._identity = (1,)
    me._config = {**forebear._config, "authkey": process.AuthenticationString(kin["authkey"])}
    me._config.pop("daemon", None)
    me._parent_pid, me._parent_name = kin["parent_pid"], kin["parent_name"]
    process._dangling.discard(me)
    process._process_counter = itertools.count(1)
    process._children = set()
    process._current_process = me
    process._parent_process = process._ParentProcess(kin["parent_name"], kin["parent_pid"], sentinel)
    process.ORIGINAL_DIR = kin["orig_dir"]
    if inheriting:
        me._inheriting = True
    if kin["method"] == "spawn":
        from multiprocess import resource_tracker

        resource_tracker._resource_tracker._fd = kin["tracker_fd"]
    else:
        threading.main_thread()._set_native_id()  # type: ignore[attr-defined]  # as multiprocess does after a fork
        util._finalizer_registry.clear()
        util._run_after_forkers()
    del forebear


def leave_inheriting() -> None:
    """Cell side: the user's `__main__` is imported, processes may be started."""
    process = sys.modules.get("multiprocess.process")
    if process is not None and hasattr(process.current_process(), "_inheriting"):
        del process.current_process()._inheriting


class _Expectation:
    """An import hook for the one name `multiprocess`."""

    def __init__(self, kin: Kin, sentinel: int) -> None:
        self.kin = kin
        self.sentinel = sentinel
        self.inheriting = True

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "multiprocess":
            return None
        from importlib.machinery import PathFinder

        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        loader = spec.loader if spec is not None else None
        if loader is not None:
            execute = loader.exec_module

            def exec_module(module: Any) -> None:
                execute(module)
                join(self.kin, sentinel=self.sentinel, inheriting=self.inheriting)

            loader.exec_module = exec_module  # type: ignore[method-assign]  # one loader object per spec
        return spec


def expect(kin: Kin, *, sentinel: int) -> _Expectation:
    """Cell side: take the place described as soon as `multiprocess` is imported. Set `.inheriting` to False after `__main__`."""
    expectation = _Expectation(kin, sentinel)
    sys.meta_path.insert(0, expectation)
    return expectation
