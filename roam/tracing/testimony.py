"""What a cell says of itself in the status words of its segment: its own word, to be believed as far as nobody knows better."""

from __future__ import annotations

from typing import NamedTuple, Self

from ..shm.layout import StatusWord
from ..stage import Stage

__all__ = ["Testimony", "status_word"]


def status_word(words: list[int], index: int) -> int:
    """A word of `SegmentFile.status_words` by its index from the start of the segment."""
    return words[index - StatusWord.STATE]


class Testimony(NamedTuple):
    """The words, read. What was never said is None."""

    stage: Stage
    """How far it has come; the last stage for a number that is none."""
    result_length: int | None
    """Length of the finished result in bytes."""
    cpu_ns: int | None
    """Processor time when it last said so."""
    max_rss_bytes: int | None
    said_goodbye: bool
    """Whether it reached its own end, after its target."""
    last_beat_ns: int | None
    """Its last sign of life, on the monotonic clock."""

    @classmethod
    def of(cls, words: list[int]) -> Self:
        """From a copy of all status words."""
        result = status_word(words, StatusWord.RESULT)
        return cls(
            stage=Stage(min(status_word(words, StatusWord.STAGE), Stage.EXIT)),
            result_length=result - 1 if result else None,
            cpu_ns=status_word(words, StatusWord.CPU_NS) or None,
            max_rss_bytes=status_word(words, StatusWord.MAX_RSS) or None,
            said_goodbye=status_word(words, StatusWord.STATE) == 2,
            last_beat_ns=max(status_word(words, StatusWord.HEARTBEAT), status_word(words, StatusWord.BEAT)) or None,
        )
