"""A run directory of its own for everything that a test session starts; importing this module sets it up.

It has to be imported before any module that imports `roam`. The environment carries it on to scripts and cells.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from pathlib import Path

from tests.support import SESSION_VARIABLE

__all__ = ["RUN_ROOT", "SESSION_DIRECTORY", "end_session"]


def _new_session_directory() -> Path:
    """Segments belong on tmpfs; where /dev/shm is missing, any temporary directory has to do."""
    tmpfs = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="roam-tests-", dir=tmpfs if os.access(tmpfs, os.W_OK) else None))


def end_session() -> None:
    """The session's directory goes with the session, in the process that began it."""
    if IS_OURS:
        shutil.rmtree(SESSION_DIRECTORY, ignore_errors=True)


IS_OURS = not os.environ.get(SESSION_VARIABLE)
if not IS_OURS:
    # A shard, a script or a cell of a session that began elsewhere.
    SESSION_DIRECTORY = Path(os.environ["ROAM_DIR"])
else:
    SESSION_DIRECTORY = _new_session_directory()
    os.environ["ROAM_DIR"] = str(SESSION_DIRECTORY)
    os.environ[SESSION_VARIABLE] = secrets.token_hex(8)
    for variable in ("ROAM_FILTER", "ROAM_DISABLE", "ROAM_TICKET", "ROAM_PURE_PYTHON"):
        os.environ.pop(variable, None)
RUN_ROOT = SESSION_DIRECTORY / "run"
