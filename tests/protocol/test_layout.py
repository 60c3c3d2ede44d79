"""The namespace package stays one, every listed name exists, and the protocol stays pure."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("agent", "cli", "client", "hub", "protocol", "runtime", "testing", "transport")
PROTOCOL = ROOT / "protocol" / "doorstep" / "protocol"
MODULES = sorted(path.stem for path in PROTOCOL.glob("*.py") if path.stem != "__init__")
WITHOUT_A_LIST = {"limits"}  # every constant in it is public


def load(name: str) -> ModuleType:
    return importlib.import_module(f"doorstep.protocol.{name}")


@pytest.mark.parametrize("room", ROOMS)
def test_the_namespace_has_no_package_of_its_own(room: str) -> None:
    assert not (ROOT / room / "doorstep" / "__init__.py").exists()
    assert not (ROOT / room / "__init__.py").exists()
    assert [path.name for path in (ROOT / room / "doorstep").iterdir() if path.name != "__pycache__"] == [
        room
    ]
    assert (ROOT / room / "doorstep" / room / "py.typed").exists()


@pytest.mark.parametrize("name", MODULES)
def test_every_listed_name_exists(name: str) -> None:
    module = load(name)
    if name in WITHOUT_A_LIST:
        return
    listed = module.__all__
    assert len(set(listed)) == len(listed)
    assert [one for one in listed if not hasattr(module, one)] == []


@pytest.mark.parametrize("name", MODULES)
def test_the_first_line_says_layer_and_job(name: str) -> None:
    first = (PROTOCOL / f"{name}.py").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith('"""Protocol: ')


def test_the_protocol_imports_nothing_that_does_io() -> None:
    """A new interpreter loads every module of the protocol and with them nothing that waits or opens."""
    forbidden = {
        "asyncio",
        "socket",
        "ssl",
        "threading",
        "aiortc",
        "realtime",
        "supabase",
        "httpx",
        "websockets",
    }
    imports = ", ".join(f"doorstep.protocol.{name}" for name in MODULES)
    program = (
        f"import sys; before = set(sys.modules); import {imports}; "
        f"print(*sorted((set(sys.modules) - before) & {forbidden!r}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT / "protocol")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, "", "")
