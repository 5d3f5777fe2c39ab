"""The command line; click is imported here and nowhere else."""

from __future__ import annotations

__all__: list[str] = []
