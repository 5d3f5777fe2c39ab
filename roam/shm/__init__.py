"""Bytes that two processes see."""

from __future__ import annotations

__all__: list[str] = []
