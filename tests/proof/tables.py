"""Schedules of what is not a ring: the open-span table, the config mailbox, and the header of a segment being made."""

from __future__ import annotations

import itertools
import os
import types
from collections import Counter
from functools import cached_property
from unittest import mock

from roam.clock import ClockAnchor
from roam.errors import ConfigTooLarge, RoamError
from roam.shm.header import NO_CAUSE, Identity
from roam.shm.layout import (
    HEADER,
    MAGIC,
    MAILBOX_HEAD,
    MAILBOX_OFFSET,
    MAILBOX_SLOT_BYTES,
    SPAN_SLOT_BYTES,
    Geometry,
    HostWord,
    SegmentConfig,
    StatusWord,
)
from roam.tracing.config import TracingConfig
from tests.lanes import StoreLog

from .altered import Code
from .goal import Broken, expect
from .loom import Loads, images_of, one_break, random_breaks
from .weave import Weave, source_of

__all__ = ["IDENTITY", "BirthWeave", "MailboxWeave", "SpanWeave", "Stores"]

IDENTITY = Identity(7, 1, "cell", bytes(range(16)), os.getpid(), 0, bytes(16), ClockAnchor(0, 0), "0", "3")


class Stores:
    """`(offset, bytes)` in pieces that a kill can come between: of 8 bytes, or of one where a word may be torn."""

    def __init__(self) -> None:
        self.made: list[tuple[int, bytes]] = []

    def write(self, offset: int, data: bytes) -> None:
        """As `SegmentFile.write`."""
        # A word stored through the kernel may be seen half done.
        size = 1 if len(data) <= 8 else 8
        self.made += [(offset + at, data[at : at + size]) for at in range(0, len(data), size)]


def pairs(stores: int) -> list[tuple[int, int]]:
    """Every way for a writer to stay where it is, as if killed, then every way to get on from one store to another."""
    kills = [(at, at) for at in range(stores + 1)]
    return kills + [(start, stop) for start in range(stores) for stop in range(start + 1, stores + 1)]


class PairWeave(Weave):
    """One break in every place, for all `pairs` of images; of each pair one number."""

    @property
    def images(self) -> list[bytes]:
        """The memory after each store of the script."""
        raise NotImplementedError

    @cached_property
    def _pairs(self) -> list[tuple[int, int]]:
        return pairs(len(self.images) - 1)

    @property
    def total(self) -> int | None:
        return len(self._pairs)

    @property
    def kills(self) -> int:
        return len(self.images)


# r[verify shm.span.table]
class SpanWeave(PairWeave):
    """The cell's stores into the open-span table fall between the loads of one look at it: one break in every place,
    with a kill at every store among the starts, then as many breaks as chance likes.

    A body that is shown was in force during the look; a slot that did not change is shown as it is, and not as torn.
    Spans that found no room are counted, each before the next one is begun.
    """

    name = "span table"
    offset = 2048
    slots = 2
    steps = 28

    @cached_property
    def _script(self) -> tuple[list[bytes], list[list[tuple[int, bytes] | None]], list[int]]:
        """The images, what each slot holds in each: `(time, body)`, or None for a free one, and how many spans had found
        no room by then."""
        log = StoreLog()
        table = self.code.spans.SpanTable(log.memory, log.words, offset=self.offset, slots=self.slots)
        in_force: list[tuple[int, bytes] | None] = [None] * self.slots
        truth = [list(in_force)]
        overflowed = [0]
        ended, live = [], []
        for step in range(self.steps):
            body = bytes([65 + step]) * (3 + step * 7 % 20)
            before = list(in_force)
            is_refused = False
            if step % 7 in (0, 1):
                handle = table.open(body, step)
                is_refused = handle < 0
                if handle >= 0:
                    live.append(handle)
                    in_force[handle % self.slots] = (step, body)
            elif step % 7 == 4:
                ended.append(live.pop(0))
                table.close(ended[-1])
                in_force[ended[-1] % self.slots] = None
            elif step % 7 == 5:
                # Of a span that has ended: nothing changes, whoever has the slot now.
                for handle in ended:
                    table.rewrite(handle, b"late", step)
                    table.close(handle)
                # There is a slot, and this is too long for one.
                is_refused = table.open(bytes(SPAN_SLOT_BYTES), step) < 0
            else:
                table.rewrite(live[step % len(live)], body, step)
                in_force[live[step % len(live)] % self.slots] = (step, body)
            changed = in_force != before
            # Only the last store of a step puts something in force.
            truth += [before] * (len(log.stores) - len(truth) + 1 - changed) + [list(in_force)] * changed
            refused = overflowed[-1] + is_refused
            # Counted with the only store of such a step; where there is none, the next look finds it missing.
            overflowed += [refused] * (len(log.stores) + 1 - len(overflowed))
            overflowed[-1] = refused
        return images_of(log.stores, self.offset + self.slots * SPAN_SLOT_BYTES), truth, overflowed

    @property
    def images(self) -> list[bytes]:
        return self._script[0]

    def run(self, number: int, seed: int, counts: Counter[str]) -> int:
        start, stop = self._pairs[number]
        load = 0
        while True:
            loads = Loads(self.images)
            loads.start(start, one_break(load, stop))
            self._look(loads, start, counts)
            load += 1
            if loads.at == start:
                return load

    def _look(self, loads: Loads, start: int, counts: Counter[str]) -> None:
        images, truth, overflowed = self._script
        counted = int.from_bytes(images[loads.at][StatusWord.SPANS_OVERFLOWED * 8 :][:8], "little")
        refused = overflowed[loads.at]
        expect(counted == refused, f"{refused} spans found no room, {counted} are counted")
        counts["spans without room"] += refused
        found, torn = self.code.spans.read_open_spans(loads.read, offset=self.offset, slots=self.slots)
        shown = [tuple(opened) for opened in found]
        during = truth[start : loads.at + 1]
        expect(shown == sorted(shown), f"not from the oldest on: {shown}")
        least_torn = most_torn = 0
        for slot in range(self.slots):
            states = [state[slot] for state in during]
            mine = [body for body in shown if body in states]
            expect(len(mine) <= 1, f"one slot shown as {mine}")
            shown = [body for body in shown if body not in mine]
            changes = sum(one != other for one, other in itertools.pairwise(states))
            expect(changes or [states[0]] * (states[0] is not None) == mine, f"{states[0]} unchanged, shown as {mine}")
            most_torn += changes > 0
            least_torn += not mine and None not in states
        expect(not shown, f"never in force during the look: {shown}")
        expect(
            least_torn <= torn <= most_torn, f"{torn} torn, {most_torn} changed, {least_torn} neither shown nor free"
        )
        counts["spans shown"] += len(found)
        counts["spans torn"] += torn


class WideSpanWeave(SpanWeave):
    """As `SpanWeave`, with a table that is copied as a whole first, several breaks, and many spans."""

    name = "wide span table"
    slots = 8
    steps = 40
    kills = 0
    total = None

    def run(self, number: int, seed: int, counts: Counter[str]) -> int:
        source = source_of(seed, number)
        images = self.images
        start = source.randrange(len(images))
        speed, burst = source.choice(((0.002, 3), (0.01, 10), (0.2, 3)))
        loads = Loads(images)
        loads.start(start, random_breaks(source, start, len(images) - 1, speed, burst))
        self._look(loads, start, counts)
        return 1


def _generation(image: bytes) -> int:
    return int.from_bytes(image[HostWord.GENERATION * 8 :][:8], "little")


class _Cell:
    """The cell's end of the mailbox: the shipped emitter, whose loads of the host's areas come from images."""

    def __init__(self, code: Code, config: SegmentConfig) -> None:
        geometry = Geometry(config)
        self.memory = memoryview(bytearray(geometry.total_bytes))
        self.words = self.memory.cast("Q")
        identity = types.SimpleNamespace(cause=NO_CAUSE)
        segment = types.SimpleNamespace(
            words=self.words, memory=self.memory, geometry=geometry, config=config, identity=identity
        )
        self.emitter = code.emitter.Emitter(segment, ring=lambda: None)
        self.emitter.words = self.emitter._memory = self
        self.emitter.writer.acknowledge = lambda _: None
        self.loads = Loads([b""])

    def __getitem__(self, where: int | slice) -> int | bytes:
        if isinstance(where, slice):
            return self.loads.read(where.start, where.stop - where.start)
        return int.from_bytes(self.loads.read(where * 8, 8), "little")

    def start(self, loads: Loads, config: TracingConfig, generation: int) -> None:
        """Let `config` be in force, and the next loads come from here."""
        self.loads = loads
        self.emitter.config, self.emitter.filter = config, config.capture
        self.emitter.thresholds, self.emitter.generation = config.capture.thresholds, generation

    def emit(self) -> None:
        """What the cell does about its configuration at each record."""
        self.emitter.admits(0, "t")


# r[verify shm.config.mailbox]
# r[verify shm.config.keep]
class MailboxWeave(PairWeave):
    """The host's stores into the mailbox fall between the loads of the cell's emit: one break in every place, and a
    death of the host at every store.

    The cell is on the configuration that it had, or on one that the host posted, whole and with its generation; it
    never goes back; and its next emit finds it on the latest that was in force when the host died. Words are stored
    byte by byte, from generation 253 on, so that the carry into the second byte is torn, too. A configuration that
    fills its slot arrives; one that is a byte longer is refused, and changes nothing.
    """

    name = "mailbox"
    first_generation = 253

    def __init__(self, code: Code) -> None:
        super().__init__(code)
        self._cell = _Cell(code, SegmentConfig(page_bytes=256, record_bytes=64, span_slots=1))

    @cached_property
    def _script(self) -> tuple[list[bytes], list[int], dict[int, TracingConfig]]:
        """The images, the generation in force in each, and what was posted."""
        stores = Stores()
        writer = self.code.mailbox.MailboxWriter(stores.write)
        writer.generation = self.first_generation - 1
        posted, before = {}, 0
        for name in ("info", "off", "error,one=debug", "warn,two.three=trace", "debug,four=off,five=error"):
            config = TracingConfig(name)
            posted[writer.post(config.to_bytes())] = config
            before = before or len(stores.made)
        images = images_of(stores.made, MAILBOX_OFFSET + 2 * MAILBOX_SLOT_BYTES)[before:]
        in_force = [self.first_generation]
        for image in images[1:]:
            word = _generation(image)
            # A word half stored names nothing that was posted.
            in_force.append(word if word in posted else in_force[-1])
        return images, in_force, posted

    @property
    def images(self) -> list[bytes]:
        return self._script[0]

    def run(self, number: int, seed: int, counts: Counter[str]) -> int:
        images, in_force, posted = self._script
        start, stop = self._pairs[number]
        if number == 0:
            self._check_limit(counts)
        # Beyond the longest body nothing is ever stored: a break there is one after the copy.
        last_load = 3 + max(len(config.to_bytes()) for config in posted.values()) // 8 + 3
        for had, load in itertools.product(sorted({in_force[start], self.first_generation}), range(last_load)):
            loads = Loads(images)
            loads.start(start, one_break(load, stop))
            self._cell.start(loads, posted[had], had)
            emitter = self._cell.emitter
            self._cell.emit()
            now = [generation for generation, config in posted.items() if config == emitter.config]
            expect(len(now) == 1, f"on {emitter.config}, which was never posted")
            expect(had <= now[0] <= in_force[loads.at], f"from {had} to {now[0]}, {in_force[loads.at]} in force")
            expect(emitter.generation in (now[0], 0, -1), f"takes {now[0]} for {emitter.generation}")
            if start == stop and _generation(images[start]) in posted:
                expect(now[0] == in_force[start], f"on {now[0]} although {in_force[start]} could be read")
            counts["configurations kept"] += now[0] == had != in_force[loads.at]
            counts["configurations taken"] += now[0] != had
            self._after_the_death(images, stop, posted[in_force[stop]], counts)
        return last_load

    def _check_limit(self, counts: Counter[str]) -> None:
        memory = bytearray(MAILBOX_OFFSET + 2 * MAILBOX_SLOT_BYTES)
        longest = MAILBOX_SLOT_BYTES - MAILBOX_HEAD.size

        def write(offset: int, data: bytes) -> None:
            memory[offset : offset + len(data)] = data

        view = memoryview(memory)
        writer = self.code.mailbox.MailboxWriter(write)
        for first in (b"a", b"b"):
            body = first * longest
            try:
                generation = writer.post(body)
            except ConfigTooLarge:
                raise Broken(f"{longest} bytes are refused, which a slot has room for") from None
            found = self.code.mailbox.read_config(view, view.cast("Q"))
            expect(found == (generation, body), f"{longest} bytes were posted and cannot be read")
            before = bytes(memory), writer.generation
            try:
                writer.post(body + b"x")
            except ConfigTooLarge:
                expect((bytes(memory), writer.generation) == before, "a refused configuration has changed something")
                counts["configurations too large"] += 1
            else:
                raise Broken(f"{longest + 1} bytes are taken, which a slot has no room for")

    def _after_the_death(self, images: list[bytes], stop: int, latest: TracingConfig, counts: Counter[str]) -> None:
        """The host died at this store: the cell's next emits read what stands, as often as they like."""
        loads = Loads(images)
        loads.start(stop)
        self._cell.loads = loads
        self._cell.emit()
        self._cell.emit()
        if _generation(images[stop]) in self._script[2]:
            expect(self._cell.emitter.config == latest, f"on {self._cell.emitter.config} after the host's death")
            counts["hosts dead between posts"] += 1
        else:
            counts["hosts dead within a word"] += 1


class _System:
    """The calls of `os` by which a header is written and read."""

    def __init__(self, loads: Loads | None = None, size: int = 0) -> None:
        self.stores = Stores()
        self.loads = loads
        self.size = size

    def pwrite(self, _: int, data: bytes, offset: int) -> None:
        self.stores.write(offset, data)

    def pread(self, _: int, size: int, offset: int) -> bytes:
        assert self.loads is not None
        return self.loads.read(offset, size)

    def fstat(self, _: int) -> types.SimpleNamespace:
        return types.SimpleNamespace(st_size=self.size)


# r[verify shm.segment.magic]
class BirthWeave(PairWeave):
    """The host's stores into the header of a new segment, with a death at every one of them and somebody who opens the
    file between them, reading in either direction: it is refused, or it is whole. The magic comes when all else is
    there."""

    name = "birth"
    config = SegmentConfig(page_bytes=256, life_pages=2, vital_pages=2, bulk_pages=2, record_bytes=64, span_slots=1)

    @cached_property
    def images(self) -> list[bytes]:
        system = _System()
        with mock.patch.object(self.code.segment, "os", system):
            self.code.segment.SegmentFile._initialise(-1, "new", self.config, IDENTITY)
        return images_of(system.stores.made, 512)

    def run(self, number: int, seed: int, counts: Counter[str]) -> int:
        images = self.images
        start, stop = self._pairs[number]
        ran = 0
        whole = (self.config, IDENTITY)
        is_early = images[start].startswith(MAGIC) and images[start] != images[-1]
        expect(not is_early, f"the magic is there after {start} of {len(images) - 1} stores")
        for is_backward, load in itertools.product((False, True), range(HEADER.size // 8 + 1)):
            loads = Loads(images)
            loads.is_backward = is_backward
            loads.start(start, one_break(load, stop))
            outcome = self._open(loads)
            expect(outcome in (None, whole), f"taken for a segment before it was one: {outcome}")
            expect(outcome is None or images[loads.at] == images[-1], "taken for a segment before all was stored")
            expect(outcome is not None or start < len(images) - 1, "refused although it is whole")
            counts["unfinished segments refused"] += outcome is None
            counts["whole segments opened"] += outcome is not None
            ran += 1
        return ran

    def _open(self, loads: Loads) -> tuple[SegmentConfig, Identity] | None:
        system = _System(loads, Geometry(self.config).total_bytes)
        try:
            with mock.patch.object(self.code.header, "os", system):
                found: tuple[SegmentConfig, Identity] = self.code.header.read_header(-1, "new")
        except RoamError:
            return None
        return found


assert len(MAGIC) == 8  # one store, as far as a kill is concerned
