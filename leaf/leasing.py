"""A guest's DHCP in the slow path: answered by the leaf itself, or relayed, as the segment says.

The responder and the relayer know messages and leases; here leases and bindings are brought
together. An address that is given out is a binding at once, and the binding of a lease ends with
it. A guest may send so many messages a second, to whomever they go.

What servers are to be sent lies in the relayer's outbox; their answers come in their own time
(`from_server`), and go to where the guest is known to be by then.

No I/O, but for the leases, which their store commits; time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from vswitch.service.policer import Policer
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vtep

from . import dhcp, relay
from .hostroutes import HostRoutes
from .limits import Limits
from .mtu import Mtus
from .punt import Punt, Send
from .relayer import Relayer
from .responder import Responder
from .topology import Relay, Segment

Learn = Callable[[Segment, bytes, Mac, Vtep, float], list[Send]]
"""Takes in where an address is, and says what is to be sent for it (`Discovery.learn`)."""


class Leasing:
    """The DHCP of one leaf, beside its bindings."""

    def __init__(
        self,
        responder: Responder,
        relayer: Relayer,
        routes: HostRoutes,
        learn: Learn,
        mtus: Mtus,
        limits: Limits,
    ) -> None:
        self._responder = responder
        self._relayer = relayer
        self._routes = routes
        self._learn = learn
        self._mtus = mtus
        self._guests = Policer(limits.guest_dhcp, limits.guest_dhcp)

    def from_guest(self, segment: Segment, punt: Punt, now: float) -> list[Send]:
        """Answer a guest's message, or pass it on."""
        may = self._guests.take(punt.guest, now)
        if isinstance(segment.dhcp, Relay):
            if may:
                self._relay(segment, segment.dhcp, punt, now)
            else:
                self._relayer.counts[relay.Reason.POLICED] += 1
            return []
        if not may:
            self._responder.counts[dhcp.Reason.POLICED] += 1
            return []
        return self._respond(segment, punt, now)

    def _respond(self, segment: Segment, punt: Punt, now: float) -> list[Send]:
        mac, source = punt.mac, punt.source

        def taken(address: bytes) -> bool:
            bound = self._routes.bindings.get(segment.vni, address)
            return bound is not None and bound.mac != mac

        shared_mac, mtu = segment.vteps[source].shared_mac, self._mtus.leased(segment)
        answer = self._responder.answer(segment, shared_mac, punt.frame, now, taken, mtu)
        if answer.ended is not None:
            self._routes.end_lease(answer.ended)
        sends = []
        if answer.bound is not None:
            sends += self._learn(segment, answer.bound.address, mac, source, now)
        if answer.frame is not None:
            sends.append(Send.frame(source, segment.vni, answer.frame))
        return sends

    def _relay(self, segment: Segment, service: Relay, punt: Punt, now: float) -> None:
        returned = self._relayer.from_guest(segment, service, punt.source, punt.frame, now)
        if returned is None:
            return
        # So that the answer finds the guest, which may have moved since it last spoke.
        self._routes.arrived(segment, punt.mac, punt.source, now)
        for lease in returned:
            self._routes.end_lease(lease)

    def from_server(
        self, server: bytes, payload: bytes, room: Mapping[Vtep, int], now: float
    ) -> list[Send]:
        """Deliver what a DHCP server has sent to our relay address, and bind what it has given.

        `room` says how long a packet may be on the way to each VTEP, as far as that is known.
        """
        told = self._relayer.from_server(server, payload, room, now, self._routes.place)
        if told is None:
            return []
        for lease in told.ended:
            self._routes.end_lease(lease)
        sends = []
        for address in told.bound:
            sends += self._learn(told.segment, address, told.mac, told.vtep, now)
        return sends + [Send.frame(told.vtep, told.segment.vni, frame) for frame in told.frames]

    def due(self, now: float) -> None:
        """End the bindings of leases that have expired by `now`; call it at `deadline`."""
        for lease in (*self._responder.leases.due(now), *self._relayer.due(now)):
            self._routes.end_lease(lease)

    def deadline(self) -> float | None:
        """Say when `due` has something to do."""
        times = self._responder.leases.deadline(), self._relayer.deadline()
        return min((t for t in times if t is not None), default=None)
