"""The slow path: all that the leaf answers, asks and learns.

The engine forwards; what the router only names (ARP, ND, RARP, DHCP, ICMP, gleaning) comes here, in
by one door and on to whoever has the subject:

    discovery.py   what guests say by ARP, ND and RARP      hostroutes.py  where they are by that
    asker.py       asking for whom nobody knows             leasing.py     DHCP
    teller.py      telling senders by ICMP                  oversize.py    what does not fit
    advertiser.py  advertising the gateway

Each has its own counters, rates and time, and knows of the others only those that it makes use of.
What is here is the door, the way from a verdict to its subject, and what concerns them all:
a new topology, and the next deadline.

The door has token buckets for guests and VTEPs (`gate.py`), so that a guest that floods starves
neither forwarding nor other guests. What is refused there costs next to nothing: of a train, all
that is behind the first packet that is refused. What guests are known by (ARP, ND, RARP, DHCP) has
buckets of its own: no flood of other packets makes a guest lose its bindings. What hostile input
makes a parser raise is caught here and counted, and never ends more than the one packet.

This is a core without I/O (but for the leases, which their store commits): input with the time goes
in (`admit` and `handle`, `from_server`, `tick`), packets to be sent come out, `deadline` says when
it wants to be woken. What DHCP servers are to be sent lies in the relayer's outbox.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vswitch.wire import nd
from vswitch.wire.vxlan import Vtep

from . import advertiser, asker, discovery, oversize, teller
from .advertiser import Advertiser
from .asker import Asker
from .bindings import Binding, Bindings
from .discovery import Discovery
from .gate import Entry, Gate
from .hostroutes import HostRoutes
from .leases import Leases
from .leasing import Leasing
from .limits import Limits
from .mtu import Mtus
from .oversize import Oversize
from .punt import Punt, Send, guest_of
from .relayer import Relayer
from .responder import Responder
from .router import Reason, Router, Verdict
from .teller import Teller
from .topology import Segment, Topology

_OWN_EVENTS = {
    "punts_policed": "packets for the slow path beyond the rate of their VTEP",
    "guests_policed": "packets for the slow path beyond the rate of their guest",
    "punts_failed": "packets on which the slow path failed",
}
EVENTS = {
    **_OWN_EVENTS,
    **teller.EVENTS,
    **oversize.EVENTS,
    **discovery.EVENTS,
    **asker.EVENTS,
    **advertiser.EVENTS,
}
"""What `SlowPath.events` counts. Closed: it names the counters of the API and of `/metrics`."""

_ABOUT_GUESTS = frozenset({Reason.ARP, Reason.ND, Reason.RARP, Reason.DHCP})
"""What bindings and leases are learnt and kept by."""


class SlowPath:
    """What the leaf knows and says beyond forwarding."""

    def __init__(
        self,
        topology: Topology,
        router: Router,
        bindings: Bindings,
        limits: Limits,
        on_failure: Callable[[Exception], None] = lambda error: None,
        leases: Leases | None = None,
        *,
        fragments: bool = False,
    ) -> None:
        """`on_failure` is told of what a packet made us raise, before that is counted.
        `fragments`: IPv4 that does not fit and may be fragmented is, instead of being dropped."""
        leases = Leases() if leases is None else leases
        self.bindings = bindings
        self.mtus = Mtus(topology.segments)
        self.responder = Responder(leases, limits.dhcp_commits, on_failure)
        self.relayer = Relayer(limits.server_dhcp)
        self.relayer.set_segments(topology.segments)
        self.routes = HostRoutes(router, bindings)
        self.teller = Teller(router, limits)
        self.oversize = Oversize(self.teller, limits, fragments)
        self.asker = Asker(router, self.teller, limits)
        self.discovery = Discovery(self.routes, self.asker, self.responder.is_anothers)
        self.leasing = Leasing(
            self.responder, self.relayer, self.routes, self.discovery.learn, self.mtus, limits
        )
        self.advertiser = Advertiser(topology.segments, self.mtus)
        self._remote_leaves = topology.remote_leaves
        self._about_guests = Gate(limits.punts, limits.guest_punts)
        self._others = Gate(limits.punts, limits.guest_punts)
        self._events = dict.fromkeys(_OWN_EVENTS, 0)
        self._on_failure = on_failure

    @property
    def events(self) -> dict[str, int]:
        """Return a copy of what was counted here and in the parts, by the names of `EVENTS`."""
        return {
            **self._events,
            **self.teller.events,
            **self.oversize.events,
            **self.discovery.events,
            **self.asker.events,
            **self.advertiser.events,
        }

    # -- input ---------------------------------------------------------------------------------

    def admit(
        self, reason: Reason, source: Vtep, packet: memoryview | bytes, count: int, now: float
    ) -> int:
        """Return how many of `count` packets from `source` may come in; the others are counted, and
        need not be looked at. They are of one flow, and `packet` is the first of them or the
        super-frame that they are: it tells whose they are, and they need not be cut for that."""
        gate = self._about_guests if reason in _ABOUT_GUESTS else self._others
        admitted, entry = gate.admit(guest_of(source, packet, self._remote_leaves), count, now)
        if entry is not Entry.GRANTED:
            event = "guests_policed" if entry is Entry.GUEST else "punts_policed"
            self._events[event] += count - admitted
        return admitted

    def handle(
        self, verdict: Verdict, source: Vtep, packets: Sequence[memoryview | bytes], now: float
    ) -> list[Send]:
        """Do what the router's verdict about packets from `source` calls for, which `admit` has let
        in."""
        sends = []
        for packet in packets:
            try:
                sends += self._dispatch(verdict, self._punt(source, packet), now)
            except Exception as error:
                # Whatever is raised on hostile input ends this packet and nothing else.
                self._failed(error)
        return sends

    def too_big(
        self, verdict: Verdict, source: Vtep, packets: Sequence[memoryview], room: int, now: float
    ) -> list[Send]:
        """Do what is to be done with packets of one flow, of which only `room` bytes fit into the
        tunnel that `verdict` sends them to."""
        punt = self._punt(source, packets[0])
        return self.oversize.handle(verdict, punt, packets, room, now)

    def from_server(
        self, server: bytes, payload: bytes, room: Mapping[Vtep, int], now: float
    ) -> list[Send]:
        """Deliver what a DHCP server has sent to our relay address (`Leasing.from_server`)."""
        try:
            return self.leasing.from_server(server, payload, room, now)
        except Exception as error:
            # As with packets: whatever is raised ends this datagram and nothing else.
            self._failed(error)
            return []

    def measured(self, room: Mapping[Vtep, int], now: float) -> None:
        """Take in what has room on the way to each VTEP; where that changes what guests are told
        fits, they are told at once."""
        if self.mtus.set_room(room):
            self.advertiser.advertise(now)

    def _punt(self, source: Vtep, packet: memoryview | bytes) -> Punt:
        return Punt(source, packet, guest_of(source, packet, self._remote_leaves))

    def _failed(self, error: Exception) -> None:
        self._on_failure(error)
        self._events["punts_failed"] += 1

    def _dispatch(self, verdict: Verdict, punt: Punt, now: float) -> list[Send]:
        match verdict.reason:
            case Reason.ARP | Reason.ND | Reason.RARP | Reason.DHCP:
                assert verdict.segment is not None
                return self._on_guests_word(verdict.reason, verdict.segment, punt, now)
            case Reason.GATEWAY | Reason.EXPIRED | Reason.NO_ROUTE:
                return self.teller.say(verdict.reason, punt, now)
            case Reason.GLEAN:
                return self.asker.glean(verdict, punt, now)
        return []

    def _on_guests_word(
        self, reason: Reason, segment: Segment, punt: Punt, now: float
    ) -> list[Send]:
        match reason:
            case Reason.ARP:
                return self.discovery.on_arp(segment, punt, now)
            case Reason.RARP:
                mac = self.discovery.on_rarp(segment, punt, now)
                # It has just become active: it need not wait for the next advertisement to all.
                return [] if mac is None else self.advertiser.tell(segment, punt.source, mac)
            case Reason.DHCP:
                return self.leasing.from_guest(segment, punt, now)
        # ND, which is two things: messages of neighbours, as of ARP, and messages of routers.
        if nd.kind_of(punt.frame) in (nd.SOLICITATION, nd.ADVERTISEMENT):
            return self.discovery.on_nd(segment, punt, now)
        return self.advertiser.on_router_message(segment, punt)

    # -- topology and time ---------------------------------------------------------------------

    def replace_topology(self, topology: Topology) -> list[Binding]:
        """Serve a new topology; keep the bindings that have a place in it, return the others. The
        advertiser is to be told the time after it (`Advertiser.advertise`)."""
        self._remote_leaves = topology.remote_leaves
        self.mtus.set_segments(topology.segments)
        self.relayer.set_segments(topology.segments)
        self.advertiser.set_segments(topology.segments)
        return self.routes.replace_topology(topology)

    def tick(self, now: float) -> list[Send]:
        """Do what is due by `now`."""
        sends = self.asker.confirm(self.routes.due(now))
        self.leasing.due(now)
        return sends + self.advertiser.due(now) + self.asker.due(now)

    def deadline(self) -> float | None:
        """Say when `tick` wants to be called next."""
        times = (
            self.routes.deadline(),
            self.asker.deadline(),
            self.advertiser.deadline(),
            self.leasing.deadline(),
        )
        return min((t for t in times if t is not None), default=None)
