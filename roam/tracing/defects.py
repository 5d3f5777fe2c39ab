"""What becomes of an exception in a thread of roam's own."""

from __future__ import annotations

import sys

__all__ = ["report_defect"]


def report_defect() -> None:
    """Report the exception being handled as if nobody had caught it. A hook of the program that raises is ignored."""
    try:
        sys.excepthook(*sys.exc_info())
    except BaseException:
        # Whatever the program's hook does, the thread that called goes on.
        return
