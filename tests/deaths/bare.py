"""What bare `multiprocess` says of the same deaths."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

from tests.session import RUN_ROOT
from tests.support import Inventory

from .cell import die
from .planted import Planted

__all__ = ["say_bare"]

PATIENCE_S = 2.5
"""How long a process may take to die: a second of processor time, and some more."""


def say_bare(method: str, planted: Planted) -> str:
    """The exit code as `multiprocess.Process` has it, or what happened instead. Leaves nothing behind."""
    before = Inventory.take(RUN_ROOT)
    try:
        with planted.death.scene() as arguments:
            return _live_and_die(method, planted, arguments)
    finally:
        Inventory.take(RUN_ROOT).kill_news_since(before)


def _live_and_die(method: str, planted: Planted, arguments: tuple[object, ...]) -> str:
    import multiprocess

    context = multiprocess.get_context(method)
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=die_bare, args=(writer, planted.name, *arguments))
    with reader, writer:
        try:
            process.start()
        except OSError as error:
            return type(error).__name__
        writer.close()
        if planted.death.act is not None:
            try:
                reader.poll(PATIENCE_S)
                planted.death.act(process)
            except (AttributeError, TypeError):
                _end(process)
                return "cannot"
        process.join(PATIENCE_S)
        said = str(process.exitcode) if process.exitcode is not None else "still runs"
        _end(process)
    return said


def _end(process: Any) -> None:
    with contextlib.suppress(ProcessLookupError):
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
    process.join(PATIENCE_S)


def die_bare(ready: Any, name: str, *arguments: object) -> object:
    """Say that the target runs, and die."""
    ready.send(name)
    return die(name, *arguments)
