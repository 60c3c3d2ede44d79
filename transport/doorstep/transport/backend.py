"""Transport: the back end's sign-in and ``agents`` table by the ``supabase`` library, its only importer.

The library costs most of a second to import, so that happens at sign-in.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx
import msgspec
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from doorstep.protocol.errors import (
    AgentNotFound,
    DoorstepError,
    InvalidInput,
    LinkError,
    NotSignedIn,
    Unauthorized,
)
from doorstep.protocol.ids import AgentId, UserId
from doorstep.protocol.limits import NAME_CHARACTERS
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.transport.bounded_http import BoundedClient
from doorstep.transport.credentials import Credentials
from doorstep.transport.tokens import Grant, Tokens

if TYPE_CHECKING:
    from supabase import AsyncClient

    from doorstep.transport.realtime import RealtimeSignaling

__all__ = ["AgentRecord", "AgentRow", "Backend"]

SAME_NAME = 99
"""Agents of one owner that ask for the same name: the last one is called name-99."""
AGENTS_LISTED = 1000
"""PostgREST's own usual limit."""
TRIES = 3
"""Of a request that can be repeated, when the link fails."""

NOW = "now"
"""PostgreSQL reads this as the server's time: an agent's own clock may be wrong."""

T = TypeVar("T")
_log = logging.getLogger("doorstep.transport")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRecord:
    """What an agent says of itself."""

    id: str
    name: str
    platform: str
    version: str
    public_key: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


class AgentRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``agents``, as ``sql/`` defines it."""

    id: AgentId
    owner_id: UserId
    name: str
    platform: str | None = None
    version: str | None = None
    status: str
    last_seen: datetime | None = None
    public_key: str | None = None
    metadata: dict[str, Any] | None = None
    created_at: datetime | None = None


class Backend:
    """A signed-in user of a Supabase project or hub.

    Methods raise :class:`NotSignedIn`, :class:`Unauthorized`, :class:`InvalidInput` or :class:`LinkError`.
    """

    def __init__(
        self, client: AsyncClient, http: httpx.AsyncClient, who: Credentials, timing: Timing
    ) -> None:
        self._client = client
        self.http = http
        """For further requests to this back end, over the connections there are."""
        self.url = who.url
        self._key = who.key
        self._timing = timing
        self._tokens = Tokens(_Issuer(client, timing), who, timing, self._push_token)
        self._shared: RealtimeSignaling | None = None
        self._signalings: list[RealtimeSignaling] = []
        self._refresher: asyncio.Task[None] | None = None

    @classmethod
    async def sign_in(cls, credentials: Credentials, timing: Timing = DEFAULT_TIMING) -> Self:
        """Sign in by the refresh token or the password, and stay signed in until :meth:`close`."""
        http = BoundedClient(timing.request)
        backend = cls(_client(credentials, http), http, credentials, timing)
        try:
            await backend._tokens.renew()
        except BaseException:
            await backend.close()
            raise
        backend._refresher = asyncio.create_task(backend._tokens.keep_fresh(), name="keep tokens fresh")
        return backend

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def user_id(self) -> UserId:
        return UserId(self._tokens.grant.user_id)

    @property
    def credentials(self) -> Credentials:
        """What to save for signing in again: the newest refresh token included."""
        return self._tokens.credentials

    async def access_token(self) -> str:
        """Give an access token that is valid now."""
        return await self._tokens.access_token()

    def signaling(self) -> RealtimeSignaling:
        """Give this back end's signaling; its socket opens at the first join."""
        if self._shared is None:
            self._shared = self.separate_signaling()
        return self._shared

    def separate_signaling(self) -> RealtimeSignaling:
        """Give signaling on a socket of its own, for joins that may be refused.

        A real server freezes the whole socket for 5 s over one. Close it after use; :meth:`close` closes what
        is left.
        """
        from doorstep.transport.realtime import RealtimeSignaling

        self._signalings = [signaling for signaling in self._signalings if not signaling.closed]
        signaling = RealtimeSignaling(self.url, self._key, self.access_token, self._timing)
        self._signalings.append(signaling)
        return signaling

    async def close(self) -> None:
        """Close signaling, connections and tasks; the session itself stays valid. Idempotent.

        A cancelled close has closed all the same.
        """
        async with AsyncExitStack() as rest:
            rest.push_async_callback(self.http.aclose)
            rest.push_async_callback(self._tokens.finish)
            rest.push_async_callback(self._stop_refreshing)
            for signaling in self._signalings:
                rest.push_async_callback(signaling.close)

    async def _stop_refreshing(self) -> None:
        if self._refresher is not None:
            self._refresher.cancel()
            await asyncio.wait({self._refresher})

    async def register_agent(self, record: AgentRecord) -> AgentRow:
        """Insert or update the agent's row by its id. A name another agent has becomes name-2, name-3 …"""
        for name in _names(record.name):
            row = {
                "id": record.id,
                "owner_id": self.user_id,
                "name": name,
                "platform": record.platform,
                "version": record.version,
                "public_key": record.public_key,
                "metadata": dict(record.metadata),
                "status": "online",
                "last_seen": NOW,
            }
            try:
                return _one(await self._rows(partial(_upsert, row)))
            except _NameTakenError:
                continue
        raise InvalidInput(
            "name", f"{SAME_NAME} agents of yours are called {record.name}; choose another name"
        )

    async def touch_agent(self, agent: str) -> None:
        """Say that the agent lives."""
        await self._update(agent, {"status": "online", "last_seen": NOW})

    async def set_offline(self, agent: str) -> None:
        """Say that the agent stops."""
        await self._update(agent, {"status": "offline", "last_seen": NOW})

    async def list_agents(self) -> list[AgentRow]:
        """List the user's agents by name."""
        return await self._rows(lambda client: _agents(client).select("*").order("name").limit(AGENTS_LISTED))

    async def find_agent(self, name_or_id: str) -> AgentRow:
        """Find one agent of the user's. Raises :class:`AgentNotFound`, naming those there are."""
        agents = await self.list_agents()
        for agent in agents:
            if name_or_id in (agent.id, agent.name):
                return agent
        there = ", ".join(agent.name for agent in agents[:10]) or "none yet: start one with “doorstep agent”"
        raise AgentNotFound(f"no agent {name_or_id!r} is yours; there is: {there}")

    async def _update(self, agent: str, change: Mapping[str, Any]) -> None:
        rows = await self._rows(lambda client: _agents(client).update(dict(change)).eq("id", agent))
        if not rows:
            raise AgentNotFound(f"agent {agent} has no row any more; register it again")

    async def _rows(self, query: Callable[[AsyncClient], Any]) -> list[AgentRow]:
        """Run a repeatable query; the token is renewed once if the server finds it expired."""
        await self.access_token()
        try:
            return await self._repeat(query)
        except NotSignedIn:
            await self._tokens.renew()
            return await self._repeat(query)

    async def _repeat(self, query: Callable[[AsyncClient], Any]) -> list[AgentRow]:
        wait = wait_random_exponential(multiplier=0.2, max=2)
        stop = stop_after_attempt(TRIES)
        async for attempt in AsyncRetrying(
            stop=stop, wait=wait, retry=retry_if_exception_type(LinkError), reraise=True
        ):
            with attempt:
                response = await _translated(query(self._client).execute())
                return msgspec.convert(response.data, list[AgentRow])
        raise AssertionError("tenacity ends by a result or an error")

    async def _push_token(self, token: str) -> None:
        for signaling in self._signalings:
            try:
                await signaling.set_token(token)
            except LinkError:
                continue  # its supervisor fetches the token for the next join


class _Issuer:
    """Satisfies ``tokens.Issuer``."""

    def __init__(self, client: AsyncClient, timing: Timing) -> None:
        self._client = client
        self._timing = timing

    async def by_password(self, email: str, password: str) -> Grant:
        """A back end that many ask at once says so; it is asked again, for ``Timing.request``."""
        async for attempt in AsyncRetrying(
            stop=stop_after_delay(self._timing.request),
            wait=wait_random_exponential(multiplier=0.5, max=4),
            retry=retry_if_exception_type(_BusyError),
            reraise=True,
        ):
            with attempt:
                return await self._by_password(email, password)
        raise AssertionError("tenacity ends by a result or an error")

    async def _by_password(self, email: str, password: str) -> Grant:
        sign_in = self._client.auth.sign_in_with_password
        try:
            return _grant(await _translated(sign_in({"email": email, "password": password})))
        except _BusyError:
            raise
        except LinkError as error:  # a connection that was kept is closed in the moment it is used again
            _log.debug("asked once more: %s", error)
            return _grant(await _translated(sign_in({"email": email, "password": password})))

    async def by_refresh_token(self, token: str) -> Grant:
        return _grant(await _translated(self._client.auth.refresh_session(token)))


class _BusyError(LinkError):
    """The back end wants to be asked later (429)."""


class _NameTakenError(Exception):
    """The owner has another agent of this name."""


def _client(credentials: Credentials, http: httpx.AsyncClient) -> AsyncClient:
    from supabase import AsyncClient, AsyncClientOptions
    from supabase._async.client import SupabaseException

    options = AsyncClientOptions(
        auto_refresh_token=False,  # the library's gives up after ten tries, and knows no other process
        persist_session=False,
        postgrest_client_retry=False,
        httpx_client=http,
    )
    try:
        return AsyncClient(credentials.url, credentials.key, options)
    except SupabaseException as error:
        raise InvalidInput("url", f"{error}; check DOORSTEP_URL and DOORSTEP_KEY") from None


async def _translated(request: Awaitable[T]) -> T:
    """Await a request of the library and raise its errors as ours."""
    import postgrest
    import supabase_auth.errors as auth

    try:
        return await request
    except postgrest.APIError as error:
        raise _table_error(error.code or "", error.message or "", str(error.details or "")) from None
    except auth.AuthRetryableError as error:
        raise LinkError(f"the back end cannot be reached: {error.message or 'no connection'}") from None
    except auth.AuthApiError as error:
        raise _sign_in_error(error.status, error.message) from None
    except auth.AuthError as error:
        raise LinkError(f"the sign-in's answer makes no sense: {error.message}; check DOORSTEP_URL") from None
    except httpx.HTTPError as error:
        raise LinkError(f"the back end cannot be reached: {str(error) or type(error).__name__}") from None


def _sign_in_error(status: int, message: str) -> DoorstepError:
    if status == 429 or status >= 500:
        return (_BusyError if status == 429 else LinkError)(
            f"the back end cannot sign anybody in just now: {message}"
        )
    return NotSignedIn(f"the sign-in was refused: {message}; run “doorstep login”")


def _table_error(code: str, message: str, details: str) -> Exception:
    """Sort PostgREST's and PostgreSQL's codes by whose fault they are."""
    if code == "23505" and "name" in message + details:
        return _NameTakenError(message)
    if code in {"PGRST301", "PGRST302", "PGRST303", "401"}:
        return NotSignedIn(f"the back end does not accept the access token: {message}; run “doorstep login”")
    if code in {"42501", "403"}:
        return Unauthorized(f"the back end's policies refuse this: {message}")
    if code in {"PGRST204", "PGRST205", "42P01", "42703", "404"}:
        return InvalidInput("agents", f"{message}; has sql/ been applied to the project?")
    if re.match("2[23]", code):
        return InvalidInput("agents", message)
    return LinkError(f"the back end failed ({code}): {message}")


def _grant(response: Any) -> Grant:
    session = response.session
    if session is None:
        raise NotSignedIn("the account is not confirmed yet; follow the link in the back end's e-mail")
    return Grant(session.user.id, session.access_token, session.refresh_token, float(session.expires_in))


def _upsert(row: dict[str, Any], client: AsyncClient) -> Any:
    return _agents(client).upsert(row, on_conflict="id")


def _agents(client: AsyncClient) -> Any:
    return client.table("agents")  # Any: the library's query types are partly unknown


def _one(rows: list[AgentRow]) -> AgentRow:
    if len(rows) != 1:
        raise LinkError(f"the back end answered with {len(rows)} rows instead of one")
    return rows[0]


def _names(wanted: str) -> Iterator[str]:
    yield wanted
    for number in range(2, SAME_NAME + 1):
        suffix = f"-{number}"
        yield wanted[: NAME_CHARACTERS - len(suffix)] + suffix
