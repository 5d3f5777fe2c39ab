"""The run directory: where one host keeps its segments, on a file system in memory, so that they outlive everybody.

Layout: `<root>/<random>/` with `host.lock` and, per peer, `<peer_id>-<random>.segment`, `.fault` and `.stderr`.
Ownership: the host that made it holds a lock on `host.lock`, which the kernel releases when the host is gone.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from pathlib import Path

from ..errors import RoamError

__all__ = ["RunDirectory", "run_root"]

LOCK_NAME = "host.lock"


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


class RunDirectory:
    """One host's directory. Threads: any."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self._lock_fd = lock_fd

    @classmethod
    def create(cls) -> RunDirectory:
        """Make a new directory, mode 0700, and lock it. Raises `RoamError` where that is not possible."""
        root = run_root()
        try:
            path = _make_directory(root)
            lock_fd = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise RoamError(
                f"no run directory can be made in {root}: {error.strerror}. Set ROAM_DIR to a directory that is writable."
            ) from error
        # Not inherited by fork and released by SIGKILL; the file is never opened again by this process, because
        # closing any descriptor of it would release the lock.
        fcntl.lockf(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return cls(path, lock_fd)

    def new_stem(self, peer_id: int) -> str:
        """A file name stem for one peer, random so that nobody can guess it."""
        return f"{peer_id}-{secrets.token_hex(8)}"

    def forget(self) -> None:
        """In a forked child: close the descriptor, touch nothing."""
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)

    def remove(self) -> bool:
        """Remove the directory if no evidence is left in it; True if it is gone."""
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            os.close(fd)
        try:
            if any(entry.name != LOCK_NAME for entry in self.path.iterdir()):
                return False
            (self.path / LOCK_NAME).unlink(missing_ok=True)
            self.path.rmdir()
        except OSError:
            return False
        try:
            self.path.parent.rmdir()
        except OSError:
            # Other hosts have theirs there.
            return True
        return True


def _make_directory(root: Path) -> Path:
    """A new directory in `root`, which is made where it is missing. Raises `OSError`, and `RoamError` for a bad root."""
    attempts = 8
    while True:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = root / secrets.token_hex(8)
        try:
            found = os.stat(root, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                raise RoamError(f"{root} is not a directory of this user. Remove it, or set ROAM_DIR to another place.")
            if found.st_mode & 0o077:
                os.chmod(root, 0o700)
            path.mkdir(mode=0o700)
        except FileNotFoundError:
            # The last host of another process has just ended, and removed the empty root.
            attempts -= 1
            if not attempts:
                raise
        else:
            return path
