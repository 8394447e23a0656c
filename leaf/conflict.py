"""Probers that wait to hear whether the address they want is taken (RFC 5227 section 2.1.1).

A probe for an address that is bound elsewhere is answered only when the owner has just proved to be
alive: otherwise a guest that comes back after its binding's MAC has died would be refused its
address. A prober of IPv4 repeats its probe every one to two seconds; one of IPv6 asks only once
(RFC 4862 section 5.1), so a few probers of an address wait side by side, and one that comes while
the owner is being asked does not take the answer of another.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni, Vtep

MAX_WAITING = 1024
"""Addresses with waiting probers; the oldest is forgotten, its probers will ask again."""
MAX_PROBERS = 8
"""Of one address; the oldest is forgotten."""
PATIENCE = 2.0
"""Seconds: RFC 5227's PROBE_MAX; by then the prober has asked again."""


class Prober(NamedTuple):
    """Who probed, and until when an answer is of use."""

    vtep: Vtep
    mac: Mac
    until: float


class Conflicts:
    """The latest probers of each address."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[tuple[Vni, bytes], list[Prober]] = OrderedDict()

    def wait(self, segment: Vni, address: bytes, vtep: Vtep, mac: Mac, now: float) -> None:
        """Remember a prober until the owner answers. One that has moved meanwhile is told where it
        has probed last."""
        probers = self._waiting.setdefault((segment, address), [])
        others = [one for one in probers if one.mac != mac and one.until >= now]
        probers[:] = [*others, Prober(vtep, mac, now + PATIENCE)][-MAX_PROBERS:]
        self._waiting.move_to_end((segment, address))
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)

    def owner_is_alive(self, segment: Vni, address: bytes, now: float) -> list[Prober]:
        """The owner has spoken: return the probers that are to be told, those that still wait."""
        return [one for one in self._waiting.pop((segment, address), []) if one.until >= now]
