"""Hub: one running hub: its files, its keys, its listening socket."""

from __future__ import annotations

import asyncio
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from doorstep.hub import accounts
from doorstep.hub.app import build_app
from doorstep.hub.bus import Bus
from doorstep.hub.changes import Changes
from doorstep.hub.config import HubConfig
from doorstep.hub.connection import websocket_class
from doorstep.hub.events import HubEvent, OnEvent
from doorstep.hub.housekeeping import keep_house
from doorstep.hub.keys import Keys, load_keys, private_directory
from doorstep.hub.listening import listen, local_url, serve
from doorstep.hub.lockout import Lockout
from doorstep.hub.messages import Messages
from doorstep.hub.passwords import Passwords
from doorstep.hub.services import Services
from doorstep.hub.sockets import Sockets
from doorstep.hub.store import Store, database
from doorstep.hub.tokens import Tokens
from doorstep.hub.watch import Watch

__all__ = ["HubServer", "Owner"]

_OWNER_EMAIL = "owner@doorstep.local"


@dataclass(frozen=True, slots=True)
class Owner:
    """The account ``doorstep up`` signs in with. ``password`` is ``None`` when the account is not new."""

    email: str
    password: str | None


class HubServer:
    """Start, stop, and the few things a program around the hub needs."""

    def __init__(self, config: HubConfig, *, on_event: OnEvent | None = None) -> None:
        self.config = config
        self._on_event = on_event or _ignore
        self._services: Services | None = None
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._house: asyncio.Task[None]
        self._listener: socket.socket

    @property
    def services(self) -> Services:
        """The parts of the running hub (for tests and the operator's tools)."""
        if self._services is None:
            raise RuntimeError("the hub is not running")
        return self._services

    @property
    def url(self) -> str:
        """Where clients find the hub, without a slash at the end."""
        return self.services.url

    @property
    def keys(self) -> Keys:
        return self.services.keys

    @property
    def anon_key(self) -> str:
        return self.keys.anon_key

    @property
    def service_key(self) -> str:
        return self.keys.service_key

    async def start(self) -> None:
        """Open the files, listen, return when requests are answered.

        Raises ``OSError`` for a taken port, :class:`~doorstep.hub.keys.KeysError` for keys that do not fit.
        """
        directory = private_directory(private_directory(self.config.state_dir) / "hub")
        listener = listen(self.config.host, self.config.port)
        try:
            services = self._build(directory, listener.getsockname()[1])
            await services.store.open()
        except BaseException:
            listener.close()
            raise
        self._services = services
        self._listener = listener
        limits = self.config.realtime
        self._server = await serve(
            build_app(services),
            listener,
            websocket=websocket_class(limits.idle),
            message_bytes=limits.frame_bytes,
            request_seconds=self.config.request_seconds,
        )
        self._serving = asyncio.create_task(self._server.main_loop(), name="hub")
        self._house = asyncio.create_task(keep_house(services), name="hub-housekeeping")
        services.sockets.start()

    async def stop(self) -> None:
        """Close every connection (1012), finish what is written, close the files. Idempotent."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            self._house.cancel()
            await asyncio.wait([self._house])
            await self._serving
            await self._server.shutdown([self._listener])
            self.services.sockets.stop()
            self._server = self._serving = None
        if self._services is not None:
            services, self._services = self._services, None
            services.passwords.close()
            await services.store.close()

    async def ensure_owner(self, email: str = _OWNER_EMAIL) -> Owner:
        """Make the owner's account at the first start, with a random password that is told only then.

        A caller that has lost it signs in by a link and sets another.
        """
        store = self.services.store
        if await store.run(lambda db: accounts.find_user(db, email=email)) is not None:
            return Owner(email, None)
        password = secrets.token_urlsafe(18)
        hashed = await self.services.passwords.hash(password)
        await store.run(lambda db: accounts.create_user(db, email, hashed))
        return Owner(email, password)

    async def sign_in_link(self, email: str = _OWNER_EMAIL) -> str:
        """A URL that signs its opener in as ``email``, once. Raises ``LookupError`` for no such account."""
        seconds = self.config.sign_in_link_seconds
        row = await self.services.store.run(lambda db: accounts.find_user(db, email=email))
        if row is None:
            raise LookupError(f"no account has the address {email}")
        link = await self.services.store.run(lambda db: accounts.make_link(db, row["id"], seconds))
        return f"{self.url}/#token_hash={link}&type=magiclink"

    def _build(self, directory: Path, port: int) -> Services:
        config, keys = self.config, load_keys(directory, self.config.keys)
        url = (config.public_url or local_url(config.host, port)).rstrip("/")
        tokens = Tokens(keys, issuer=f"{url}/auth/v1", seconds=config.access_token_seconds)
        tokens.check_keys()
        store, bus = Store(database(directory)), Bus(Watch(self._on_event), config.realtime)
        return Services(
            config=config,
            url=url,
            keys=keys,
            store=store,
            tokens=tokens,
            passwords=Passwords(config.sign_in),
            lockout=Lockout(config.sign_in),
            bus=bus,
            sockets=Sockets(config.realtime),
            messages=Messages(store, bus, config.realtime),
            on_event=self._on_event,
            changes=Changes(config.rows),
        )


def _ignore(_: HubEvent) -> None:
    pass
