"""docs/design.md shows the tables as they are; scripts/diagrams notices when it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "diagrams"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_page_is_fresh() -> None:
    checked = run("--check")
    assert (checked.returncode, checked.stderr) == (0, "")


def test_a_stale_page_is_noticed_and_drawn_anew(tmp_path: Path) -> None:
    fresh = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    page = tmp_path / "design.md"
    page.write_text(fresh.replace("connecting --> connected: wire-up", ""), encoding="utf-8")
    assert run("--check", "--page", str(page)).returncode == 1
    assert run("--page", str(page)).returncode == 0
    assert page.read_text(encoding="utf-8") == fresh


def test_a_page_without_its_markers_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "design.md"
    page.write_text("# nothing here", encoding="utf-8")
    refused = run("--page", str(page))
    assert refused.returncode == 1
    assert "attempt" in refused.stderr
    assert page.read_text(encoding="utf-8") == "# nothing here"
