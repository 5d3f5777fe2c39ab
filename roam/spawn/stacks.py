"""The stacks of a living cell: its host sends a signal, and `faulthandler` in the cell writes them into the fault file.

The handler is C code that needs no lock of the interpreter's, so that it works whatever the cell is doing; nothing is
traced, and nobody has to be privileged. It looks at frames that other threads may be changing: CPython's own warning
about `faulthandler.register` holds, and so stacks are taken on request, of a cell that is hung, or before one is ended.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..errors import StacksUnavailable
from ..shm.layout import STACKS_SIGNAL
from . import procfs

if TYPE_CHECKING:
    from ..tracing.link import PeerLink

__all__ = ["take_stacks"]

_PAUSE_S = 0.002
_SETTLED_S = 0.02
"""The text is taken to be whole when it has not grown for so long: nothing marks its end."""


def take_stacks(link: PeerLink, pid: int, unanswered: set[int], timeout_s: float) -> str:
    """Have the process write its stacks, and return the text. Raises `StacksUnavailable`, which says why there are none.

    The signal is in `unanswered` from before it is sent until the text is there: it may be the end of the process.
    """
    number = STACKS_SIGNAL
    if not link.shows_stacks:
        raise StacksUnavailable("the cell has not come so far yet")
    # Without its handler the signal would end the process: after an exec, for one.
    caught = procfs.signal_is_caught(pid, number)
    if caught is None:
        raise StacksUnavailable("the cell has ended, or nobody may look at it", "Look at Cell.post_mortem.")
    if not caught:
        raise StacksUnavailable(f"the cell blocks signal {number}, or has taken its handler away")
    if procfs.state(pid) in ("T", "t"):
        raise StacksUnavailable("the cell is stopped, and runs no handler")
    start = link.fault.size_bytes
    unanswered.add(number)
    try:
        link.send_signal(number)
    except OSError as refusal:
        unanswered.discard(number)
        raise StacksUnavailable(f"the cell cannot be sent signal {number}: {refusal.strerror}") from None
    text = _await_text(link, start, timeout_s)
    unanswered.discard(number)
    return text


def _await_text(link: PeerLink, start: int, timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    size, grown_s = start, time.monotonic()
    while (now_s := time.monotonic()) < deadline and (size == start or now_s - grown_s < _SETTLED_S):
        time.sleep(_PAUSE_S)
        found = link.fault.size_bytes
        if found != size:
            size, grown_s = found, time.monotonic()
    if size == start:
        raise StacksUnavailable(f"the cell wrote none within {timeout_s} s")
    return link.fault.text(start).decode("utf-8", "backslashreplace")
