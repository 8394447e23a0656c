"""Probers that wait to hear whether the address they want is taken (RFC 5227 section 2.1.1).

A probe for an address that is bound elsewhere is answered only when the owner has just proved to be
alive: otherwise a guest that comes back after its binding's MAC has died would be refused its
address. The prober repeats its probe every one to two seconds, so there is time to ask.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni, Vtep

MAX_WAITING = 1024
"""Addresses with waiting probers; the oldest is forgotten, its probers will ask again."""
PATIENCE = 2.0
"""Seconds: RFC 5227's PROBE_MAX; by then the prober has asked again."""


class Prober(NamedTuple):
    """Who probed, and until when an answer is of use."""

    vtep: Vtep
    mac: Mac
    until: float


class Conflicts:
    """The latest prober of each address."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[tuple[Vni, bytes], Prober] = OrderedDict()

    def wait(self, segment: Vni, address: bytes, vtep: Vtep, mac: Mac, now: float) -> None:
        """Remember a prober until the owner answers."""
        self._waiting[segment, address] = Prober(vtep, mac, now + PATIENCE)
        self._waiting.move_to_end((segment, address))
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)

    def owner_is_alive(self, segment: Vni, address: bytes, now: float) -> Prober | None:
        """The owner has spoken: return the prober that is to be told, if one still waits."""
        prober = self._waiting.pop((segment, address), None)
        return prober if prober is not None and prober.until >= now else None
