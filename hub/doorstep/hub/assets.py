"""Hub: where the built web client and the migrations are: in the installed package, or in the checkout."""

from __future__ import annotations

from pathlib import Path

__all__ = ["migrations", "web_root"]

_HERE = Path(__file__).parent
_CHECKOUT = _HERE.parents[2]


def web_root() -> Path | None:
    """The directory of the built web client, or ``None`` when it has not been built."""
    root = _HERE / "_web"
    return root if (root / "index.html").is_file() else None


def migrations() -> tuple[Path, ...]:
    """The SQL files for a Supabase project, in the order they are applied."""
    packaged = _HERE / "_sql"
    root = packaged if packaged.is_dir() else _CHECKOUT / "sql"
    return tuple(sorted(root.glob("[0-9]*.sql")))
