"""What a peer needs before there is a process: a segment, a doorbell, a fault file; all of them, or nothing is left."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import secrets
from collections.abc import Iterator

from ..clock import ClockAnchor
from ..errors import RoamError
from ..shm.doorbell import DoorbellPair
from ..shm.header import Identity
from ..shm.layout import SegmentConfig
from ..shm.rundir import RunDirectory
from ..shm.segment import SegmentFile, boot_id, process_start_ticks
from .dumps import DumpLimits
from .link import PeerLink
from .peer import LinkKeeper, PeerOwner
from .propagate import cause_here
from .records import Peer

__all__ = ["check_options", "refusals_told", "reserve_link"]

VERSION = "0.1.0"


def check_options(segment: object, dump_limits: object, retain_bytes: int, retain_total_bytes: int) -> None:
    """Whether a host can work with these. Raises `TypeError` or `ValueError`."""
    if not isinstance(segment, SegmentConfig):
        raise TypeError(f"TracingHost(segment={segment!r}): sizes are a SegmentConfig")
    if not isinstance(dump_limits, DumpLimits):
        raise TypeError(f"TracingHost(dump_limits={dump_limits!r}): limits are DumpLimits")
    if retain_bytes < segment.page_bytes or retain_total_bytes < retain_bytes:
        raise ValueError(
            f"TracingHost(retain_bytes={retain_bytes}, retain_total_bytes={retain_total_bytes}): "
            "one peer needs at least a page, and all together at least what one may keep"
        )


@contextlib.contextmanager
def refusals_told() -> Iterator[None]:
    """Turn what the kernel refuses to a host that starts into a `RoamError`."""
    try:
        yield
    except OSError as error:
        raise RoamError(
            f"no host can be made: {error.strerror or error}. Look at the limits of this process (`ulimit -a`), and set "
            "ROAM_DIR to a file system that is sound."
        ) from error


def reserve_link(
    peer: Peer,
    run: RunDirectory,
    config: SegmentConfig,
    *,
    owner: PeerOwner | None = None,
    keeper: LinkKeeper,
    retain_bytes: int,
    in_process: bool = False,
) -> PeerLink:
    """Make everything of a peer. The host itself, peer 0, and one that is `in_process` ring without a doorbell and have
    no fault file; the latter has no files at all. Raises `NoSpace` or `OSError`."""
    stem = run.new_stem(peer.peer_id)
    path, fault_path = (run.path / f"{stem}.{suffix}" for suffix in ("segment", "fault"))
    identity = _identity_of(peer)
    with contextlib.ExitStack() as undo:
        if in_process:
            segment = SegmentFile.create_anonymous(config, identity)
        else:
            segment = SegmentFile.create(path, config, identity)
            undo.callback(path.unlink, missing_ok=True)
        undo.callback(segment.close)
        fault_fd, doorbell = -1, None
        if peer.peer_id and not in_process:
            fault_fd = os.open(fault_path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            undo.callback(fault_path.unlink, missing_ok=True)
            undo.callback(os.close, fault_fd)
            doorbell = DoorbellPair.create()
        undo.pop_all()
    return PeerLink(
        peer=peer,
        segment=segment,
        doorbell=doorbell,
        fault_fd=fault_fd,
        run_path=run.path,
        stem=stem,
        owner=owner,
        keeper=keeper,
        retain_bytes=retain_bytes,
    )


@functools.cache
def _own_start_ticks(pid: int) -> int:
    # By pid, because a forked child started at another time.
    return process_start_ticks(pid)


def _identity_of(peer: Peer) -> Identity:
    pid = os.getpid()
    return Identity(
        peer_id=peer.peer_id,
        epoch=peer.epoch,
        name=peer.name,
        nonce=secrets.token_bytes(16),
        host_pid=pid,
        host_start_ticks=_own_start_ticks(pid),
        boot_id=boot_id(),
        anchor=ClockAnchor.now(),
        roam_version=VERSION,
        python_version=platform.python_version(),
        cause=cause_here(),
    )
