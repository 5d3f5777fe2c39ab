"""What happened: records, filters, spans, the cell's side and the host's side."""

from __future__ import annotations

__all__: list[str] = []
