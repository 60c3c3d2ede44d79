"""Transport: a peer's own key, a file of mode 0600 in the state directory, made at the first start.

The file is unencrypted PKCS #8 in PEM (RFC 8410), as ``openssl pkey`` reads it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from doorstep.protocol.errors import InvalidInput
from doorstep.protocol.proof import KEY_BYTES, PrivateKey
from doorstep.transport.credentials import write_private

__all__ = ["AGENT_KEY", "CLIENT_KEY", "load_key", "turn"]

AGENT_KEY = "agent.key"
CLIENT_KEY = "client.key"


def load_key(directory: Path, name: str) -> PrivateKey:
    """Return the key of this state directory, made at the first call; two first calls at once agree on one.

    Raises :class:`InvalidInput` for a file that is damaged or that others can read, OSError where none can
    be written.
    """
    path = directory / name
    if not path.exists():
        with turn(path):
            if not path.exists():
                write_private(
                    path, _pem(Ed25519PrivateKey.from_private_bytes(secrets.token_bytes(KEY_BYTES)))
                )
    return _read(path)


@contextmanager
def turn(path: Path) -> Generator[None, None, None]:
    """Keep other processes from changing ``path`` meanwhile (flock(2) of a file beside it)."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path.with_name(f".{path.name}.lock"), flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read(path: Path) -> PrivateKey:
    if path.stat().st_mode & 0o077:
        raise InvalidInput(str(path), f"can be read by others; run “chmod 600 {path}”")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise _damaged(path) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _damaged(path)
    return PrivateKey(key.private_bytes_raw())


def _damaged(path: Path) -> InvalidInput:
    return InvalidInput(
        str(path),
        "is not an Ed25519 key; restore it, or remove it to get a new one, which others must accept",
    )
