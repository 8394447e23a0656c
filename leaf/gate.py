"""The way into a slow path, kept open for whoever seldom uses it.

Guests share what the leaf does for their vswitch, and none of them may use it up: neither by itself
nor by a dozen MACs, as many as a guest may have. So there is a bucket per guest and one per VTEP,
and the lower half of the VTEP's is kept for guests that have asked for little of late. Whoever
floods empties the upper half and is refused, while a neighbour's answer to a probe, or its ping,
still finds room. Nothing is set apart: while nobody floods, all of the rate is everybody's.

It holds while the floods of a vswitch have fewer MACs than `rate` / `SELDOM`, all together. Where
its spoof guard is off, one guest can forge as many.

What all guests of the leaf share is kept open in the same way (`Common`), there for segments: one
tenant that floods with many guests does not use it up for another.

Tables are bounded as the `Policer` is. No I/O; time is an argument.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum

from vswitch.service.policer import Policer, TokenBucket
from vswitch.wire.vxlan import Vni, Vtep

SELDOM = 20.0
"""Packets a second of a guest, and at once, that count as little. A guest that starts says some ten
for each family, and one that scans says hundreds."""
LITTLE = 0.05
"""The part of a rate that all share up to which a segment counts as one that uses little of it."""

Guest = tuple[Vtep, Hashable]
"""The VTEP, and what tells the guests behind it apart."""


class Entry(Enum):
    """Whether a packet may come in, or whose rate it is beyond."""

    GRANTED = "granted"
    GUEST = "guest"
    VTEP = "vtep"


class Gate:
    """What guests behind VTEPs may ask for."""

    def __init__(self, rate: float, guest_rate: float) -> None:
        """`rate` for each VTEP and `guest_rate` for each guest, a second and at once."""
        self._vteps = Policer(rate, rate)
        self._guests = Policer(guest_rate, guest_rate)
        self._seldom = Policer(SELDOM, SELDOM)

    def enter(self, guest: Guest, now: float) -> Entry:
        """Let one packet of `guest` in, or say why not."""
        if not self._guests.take(guest, now):
            return Entry.GUEST
        kept = 0.0 if self._seldom.take(guest, now) else 0.5
        return Entry.GRANTED if self._vteps.take(guest[0], now, kept=kept) else Entry.VTEP

    def admit(self, guest: Guest, count: int, now: float) -> tuple[int, Entry]:
        """Let in as many of `count` packets of `guest` as may come at once; say how many, and
        whether or why not the others. The first that is refused speaks for those behind it: the
        work is that of what is let in, however many there are."""
        for entered in range(count):
            entry = self.enter(guest, now)
            if entry is not Entry.GRANTED:
                return entered, entry
        return count, Entry.GRANTED


class Common:
    """A rate that all share, the lower half of which is kept for segments that use little of it."""

    def __init__(self, rate: float) -> None:
        """`rate` a second; as many may come at once, and half of them where they are many of one
        segment."""
        self._all = TokenBucket(rate, rate)
        self._little = Policer(LITTLE * rate, LITTLE * rate)

    def take(self, segment: Vni, now: float, count: int = 1) -> bool:
        """Let `count` events of a segment pass, or none."""
        kept = 0.0 if self._little.take(segment, now, count) else 0.5
        return self._all.take(now, count, kept)
