"""What a document shows, held against what is printed: the same lines in the same order, with other numbers and times."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["expect_lines"]


def expect_lines(lines: Iterable[str], shown: list[str]) -> None:
    """Fail unless each of `lines` stands in what was `shown`, in this order."""
    left = iter(shown)
    for line in lines:
        pattern = re.compile(_loose(line))
        assert any(pattern.fullmatch(found) for found in left), f"{line}\n" + "\n".join(shown)


def _loose(line: str) -> str:
    """A pattern for `line` with other numbers and times, and with whatever `…` stands for."""
    pattern = re.sub(r"0x[0-9a-f]+|\d[\d.]*(?:\\ (?:ns|us|ms|s)\b)?", "#", re.escape(line).replace(r"\.", "."))
    return pattern.replace("#", r"\S+(?: (?:ns|us|ms|s)\b)?").replace("…", ".*").replace(r"\ ", " +")
