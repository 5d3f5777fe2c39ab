"""Standard output, written wholly or with an error."""

from __future__ import annotations

import os
import sys

__all__ = ["abandon_output", "write_output"]


def write_output(text: str) -> None:
    """Write `text` to stdout and flush it. What the encoding of stdout lacks becomes an escape.

    Raises `OSError`, `BrokenPipeError` among them, if not everything was taken.
    """
    stream = sys.stdout
    data = memoryview(text.encode(stream.encoding or "utf-8", "backslashreplace"))
    stream.flush()
    # Under PYTHONUNBUFFERED the buffer is the file itself, which may take a part only; `stream.write` would not notice.
    while data:
        taken = stream.buffer.write(data)
        if taken is None:
            raise BlockingIOError("standard output does not wait for its reader")
        data = data[taken:]
    stream.flush()


def abandon_output() -> None:
    """Send what is still buffered for stdout nowhere, or the interpreter would complain about it when it ends."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        # Not a real stream: nothing will be flushed behind our back.
        return
