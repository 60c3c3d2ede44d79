"""Hub: PostgreSQL's LIKE and ILIKE as a function for SQLite, whose own differ in case and escapes. Pure."""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["PATTERN_CHARACTERS", "like", "pattern_fault"]

PATTERN_CHARACTERS = 1_024
"""Longest pattern that is looked at: what a match costs grows with it."""


def like(text: str | None, pattern: str, ignore_case: int) -> bool | None:
    """Whether ``text`` matches; null for null. ``%`` is anything, ``_`` one character, a backslash quotes.

    What is between the ``%`` is looked for from left to right, each at its first place: no pattern takes more
    than its length times the text's.
    """
    if text is None:
        return None
    pieces = _compiled(pattern, bool(ignore_case))
    if len(pieces) == 1:
        return pieces[0][0].fullmatch(text) is not None
    (first, _), *middle, (last, width) = pieces
    start = first.match(text)
    if start is None:
        return False
    position = start.end()
    for piece, _ in middle:
        found = piece.search(text, position)
        if found is None:
            return False
        position = found.end()
    return len(text) - width >= position and last.fullmatch(text, len(text) - width) is not None


def pattern_fault(pattern: str) -> str | None:
    """Why PostgreSQL, or this hub, does not take a pattern."""
    if len(pattern) > PATTERN_CHARACTERS:
        return "the pattern is too long"
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        return "LIKE pattern must not end with escape character"
    return None


@lru_cache(maxsize=128)
def _compiled(pattern: str, ignore_case: bool) -> tuple[tuple[re.Pattern[str], int], ...]:
    """The pieces between the ``%``, each with how many characters it takes."""
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    pieces, escaped = [[""]], False
    for character in pattern:
        if not escaped and character == "%":
            pieces.append([""])
        elif not escaped and character == "\\":
            escaped = True
        else:
            pieces[-1].append("." if character == "_" and not escaped else re.escape(character))
            escaped = False
    return tuple((re.compile("".join(piece), flags), len(piece) - 1) for piece in pieces)
