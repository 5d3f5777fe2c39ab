"""What a cell captures without being asked: `logging`, `warnings`, and exceptions that nobody caught.

The hook into `logging` sits in `Logger`, not in a handler: roam's filter alone decides, live, what is captured, and
the program's own levels alone decide what its own handlers print. Two methods are wrapped. `isEnabledFor` also says
yes to what roam captures, and `handle` captures, then goes on only where the program itself would have come this far.
So `basicConfig`, `dictConfig`, `propagate=False` and handlers added later change neither side.

Threads: any. Failure: an error in here must not change what the program does; it is counted as `unencodable`.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from types import FrameType
from typing import Any

from ..shm.layout import BULK, VITAL, HostWord
from . import last_words
from .emitter import Emitter, current_emitter
from .filter import plain_text
from .normalise import safe_text
from .records import CRITICAL, ERROR, PRINTED, WARNING

__all__ = ["install"]

_GENERATION = int(HostWord.GENERATION)
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_SHOW = "_showwarnmsg"
_MESSAGE_BYTES = 4096
_installed = False

_is_enabled_for = logging.Logger.isEnabledFor
_handle = logging.Logger.handle
_log_code = logging.Logger._log.__code__  # noqa: SLF001 -- the one caller of `handle` that has judged by level
_basic_config = logging.basicConfig


def install() -> None:
    """Wrap the hooks of this process, once. What was installed before is called as before."""
    global _installed
    if _installed:
        return
    _installed = True
    logging.Logger.isEnabledFor = _hooked_is_enabled_for  # type: ignore[method-assign]
    logging.Logger.handle = _hooked_handle  # type: ignore[method-assign]
    logging.basicConfig = _hooked_basic_config
    # When a handler fails, `logging` prints the stack without its own frames, which it knows by their file.
    _hooked_handle.__code__ = _hooked_handle.__code__.replace(co_filename=_log_code.co_filename)
    # Records without a handler are printed once, by the host.
    # r[impl trace.logging.once]
    logging.lastResort = _Silent()
    _chain_exception_hooks()
    _chain_warnings()
    last_words.install()


class _Silent(logging.Handler):
    """A last resort that leaves to the host what was captured, and says the rest as before."""

    _before = logging.lastResort

    def handle(self, record: logging.LogRecord) -> bool:
        emitter = current_emitter()
        is_captured = emitter is not None and _admits(emitter, record.levelno, record.name)
        if not is_captured and self._before is not None and record.levelno >= self._before.level:
            return bool(self._before.handle(record))
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Never called: `handle` decides."""


def _hooked_is_enabled_for(self: logging.Logger, level: int) -> bool:
    emitter = current_emitter()
    return (emitter is not None and _admits(emitter, level, self.name)) or _is_enabled_for(self, level)


def _admits(emitter: Emitter, level: int, name: object) -> bool:
    try:
        return emitter.admits(level, plain_text(name))
    except Exception:
        # A level that is no number, or no recursion left: the program's own answer counts.
        return False


def _hooked_handle(self: logging.Logger, record: logging.LogRecord) -> None:
    emitter = current_emitter()
    if emitter is None:
        _handle(self, record)
        return
    # From `_log` a record may have come only because roam wants it. A record that the program hands to `handle` itself
    # was never subject to the logger's level.
    # r[impl trace.logging.levels]
    is_own = not _is_from_log(sys._getframe(1)) or _is_enabled_for(self, record.levelno)
    try:
        # Left to the host's last resort is what the program's own would have printed, and nothing that it suppresses.
        _capture(emitter, record, 0 if is_own and not self.hasHandlers() else PRINTED)
    except Exception:
        # A record that no logger makes, or no recursion left.
        emitter.writer.drop(BULK, "unencodable")
    if is_own:
        _handle(self, record)


def _is_from_log(caller: FrameType | None) -> bool:
    while caller is not None and caller.f_code.co_name == "handle":
        # A subclass of Logger has its own.
        caller = caller.f_back
    return caller is not None and caller.f_code is _log_code


def _hooked_basic_config(**kwargs: Any) -> None:
    # `logging.warning()` and its family configure the root logger when it has no handler. Without arguments and from
    # inside the module it is that; the line is printed by the host, so here it would be printed twice.
    emitter = current_emitter()
    is_implied = not kwargs and emitter is not None and sys._getframe(1).f_globals is vars(logging)
    if is_implied and emitter is not None and _admits(emitter, WARNING, "root"):
        return
    _basic_config(**kwargs)


def _capture(emitter: Emitter, record: logging.LogRecord, flags: int) -> None:
    seen = emitter.words[_GENERATION]
    if seen != emitter.generation:
        seen = emitter.refresh()
    target = plain_text(record.name)
    if record.levelno < emitter.filter.threshold(target):
        return
    try:
        message = record.getMessage()
    except Exception:
        # A format that does not fit its arguments; the program's own handlers report it in their way.
        text, arguments = (safe_text(part, repr, _MESSAGE_BYTES)[0] for part in (record.msg, record.args))
        message = f"{text} % {arguments}"
    fields = {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
    if record.stack_info:
        fields["stack_info"] = record.stack_info
    exc_info = record.exc_info if record.exc_info and record.exc_info[1] is not None else None
    emitter.event(record.levelno, target, message, fields, exc_info, seen, flags)


def _chain_exception_hooks() -> None:
    except_hook, thread_hook, unraisable_hook = sys.excepthook, threading.excepthook, sys.unraisablehook

    def on_exception(kind: type[BaseException], exc: BaseException, at: Any) -> None:
        _report("uncaught exception", exc)
        except_hook(kind, exc, at)

    def on_thread_exception(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
            name = args.thread.name if args.thread is not None else "?"
            _report(f"uncaught exception in thread {name}", args.exc_value)
        thread_hook(args)

    def on_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
        if unraisable.exc_value is not None:
            _report(unraisable.err_msg or "exception ignored", unraisable.exc_value)
        unraisable_hook(unraisable)

    sys.excepthook = on_exception
    threading.excepthook = on_thread_exception
    sys.unraisablehook = on_unraisable


def _report(message: str, exc: BaseException) -> None:
    emitter = current_emitter()
    if emitter is not None and not isinstance(exc, SystemExit):
        level = CRITICAL if message == "uncaught exception" else ERROR
        emitter.report(level, message, exc, {})


def _chain_warnings() -> None:
    """Wrap what `warnings` calls before `showwarning`, which is passed less than it prints."""
    show = getattr(warnings, _SHOW)
    print_message = vars(warnings)["_showwarnmsg_impl"]

    def on_warning(warning: warnings.WarningMessage) -> None:
        emitter = current_emitter()
        # Inside `catch_warnings(record=True)` the program takes it; `logging.captureWarnings` makes a record of it.
        is_taken = vars(warnings)["_showwarnmsg_impl"] is not print_message
        if emitter is not None and not is_taken and getattr(warnings.showwarning, "__module__", "") != "logging":
            try:
                _capture_warning(emitter, warning)
            except Exception:
                emitter.writer.drop(VITAL, "unencodable")
        show(warning)

    setattr(warnings, _SHOW, on_warning)


def _capture_warning(emitter: Emitter, warning: warnings.WarningMessage) -> None:
    seen = emitter.words[_GENERATION]
    if seen != emitter.generation:
        seen = emitter.refresh()
    if emitter.filter.threshold("py.warnings") <= WARNING:
        fields = {"category": warning.category.__name__, "file": warning.filename, "line": warning.lineno}
        emitter.event(WARNING, "py.warnings", str(warning.message), fields, None, seen, PRINTED)
