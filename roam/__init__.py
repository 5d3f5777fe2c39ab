"""roam starts child processes and never loses what they were doing.

General layout; an arrow means "may import", and nothing points up::

    cli                     roam show, gc, recover                         click
     │   testing            in-process cells and streams for tests
     ▼    ▼
    spawn                   spawn_cell, Cell, supervision, bootstrap       multiprocess, psutil
     ▼
    postmortem              PostMortem: write, load, render, salvage       msgspec
     ▼
    tracing                 records, filter, spans | cell side | host side msgspec
     ▼
    shm                     words, layout (the ABI), segment, ring         standard library only
     ▼
    errors  clock  stage  exit  ticket

A record goes one way: `tracing.tracer` judges it, `tracing.codec` makes bytes, `shm.writer` commits them to the cell's
segment; on the host `tracing.collector` wakes, `shm.reader` copies and validates, `tracing.fanout` decodes and hands
on. When the process is gone, `spawn` says how it ended and `postmortem` writes down what was left.

The names below are loaded when they are first used, so that `import roam` costs next to nothing and a cell imports
only its own half.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "REDACTED_NAMES",
    "Cell",
    "CellCrashed",
    "CellExit",
    "CellFailed",
    "ConfigResult",
    "DumpLimits",
    "FilterError",
    "RoamError",
    "SegmentConfig",
    "SpawnFailed",
    "TaggedRecord",
    "TracingConfig",
    "TracingHost",
    "critical",
    "current_cell",
    "debug",
    "error",
    "event",
    "get_tracer",
    "info",
    "init_cell_tracing",
    "instrument",
    "postmortem",
    "propagate",
    "set_redactor",
    "span",
    "spawn_cell",
    "trace",
    "warning",
]

if TYPE_CHECKING:
    from . import postmortem
    from .errors import CellCrashed, CellFailed, FilterError, RoamError, SpawnFailed
    from .exit import CellExit
    from .shm.layout import SegmentConfig
    from .spawn.cell import Cell
    from .spawn.current import current_cell
    from .spawn.supervise import TracingHost, spawn_cell
    from .tracing import propagate
    from .tracing.cell import init_cell_tracing
    from .tracing.config import ConfigResult, TracingConfig
    from .tracing.dumps import DumpLimits
    from .tracing.records import TaggedRecord
    from .tracing.redaction import REDACTED_NAMES, set_redactor
    from .tracing.spans import instrument
    from .tracing.tracer import critical, debug, error, event, get_tracer, info, span, trace, warning

_MODULES = {"postmortem": "postmortem", "propagate": "tracing.propagate"}
_HOMES = {
    "Cell": "spawn.cell",
    "CellCrashed": "errors",
    "CellExit": "exit",
    "CellFailed": "errors",
    "ConfigResult": "tracing.config",
    "DumpLimits": "tracing.dumps",
    "FilterError": "errors",
    "REDACTED_NAMES": "tracing.redaction",
    "RoamError": "errors",
    "SegmentConfig": "shm.layout",
    "SpawnFailed": "errors",
    "TaggedRecord": "tracing.records",
    "TracingConfig": "tracing.config",
    "TracingHost": "spawn.supervise",
    "critical": "tracing.tracer",
    "current_cell": "spawn.current",
    "debug": "tracing.tracer",
    "error": "tracing.tracer",
    "event": "tracing.tracer",
    "get_tracer": "tracing.tracer",
    "info": "tracing.tracer",
    "init_cell_tracing": "tracing.cell",
    "instrument": "tracing.spans",
    "set_redactor": "tracing.redaction",
    "span": "tracing.tracer",
    "spawn_cell": "spawn.supervise",
    "trace": "tracing.tracer",
    "warning": "tracing.tracer",
}


def __getattr__(name: str) -> Any:
    import importlib

    home = _HOMES.get(name)
    if home is not None:
        value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
