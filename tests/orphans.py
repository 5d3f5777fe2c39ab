"""Run directories whose host is gone, made without one, and what salvage says of them."""

from __future__ import annotations

import contextlib
import gc
import os

from click.testing import CliRunner

from roam.cli.main import commands
from roam.shm.layout import SegmentConfig, StatusWord
from roam.shm.mapping import MappedSegment
from roam.shm.rundir import LOCK_NAME
from roam.shm.segment import SegmentFile, is_written
from roam.stage import Stage
from roam.tracing.emitter import Emitter
from roam.tracing.records import Peer
from roam.tracing.reservation import _identity_of
from tests.support import wait_until

__all__ = ["ORPHAN", "SMALL", "command", "fates", "is_free", "make_orphan", "make_root", "make_segment"]

ORPHAN = "0123456789abcdef"
"""A name as hosts give it to their run directories."""

SMALL = SegmentConfig(page_bytes=4096, record_bytes=1024, life_pages=2, vital_pages=2, bulk_pages=4, span_slots=8)


def make_root(monkeypatch, tmp_path):
    """A place of its own for run directories, with one for dumps beside it."""
    monkeypatch.setenv("ROAM_DIR", str(tmp_path / "roam"))
    (tmp_path / "roam" / "dumps").mkdir(parents=True)
    (tmp_path / "roam" / "run").mkdir(mode=0o700)
    return tmp_path / "roam" / "run"


def make_orphan(root):
    """The run directory of a host that is gone."""
    (root / ORPHAN).mkdir(mode=0o700, parents=True)
    (root / ORPHAN / LOCK_NAME).touch()
    return root / ORPHAN


def make_segment(directory, *, peer_id=1, name="cell", records=3, stage=Stage.RUN, state=1, pid=None, **identity):
    """A segment and the files beside it, of a cell that wrote some records; nobody has it open any more. `identity` is
    what its header says otherwise."""
    path = directory / f"{peer_id}-0000000000000abc.segment"
    file = SegmentFile.create(path, SMALL, _identity_of(Peer(peer_id, 1, name, None))._replace(**identity))
    mapped = MappedSegment(file.fd)
    emitter = Emitter(mapped, ring=lambda: None)
    for number in range(records):
        emitter.event(20, "app", f"record {number}", {}, None, emitter.generation)
    emitter.words[StatusWord.STAGE] = stage
    emitter.words[StatusWord.STATE] = state
    if pid is not None:
        emitter.words[StatusWord.PID] = pid
    path.with_suffix(".fault").touch()
    path.with_suffix(".stdout").write_text("a line\n")
    path.with_suffix(".stderr").write_text("the last line\n")
    emitter.words.release()
    file.close()
    # Emitter and mapping refer to each other, and the mapping has to be gone.
    del emitter
    with contextlib.suppress(BufferError):
        mapped.mapping.close()
    del mapped
    wait_until(lambda: is_free(path))
    return path


def is_free(path):
    gc.collect()
    fd = os.open(path, os.O_RDONLY)
    try:
        return is_written(fd) is False
    finally:
        os.close(fd)


def fates(findings):
    return [finding.fate for finding in findings]


def command(*arguments):
    result = CliRunner().invoke(commands, ["gc", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result
