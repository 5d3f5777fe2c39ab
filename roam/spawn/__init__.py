"""Starting cells, watching over them, and saying how they ended.

A child process imports this package before anything else of roam, so it loads its parts only when they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .cell import Cell
    from .current import CurrentCell, current_cell
    from .registered import RegisteredPeer
    from .supervise import default_host, spawn_cell

__all__ = ["Cell", "CurrentCell", "RegisteredPeer", "current_cell", "default_host", "spawn_cell"]

_HOMES = {
    "Cell": "cell",
    "CurrentCell": "current",
    "RegisteredPeer": "registered",
    "current_cell": "current",
    "default_host": "supervise",
    "spawn_cell": "supervise",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}"), name)
