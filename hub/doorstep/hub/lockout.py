"""Hub: slow a guesser down: each failure after the free ones doubles the wait, per account and address."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from doorstep.hub.config import SignInLimits

__all__ = ["Lockout"]


@dataclass(slots=True)
class _Record:
    failures: int = 0
    last: float = 0.0
    until: float = 0.0


class Lockout:
    """Counts failures. Reads no clock: ``now`` is an argument, in seconds of any steady clock."""

    def __init__(self, limits: SignInLimits) -> None:
        self._limits = limits
        self._records: OrderedDict[tuple[str, str], _Record] = OrderedDict()

    def wait(self, account: str, address: str, now: float) -> float:
        """How many seconds are left until the next attempt is looked at; 0 = now."""
        waits = [self._wait(key, now) for key in (("account", account), ("address", address))]
        return max(waits)

    def failed(self, account: str, address: str, now: float) -> None:
        """Count an attempt that was wrong."""
        self._count(("account", account), self._limits.account_attempts, now)
        self._count(("address", address), self._limits.address_attempts, now)

    def succeeded(self, account: str) -> None:
        """The account's owner is here: its failures are forgiven, the address's are not."""
        self._records.pop(("account", account), None)

    def _wait(self, key: tuple[str, str], now: float) -> float:
        record = self._records.get(key)
        return 0.0 if record is None else max(0.0, record.until - now)

    def _count(self, key: tuple[str, str], free: int, now: float) -> None:
        record = self._records.setdefault(key, _Record())
        if now - record.last > self._limits.forget:
            record.failures = 0
        self._records.move_to_end(key)
        record.failures += 1
        record.last = now
        if record.failures >= free:
            doublings = min(record.failures - free, 32)
            record.until = now + min(self._limits.first_wait * 2**doublings, self._limits.longest_wait)
        while len(self._records) > self._limits.remembered:
            self._records.popitem(last=False)
