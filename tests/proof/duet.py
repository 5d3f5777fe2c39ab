"""Two sides that both load and store: they run for real, in turns, and change places before an access to what is shared.

Each side runs shipped code in a thread of its own, of which one runs at any time. Every load, store and lock of theirs
is announced by `Duet.step`, and the schedule says how many steps each turn has. A side that is killed makes no step any
more, whatever its exception handlers try.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from .goal import Broken

__all__ = ["Duet", "FencedLock", "Killed", "Shared", "Side"]

PATIENCE_S = 60.0


class Killed(BaseException):
    """The side is dead; nothing that it does from here on has an effect."""


class Duet:
    """`turns` are numbers of steps, for side 0 first; after the last of them whoever runs goes on to the end. With
    `kill`, a side and a step, that side ends before that step."""

    def __init__(self, turns: Sequence[int], kill: tuple[int, int] | None = None) -> None:
        self._turns = iter(turns)
        self._left = next(self._turns, -1)
        self._kill = kill
        self._may_go = [threading.Semaphore(0), threading.Semaphore(0)]
        self._errors: list[BaseException] = []
        self.side = 0
        """The one that runs."""
        self.steps = [0, 0]
        self.has_ended = [False, False]
        self.was_killed = [False, False]

    def run(self, first: Callable[[], object], second: Callable[[], object]) -> None:
        """Run both to their ends. Raises what one of them raised."""
        thread = threading.Thread(target=self._run_side, args=(1, second), name="second side")
        thread.start()
        self._run_side(0, first)
        thread.join(PATIENCE_S)
        if self._errors:
            raise self._errors[0]

    def _run_side(self, side: int, work: Callable[[], object]) -> None:
        try:
            if side == 1:
                self._wait(1)
            work()
        except Killed:
            pass
        except BaseException as error:
            # For `run` to raise.
            self._errors.append(error)
        self.has_ended[side] = True
        if not self.has_ended[1 - side]:
            self.side = 1 - side
            self._may_go[1 - side].release()

    def _wait(self, side: int) -> None:
        if not self._may_go[side].acquire(timeout=PATIENCE_S):
            raise Broken("the sides wait for each other")

    def step(self) -> None:
        """Before an access: maybe it is the other's turn, maybe this is the end. Nothing when both have ended."""
        if all(self.has_ended):
            return
        side = self.side
        while self._left == 0:
            self._left = next(self._turns, -1)
            self.give_way()
        self._left -= 1
        self.steps[side] += 1
        if self._kill is not None and self._kill[0] == side and self.steps[side] > self._kill[1]:
            self.was_killed[side] = True
            raise Killed

    def end_turn(self) -> None:
        """Let the other side run from the next step on."""
        self._left = 0

    def give_way(self) -> None:
        """Let the other side run, if it has not ended, until it is this one's turn again."""
        side = self.side
        if not self.has_ended[1 - side]:
            self.side = 1 - side
            self._may_go[1 - side].release()
            self._wait(side)


class Shared:
    """Memory of both."""

    def __init__(self, size: int, duet: Duet) -> None:
        self.buffer = bytearray(size)
        self.words = memoryview(self.buffer).cast("Q")
        self.duet = duet
        self.torn: dict[int, int] = {}
        """Words that are half stored, and what the next load of them shows."""


class Side:
    """One side's view of shared memory: bytes and words, for loads and for stores, and `read` of a descriptor.

    With `is_buffered`, its stores stay with it until its next fence, as an x86 processor may keep them: it sees them
    itself, and the other side sees them later, in their order.
    """

    def __init__(self, shared: Shared, *, is_buffered: bool = False) -> None:
        self._shared = shared
        self._step = shared.duet.step
        self._is_buffered = is_buffered
        self._kept: list[tuple[int, bytes]] = []
        self.stored: list[tuple[int, bytes]] = []
        """Every store, in the order in which it was made."""
        self.words: Any = _Words(self)

    def cast(self, kind: str) -> Any:
        """As a `memoryview` does."""
        return self.words if kind == "Q" else self

    def __setitem__(self, place: slice, data: bytes) -> None:
        offset = place.start
        while offset < place.stop:
            stop = min((offset | 7) + 1, place.stop)
            self.store(offset, data[offset - place.start : stop - place.start])
            offset = stop

    def store(self, offset: int, data: bytes) -> None:
        """One store."""
        self._step()
        self.stored.append((offset, data))
        if self._is_buffered:
            self._kept.append((offset, data))
        else:
            self._shared.buffer[offset : offset + len(data)] = data

    def load_word(self, index: int) -> int:
        """One load of a word."""
        self._step()
        shared = self._shared
        if index in shared.torn:
            return shared.torn.pop(index)
        for offset, data in reversed(self._kept):
            if offset == index * 8:
                return int.from_bytes(data, "little")
        return shared.words[index]

    def store_torn(self, index: int, value: int, duet: Duet | None = None) -> None:
        """A word stored through the kernel: one look at it may see the upper bytes of the new value and the lowest of
        the old one; the look after that sees the new one. With `duet`, it is the other side's turn before that."""
        if duet is not None:
            duet.end_turn()
        self._step()
        shared = self._shared
        shared.torn[index] = value & ~0xFF | shared.words[index] & 0xFF
        shared.words[index] = value
        if duet is not None:
            duet.end_turn()
        self._step()
        shared.torn.pop(index, None)

    def read(self, offset: int, size: int) -> bytes:
        """As `SegmentFile.read`, 8 bytes at a time."""
        pieces = []
        for at in range(offset, offset + size, 8):
            self._step()
            pieces.append(bytes(self._shared.buffer[at : min(at + 8, offset + size)]))
        return b"".join(pieces)

    def fence(self) -> None:
        """Wait until the stores are seen."""
        self._step()
        self.flush()

    def flush(self) -> None:
        """Every store so far is seen by the other side from now on; after a death, too."""
        kept, self._kept = self._kept, []
        for offset, data in kept:
            self._shared.buffer[offset : offset + len(data)] = data


class _Words:
    def __init__(self, side: Side) -> None:
        self._side = side

    def __getitem__(self, index: int) -> int:
        return self._side.load_word(int(index))

    def __setitem__(self, index: int, value: int) -> None:
        self._side.store(int(index) * 8, value.to_bytes(8, "little"))


class FencedLock:
    """A re-entrant lock of one side, which orders that side's stores before what comes after its release."""

    def __init__(self, lock: Any, side: Side) -> None:
        self._lock = lock
        self._side = side
        self._depth = 0

    def acquire(self, *options: Any) -> bool:
        """As the lock does."""
        is_taken = bool(self._lock.acquire(*options))
        self._depth += is_taken
        return is_taken

    def release(self) -> None:
        """As the lock does; an inner release is no more than a count."""
        self._lock.release()
        self._depth -= 1
        if not self._depth:
            self._side.fence()
