"""Testing, network laboratory: a link with delay, loss and rate between two namespaces, without ``tc``.

Each end is a TUN device; a thread carries packets from one to the other through :class:`Link`.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import select
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path
from random import Random

from doorstep.testing.link import Conditions, Link

__all__ = ["TunLink"]

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_PACKET = 65536
_BATCH = 64


class TunLink:
    """Both directions of a link. :attr:`conditions` may be changed at any time."""

    def __init__(self, conditions: Conditions, seed: int = 1) -> None:
        self._links = (Link(conditions, Random(seed)), Link(conditions, Random(seed + 1)))  # noqa: S311
        self._devices: tuple[int, ...] = ()
        self._stop = os.eventfd(0)
        self._carrier = threading.Thread(target=self._carry, name="link", daemon=True)

    @property
    def conditions(self) -> Conditions:
        return self._links[0].conditions

    @conditions.setter
    def conditions(self, conditions: Conditions) -> None:
        for link in self._links:
            link.conditions = conditions

    @property
    def waiting(self) -> float:
        """Seconds of queue before the link, from the first end to the second."""
        return self._links[0].waiting(time.monotonic())

    async def open(self, one: tuple[str, str], other: tuple[str, str]) -> None:
        """Make the devices, each given by its namespace and its name, and begin to carry."""
        self._devices = tuple([await asyncio.to_thread(_in_own_thread, *end) for end in (one, other)])
        self._carrier.start()

    def close(self) -> None:
        """Stop, and remove the devices. Idempotent."""
        if self._stop < 0:
            return
        os.eventfd_write(self._stop, 1)
        if self._carrier.is_alive():
            self._carrier.join()
        for descriptor in (*self._devices, self._stop):
            os.close(descriptor)
        self._stop = -1

    def _carry(self) -> None:
        poller = select.poll()
        for descriptor in (*self._devices, self._stop):
            poller.register(descriptor, select.POLLIN)
        while True:
            due = min(link.next_arrival for link in self._links)
            wait = None if due == float("inf") else max(0.0, (due - time.monotonic()) * 1000)
            for descriptor, _ in poller.poll(wait):
                if descriptor == self._stop:
                    return
                self._take(self._devices.index(descriptor))
            now = time.monotonic()
            for link, device in zip(self._links, reversed(self._devices), strict=True):
                for packet in link.arrived(now):
                    with suppress(OSError):  # the device is down
                        os.write(device, packet)

    def _take(self, end: int) -> None:
        now = time.monotonic()
        for _ in range(_BATCH):
            try:
                packet = os.read(self._devices[end], _PACKET)
            except BlockingIOError:
                return
            except OSError:  # the device is down
                return
            self._links[end].push(packet, now)


def _in_own_thread(namespace: str, name: str) -> int:
    """A thread that enters a namespace must not be used for anything else: it ends with this."""
    made: list[int | OSError] = []

    def enter() -> None:
        try:
            made.append(_tun(namespace, name))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=enter, name="tun")
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


def _tun(namespace: str, name: str) -> int:
    where = os.open(Path("/run/netns", namespace), os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(where, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    finally:
        os.close(where)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError:
        os.close(device)
        raise
    return device
