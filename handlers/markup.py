"""HTML in texts."""

from __future__ import annotations

import re

_ENTITY = re.compile(r"&([a-z0-9]+|#[0-9]{1,6}|#x[0-9a-f]{1,6});")
CLEANUP_REGEX = re.compile(rf"<.*?>|{_ENTITY.pattern}")
"""HTML's tags and entities, which text handlers take out. A text of ``<`` alone makes it slow."""


def without_markup(text: str) -> str:
    """What ``CLEANUP_REGEX`` leaves of the text, in time that grows no faster than the text."""
    lines = []
    for line in text.split("\n"):
        # No tag goes beyond the last '>', or begins before it without an end: no search is in vain.
        head, end, tail = line.rpartition(">")
        lines.append(CLEANUP_REGEX.sub("", head + end) + _ENTITY.sub("", tail))
    return "\n".join(lines)
