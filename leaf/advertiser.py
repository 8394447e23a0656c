"""Advertising the gateway by router advertisements: in turn, when asked, and as last words.

`advertise.py` says when whole segments are told and what is taken back, `mtu.py` what guests are
told fits, `gateway.py` builds; here that comes together and is sent. Nothing that guests say is
believed: a guest may ask for an advertisement, but one that sends advertisements or redirects poses
as a router, and these end here.

No I/O; time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable

from vswitch.wire import nd
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vtep

from . import gateway
from .advertise import Schedule, last_words
from .mtu import Mtus
from .punt import Punt, Send
from .topology import Segment, Topology

EVENTS = {
    "router_advertisements": "router advertisements sent",
    "router_last_words": "router advertisements of what a reload has taken back",
    "router_malformed": "router solicitations that are not sound",
    "router_rogue": "router advertisements and redirects of guests, which end here",
}


class Advertiser:
    """What one leaf says of itself as a router of IPv6."""

    def __init__(self, segments: Iterable[Segment], mtus: Mtus) -> None:
        self.events = dict.fromkeys(EVENTS, 0)
        self._mtus = mtus
        self._schedule = Schedule()
        self.set_segments(segments)

    def set_segments(self, segments: Iterable[Segment]) -> None:
        """Serve these segments and no others; `advertise` is to follow."""
        self._segments = {segment.vni: segment for segment in segments}

    def advertise(self, now: float) -> None:
        """Begin to advertise to segments that are new, or of which there is something else to say.
        Called after each change of the topology, with the time, which a change does not need
        otherwise."""
        said = {vni: self._mtus.advertised(segment) for vni, segment in self._segments.items()}
        self._schedule.set_segments({vni: what for vni, what in said.items() if what}, now)

    def on_router_message(self, segment: Segment, punt: Punt) -> list[Send]:
        """Answer a router solicitation; any other of routers' messages ends here."""
        frame = punt.frame
        if nd.kind_of(frame) != nd.ROUTER_SOLICITATION:
            self.events["router_rogue"] += 1
            return []
        if not nd.is_sound_router_solicitation(frame):
            self.events["router_malformed"] += 1
            return []
        return self.tell(segment, punt.source, punt.mac)

    def tell(self, segment: Segment, vtep: Vtep, guest: Mac | None) -> list[Send]:
        """Advertise the gateway to the guests behind a VTEP, or to one of them."""
        said = self._mtus.advertised(segment)
        if said is None:
            return []
        self.events["router_advertisements"] += 1
        frame = gateway.advertisement(said, segment.vteps[vtep], guest)
        return [Send.frame(vtep, segment.vni, frame)]

    def last_words(self, topology: Topology) -> list[Send]:
        """Return what guests are to be told of what `topology`, which is to come, takes back. A
        vswitch that a segment is not on any more is told nothing: another leaf may serve it."""
        coming = {segment.vni: segment for segment in topology.segments}
        sends = []
        for vni, segment in self._segments.items():
            said, successor = segment.advertised, coming.get(vni)
            told = said and last_words(said, successor.advertised if successor else None)
            if told is None:
                continue
            for vtep, group in segment.vteps.items():
                if successor is None or vtep in successor.vteps:
                    self.events["router_last_words"] += 1
                    frame = gateway.advertisement(told, group)
                    sends.append(Send.frame(vtep, vni, frame))
        return sends

    def due(self, now: float) -> list[Send]:
        """Advertise to the segments whose turn it is by `now`; call it at `deadline`."""
        sends = []
        for vni in self._schedule.due(now):
            for vtep in self._segments[vni].vteps:
                sends += self.tell(self._segments[vni], vtep, None)
        return sends

    def deadline(self) -> float | None:
        """Say when `due` has something to do."""
        return self._schedule.deadline()
