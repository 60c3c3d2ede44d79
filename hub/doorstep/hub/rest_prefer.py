"""Hub: the ``Prefer`` header (RFC 7240) as PostgREST reads it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from doorstep.hub.rest_values import RestError

__all__ = ["Prefer"]

_KNOWN: Mapping[str, tuple[str, ...]] = {
    "resolution": ("merge-duplicates", "ignore-duplicates"),
    "missing": ("default", "null"),
    "return": ("representation", "minimal", "headers-only"),
    "count": ("exact", "planned", "estimated"),
    "tx": ("commit", "rollback"),
    "handling": ("strict", "lenient"),
}
_READING = ("count", "handling")
_WRITING = ("resolution", "missing", "return", "count", "handling", "max-affected")


class Prefer:
    """What a request prefers; of repeated ones the first counts. Strict handling refuses unknown ones."""

    def __init__(self, headers: Iterable[str]) -> None:
        self._values: dict[str, str] = {}
        unknown: list[str] = []
        for item in (part.strip() for header in headers for part in header.split(",") if part.strip()):
            name, _, value = item.partition("=")
            known = name == "max-affected" and value.isascii() and value.isdigit() and len(value) < 10
            if value in _KNOWN.get(name, ()) or known:
                self._values.setdefault(name, value)
            else:
                unknown.append(item)
        if unknown and self.get("handling") == "strict":
            message = "Invalid preferences given with handling=strict"
            details = f"Invalid preferences: {', '.join(unknown)[:200]}"
            raise RestError(400, "PGRST122", message, details=details)

    def get(self, name: str) -> str | None:
        return self._values.get(name)

    @property
    def counted(self) -> bool:
        """Whether the total is wanted; a planned or estimated one is the exact one here."""
        return "count" in self._values

    def check_affected(self, number: int) -> None:
        """Refuse a change of more rows than ``max-affected``, which counts with strict handling only."""
        most = self.get("max-affected")
        if most is not None and self.get("handling") == "strict" and number > int(most):
            message = "Query result exceeds max-affected preference constraint"
            raise RestError(400, "PGRST124", message, details=f"The query affects {number} rows")

    def applied(self, *, reading: bool) -> dict[str, str]:
        """The header that says which preferences were followed."""
        names = [name for name in (_READING if reading else _WRITING) if name in self._values]
        if self.get("handling") != "strict":
            names = [name for name in names if name != "max-affected"]
        text = ", ".join(f"{name}={self._values[name]}" for name in names)
        return {"Preference-Applied": text} if text else {}
