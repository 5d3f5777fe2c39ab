"""What `faulthandler` wrote when a cell died by a fatal signal, read back."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["FRAMES_SHOWN", "CrashSite", "crash_site", "crashing_stack", "fatal_error"]

_FATAL = "Fatal Python error: "
_FRAME = re.compile(r'  File (?:"(.*)"|\?\?\?), line (\d{1,9}|\?\?\?) in (.+)')
_SECTION = re.compile(r"(Current thread|Thread|Stack)\b.*most recent call first\):")
_MOST_LINES = 20_000
_LONGEST_ERROR = 500
FRAMES_SHOWN = 100
"""`faulthandler` shows so many frames of a thread, innermost first; most versions of Python put three dots after them."""


class CrashSite(NamedTuple):
    """The innermost Python frame of the thread that died. What `faulthandler` could not tell is None or `???`."""

    file: str
    line: int | None
    function: str


def fatal_error(text: str) -> str | None:
    """What the last fatal error in `text` was, such as `Segmentation fault`, or None where there was none."""
    start = text.rfind(_FATAL)
    return None if start < 0 else text[start + len(_FATAL) :].partition("\n")[0][:_LONGEST_ERROR]


def crash_site(text: str) -> CrashSite | None:
    """Where the last fatal error in `text` happened, or None where the text does not say.

    Tolerant of any text: it comes from a process that was dying, or lying.
    """
    # Stacks that were asked for while the cell still ran may stand before; only a fatal error names the culprit.
    start = text.rfind(_FATAL)
    if start < 0:
        return None
    is_current = False
    for line in text[start:].split("\n", _MOST_LINES)[:_MOST_LINES]:
        section = _SECTION.match(line)
        if section is not None:
            if is_current:
                return None
            # "Stack" stands where faulthandler was told to show one thread only.
            is_current = section[1] != "Thread"
        elif is_current and (frame := _FRAME.fullmatch(line)) is not None:
            file, number, function = frame.groups()
            return CrashSite(file or "???", int(number) if number.isdecimal() else None, function)
    return None


def crashing_stack(text: str) -> list[str]:
    """The frames of the thread that a fatal error stopped, innermost first; without one, of the thread that was shown
    last, which is the main thread where nothing else is said. Tolerant of any text."""
    start = max(0, text.rfind(_FATAL))
    current: list[str] = []
    other: list[str] = []
    frames: list[str] = []
    for line in text[start:].split("\n", _MOST_LINES)[:_MOST_LINES]:
        section = _SECTION.match(line)
        if section is None:
            frames.extend([line[2:]] if line.startswith("  ") else [])
        elif section[1] == "Thread":
            frames = other = []
        else:
            frames = current = []
    return current or other
