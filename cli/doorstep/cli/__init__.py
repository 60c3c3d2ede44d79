"""CLI: the ``doorstep`` command. Nothing here is a library; ``doorstep.cli.main:main`` is the entry point."""

from __future__ import annotations

__all__: list[str] = []
