"""What was left of a cell: its post-mortem, as an object, as a file and as text."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .directory import check_dump_dir, default_dump_dir
    from .file import load, write
    from .model import PostMortem

__all__ = ["PostMortem", "check_dump_dir", "default_dump_dir", "load", "write"]

_HOMES = {
    "PostMortem": "model",
    "check_dump_dir": "directory",
    "default_dump_dir": "directory",
    "load": "file",
    "write": "file",
}


def __getattr__(name: str) -> object:
    # Loaded on first use, so that `import roam` costs nothing of this.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
