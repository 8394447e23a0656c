"""What MTU guests are told: what is configured, or else what fits the segment's tunnels.

A guest may be on any vswitch of its segment, and is not told anew when it has moved. So what fits
is the least over all of them; a VTEP that there is no route to at the moment does not count. It
goes into router advertisements (RFC 4861 section 4.6.4) and DHCP (RFC 2132 section 5.1); DHCPv6 has
no option for it. A guest of DHCP learns of a change when it next asks.

What is configured wins, and `complaints` tells where it is more than what fits: somebody may know
better, say of guests that send nothing long. On the way to another segment, whose tunnels may have
less room, ICMP tells the sender. A tunnel with less room than IPv6 takes for granted is another
complaint: its guests cannot be told to send less.

No I/O: the room of the tunnels is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vswitch.wire.ethernet import HEADER_LEN
from vswitch.wire.icmp6 import MIN_MTU
from vswitch.wire.nd import Advertisement
from vswitch.wire.pmtu import MIN_IPV4_MTU, complaint
from vswitch.wire.vxlan import VXLAN_LEN, Vni, Vtep

from .topology import Segment, Service


class Mtus:
    """What fits in each segment."""

    def __init__(self, segments: Iterable[Segment]) -> None:
        self._room: dict[Vtep, int] = {}
        self._fitting: dict[Vni, int] = {}
        self._complained: set[tuple[Vni, int]] = set()
        self._narrow: set[Vtep] = set()
        """The tunnels of which was said that they are too narrow for IPv6."""
        self._is_new = True
        self.set_segments(segments)

    def set_segments(self, segments: Iterable[Segment]) -> None:
        """Serve these segments and no others."""
        self._segments = tuple(segments)
        self._work_out()

    def set_room(self, room: Mapping[Vtep, int]) -> bool:
        """Take in the longest packet that reaches each VTEP, with its VXLAN header; say whether
        that changes what fits anywhere."""
        if room == self._room:
            return False
        before, self._room = self._fitting, dict(room)
        self._work_out()
        return self._fitting != before

    def _work_out(self) -> None:
        self._fitting, self._is_new = {}, True
        for segment in self._segments:
            rooms = [self._room[vtep] for vtep in segment.vteps if vtep in self._room]
            if rooms:
                self._fitting[segment.vni] = min(rooms) - VXLAN_LEN - HEADER_LEN

    def fitting(self, vni: Vni) -> int | None:
        """Return the longest IP packet, in bytes, that reaches every vswitch of a segment; None
        where that is not known of any of them."""
        return self._fitting.get(vni)

    def advertised(self, segment: Segment) -> Advertisement | None:
        """Return what a segment's router advertisements say; None where there are none.

        Never less than what every link of IPv6 must carry (RFC 8200 section 5): hosts would take no
        notice of that (RFC 4861 section 6.3.4).
        """
        said, fits = segment.advertised, self.fitting(segment.vni)
        if said is None or said.mtu is not None or fits is None:
            return said
        return said._replace(mtu=max(fits, MIN_MTU))

    def leased(self, segment: Segment) -> int | None:
        """Return what our own DHCP says on a segment; None where it says nothing."""
        if not isinstance(segment.dhcp, Service):
            return None
        if segment.dhcp.mtu is not None:
            return segment.dhcp.mtu
        fits = self.fitting(segment.vni)
        return fits if fits is not None and fits >= MIN_IPV4_MTU else None

    def complaints(self) -> list[str]:
        """Return what is configured above what fits, once for each segment and value, and which
        tunnels are too narrow for IPv6, once for each."""
        if not self._is_new:
            return []
        self._is_new = False
        return self._complaints_of_tunnels() + self._complaints_of_segments()

    def _complaints_of_tunnels(self) -> list[str]:
        vteps = {vtep for segment in self._segments if segment.has_ipv6 for vtep in segment.vteps}
        self._narrow &= vteps  # So the memory of it is bounded by the configuration.
        found = {
            vtep: said
            for vtep in sorted(vteps & self._room.keys() - self._narrow)
            if (said := complaint(vtep, self._room[vtep])) is not None
        }
        self._narrow |= found.keys()
        return list(found.values())

    def _complaints_of_segments(self) -> list[str]:
        found = {}
        for segment in self._segments:
            fits = self.fitting(segment.vni)
            service = segment.dhcp if isinstance(segment.dhcp, Service) else None
            for said in (segment.advertised, service):
                if said is not None and said.mtu is not None and fits and said.mtu > fits:
                    found[segment.vni, said.mtu] = (
                        f"segment {segment.name!r}: mtu {said.mtu} is more than the {fits} bytes"
                        " that fit into the tunnels to its vswitches; lower it, or leave it out"
                    )
        # Only of segments that there are: so the memory of it is bounded by the configuration.
        served = {segment.vni for segment in self._segments}
        known = {(vni, mtu) for vni, mtu in self._complained if vni in served}
        self._complained = known | found.keys()
        return [said for key, said in found.items() if key not in known]
