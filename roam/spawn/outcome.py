"""What comes of asking a dead cell for its result: the value that its target returned, or the exception to raise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CellCrashed, CellFailed, DumpError, SpawnFailed
from ..exit import CellExit, ExitKind
from .answer import EXITED, RETURNED, Answer

if TYPE_CHECKING:
    from ..postmortem import PostMortem

__all__ = ["End"]

_DETAIL_LINES = 20


@dataclass(frozen=True, slots=True)
class End:
    """All that a cell has left for whoever asks for its result. Not the handle: the exceptions made of this are kept by
    it, and would keep it in turn."""

    name: str
    exit: CellExit
    answer: Answer | None
    dump_path: Path | None
    load: Callable[[], PostMortem] | None
    """Gives the post-mortem; None where there is none."""

    def outcome(self) -> tuple[bool, Any]:
        """Whether the target returned, and the value, or else the exception to raise. Runs code of the user's: to be
        called in the thread that asks, and once."""
        found = self.answer
        if found is None or self.exit.kind is ExitKind.START_FAILED:
            return False, self._death()
        if found.outcome == EXITED:
            return True, None
        try:
            # r[impl spawn.result.caller] Here, in the caller's thread: unpickling runs code of the user's.
            value = found.load() if found.has_body else None
        except Exception as error:
            return False, self._unloadable(found, error)
        finally:
            found.close()
        if found.outcome == RETURNED:
            return True, value
        remote = self._failure(found)
        if not isinstance(value, BaseException) or isinstance(value, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            return False, remote
        value.__cause__ = remote
        return False, value

    def _failure(self, found: Answer, remark: str = "") -> CellFailed:
        text = found.text.traceback if found.text is not None else ""
        return CellFailed(name=self.name, remote_traceback=text + remark, post_mortem=self._post_mortem())

    def _unloadable(self, found: Answer, error: Exception) -> CellFailed:
        what = "return value" if found.outcome == RETURNED else "exception"
        failure = self._failure(found, f"(its {what} could not be rebuilt here: {type(error).__name__}: {error})")
        failure.__cause__ = error
        return failure

    def _death(self) -> SpawnFailed | CellCrashed:
        ended = self.exit
        if ended.kind is ExitKind.START_FAILED:
            # r[impl spawn.stage]
            return SpawnFailed(name=self.name, stage=ended.stage.label, exit=ended, detail=self._start_detail())
        dump_path = str(self.dump_path) if self.dump_path is not None else None
        brief = partial(_brief, self.load) if self.load is not None else None
        return CellCrashed(name=self.name, exit=ended, dump_path=dump_path, brief=brief)

    def _start_detail(self) -> str:
        if self.exit.exception is not None:
            return self.exit.exception.traceback
        left = self._post_mortem()
        lines = left.stderr_tail.splitlines() if left is not None else []
        return "\n".join(lines[-_DETAIL_LINES:]) or self.exit.describe()

    def _post_mortem(self) -> PostMortem | None:
        try:
            return self.load() if self.load is not None else None
        except DumpError:
            return None


def _brief(load: Callable[[], PostMortem]) -> str:
    try:
        return load().brief()
    except DumpError:
        return "its post-mortem cannot be read any more"
