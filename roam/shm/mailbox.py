"""The config mailbox: the host's latest word to a cell, which needs no thread there and no cooperation.

Layout: two slots and one word, the generation in force; a generation's slot is `generation & 1`. Ownership: the host
writes, the cell reads. Failure: the writer fills the other slot before it stores the word, so a host killed at any
store leaves a complete configuration in force; a reader that finds a checksum wrong keeps what it has and tries again.
"""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

from ..errors import ConfigTooLarge
from .layout import CONFIG_OFFSET, MAILBOX_HEAD, MAILBOX_OFFSET, MAILBOX_SLOT_BYTES, HostWord
from .words import Words

__all__ = ["LIMIT_BYTES", "MailboxWriter", "read_config"]

LIMIT_BYTES = MAILBOX_SLOT_BYTES - MAILBOX_HEAD.size


def _checksum(generation: int, body: bytes) -> int:
    return crc32(generation.to_bytes(8, "little") + len(body).to_bytes(4, "little"), crc32(body))


class MailboxWriter:
    """The host's side. `write(offset, data)` stores into the segment."""

    def __init__(self, write: Callable[[int, bytes], None]) -> None:
        self._write = write
        self.generation = 0
        """The generation in force; 0 before the first."""

    def post(self, body: bytes) -> int:
        """Put a configuration in force and return its generation. Raises `ConfigTooLarge`; the old one stays then."""
        if len(body) > LIMIT_BYTES:
            raise ConfigTooLarge(size_bytes=len(body), limit_bytes=LIMIT_BYTES)
        generation = self.generation + 1
        head = MAILBOX_HEAD.pack(generation, len(body), _checksum(generation, body))
        # r[impl shm.config.mailbox] The other slot first, then the word: pairs with read_config.
        self._write(MAILBOX_OFFSET + (generation & 1) * MAILBOX_SLOT_BYTES, head + body)
        self._write(CONFIG_OFFSET, generation.to_bytes(8, "little"))
        self.generation = generation
        return generation


def read_config(memory: memoryview, words: Words) -> tuple[int, bytes] | None:
    """The configuration in force as `(generation, bytes)`, or None if there is none that can be read just now."""
    generation = words[HostWord.GENERATION]
    if generation == 0:
        return None
    start = MAILBOX_OFFSET + (generation & 1) * MAILBOX_SLOT_BYTES
    slot = bytes(memory[start : start + MAILBOX_SLOT_BYTES])
    found, length, crc = MAILBOX_HEAD.unpack_from(slot)
    if found != generation or length > LIMIT_BYTES:
        return None
    body = slot[MAILBOX_HEAD.size : MAILBOX_HEAD.size + length]
    return (generation, body) if _checksum(generation, body) == crc else None
