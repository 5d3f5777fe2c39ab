"""What is changed in the shipped code on purpose, one bug at a time, and the schedules that are to find it."""

from __future__ import annotations

from typing import NamedTuple

from .altered import Edit
from .duets import ClaimWeave, CreditWeave, DoorbellWeave, JudgedWeave, SparedWeave
from .rings import ChanceWeave, HasteWeave, HostileWeave, KillWeave, OneBreakWeave, WeakWeave
from .tables import BirthWeave, MailboxWeave, SpanWeave
from .weave import Weave

__all__ = ["CONTROLS", "MUTANTS", "Mutant"]


class Mutant(NamedTuple):
    """What is changed, and the schedules that are to find it."""

    name: str
    kinds: tuple[type[Weave], ...]
    edits: tuple[Edit, ...]


TURN = """\
        words[at] = 0
        words[at + 2] = PAGE_HEAD_BYTES
        words[at + 1] = first_seq
        words[at] = page_no
"""
COMMIT = "        self._words[at] = commit\n"
BYTES = "        self._memory[start:stop] = _pack_head(length, crc, time_ns) + payload\n"
SEAL = "_pack_seal(time_ns, length, seq, page_no)"
LOOK_AGAIN = "            if again is None or again.page_no != self._page_no:\n"
NO_CHECKSUM = Edit("chunk", f"if crc32({SEAL}, crc32(data[body:stop])) != crc:", "if False:")
NO_SECOND_LOOK = Edit("reader", LOOK_AGAIN, "            if again is None:\n")

FILL_SPAN = "        memory[place] = record\n        uses[slot] = use\n"
SHOW_SPAN = "        words[base >> 3] = use << 1 | use & 1\n"
FILL_SLOT = "        self._write(MAILBOX_OFFSET + (generation & 1) * MAILBOX_SLOT_BYTES, head + body)\n"
NAME_SLOT = '        self._write(CONFIG_OFFSET, generation.to_bytes(8, "little"))\n'
ARM = "        parked = words[_PARKED]\n"
RING = "        if parked != self._rung:\n            self._ring_once(parked)\n"
RING_ONCE = "        if parked == self._rung:\n            return\n"
WRITTEN_HEADER = """\
        os.pwrite(fd, header[len(MAGIC) :], len(MAGIC))
        os.pwrite(fd, MAGIC, 0)
"""

RING_KINDS = (KillWeave, ChanceWeave)

MUTANTS = (
    # A page that is being turned.
    Mutant("no_invalidate", (ChanceWeave,), (Edit("ring", TURN, TURN.replace("        words[at] = 0\n", "")),)),
    Mutant(
        "publish_first",
        (ChanceWeave,),
        (Edit("ring", TURN, "        words[at] = page_no\n" + TURN.replace("        words[at] = page_no\n", "")),),
    ),
    Mutant(
        "keep_old_commit",
        (ChanceWeave,),
        (Edit("ring", TURN, TURN.replace("        words[at + 2] = PAGE_HEAD_BYTES\n", "")),),
    ),
    # A record that is being committed.
    Mutant("commit_first", (ChanceWeave,), (Edit("ring", BYTES, ""), Edit("ring", COMMIT, COMMIT + BYTES))),
    Mutant(
        "torn_hi_first",
        RING_KINDS,
        (Edit("ring", COMMIT, "        self._words[at] = commit >> 32 << 32 | commit - size & 0xFFFFFFFF\n" + COMMIT),),
    ),
    Mutant(
        # The end with its bytes, the count with the next record.
        "count_not_in_commit",
        RING_KINDS,
        (Edit("ring", COMMIT, "        self._words[at] = commit - _ONE_RECORD\n"),),
    ),
    Mutant("pack_into", RING_KINDS, (Edit("ring", COMMIT, "        self._words[at] = 0\n" + COMMIT),)),
    Mutant(
        "commit_to_the_last_byte",
        RING_KINDS,
        (Edit("ring", "commit += _ONE_RECORD + size\n", "commit += _ONE_RECORD + RECORD_HEAD_BYTES + length\n"),),
    ),
    # A reader.
    # The checksum keeps what is torn from being shown, and it is reported as damage then.
    Mutant("no_recheck", (HasteWeave,), (NO_SECOND_LOOK,)),
    Mutant("no_crc", (HasteWeave,), (NO_CHECKSUM,)),
    Mutant("no_recheck+no_crc", (ChanceWeave,), (NO_CHECKSUM, NO_SECOND_LOOK)),
    Mutant(
        "crc_without_seq",
        (HostileWeave, WeakWeave),
        tuple(Edit(module, SEAL, "_pack_seal(time_ns, length, 0, 0)") for module in ("ring", "chunk")),
    ),
    Mutant(
        "advance_on_page_no",
        (OneBreakWeave, ChanceWeave),
        (
            Edit(
                "reader",
                "        if following.first_seq <= self.next_seq <= following.first_seq + following.records:\n",
                "        self.next_seq = following.first_seq\n        if True:\n",
            ),
        ),
    ),
    Mutant(
        "jump_to_latest",
        (ChanceWeave,),
        (Edit("reader", "for page_no in sorted(heads)]", "for page_no in sorted(heads)[-1:]]"),),
    ),
    Mutant(
        "lost_off_by_one",
        (ChanceWeave,),
        (
            Edit(
                "reader",
                "        missing = seq - self.next_seq\n",
                "        seq -= 1\n        missing = seq - self.next_seq\n",
            ),
        ),
    ),
    Mutant(
        "no_last_look",
        (ChanceWeave,),
        (Edit("reader", "here.records > self._index and self._is_sound(here)", "False"),),
    ),
    Mutant(
        "stale_lap",
        (HasteWeave,),
        (Edit("reader", " or (not final and self._is_reached(lapping))", ""),),
    ),
    # The open-span table.
    Mutant("span_state_first", (SpanWeave,), (Edit("spans", FILL_SPAN + SHOW_SPAN, SHOW_SPAN + FILL_SPAN),)),
    Mutant(
        "span_in_place",
        (SpanWeave,),
        (
            Edit("spans", "start = base + 16 + (use & 1) * SPAN_BODY_BYTES", "start = base + 16"),
            Edit("spans", "use << 1 | use & 1", "use << 1"),
        ),
    ),
    Mutant(
        "span_late_rewrite",
        (SpanWeave,),
        (Edit("spans", "            if self._handles[slot] != handle:\n                return\n", ""),),
    ),
    Mutant(
        "span_late_close",
        (SpanWeave,),
        (Edit("spans", "        if self._handles[slot] == handle:\n", "        if True:\n"),),
    ),
    Mutant(
        "span_not_checked",
        (SpanWeave,),
        (
            Edit("spans", "        if after != before:\n", "        if False:\n"),
            Edit(
                "spans",
                "    if crc32(SEAL.pack(time_ns, length, use, slot), crc32(payload)) != crc:\n",
                "    if False:\n",
            ),
        ),
    ),
    # The config mailbox.
    Mutant("mailbox_word_first", (MailboxWeave,), (Edit("mailbox", FILL_SLOT + NAME_SLOT, NAME_SLOT + FILL_SLOT),)),
    Mutant(
        "mailbox_in_place",
        (MailboxWeave,),
        tuple(
            Edit("mailbox", old, old.replace("(generation & 1)", "0"))
            for old in (FILL_SLOT, "start = MAILBOX_OFFSET + (generation & 1) * MAILBOX_SLOT_BYTES")
        ),
    ),
    Mutant(
        "config_not_tried_again",
        (MailboxWeave,),
        (Edit("emitter", "self.generation = -1 if seen else 0", "self.generation = seen"),),
    ),
    Mutant(
        "config_not_kept",
        (MailboxWeave,),
        (
            Edit(
                "emitter",
                "                self.generation = -1 if seen else 0\n",
                '                self.config = TracingConfig("trace")\n'
                "                self.generation = -1 if seen else 0\n",
            ),
        ),
    ),
    Mutant(
        "spin_on_odd",
        (MailboxWeave,),
        (
            # There is no odd state to wait for here; this is a reader that believes what it finds.
            Edit("mailbox", "found != generation or length", "length"),
            Edit("mailbox", "if _checksum(generation, body) == crc else None", ""),
        ),
    ),
    # The others.
    Mutant(
        "magic_first",
        (BirthWeave,),
        (
            # The checksum would still refuse what is half written: what is found is the order.
            Edit(
                "segment",
                WRITTEN_HEADER,
                "        os.pwrite(fd, MAGIC, 0)\n        os.pwrite(fd, header[len(MAGIC) :], len(MAGIC))\n",
            ),
        ),
    ),
    Mutant(
        "span_overflow_not_counted",
        (SpanWeave,),
        (Edit("spans", "            self._overflowed += 1\n", ""),),
    ),
    Mutant(
        "mailbox_slot_overrun",
        (MailboxWeave,),
        (Edit("mailbox", "        if len(body) > LIMIT_BYTES:\n", "        if len(body) > LIMIT_BYTES + 1:\n"),),
    ),
    Mutant(
        "claim_unlocked",
        (ClaimWeave,),
        (
            Edit(
                "mapping",
                "            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 8, StatusWord.PID * 8)\n",
                "            pass\n",
            ),
        ),
    ),
    Mutant("claim_unasked", (ClaimWeave,), (Edit("mapping", "            if claimed:\n", "            if False:\n"),)),
    Mutant(
        "parked_before_commit",
        (DoorbellWeave,),
        (
            Edit("writer", ARM, ""),
            Edit(
                "writer",
                "        crc = crc32(payload)\n        words = self._words\n        try:\n",
                "        crc = crc32(payload)\n        words = self._words\n        parked = words[_PARKED]\n        try:\n",
            ),
        ),
    ),
    Mutant(
        "parked_before_fence",
        (DoorbellWeave,),
        (
            Edit("writer", ARM, ""),
            Edit(
                "writer",
                "                        self._words[_HEARTBEAT] = now\n                        outcome = _WRITTEN\n",
                "                        self._words[_HEARTBEAT] = now\n                        parked = words[_PARKED]\n                        outcome = _WRITTEN\n",
            ),
        ),
    ),
    Mutant(
        "ring_for_every_record",
        (DoorbellWeave,),
        (
            Edit("writer", RING, RING.replace("parked != self._rung", "parked")),
            Edit("writer", RING_ONCE, RING_ONCE.replace("parked == self._rung", "not parked")),
        ),
    ),
    Mutant(
        "ring_once_ever",
        (DoorbellWeave,),
        (Edit("writer", RING_ONCE, RING_ONCE.replace("parked == self._rung", "not parked or self._rung")),),
    ),
    Mutant(
        "not_judged_again",
        (JudgedWeave,),
        (Edit("writer", "                if words[_GENERATION] != generation:\n", "                if False:\n"),),
    ),
    Mutant(
        "nested_not_judged",
        (JudgedWeave,),
        (
            Edit(
                "writer",
                "        if self._words[_GENERATION] != generation:\n            return _STALE\n        self._nested",
                "        self._nested",
            ),
        ),
    ),
    Mutant(
        "acknowledged_too_early",
        (JudgedWeave,),
        (
            Edit(
                "writer",
                "            if self._state == _IDLE:\n                self._store_ack",
                "            if True:\n                self._store_ack",
            ),
        ),
    ),
    Mutant(
        "credit_not_asked",
        (CreditWeave,),
        (Edit("ring", "taken is not None and page_no > self._page_count and taken < following", "False"),),
    ),
    Mutant(
        "credit_off_by_one", (CreditWeave,), (Edit("ring", "and taken < following:", "and taken < following - 1:"),)
    ),
    Mutant(
        "credit_in_one_look",
        (CreditWeave,),
        (
            Edit(
                "stream",
                "taken = min(segment.words[HostWord.TAKEN + BULK], segment.words[HostWord.TAKEN + BULK])",
                "taken = segment.words[HostWord.TAKEN + BULK]",
            ),
        ),
    ),
    Mutant(
        "spared_in_one_look",
        (SparedWeave,),
        (Edit("overflow", "taken = min(words[at], words[at])", "taken = words[at]"),),
    ),
)
"""Bug by bug."""

EVERY_KIND = (
    KillWeave,
    OneBreakWeave,
    ChanceWeave,
    WeakWeave,
    HostileWeave,
    SpanWeave,
    MailboxWeave,
    BirthWeave,
    DoorbellWeave,
    JudgedWeave,
    CreditWeave,
    SparedWeave,
    ClaimWeave,
)

CONTROLS = (
    # The shipped text, through the same machinery.
    Mutant("unchanged", EVERY_KIND, ()),
    # Bytes without a count are nothing to a reader, which takes a head for sound when both have moved.
    Mutant(
        "end_before_count",
        (KillWeave, OneBreakWeave, ChanceWeave),
        (Edit("ring", COMMIT, "        self._words[at] = commit - _ONE_RECORD\n" + COMMIT),),
    ),
)
"""What the schedules must not find."""
