"""Bytecode by bytecode: counts the instructions that a process runs in some modules, and kills it at one of them.

An instruction is counted before it takes effect, so a kill at number k finds k - 1 of them done. Made of
`sys.monitoring`, which CPython has from 3.12 on.
"""

from __future__ import annotations

import dis
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import TypeAlias

__all__ = ["Place", "Stepper", "code_of", "stretch"]

Place: TypeAlias = tuple[int, int]
"""An instruction: the index of its code among what is watched, and its offset there."""

_TOOL = 4
"""None of the numbers that debuggers, profilers and coverage have for themselves."""


def code_of(modules: Iterable[ModuleType]) -> list[CodeType]:
    """The code of every function that these modules define, methods and inner functions included."""
    found: dict[CodeType, None] = {}
    for module in modules:
        for thing in vars(module).values():
            if getattr(thing, "__module__", None) != module.__name__:
                continue
            for member in (thing, *vars(thing).values()) if isinstance(thing, type) else (thing,):
                function = getattr(member, "fget", member)
                if isinstance(function, FunctionType):
                    found.update(dict.fromkeys(_with_inner(function.__code__)))
    return list(found)


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_inner(constant)


def stretch(function: FunctionType, after: tuple[str, str | None, int], until: tuple[str, str | None, int]) -> range:
    """The offsets behind one instruction of a function and up to another one, which is in it.

    Each is told by its name, its argument where that matters, and which of those it is, from 0.
    """
    first, last = _offset(function, *after), _offset(function, *until)
    assert first < last
    return range(first + 1, last + 1)


def _offset(function: FunctionType, name: str, argument: str | None, number: int) -> int:
    return [
        step.offset
        for step in dis.get_instructions(function)
        if step.opname == name and argument in (None, step.argval)
    ][number]


class Stepper:
    """Counts the instructions that this process runs in some code from now on. With `kill_at`, a number from 1, the
    process ends there by SIGKILL."""

    def __init__(self, watched: list[CodeType], kill_at: int = 0) -> None:
        self._index = {code: number for number, code in enumerate(watched)}
        self._kill_at = kill_at
        self._count = 0
        self.places: list[Place] = []
        """Where the process was, in its order. Kept only where nobody is killed."""
        monitoring = sys.monitoring
        monitoring.use_tool_id(_TOOL, "tests.proof")
        callback = self._approach if kill_at else self._note
        monitoring.register_callback(_TOOL, monitoring.events.INSTRUCTION, callback)
        for code in watched:
            monitoring.set_local_events(_TOOL, code, monitoring.events.INSTRUCTION)

    def _approach(self, *_: object) -> None:
        self._count += 1
        if self._count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def _note(self, code: CodeType, offset: int) -> None:
        self.places.append((self._index[code], offset))
