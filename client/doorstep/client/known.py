"""Client: the agents whose keys are known, as ``known_hosts`` of SSH: pinned at the first contact.

``known_agents.json`` in the state directory, mode 0600, written whole or not at all, under a lock. An agent
is recognised by its id anywhere, or by its name at one back end: a back end that shows another machine under
a name you know is caught, whatever id it gives it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from doorstep.protocol.errors import InvalidInput, PeerNotTrusted
from doorstep.protocol.ids import AgentId
from doorstep.protocol.proof import PublicKey
from doorstep.transport.credentials import write_private
from doorstep.transport.keys import turn

__all__ = ["KnownAgent", "KnownAgents", "Stranger"]

FILE = "known_agents.json"


class KnownAgent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One pin. ``since`` is Unix time in seconds; ``refused`` is a changed key that came and was refused."""

    backend: str
    id: str
    name: str
    key: str
    since: float = 0.0
    refused: str | None = None

    def __post_init__(self) -> None:
        for text in (self.key, self.refused):
            if text is not None:
                PublicKey.parse(text)

    @property
    def fingerprint(self) -> str:
        return PublicKey.parse(self.key).fingerprint

    @property
    def refused_fingerprint(self) -> str | None:
        return None if self.refused is None else PublicKey.parse(self.refused).fingerprint


class Stranger(msgspec.Struct, frozen=True):
    """An agent as the back end introduces it."""

    backend: str
    id: AgentId
    name: str

    def is_meant_by(self, pin: KnownAgent) -> bool:
        return pin.id == self.id or (pin.backend, pin.name) == (self.backend, self.name)


class KnownAgents:
    """The file. Methods read it anew, block for a moment; :class:`InvalidInput` means that it is damaged."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE

    def all(self) -> list[KnownAgent]:
        """Return every pin, by name."""
        return sorted(self._read(), key=lambda pin: (pin.name, pin.backend))

    def expected(self, agent: Stranger) -> PublicKey | None:
        """Return the key that is pinned for this agent.

        Raises :class:`PeerNotTrusted` when its id and its name are those of two agents.
        """
        pins = [pin for pin in self._read() if agent.is_meant_by(pin)]
        if len({pin.key for pin in pins}) > 1:
            names = " and ".join(f"{pin.name} ({pin.fingerprint})" for pin in pins)
            raise PeerNotTrusted(
                f"{agent.name} comes with the name of one known agent and the id of another: {names}; "
                f"if you have renamed it, run “doorstep known forget {agent.name}” and connect again"
            )
        return PublicKey.parse(pins[0].key) if pins else None

    def check(self, agent: Stranger, shown: PublicKey) -> None:
        """Take the key an agent has proved: pin it at the first contact, compare it ever after.

        Raises :class:`PeerNotTrusted` when it has changed, and remembers it for :meth:`accept`.
        """
        with turn(self._path):
            pins = self._read()
            expected = self.expected(agent)
            if expected is not None and expected != shown:
                self._write([_refusing(pin, shown) if agent.is_meant_by(pin) else pin for pin in pins])
                raise changed(agent.name, expected, shown)
            known = [one for one in pins if agent.is_meant_by(one)]
            since = known[0].since if known else time.time()
            pin = KnownAgent(backend=agent.backend, id=agent.id, name=agent.name, key=str(shown), since=since)
            if known != [pin]:
                self._write([*(one for one in pins if one not in known), pin])

    def forget(self, name_or_id: str) -> Sequence[KnownAgent]:
        """Remove the pins of this name or id and return them. Raises :class:`InvalidInput`: there is none."""
        with turn(self._path):
            chosen = self._choose(name_or_id)
            self._write([pin for pin in self._read() if pin not in chosen])
        return chosen

    def accept(self, name_or_id: str) -> Sequence[KnownAgent]:
        """Pin the changed key that was refused; return the pins as they are now.

        Raises :class:`InvalidInput` if there is no such agent, or nothing was refused.
        """
        with turn(self._path):
            chosen = [pin for pin in self._choose(name_or_id) if pin.refused is not None]
            if not chosen:
                raise InvalidInput(
                    "name", f"no changed key of {name_or_id} was refused; there is none to accept"
                )
            accepted = {pin: _accepted(pin) for pin in chosen}
            self._write([accepted.get(pin, pin) for pin in self._read()])
        return list(accepted.values())

    def _choose(self, name_or_id: str) -> list[KnownAgent]:
        chosen = [pin for pin in self._read() if name_or_id in (pin.name, pin.id)]
        if not chosen:
            raise InvalidInput("name", f"no agent {name_or_id!r} is known here; see “doorstep known”")
        return chosen

    def _read(self) -> list[KnownAgent]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[KnownAgent])
        except FileNotFoundError:
            return []
        except (msgspec.MsgspecError, InvalidInput) as error:
            raise InvalidInput(
                str(self._path), f"is damaged ({error}); restore it, or remove it to know nobody"
            ) from error

    def _write(self, pins: Sequence[KnownAgent]) -> None:
        write_private(self._path, msgspec.json.format(msgspec.json.encode(pins), indent=2) + b"\n")


def changed(name: str, expected: PublicKey, shown: PublicKey) -> PeerNotTrusted:
    """Say that the key of a known agent is another one."""
    return PeerNotTrusted(
        f"the key of {name} has changed, so the connection was refused. "
        f"Known: {expected.fingerprint}. Shown: {shown.fingerprint}. "
        f"Either the agent was set up anew, or somebody stands between you and it. Compare the second one "
        f"with what “doorstep known --own” says on the agent's machine; only if they are equal, run "
        f"“doorstep known accept {name}”",
        expected.fingerprint,
        shown.fingerprint,
    )


def _refusing(pin: KnownAgent, shown: PublicKey) -> KnownAgent:
    return msgspec.structs.replace(pin, refused=str(shown))


def _accepted(pin: KnownAgent) -> KnownAgent:
    return msgspec.structs.replace(pin, key=pin.refused or pin.key, refused=None, since=time.time())
