"""The user's `__main__`, in the host and again in the cell."""

from __future__ import annotations

import os
import sys
from typing import Any

__all__ = ["describe", "import_again"]

_replaced: list[Any] = []


def describe() -> dict[str, str] | None:
    """How a cell can import the host's `__main__`: by `name`, by `path`, or not at all (None).

    Not at all: `-c`, standard input, a notebook, an interactive session, and `-m package`, whose `__main__.py` runs
    its program without a guard.
    """
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        name = spec.name
        return None if name == "__main__" or name.endswith(".__main__") else {"name": name}
    path = getattr(main, "__file__", None)
    if path is None:
        return None
    from multiprocess import process

    if not os.path.isabs(path) and process.ORIGINAL_DIR is not None:
        path = os.path.join(process.ORIGINAL_DIR, path)
    path = os.path.normpath(path)
    if not os.path.isfile(path) or os.path.splitext(os.path.basename(path))[0] == "ipython":
        return None
    return {"path": path}


def import_again(described: dict[str, str]) -> None:
    """Run the main module under the name `__mp_main__` and let it stand for `__main__`. Raises what it raises."""
    from types import ModuleType

    module = ModuleType("__mp_main__")
    namespace = module.__dict__
    name = described.get("name")
    if name is not None:
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        code = spec.loader.get_code(name)  # type: ignore[attr-defined]  # every loader of `python -m` has it
        namespace.update(__spec__=spec, __file__=spec.origin, __loader__=spec.loader, __package__=spec.parent)
    else:
        path = described["path"]
        code = _code_of(path)
        namespace.update(__file__=path)
    # The old one stays alive: functions that were made in it still use its globals.
    _replaced.append(sys.modules.get("__main__"))
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    exec(code, namespace)


def _code_of(path: str) -> Any:
    import io

    with io.open_code(path) as file:
        source = file.read()
    if path.endswith(".pyc"):
        import marshal

        return marshal.loads(source[16:])
    return compile(source, path, "exec", dont_inherit=True)
