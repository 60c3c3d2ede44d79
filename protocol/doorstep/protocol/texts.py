"""Protocol: the one check of a text that somebody else has written."""

from __future__ import annotations

from doorstep.protocol.errors import InvalidInput

__all__ = ["check_text"]


def check_text(field: str, text: str | None, limit: int) -> None:
    """Return if it is Unicode of at most ``limit`` bytes, or None. Raises :class:`InvalidInput`."""
    try:
        size = 0 if text is None else len(text.encode())
    except UnicodeEncodeError:  # JSON can escape half of a surrogate pair
        raise InvalidInput(field, "must be text") from None
    if size > limit:
        raise InvalidInput(field, f"must have at most {limit} bytes")
