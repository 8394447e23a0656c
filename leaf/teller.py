"""Telling the sender of a packet by ICMP: the echo, or why it went nowhere.

`icmp.py` says what may be said, and builds it; here it is held to the rates and sent back the way
the packet came. Each answer costs one of the guest's and one of its VTEP's, and the gate keeps room
for guests that are seldom told anything (`gate.py`).

No I/O; time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable

from vswitch.wire.ethernet import Mac

from . import icmp
from .gate import Entry, Gate
from .limits import Limits
from .punt import Punt, Send
from .router import Reason, Router
from .topology import Segment

EVENTS = {
    "icmp_sent": "ICMP answers and errors sent",
    "icmp_policed": "ICMP answers and errors beyond the rate of their VTEP or guest",
    "icmp_silent": "packets about which no ICMP may be or could be sent",
}

Message = Callable[[Segment, Mac], bytes | None]
"""Makes what is said in a segment from its shared MAC, as a frame; None where nothing may be."""


class Teller:
    """What one leaf says by ICMP and ICMPv6."""

    def __init__(self, router: Router, limits: Limits) -> None:
        self.events = dict.fromkeys(EVENTS, 0)
        self._router = router
        self._gate = Gate(limits.icmp, limits.guest_punts)

    def say(self, reason: Reason, punt: Punt, now: float) -> list[Send]:
        """Answer a packet: the echo, or the error that `reason` stands for."""

        def message(segment: Segment, shared_mac: Mac) -> bytes | None:
            if reason is Reason.GATEWAY:
                return icmp.answer(segment, shared_mac, punt.packet)
            return icmp.error(reason, segment, shared_mac, punt.packet)

        return self.tell(punt, message, now)

    def tell(self, punt: Punt, message: Message, now: float) -> list[Send]:
        """Send the sender of a packet what `message` makes."""
        segment = self._router.segment_of(punt.packet)
        if segment is None or punt.source not in segment.vteps:
            # From another leaf, where no gateway address is, or from a vswitch that a reload has
            # taken away while the packet was held.
            self.events["icmp_silent"] += 1
            return []
        if self._gate.enter(punt.guest, now) is not Entry.GRANTED:
            self.events["icmp_policed"] += 1
            return []
        said = message(segment, segment.vteps[punt.source].shared_mac)
        if said is None:
            self.events["icmp_silent"] += 1
            return []
        self.events["icmp_sent"] += 1
        return [Send.frame(punt.source, segment.vni, said)]
