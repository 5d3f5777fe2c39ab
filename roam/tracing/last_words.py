"""A record of what ends a process without any other trace: `os._exit`, `os.exec*`, and `sys.exit` with a code.

The record stands in the life lane before it happens; an exec that fails is followed by a record that it failed. Names
of programs are written, arguments never. What a forked child does is not noted: it has no emitter.

Threads: any. In a signal handler that has interrupted the writing of a record there is no writing another, and the end
comes without a word. Failure: an error in here must not change what the program does.
"""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import Any, NoReturn

from .emitter import current_emitter
from .normalise import cut_text
from .records import INFO

__all__ = ["EXEC", "EXEC_FAILED", "OS_EXIT", "SYS_EXIT", "install", "leave", "note_sys_exit"]

EXEC, EXEC_FAILED, OS_EXIT, SYS_EXIT = "exec", "exec failed", "os._exit", "sys.exit"
"""The messages of the records."""

MAX_EXECS = 4
"""Attempts that are noted in one process: programs that never start must not drive exceptions out of the life lane."""
_MAX_TEXT_BYTES = 512
_OWN = os.path.dirname(os.path.dirname(__file__)) + os.sep
_LARGEST_STATUS = 2**31 - 1

leave = os._exit
"""The real `os._exit`, for ends of roam's own."""
_execv, _execve = os.execv, os.execve
_exec_count = 0


def install() -> None:
    """Wrap `os._exit`, `os.execv` and `os.execve`, which all of `os.exec*` go through. Call it once."""
    # r[impl spawn.last-words]
    module: Any = os
    wrappers: dict[str, Any] = {"_exit": _noted_exit, "execv": _noted_execv, "execve": _noted_execve}
    for name, wrapper in wrappers.items():
        # It is pickled under the name of what it stands for.
        wrapper.__name__ = wrapper.__qualname__ = name
        wrapper.__module__ = "os"
        setattr(module, name, wrapper)
    if _execve in os.supports_fd:
        os.supports_fd.add(_noted_execve)


def _noted_exit(status: Any) -> NoReturn:
    try:
        if isinstance(status, int) and -_LARGEST_STATUS <= status <= _LARGEST_STATUS:
            _note(OS_EXIT, {"code": status & 0xFF, "where": _caller()})
    except Exception:
        pass  # the real one says what is wrong
    leave(status)


def _noted_execv(path: Any, argv: Any, /) -> NoReturn:
    is_noted = _note_exec(path)
    try:
        _execv(path, argv)
    finally:
        if is_noted:
            _note(EXEC_FAILED, {})


def _noted_execve(path: Any, argv: Any, env: Any) -> NoReturn:
    is_noted = _note_exec(path)
    try:
        _execve(path, argv, env)
    finally:
        if is_noted:
            _note(EXEC_FAILED, {})


def _note_exec(path: Any) -> bool:
    global _exec_count
    try:
        if current_emitter() is None or _exec_count >= MAX_EXECS:
            return False
        if isinstance(path, int):
            program = f"descriptor {path}"
        elif os.access(path, os.X_OK):
            program = cut_text(os.fsdecode(path), _MAX_TEXT_BYTES)
        else:
            return False  # `os.execvp` tries one directory after the other
        _exec_count += 1
        _note(EXEC, {"program": program, "where": _caller()})
    except Exception:
        return False
    return True


def note_sys_exit(error: SystemExit, code: int) -> None:
    """Note that the process is about to end with `code` because `error` left its target. Never raises."""
    walk = error.__traceback__
    while walk is not None and walk.tb_next is not None:
        walk = walk.tb_next
    where = "" if walk is None else _place(walk.tb_frame, walk.tb_lineno)
    emitter = current_emitter()
    if emitter is not None:
        emitter.report(INFO, SYS_EXIT, error, {"code": code, "where": where})


def _note(message: str, fields: dict[str, Any]) -> None:
    emitter = current_emitter()
    if emitter is not None:
        emitter.report(INFO, message, None, fields)


def _caller() -> str:
    """Who called into `os`."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__") in ("os", __name__):
        frame = frame.f_back
    return "" if frame is None else _place(frame, frame.f_lineno)


def _place(frame: FrameType, line: int) -> str:
    """`file:line in function`; empty for roam's own code."""
    code = frame.f_code
    if code.co_filename.startswith(_OWN):
        return ""
    return f"{cut_text(code.co_filename, _MAX_TEXT_BYTES)}:{line} in {cut_text(code.co_name, _MAX_TEXT_BYTES)}"
