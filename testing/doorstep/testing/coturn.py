"""Testing: a real coturn on loopback that takes time-limited credentials."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Coturn", "coturn", "turnserver"]

_CONFIG = """\
listening-ip=127.0.0.1
relay-ip=127.0.0.1
listening-port={port}
min-port={low}
max-port={high}
use-auth-secret
static-auth-secret={secret}
realm=doorstep.test
fingerprint
allow-loopback-peers
no-cli
no-tls
no-dtls
no-rfc5780
no-software-attribute
log-file=stdout
simple-log
userdb={directory}/turndb
pidfile={directory}/turnserver.pid
"""
_UP_WITHIN = 10.0


@dataclass(frozen=True, slots=True)
class Coturn:
    """A running server."""

    port: int
    secret: str
    process: asyncio.subprocess.Process

    def urls(self, *transports: str) -> tuple[str, ...]:
        return tuple(f"turn:127.0.0.1:{self.port}?transport={transport}" for transport in transports)


def turnserver() -> str | None:
    """The program, if there is one (Debian package: coturn)."""
    return shutil.which(
        "turnserver", path="/usr/local/bin:/usr/bin:/usr/local/sbin:/usr/sbin:/opt/homebrew/bin"
    )


@asynccontextmanager
async def coturn(directory: Path) -> AsyncGenerator[Coturn, None]:
    """Run a server for the time of a test; its files are in ``directory``."""
    program = turnserver()
    assert program is not None, "turnserver is not installed (Debian package: coturn)"
    port, secret = _free_port(), secrets.token_hex(16)
    low = 20_000 + secrets.randbelow(10_000)
    config = directory / "turnserver.conf"
    config.write_text(_CONFIG.format(port=port, low=low, high=low + 100, secret=secret, directory=directory))
    with (directory / "turnserver.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program, "-c", str(config), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        await _answering(port, process)
        yield Coturn(port, secret, process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _answering(port: int, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(_UP_WITHIN):
        while process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                await writer.wait_closed()
                return
    raise RuntimeError("turnserver ended at once")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
