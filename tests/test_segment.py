"""A segment: made whole or not at all, opened with suspicion, claimed once; and the directory that it lies in."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import roam.shm.rundir
from roam.clock import ClockAnchor
from roam.errors import NoSpace, RoamError, SegmentCorrupt, SegmentError, SegmentTaken, SegmentVersionMismatch
from roam.shm.header import Identity
from roam.shm.layout import (
    BULK,
    HEADER,
    LANES,
    LIFE,
    MAGIC,
    STATUS_WORDS,
    VITAL,
    Geometry,
    HostWord,
    SegmentConfig,
    StatusWord,
)
from roam.shm.mapping import MappedSegment
from roam.shm.rundir import RunDirectory, run_root
from roam.shm.segment import SegmentFile, boot_id, process_start_ticks, reserve_file
from tests.lanes import append, records_of
from tests.support import run_script

SMALL = SegmentConfig(page_bytes=256, bulk_pages=2, vital_pages=2, record_bytes=64, span_slots=1)


def identity(name="worker", **changes):
    """A header's worth of facts."""
    facts = {
        "peer_id": 7,
        "epoch": 3,
        "name": name,
        "nonce": bytes(range(16)),
        "host_pid": 41,
        "host_start_ticks": 99,
        "boot_id": bytes(range(16, 32)),
        "anchor": ClockAnchor(1_700_000_000_000_000_000, 5),
        "roam_version": "0.1.0",
        "python_version": "3.11.7",
    }
    return Identity(**(facts | changes))


@pytest.fixture
def small(tmp_path):
    """A segment file of the smallest kind."""
    segment = SegmentFile.create(tmp_path / "one.segment", SMALL, identity())
    yield segment
    segment.close()


# r[verify shm.segment.magic]
def test_what_is_created_can_be_opened(small):
    """Every fact of the header comes back, and the file is there in full, private, and starts with the magic."""
    opened = SegmentFile.open(small.path)
    found = os.stat(small.path)

    assert (SMALL, identity()) == (opened.config, opened.identity)
    assert Geometry(SMALL).total_bytes == found.st_size <= found.st_blocks * 512
    assert 0o600 == found.st_mode & 0o777
    assert MAGIC == opened.read(0, 8)
    opened.close()
    opened.close()


@pytest.mark.parametrize(
    ("name", "kept"),
    [("é" * 100, "é" * 64), ("x" * 127 + "é", "x" * 127), ("\udcff", "\\udcff"), ("", ""), ("a\0b", "a\0b")],
)
def test_names_of_any_kind_fit_the_header(tmp_path, name, kept):
    """Names are cut between characters, and what UTF-8 cannot say is escaped; in files and in memory."""
    for segment in (
        SegmentFile.create(tmp_path / "name.segment", SMALL, identity(name)),
        SegmentFile.create_anonymous(SMALL, identity(name)),
    ):
        mapped = MappedSegment(segment.fd)
        assert kept == mapped.identity.name
        segment.close()


# r[verify shm.segment.magic]
def test_an_unfinished_header_is_no_segment(tmp_path, monkeypatch):
    """However many of the header's bytes are written, there is no segment before the last of them; the magic is last."""
    written = []
    monkeypatch.setattr(os, "pwrite", lambda _, data, offset: written.append((offset, data)) or len(data))
    SegmentFile.create(tmp_path / "not.segment", SMALL, identity()).close()
    monkeypatch.undo()
    stores = [(offset + at, data[at : at + 1]) for offset, data in written for at in range(len(data))]
    assert [0, len(MAGIC)] == sorted(offset for offset, _ in written)
    assert 0 == written[-1][0]

    with (tmp_path / "not.segment").open("r+b", buffering=0) as file:
        for offset, byte in stores[:-1]:
            os.pwrite(file.fileno(), byte, offset)
            if offset % 16 == 0 or offset < 16:
                with pytest.raises(SegmentCorrupt):
                    SegmentFile.open(file.name)
        os.pwrite(file.fileno(), stores[-1][1], stores[-1][0])
    SegmentFile.open(tmp_path / "not.segment").close()


def test_every_damaged_header_byte_is_a_typed_error(small):
    """A header with any one byte changed is refused, with the place and the reason."""
    for at in range(HEADER.size):
        original = small.read(at, 1)
        for flip in (0x01, 0x80, 0xFF):
            os.pwrite(small.fd, bytes([original[0] ^ flip]), at)
            expected = SegmentVersionMismatch if 8 <= at < 12 else SegmentCorrupt
            with pytest.raises(expected) as caught:
                SegmentFile.open(small.path)
            assert small.path == caught.value.path
            assert isinstance(caught.value, SegmentError)
        os.pwrite(small.fd, original, at)
    SegmentFile.open(small.path).close()


def test_a_header_that_contradicts_itself_is_refused(small):
    """Sizes that are checksummed but impossible, or that do not fit each other, are refused."""
    from zlib import crc32

    fields = list(HEADER.unpack(small.read(0, HEADER.size)))
    for index, value in [(2, 100), (3, 5), (4, 100), (5, 1), (8, 4096), (9, 0), (10, 512), (11, 0), (7, 2**31)]:
        changed = [*fields[:index], value, *fields[index + 1 :]]
        body = HEADER.pack(*changed)[:-4]
        os.pwrite(small.fd, body + crc32(body[8:]).to_bytes(4, "little"), 0)
        with pytest.raises(SegmentCorrupt):
            SegmentFile.open(small.path)


def test_a_truncated_file_is_refused_or_read_as_far_as_it_goes(small):
    """A file shorter than its header says is refused; one that is cut while it is read has fewer records, and no
    SIGBUS."""
    opened = SegmentFile.open(small.path)
    mapped = MappedSegment(small.fd)
    assert 0 == opened.word(StatusWord.STAGE)
    mapped.words[StatusWord.STAGE] = 5
    assert 5 == opened.word(StatusWord.STAGE) == opened.status_words()[1]
    for size in (Geometry(SMALL).total_bytes - 1, StatusWord.STAGE * 8 + 3, HEADER.size, HEADER.size - 1, 5, 0):
        os.truncate(small.path, size)
        with pytest.raises(SegmentCorrupt):
            SegmentFile.open(small.path)
        assert all([] == reader.poll(final=True) for reader in opened.lane_readers())
        assert (0, STATUS_WORDS) == (opened.word(StatusWord.ACKNOWLEDGED), len(opened.status_words()))
    opened.close()
    assert b"" == opened.read(0, 8)


def test_only_regular_files_are_opened(tmp_path, small):
    """A symbolic link, a pipe, a directory and a missing file raise at once; a pipe is not waited for."""
    os.mkfifo(tmp_path / "pipe")
    os.symlink(small.path, tmp_path / "link")
    for name, kind in [("pipe", SegmentCorrupt), (".", SegmentCorrupt), ("link", OSError), ("missing", OSError)]:
        with pytest.raises(kind):
            SegmentFile.open(tmp_path / name)


def test_lanes_lie_where_both_sides_look(small):
    """What is written into each lane through the mapping is read by descriptor from that lane and from no other."""
    from roam.shm.ring import RingWriter

    mapped = MappedSegment(small.fd)
    for lane in (LIFE, VITAL, BULK):
        writer = RingWriter(
            mapped.memory,
            mapped.words,
            offset=mapped.geometry.lane_offsets[lane],
            page_bytes=256,
            page_count=mapped.geometry.lane_pages[lane],
        )
        assert append(writer, LANES[lane].encode())
    found = [records_of(reader.poll()) for reader in small.lane_readers()]

    assert [b"life", b"vital", b"bulk"] == [payload for [(_, _, payload)] in found]
    small.store_word(HostWord.TAKEN + BULK, 2**64 - 1)
    assert [0, 2**64 - 1, 0] == [mapped.words[HostWord.TAKEN + at] for at in (1, 2, 3)]


# r[verify shm.segment.claim]
def test_a_segment_is_claimed_once(small):
    """The first to attach is named by its pid; a second is refused; a wrong nonce does not claim."""
    with pytest.raises(SegmentCorrupt, match="nonce"):
        MappedSegment(small.fd, nonce=bytes(16))
    mapped = MappedSegment(small.fd, nonce=bytes(range(16)))
    assert (os.getpid(), 1) == (small.word(StatusWord.PID), small.word(StatusWord.STATE))
    with pytest.raises(SegmentTaken) as caught:
        MappedSegment(small.fd)

    assert os.getpid() == caught.value.pid
    assert identity() == mapped.identity


CLAIMING = """
import fcntl, sys
fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX, 8, int(sys.argv[2]))
print("claiming", flush=True)
sys.stdin.readline()
"""


# r[verify shm.segment.claim]
def test_of_two_that_attach_at_once_one_is_refused():
    """While another process is about to claim, attaching is refused and not waited for; nobody's pid is stored."""
    with memory_segment() as segment:
        command = [sys.executable, "-c", CLAIMING, str(segment.fd), str(StatusWord.PID * 8)]
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "pass_fds": [segment.fd]}
        with subprocess.Popen(command, **options) as other:
            assert b"claiming\n" == other.stdout.readline()
            with pytest.raises(SegmentTaken):
                MappedSegment(segment.fd)
            assert 0 == segment.word(StatusWord.PID)
            other.communicate(b"\n", timeout=30)
        assert os.getpid() == MappedSegment(segment.fd).words[StatusWord.PID]


class memory_segment:  # noqa: N801 – reads as the context manager that it is
    """A segment without a file, closed at the end."""

    def __enter__(self):
        self.segment = SegmentFile.create_anonymous(SMALL, identity())
        return self.segment

    def __exit__(self, *_):
        self.segment.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
# r[verify shm.segment.reserved]
def test_a_file_that_cannot_be_reserved_leaves_nothing(tmp_path, monkeypatch, number):
    """No space is an error that names need and place; nothing is left, and the descriptor is closed."""

    def refuse(fd, offset, size):
        raise OSError(number, "no")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OSError if number == errno.EIO else NoSpace) as caught:
        SegmentFile.create(tmp_path / "no.segment", SMALL, identity())
    with pytest.raises(OSError):
        SegmentFile.create_anonymous(SMALL, identity())

    assert [] == list(tmp_path.iterdir())
    if number != errno.EIO:
        assert (str(tmp_path), Geometry(SMALL).total_bytes) == (caught.value.path, caught.value.needed_bytes)
        assert 0 <= caught.value.free_bytes
        assert "SegmentConfig" in str(caught.value)


def test_a_header_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    """When the disk fails after the space was reserved, the file and the descriptor are gone."""

    def refuse(*_):
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(OSError):
        SegmentFile.create(tmp_path / "no.segment", SMALL, identity())
    with pytest.raises(OSError):
        SegmentFile.create_anonymous(SMALL, identity())
    monkeypatch.undo()

    assert [] == list(tmp_path.iterdir())


FULL_DISK = """
import os, sys
from roam.errors import NoSpace
from roam.shm.layout import SegmentConfig
from roam.shm.segment import SegmentFile
from tests.test_segment import identity
from pathlib import Path
made = []
try:
    for number in range(99):
        made.append(SegmentFile.create(Path(sys.argv[1]) / f"{number}.segment", SegmentConfig(bulk_pages=4), identity()))
except NoSpace as error:
    print(len(made), error.needed_bytes > error.free_bytes, len(os.listdir(sys.argv[1])))
"""


# r[verify shm.segment.reserved]
def test_a_full_file_system_is_found_out_before_it_matters(tmp_path):
    """On a real tmpfs of 2 MiB the segment that no longer fits is refused, and those before it are whole."""
    unshare = shutil.which("unshare")
    mount = f'mount -t tmpfs -o size=2m none "{tmp_path}" && exec "$@"'
    command = [str(unshare), "-Urm", "sh", "-c", mount, "sh"]
    if unshare is None or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not permitted here")
    inner = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([*command, *inner], env=environ, capture_output=True, text=True, timeout=60, check=True)
    made, is_short, files = done.stdout.split()

    assert int(made) == int(files) >= 1
    assert "True" == is_short


def test_a_name_is_used_once(small):
    """An existing file is neither opened nor removed by a second `create`."""
    with pytest.raises(FileExistsError):
        SegmentFile.create(Path(small.path), SMALL, identity())
    SegmentFile.open(small.path).close()
    with pytest.raises(FileNotFoundError):
        reserve_file(Path(small.path).parent / "no" / "directory", 10)


def test_processes_have_a_start_time():
    """A pid and its start time name a process; a process that is gone has none."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert process_start_ticks(child.pid) >= process_start_ticks(os.getpid()) > 0
        child.communicate(b"\n")

    assert 0 == process_start_ticks(child.pid)
    assert 16 == len(boot_id())


def test_run_directories_are_private_and_go_when_empty(monkeypatch, tmp_path):
    """A run directory is the user's alone; evidence keeps it, an empty one goes, with its root."""
    monkeypatch.setenv("ROAM_DIR", str(tmp_path))
    first, second = RunDirectory.create(), RunDirectory.create()
    assert [0o700] * 3 == [os.stat(path).st_mode & 0o777 for path in (run_root(), first.path, second.path)]
    (first.path / f"{first.new_stem(4)}.segment").touch()

    assert second.remove()
    assert not second.path.exists()
    assert not first.remove()
    assert run_root().exists()
    next(first.path.glob("4-*.segment")).unlink()
    assert first.remove()
    assert not run_root().exists()


def test_a_root_that_another_host_removes_is_made_again(monkeypatch, tmp_path):
    """The last host of another process may remove the empty root just when this one makes its directory in it."""
    monkeypatch.setenv("ROAM_DIR", str(tmp_path))
    calls = []

    def token(size):
        calls.append(size)
        if len(calls) < 4:
            run_root().rmdir()
        return os.urandom(size).hex()

    monkeypatch.setattr(roam.shm.rundir.secrets, "token_hex", token)
    run = RunDirectory.create()
    assert run.remove()
    assert len(calls) == 4


def test_a_root_of_somebody_else_is_not_used(monkeypatch, tmp_path):
    """A root that is no directory of this user is refused, and one that others may enter is closed to them."""
    monkeypatch.setenv("ROAM_DIR", str(tmp_path))
    (tmp_path / "other").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "other")
    with pytest.raises(RoamError):
        RunDirectory.create()
    (tmp_path / "run").unlink()
    (tmp_path / "run").mkdir(mode=0o755)
    run = RunDirectory.create()

    assert 0o700 == os.stat(tmp_path / "run").st_mode & 0o777
    run.remove()


def test_attaching_needs_little():
    """The cell's half of `shm` imports neither `logging` nor `multiprocessing`."""
    script = "import sys, roam.shm.segment, roam.shm.writer, roam.shm.spans; print({*sys.modules} & {'logging', 'multiprocessing', 'asyncio'})"

    assert "set()" == run_script("-c", script).stdout.strip()
