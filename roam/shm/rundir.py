"""The run directory: where one host keeps its segments, on a file system in memory, so that they outlive everybody.

Layout: `<root>/<random>/` with `host.lock` and, per peer, `<peer_id>-<random>` with the suffixes in `PEER_SUFFIXES`.
Ownership: the host that made it holds a lock on `host.lock`, which the kernel releases when the host is gone; then
whoever gets the lock may clear the directory away. Both lock first and look then whether the locked file is still the
one in the directory. So a directory in the making needs no guess: if it is cleared away, its maker sees that and makes
another one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
import struct
from pathlib import Path

from ..errors import RoamError
from .descriptors import close_quietly

__all__ = [
    "LOCK_NAME",
    "PEER_SUFFIXES",
    "RunDirectory",
    "is_held",
    "is_run_name",
    "noted_dump_dir",
    "run_directories",
    "run_root",
]

LOCK_NAME = "host.lock"

PEER_SUFFIXES = (".segment", ".fault", ".stdout", ".stderr")
"""The files of a peer. The segment is made first and removed first: what is left without one is known to be of no use."""

_RUN_NAME = re.compile(r"[0-9a-f]{16}")
_ATTEMPTS = 8
_LONGEST_NOTE_BYTES = 8192
_FLOCK = struct.Struct("hhqqi4x")
"""`struct flock`: type, whence, start, length, pid."""

_held: dict[str, object] = {}
"""Names of the directories whose lock this process has, or is about to take. It must not open those files again:
closing any descriptor of a file gives up the locks that the process has on it."""

# A forked child has none of the locks.
os.register_at_fork(after_in_child=_held.clear)


def run_root() -> Path:
    """Where run directories are made: `$ROAM_DIR/run`, else `/dev/shm/roam-<uid>`, else the directory for temporary files."""
    configured = os.environ.get("ROAM_DIR")
    if configured:
        return Path(configured) / "run"
    shared_memory = Path("/dev/shm")
    if os.access(shared_memory, os.W_OK):
        return shared_memory / f"roam-{os.getuid()}"
    import tempfile

    return Path(tempfile.gettempdir()) / f"roam-{os.getuid()}"


def is_run_name(name: str) -> bool:
    """Whether a directory of this name can be a run: everything else in a root is somebody else's."""
    return _RUN_NAME.fullmatch(name) is not None


def run_directories(root: Path) -> list[Path]:
    """The run directories in `root`, apart from those of this process; none where there is no root.

    Raises `RoamError` where the root is not this user's, `OSError` where it cannot be read.
    """
    try:
        _check_root(root)
        with os.scandir(root) as entries:
            return [
                Path(entry)
                for entry in entries
                if is_run_name(entry.name) and entry.name not in _held and entry.is_dir(follow_symlinks=False)
            ]
    except FileNotFoundError:
        return []


def is_held(path: Path) -> bool | None:
    """Whether somebody holds the lock of a run directory, its host as a rule; None where nobody can say. Takes no lock."""
    if path.name in _held:
        return True
    fd = -1
    try:
        fd = _open_to_look(path)
        # Of a lock that is asked for, the kernel says which other one is in the way.
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError:
        return None
    finally:
        close_quietly(fd)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def noted_dump_dir(path: Path) -> Path | None:
    """Where the host of a run directory puts its dumps, as far as another process can know; see `RunDirectory.dump_dir`."""
    if path.name in _held:
        return None
    fd = -1
    try:
        fd = _open_to_look(path)
        return _noted(fd)
    except OSError:
        return None
    finally:
        close_quietly(fd)


def _open_to_look(path: Path) -> int:
    return os.open(path / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)


def _noted(lock_fd: int) -> Path | None:
    try:
        noted = os.pread(lock_fd, _LONGEST_NOTE_BYTES, 0)
        place = Path(os.fsdecode(noted[:-1]))
        found = os.stat(place)
    except (OSError, ValueError):
        return None
    is_usable = noted.endswith(b"\0") and place.is_absolute() and stat.S_ISDIR(found.st_mode)
    return place if is_usable and found.st_uid == os.getuid() else None


class RunDirectory:
    """One host's directory. Threads: any."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self._lock_fd = lock_fd

    @classmethod
    def create(cls, dump_dir: Path | None = None) -> RunDirectory:
        """Make a new directory, mode 0700, and lock it. `dump_dir` is noted for whoever finds the directory without
        its host. Raises `RoamError` where that is not possible."""
        root = run_root()
        try:
            for _ in range(_ATTEMPTS):
                found = cls._make(root)
                if found is not None:
                    break
            else:
                raise FileNotFoundError(errno.ENOENT, "its directories vanish as they are made")
        except OSError as error:
            raise RoamError(
                f"no run directory can be made in {root}: {error.strerror}. Set ROAM_DIR to a directory that is writable."
            ) from error
        if dump_dir is not None:
            found.note(dump_dir)
        return found

    @classmethod
    def _make(cls, root: Path) -> RunDirectory | None:
        """A new directory in `root`, which is made where it is missing; None if either vanished meanwhile."""
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = secrets.token_hex(8)
        with contextlib.suppress(FileNotFoundError):
            if _check_root(root) & 0o077:
                os.chmod(root, 0o700)
            return cls._lock(root / name, os.O_CREAT | os.O_EXCL, is_new=True)
        return None

    @classmethod
    def claim(cls, path: Path) -> RunDirectory | None:
        """Take over a directory whose host is gone; None where it lives, or somebody else is clearing up.

        Raises `FileNotFoundError` where there is no lock file, and `OSError` where it cannot be locked.
        """
        return cls._lock(path, 0, is_new=False)

    @classmethod
    def _lock(cls, path: Path, flags: int, *, is_new: bool) -> RunDirectory | None:
        # In one step, so that two threads of this process exclude each other, too.
        mark = object()
        if _held.setdefault(path.name, mark) is not mark:
            return None
        lock_fd = -1
        found = None
        try:
            if is_new:
                path.mkdir(mode=0o700)
            lock_path = path / LOCK_NAME
            lock_fd = os.open(lock_path, flags | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
            # r[impl dump.salvage.lock] Not inherited by fork, and released by SIGKILL.
            with contextlib.suppress(BlockingIOError, PermissionError):
                fcntl.lockf(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock_fd), os.stat(lock_path, follow_symlinks=False)):
                    found = cls(path, lock_fd)
        except OSError as error:
            if is_new and not isinstance(error, FileExistsError):
                # It has nothing in it, and its maker cannot use it.
                with contextlib.suppress(OSError):
                    (path / LOCK_NAME).unlink(missing_ok=True)
                    path.rmdir()
            raise
        finally:
            if found is None:
                close_quietly(lock_fd)
                _held.pop(path.name, None)
        return found

    def note(self, dump_dir: Path) -> None:
        """Write down where this host's dumps go, for `dump_dir`. Never raises."""
        # Where there is no room for it there is none for a segment either, and that is said better there.
        with contextlib.suppress(OSError):
            os.pwrite(self._lock_fd, os.fsencode(dump_dir) + b"\0", 0)

    @property
    def dump_dir(self) -> Path | None:
        """Where the host of this directory put its dumps, if that place is still there and this user's."""
        return _noted(self._lock_fd)

    def new_stem(self, peer_id: int) -> str:
        """A file name stem for one peer, random so that nobody can guess it."""
        return f"{peer_id}-{secrets.token_hex(8)}"

    def forget(self) -> None:
        """Close the descriptor, touch nothing: in a forked child, or because there is nothing to be done here."""
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            close_quietly(fd)
            _held.pop(self.path.name, None)

    def remove(self) -> bool:
        """Remove the directory if no evidence is left in it; True if it is gone. The lock is given up in any case."""
        if self._lock_fd < 0:
            return self._remove_again()
        try:
            if any(entry.name != LOCK_NAME for entry in self.path.iterdir()):
                return False
            # Under the lock: nobody else takes the rest of the directory for a run.
            (self.path / LOCK_NAME).unlink(missing_ok=True)
            self.path.rmdir()
        except OSError:
            return False
        finally:
            self.forget()
        # Fails where other hosts have theirs there.
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()
        return True

    def _remove_again(self) -> bool:
        try:
            mine = RunDirectory.claim(self.path)
        except OSError:
            return False
        return mine is not None and mine.remove()


def _check_root(root: Path) -> int:
    """The mode of the root. Raises `RoamError` for one that is not a directory of this user, `OSError` for none."""
    found = os.stat(root, follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise RoamError(f"{root} is not a directory of this user. Remove it, or set ROAM_DIR to another place.")
    return found.st_mode
