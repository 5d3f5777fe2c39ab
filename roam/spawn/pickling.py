"""What every pickle between a host and a cell has in common."""

from __future__ import annotations

import pickle
from types import FunctionType
from typing import Any

__all__ = ["BY_DILL", "BY_PICKLE", "PROTOCOL", "PicklerWithoutMain"]

BY_PICKLE, BY_DILL = 0, 1
"""Which of the two wrote it, so that the other side imports dill only when it must."""
PROTOCOL = 5


class PicklerWithoutMain(pickle.Pickler):
    """Plain pickle that refuses classes and functions of `__main__`, for where the other side cannot look them up."""

    def reducer_override(self, obj: Any) -> Any:
        """Raise PicklingError for what belongs to `__main__`."""
        if isinstance(obj, (type, FunctionType)) and obj.__module__ in ("__main__", "__mp_main__"):
            raise pickle.PicklingError("the other side cannot import __main__")
        return NotImplemented
