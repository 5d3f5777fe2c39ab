"""The one place where text from a cell becomes text that a terminal may show.

What a cell wrote may hold escape sequences, line breaks that forge log lines, or characters that reorder or hide
what stands around them. `escape` turns each of these into visible ASCII and doubles the backslash, so nothing is
lost: `unescape` gives the original back.
"""

from __future__ import annotations

import re

__all__ = ["escape", "escape_json", "unescape"]

_INVISIBLE = (
    "\x7f-\x9f"  # DEL and C1
    "\u00ad\u061c\u115f\u1160\u180e\u3164\uffa0"  # soft hyphen, Arabic and Mongolian marks, fillers
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f"  # zero width, line separators, bidirectional controls
    "\ufeff\ufff0-\ufffb\ufffe\uffff"  # byte order mark, annotations, not characters
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e007f"  # format controls, tags
)
_SURROGATES = "\ud800-\udfff"
_UNSAFE = re.compile(f"[\x00-\x1f\\\\{_INVISIBLE}{_SURROGATES}]")
_UNSAFE_IN_JSON = re.compile(f"[{_INVISIBLE}]")
_ESCAPED = re.compile(r"\\(?:[\\nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")
_SHORT = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_LONG = {short: plain for plain, short in _SHORT.items()}


def _shown(match: re.Match[str]) -> str:
    character = match[0]
    if character in _SHORT:
        return _SHORT[character]
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def escape(text: str) -> str:
    """`text` on one line, with nothing in it that a terminal acts on or hides."""
    # r[impl dump.render.escape]
    return _UNSAFE.sub(_shown, text)


def _original(match: re.Match[str]) -> str:
    short, digits = match[0], match[0][2:]
    return chr(int(digits, 16)) if digits else _LONG[short]


def unescape(text: str) -> str:
    """The original of what `escape` returned."""
    return _ESCAPED.sub(_original, text)


def escape_json(text: str) -> str:
    """A JSON document that means the same as `text` and holds no character that a terminal acts on or hides.

    JSON itself already writes everything below a space as an escape.
    """

    def in_utf16(match: re.Match[str]) -> str:
        units = match[0].encode("utf-16-be")
        return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))

    return _UNSAFE_IN_JSON.sub(in_utf16, text)
