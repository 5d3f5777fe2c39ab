"""The child's side of starting a cell: from its first line of Python to its last.

All three start methods end up in `live`. Tracing is attached before anything of the user's is imported, and each
stage is noted in the segment as it begins, so whatever kills a cell, the host knows how far it had come.

This module is imported by every cell before its first record: it must import next to nothing.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from ..stage import Stage
from ..ticket import SpawnTicket
from ..tracing import last_words
from ..tracing.cell import attach
from . import answer, current, kin, lifeline, main_module, parcel, streams, surroundings
from .handover import Handover

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..tracing.cell import CellTracing

__all__ = ["live", "main"]

_FAILED = 1


def main(*values: object) -> NoReturn:
    """Entry of a spawn cell: the command line holds the handover."""
    handover = Handover(*values)
    for fd in handover.fds:
        if fd > 2:
            os.set_inheritable(fd, False)
    live(handover)


class _Call:
    """What there is to run, and what its answer must know."""

    __slots__ = ("args", "kwargs", "main_is_importable", "target")

    def __init__(self, call: tuple[Any, ...], *, main_is_importable: bool) -> None:
        self.target, self.args, self.kwargs = call
        self.main_is_importable = main_is_importable


def live(handover: Handover, head: dict[str, Any] | None = None, call: tuple[Any, ...] | None = None) -> NoReturn:
    """Attach, make ready, run the target, answer, end the process. A fork cell brings head and call in memory."""
    code = _FAILED
    tracing: CellTracing | None = None
    try:
        _settle(handover.process_group)
        streams.put_in_place(handover)
        guard_fd = lifeline.arm(handover.lifeline_fd, deadly=handover.die_with_host)
        if handover.method != "spawn":
            _drop_inherited(handover.method)
        tracing = attach(SpawnTicket(handover.segment_fd, handover.doorbell_fd, handover.fault_fd, handover.nonce))
        tracing.enter_stage(Stage.BOOTSTRAP)
        if head is not None and call is not None:
            prepare = partial(_take_from_memory, tracing, guard_fd, head, call)
        else:
            prepare = partial(_take_from_parcel, tracing, guard_fd, handover)
        code = _work(tracing, handover.parcel_fd, prepare)
        if code == 0:
            # After a failure the stage stays where it happened.
            tracing.enter_stage(Stage.EXIT)
        _finish(tracing)
    except BaseException as error:
        # Before the call is prepared, or after the target.
        code = code or _FAILED
        if tracing is not None:
            tracing.failure(error)
        _print(error)
    finally:
        streams.flush()
        last_words.leave(code & 0xFF)
    raise AssertionError


def _settle(process_group: int) -> None:
    """Begin a session, or join the host's process group: so signals from the terminal go where they belong, and a stop
    reaches what this process starts. A group alone would be orphaned when its host dies, and SIGHUP end it if stopped."""
    # r[impl spawn.group]
    try:
        if process_group:
            os.setpgid(0, process_group)
        else:
            os.setsid()
    except OSError:
        # It leads its session already, or its host has ended: it stays where it is.
        return
    if process_group:
        import signal

        # Ctrl-C at the terminal belongs to the host, which stops this cell. A function, because ignoring would be
        # passed on to programs that the cell runs.
        signal.signal(signal.SIGINT, lambda _number, _frame: None)


def _drop_inherited(method: str) -> None:
    """Undo what a forked process has from its parent and a new interpreter would not have."""
    import atexit
    import signal

    from multiprocess import util

    atexit._clear()
    atexit.register(util._exit_function)
    signal.set_wakeup_fd(-1)
    logging = sys.modules.get("logging")
    if method == "fork" and logging is not None:
        # The host's own logging handles what this cell captures; here its handlers would print everything twice.
        for logger in (logging.root, *logging.Logger.manager.loggerDict.values()):
            if isinstance(logger, logging.Logger):
                logger.handlers.clear()
        logging._handlers.clear()
        logging._handlerList.clear()


def _work(tracing: CellTracing, parcel_fd: int, prepare: Callable[[], _Call]) -> int:
    """Every stage from the parcel to the answer. Returns the exit code."""
    try:
        call = prepare()
    except BaseException as error:
        # r[impl spawn.exception] Told, and not sent: of what failed to start nothing is loaded in the host.
        return _failed(tracing, parcel_fd, error, None, main_is_importable=True)
    tracing.enter_stage(Stage.RUN)
    try:
        value = call.target(*call.args, **call.kwargs)
    except SystemExit as error:
        return _exited(tracing, parcel_fd, error)
    except BaseException as error:
        return _raised(tracing, parcel_fd, call, error)
    return _returned(tracing, parcel_fd, call, value)


def _take_from_memory(tracing: CellTracing, guard_fd: int, head: dict[str, Any], call: tuple[Any, ...]) -> _Call:
    """The call of a fork cell."""
    kin.join(head["kin"], sentinel=guard_fd, inheriting=False)
    _begin(tracing, head)
    return _Call(call, main_is_importable=True)


def _take_from_parcel(tracing: CellTracing, guard_fd: int, handover: Handover) -> _Call:
    """The call of any other cell, after its `__main__`."""
    with open(handover.parcel_fd, "rb", closefd=False) as file:
        head, pickler = parcel.read_head(file)
        surroundings.apply(head["surroundings"])
        expectation = None
        if "multiprocess" in sys.modules:
            kin.join(head["kin"], sentinel=guard_fd, inheriting=True)
        else:
            expectation = kin.expect(head["kin"], sentinel=guard_fd)
        # r[impl spawn.attach.first]
        _begin(tracing, head)
        if head["main"] is not None:
            # r[impl spawn.stage] Before what can fail in it.
            tracing.enter_stage(Stage.IMPORT_MAIN)
            main_module.import_again(head["main"])
        kin.leave_inheriting()
        if expectation is not None:
            expectation.inheriting = False
        tracing.enter_stage(Stage.UNPICKLE)
        call = parcel.read_body(file, pickler)
        if head["main"] is None:
            _give_main(call[0])
        return _Call(call, main_is_importable=head["main"] is not None)


def _give_main(target: Any) -> None:
    """Put what came by value with the target where the host had it, so that a cell of this cell can refer to it."""
    target = getattr(target, "func", target)
    target = getattr(target, "__func__", target)
    names = getattr(target, "__globals__", {})
    if names.get("__name__") in ("__main__", "__mp_main__"):
        main = vars(sys.modules["__main__"])
        for name, value in names.items():
            main.setdefault(name, value)


def _begin(tracing: CellTracing, head: dict[str, Any]) -> None:
    current.set_current(head["kin"]["name"], tracing)
    tracing.install_hooks()


def _returned(tracing: CellTracing, fd: int, call: _Call, value: object) -> int:
    try:
        length = answer.write(fd, answer.RETURNED, value, None, main_is_importable=call.main_is_importable)
    except Exception as cause:
        from . import by_value, unsendable

        error = unsendable.explain_result(
            value, cause, lambda sink: by_value.Pickler(sink, main_is_importable=call.main_is_importable)
        )
        error.__cause__ = cause
        return _raised(tracing, fd, call, error)
    tracing.result_length(length)
    return 0


def _raised(tracing: CellTracing, fd: int, call: _Call, error: BaseException) -> int:
    return _failed(tracing, fd, error, error, main_is_importable=call.main_is_importable)


def _failed(
    tracing: CellTracing, fd: int, error: BaseException, sent: BaseException | None, *, main_is_importable: bool
) -> int:
    """Tell of the exception that ends this stage, and send one to be raised by `result`."""
    from ..tracing.dissection import dissect_exception

    _trim(error)
    tracing.failure(error)
    _print(error)
    text = dissect_exception(error)
    os.ftruncate(fd, 0)
    tracing.result_length(answer.write(fd, answer.RAISED, sent, text, main_is_importable=main_is_importable))
    return _FAILED


def _exited(tracing: CellTracing, fd: int, error: SystemExit) -> int:
    code = error.code
    if code is None or code == 0:
        tracing.result_length(answer.write(fd, answer.EXITED, None, None, main_is_importable=True))
        return 0
    _trim(error)
    status = (code & 0xFF or _FAILED) if isinstance(code, int) else _FAILED
    last_words.note_sys_exit(error, status)
    if not isinstance(code, int) and sys.stderr is not None:
        sys.stderr.write(f"{code}\n")
    return status


def _finish(tracing: CellTracing) -> None:
    """What a Python process does at its end, except for taking the interpreter apart."""
    import atexit

    threading = sys.modules.get("threading")
    if threading is not None:
        threading._shutdown()  # waits for threads that are not daemons
    atexit._run_exitfuncs()
    streams.flush()
    tracing.goodbye()


def _trim(error: BaseException) -> None:
    """Leave roam's own frames out of the top of a traceback, if anything else is in it."""
    here = os.path.dirname(__file__)
    walk = error.__traceback__
    while walk is not None and os.path.dirname(walk.tb_frame.f_code.co_filename) == here:
        walk = walk.tb_next
    if walk is not None:
        error.__traceback__ = walk


def _print(error: BaseException) -> None:
    """As the interpreter reports an exception that nobody caught; not through the hook, which would record it again."""
    try:
        sys.__excepthook__(type(error), error, error.__traceback__)
    except BaseException:
        os.write(2, f"{type(error).__name__}\n".encode())
