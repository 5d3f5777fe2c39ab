"""Bytes that two processes see."""
