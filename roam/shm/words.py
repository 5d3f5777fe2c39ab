"""Shared words: the one place that says how a 64-bit value crosses from one process to another.

A shared word is 8 bytes, 8-byte aligned, written by one process. It is stored through a `memoryview` cast to
`"Q"`, which CPython turns into one fixed-size copy that the compiler emits as one aligned store: a reader in another
process sees the old value or the new one. `struct.pack_into` is not such a store: it clears its target first, so a
reader, or a kill, in between sees 0.

Ordering between stores is what x86-64 gives to all programs (stores become visible in program order), and every
record carries a checksum bound to its place, so that a weaker machine could lose a race but not show a torn record.
"""

from __future__ import annotations

from typing import TypeAlias

__all__ = ["MASK", "WORD_BYTES", "Words", "words_of"]

WORD_BYTES = 8
MASK = (1 << 64) - 1

Words: TypeAlias = "memoryview[int]"
"""A view whose item `i` is the word at byte `8 * i`."""


def words_of(memory: memoryview) -> Words:
    """The words of a writable byte view. Its start must be 8-byte aligned, which page-aligned mappings are."""
    return memory.cast("B").cast("Q")
