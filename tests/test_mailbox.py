"""The config mailbox: the latest configuration, or none, and never half of one."""

from __future__ import annotations

import pytest

from roam.errors import ConfigTooLarge
from roam.shm.layout import MAILBOX_OFFSET, MAILBOX_SLOT_BYTES, HostWord
from roam.shm.mailbox import LIMIT_BYTES, MailboxWriter, read_config

TOTAL_BYTES = MAILBOX_OFFSET + 2 * MAILBOX_SLOT_BYTES


class Mailbox:
    """Both sides over one buffer; stores are logged in pieces of 8 bytes, as a kill could cut them."""

    def __init__(self):
        self.buffer = bytearray(TOTAL_BYTES)
        self.memory = memoryview(self.buffer)
        self.words = self.memory.cast("Q")
        self.stores = []
        self.writer = MailboxWriter(self.write)

    def write(self, offset, data):
        pieces = [(at, data[at - offset : at - offset + 8]) for at in range(offset, offset + len(data), 8)]
        self.stores += pieces
        for at, piece in pieces:
            self.buffer[at : at + len(piece)] = piece

    def read(self):
        return read_config(self.memory, self.words)


def test_the_latest_configuration_is_in_force():
    """Generations count from 1, and the reader gets the last that was posted."""
    mailbox = Mailbox()
    assert mailbox.read() is None
    assert 0 == mailbox.writer.generation
    for number in range(1, 20):
        body = b"%d" % number * number
        assert number == mailbox.writer.post(body) == mailbox.writer.generation
        assert (number, body) == mailbox.read()


# r[verify shm.config.mailbox]
def test_a_kill_at_any_store_leaves_a_configuration_in_force():
    """The host dies at any store: the cell has the old configuration whole, or the new one."""
    mailbox = Mailbox()
    bodies = [bytes([number]) * (30 * number) for number in range(1, 5)]
    ends = []
    for body in bodies:
        mailbox.writer.post(body)
        ends.append(len(mailbox.stores))
    replay = Mailbox()
    for done, (offset, data) in enumerate(mailbox.stores, start=1):
        replay.buffer[offset : offset + len(data)] = data
        generation = sum(end <= done for end in ends)
        assert replay.read() == ((generation, bodies[generation - 1]) if generation else None)


def test_a_reader_among_the_stores_gets_a_posted_configuration_or_none():
    """While two configurations are posted between the reader's loads it gets one of them whole, or nothing."""
    posted = {(1, b"one" * 9), (2, b"two" * 8), (3, b"three" * 7)}
    log = Mailbox()
    for _, body in sorted(posted):
        log.writer.post(body)
    seen = set()
    for start in range(len(log.stores) + 1):
        for burst in (1, 4, 12, 30):
            replay = Mailbox()
            done = start
            for offset, data in log.stores[:start]:
                replay.buffer[offset : offset + len(data)] = data

            class Words:
                """Lets the host get on after the generation word was read."""

                def __getitem__(self, index, replay=replay, burst=burst, done=done):
                    value = replay.words[index]
                    for offset, data in log.stores[done : done + burst]:
                        replay.buffer[offset : offset + len(data)] = data
                    return value

            found = read_config(replay.memory, Words())
            assert found is None or found in posted
            seen.add(found)

    assert {None, *posted} == seen


def test_a_torn_slot_is_no_configuration():
    """Whichever byte of the slot in force is changed, there is none to be read; repaired, it is back."""
    mailbox = Mailbox()
    mailbox.writer.post(b"first")
    mailbox.writer.post(b"the body")
    start = MAILBOX_OFFSET
    for at in range(start, start + 16 + len(b"the body")):
        mailbox.buffer[at] ^= 0x11
        assert mailbox.read() is None
        mailbox.buffer[at] ^= 0x11
    assert (2, b"the body") == mailbox.read()
    for torn in (1, 3, 4, 2**40, 2**64 - 1):
        mailbox.words[HostWord.GENERATION] = torn
        found = mailbox.read()
        assert found is None or (torn == 1 and found == (1, b"first"))


def test_what_does_not_fit_changes_nothing():
    """The largest body fits a slot; one byte more is a typed error, and the old configuration stays in force."""
    mailbox = Mailbox()
    largest = b"c" * LIMIT_BYTES
    mailbox.writer.post(b"small")
    mailbox.writer.post(largest)
    before = bytes(mailbox.buffer)
    with pytest.raises(ConfigTooLarge) as caught:
        mailbox.writer.post(largest + b"c")

    assert (LIMIT_BYTES + 1, LIMIT_BYTES) == (caught.value.size_bytes, caught.value.limit_bytes)
    assert (before, (2, largest), 2) == (bytes(mailbox.buffer), mailbox.read(), mailbox.writer.generation)
    assert (3, b"") == (mailbox.writer.post(b""), mailbox.read()[1])
