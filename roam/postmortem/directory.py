"""Where dumps are kept, the proof that one can be, and how many there may be."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import time
from pathlib import Path

from ..errors import DumpError

__all__ = ["DUMP_SUFFIX", "check_dump_dir", "default_dump_dir", "newest_dump", "part_name", "prune"]

DUMP_SUFFIX = ".roam"
_REMEDY = "Name another one with TracingHost(dump_dir=...), or set ROAM_DIR."
_PROOF_BYTES = 4096
_DUMP_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-[A-Za-z0-9_.]+-\d+(?:-\d+)?\.roam")
"""As `write` makes them: the names of dumps that nobody has renamed."""
_PART_NAME = re.compile(rf"\.{_DUMP_NAME.pattern}\.part")
_ABANDONED_S = 3600.0
"""Writing a dump takes seconds. What was not touched for so long has lost its writer."""


def default_dump_dir() -> Path:
    """`$ROAM_DIR/dumps`, or `dumps` in the user's state directory. Nothing is created."""
    root = os.environ.get("ROAM_DIR", "")
    if root:
        return Path(root) / "dumps"
    # Imported late: nobody who sets ROAM_DIR needs it.
    import platformdirs

    return platformdirs.user_state_path("roam") / "dumps"


def check_dump_dir(path: str | os.PathLike[str]) -> Path:
    """Create the directory (mode 0700) if there is none, prove with a real file that dumps can be written there, and
    return it as an absolute path. A host calls this when it starts, because a crash is too late. Raises `DumpError`."""
    # r[impl dump.directory.proved]
    directory = Path(os.path.abspath(path))
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        # Not exist_ok: with a dangling link or a file in the way the error below says what is there.
        directory.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise _unusable(directory, f"it cannot be made: {error.strerror}") from error
    try:
        status = directory.lstat()
        if stat.S_ISLNK(status.st_mode) and status.st_uid not in (0, os.geteuid()):
            raise _unusable(directory, f"it is a symbolic link of user {status.st_uid}")
        if not directory.is_dir():
            raise _unusable(directory, "it is not a directory")
        _prove(directory)
    except OSError as error:
        raise _unusable(directory, f"no file can be written there: {error.strerror}") from error
    return directory


def _prove(directory: Path) -> None:
    proof = directory / f".proof-{secrets.token_hex(8)}"
    file = os.open(proof, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        # A block of its own: an empty file can be made where there is no room for a byte.
        os.write(file, b"\0" * _PROOF_BYTES)
        os.fsync(file)
    finally:
        os.close(file)
        proof.unlink()


def _unusable(directory: Path, why: str) -> DumpError:
    return DumpError(path=str(directory), why=f"dumps cannot be kept here: {why}", remedy=_REMEDY)


def part_name(name: str) -> str:
    """What a dump is called while it is written."""
    return f".{name}.part"


def prune(directory: Path, *, most_count: int, most_bytes: int, newest: Path | None = None) -> int:
    """Remove the oldest dumps while there are more than `most_count` or they take more than `most_bytes`; `newest` stays,
    however large. Also removes what writers that were killed have left. Returns how many dumps were removed.

    Only files that are named as `write` names them are looked at. Other processes may do the same at the same time.
    Raises `OSError` where the directory cannot be read.
    """
    # r[impl dump.caps]
    found: list[tuple[str, int]] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            # What vanishes meanwhile was removed by somebody else.
            with contextlib.suppress(FileNotFoundError):
                if _DUMP_NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                    found.append((entry.name, entry.stat(follow_symlinks=False).st_size))
                elif _PART_NAME.fullmatch(entry.name):
                    _remove_abandoned(entry)
    found.sort()
    count, size_bytes, removed = len(found), sum(size for _, size in found), 0
    for name, size in found:
        if count <= most_count and size_bytes <= most_bytes:
            break
        if newest is not None and name == newest.name:
            continue
        try:
            os.unlink(directory / name)
            removed += 1
        except FileNotFoundError:
            # Another host was faster; there is one less all the same.
            pass
        except OSError:
            continue
        count -= 1
        size_bytes -= size
    return removed


def _remove_abandoned(entry: os.DirEntry[str]) -> None:
    if entry.is_file(follow_symlinks=False):
        age_s = time.time() - entry.stat(follow_symlinks=False).st_mtime
        if age_s > _ABANDONED_S:
            os.unlink(entry)


def newest_dump(directory: Path) -> Path:
    """The dump whose cell died last. Raises `DumpError` where there is none."""
    try:
        with os.scandir(directory) as entries:
            names = [
                entry.name
                for entry in entries
                if entry.name.endswith(DUMP_SUFFIX)
                and not entry.name.startswith(".")
                and entry.is_file(follow_symlinks=False)
            ]
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise DumpError(path=str(directory), why=f"it cannot be read: {error.strerror}") from error
    if not names:
        raise DumpError(
            path=str(directory),
            why="there is no post-mortem here",
            remedy="No cell has died abnormally, or ROAM_DIR was another one then.",
        )
    return directory / max(names)
