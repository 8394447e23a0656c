"""What guests say by ARP, ND and RARP: believed or not, learnt from, answered.

`neighbour.py` has THE rules; here they are carried out. A believed sender is where it speaks from,
and so are all other addresses of its MAC (`hostroutes.py`). What it asks for is answered from the
bindings, or asked for in turn (`asker.py`). A probe for an address that is another guest's waits
until that one has proved to be alive (`conflict.py`).

`learn` is the way in for every other source of news too (DHCP, the configuration, the API): it
sends on what was held for the address, and tells the probers that wait for its owner.

Both families go the same way: only the reading and building of messages differs, in `gateway.py`.
No I/O; time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable

from vswitch.wire import arp
from vswitch.wire.ethernet import Mac
from vswitch.wire.neighbour import Message
from vswitch.wire.vxlan import Vtep

from . import gateway
from . import neighbour as rules
from .asker import Asker
from .bindings import Outcome
from .conflict import Conflicts
from .hostroutes import HostRoutes
from .punt import Punt, Send
from .topology import Segment

EVENTS = {
    "rarp_malformed": "RARPs that are none, or of a sender that is not the frame's source",
    "arp_answers": "ARP answers sent",
    "nd_answers": "neighbour advertisements sent",
}

IsAnothers = Callable[[Segment, bytes, Mac, float], bool]
"""Says whether an address is, by DHCP, another guest's than the MAC's."""

_REFUSED = frozenset({Outcome.STALE, Outcome.PINNED, Outcome.FULL})
"""News that has left the address as it was."""


class Discovery:
    """What one leaf hears of its guests, and answers them."""

    def __init__(self, routes: HostRoutes, asker: Asker, is_anothers: IsAnothers) -> None:
        self.arp_counts = dict.fromkeys(rules.Reason, 0)
        self.nd_counts = dict.fromkeys(rules.Reason, 0)
        self.events = dict.fromkeys(EVENTS, 0)
        self._routes = routes
        self._asker = asker
        self._is_anothers = is_anothers
        self._conflicts = Conflicts()

    # -- what guests say -----------------------------------------------------------------------

    def on_arp(self, segment: Segment, punt: Punt, now: float) -> list[Send]:
        """Carry out the rules on an ARP message."""
        return self._on_message(self.arp_counts, segment, punt, now)

    def on_nd(self, segment: Segment, punt: Punt, now: float) -> list[Send]:
        """Carry out the rules on a neighbour solicitation or advertisement."""
        return self._on_message(self.nd_counts, segment, punt, now)

    def on_rarp(self, segment: Segment, punt: Punt, now: float) -> Mac | None:
        """Take in that a guest has become active, with all its addresses. Return its MAC; None
        where this is no sound RARP."""
        message = arp.parse(punt.frame)
        if message is None or message.sender_mac != punt.mac:
            self.events["rarp_malformed"] += 1
            return None
        self._routes.arrived(segment, message.sender_mac, punt.source, now)
        return message.sender_mac

    def _on_message(
        self, counts: dict[rules.Reason, int], segment: Segment, punt: Punt, now: float
    ) -> list[Send]:
        frame, source = punt.frame, punt.source
        message = gateway.read(frame)
        verdict = rules.decide(
            segment,
            source,
            Mac(bytes(frame[:6])),
            punt.mac,
            message,
            lambda address: self._routes.bindings.get(segment.vni, address),
        )
        counts[verdict.reason] += 1
        if message is None or verdict.reason not in rules.BELIEVED:
            return []
        sends = self._learn_sender(segment, source, message, now)
        if verdict.reason in rules.ANSWERED:
            answer = gateway.answer(segment, segment.vteps[source], message, verdict.reason)
            sends.append(self._answer(segment, source, message.target_ip, answer))
        elif verdict.reason is rules.Reason.UNKNOWN:
            sends += self._asker.want((segment.vni, message.target_ip), punt, now)
        elif verdict.reason is rules.Reason.CONFLICT and verdict.bound is not None:
            self._conflicts.wait(segment.vni, message.target_ip, source, message.sender_mac, now)
            self._routes.bindings.probe_now(verdict.bound, now)
        return sends

    def _learn_sender(
        self, segment: Segment, source: Vtep, message: Message, now: float
    ) -> list[Send]:
        """A believed sender is where it speaks from; so are all other addresses of its MAC."""
        mac, address = message.sender_mac, message.sender_ip
        if not any(address):
            self._routes.arrived(segment, mac, source, now)
            return []
        if self._is_anothers(segment, address, mac, now):
            self._routes.refused()
            return []
        return self.learn(segment, address, mac, source, now)

    # -- what comes of it ----------------------------------------------------------------------

    def learn(
        self,
        segment: Segment,
        address: bytes,
        mac: Mac,
        vtep: Vtep,
        now: float,
        *,
        sequence: int | None = None,
        configured: bool = False,
    ) -> list[Send]:
        """Take in where an address is; send on what waited for it."""
        news = self._routes.learn(
            segment, address, mac, vtep, now, sequence=sequence, configured=configured
        )
        if news.outcome in _REFUSED:
            return []
        sends = self._asker.resolved((segment.vni, address), now)
        return sends + self._tell_probers(segment, address, mac, now)

    def _tell_probers(self, segment: Segment, address: bytes, owner: Mac, now: float) -> list[Send]:
        sends = []
        for prober in self._conflicts.owner_is_alive(segment.vni, address, now):
            if prober.mac != owner and prober.vtep in segment.vteps:
                frame = gateway.in_use(segment.vteps[prober.vtep], address, prober.mac)
                sends.append(self._answer(segment, prober.vtep, address, frame))
        return sends

    def _answer(self, segment: Segment, vtep: Vtep, address: bytes, frame: bytes) -> Send:
        self.events["arp_answers" if len(address) == 4 else "nd_answers"] += 1
        return Send.frame(vtep, segment.vni, frame)
