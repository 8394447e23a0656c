"""THE decision of the vswitch: where a frame goes, what is done to it, and why.

Theory of operation. `decide` takes a frame from a guest's port, `decide_uplink` one from the
tunnel. Both look, in the order in which `STEPS` and `UPLINK_STEPS` are written, for the first rule
that applies, and return its verdict. They do no I/O, read no clock and change nothing: whoever asks
"what would happen to this frame" gets the answer of the live tables. Learning is the separate verb
`learn`.

The heart is step "miss": a unicast frame whose destination is not on this switch is neither flooded
nor lost. If it can be routed (IPv4, IPv6) or answered by proxy (unicast ARP), its destination MAC
is rewritten to the shared MAC and it goes to the leaf, which finds the guest by its IP address. So
a sender whose ARP cache still names the MAC of a guest that has moved goes on unharmed (US patent
9,515,930). A miss *from the uplink* is dropped, never rewritten and never sent back up: two
switches would otherwise play ping-pong.

Cost: verdicts are built when the topology changes and only looked up per frame, so a decision does
not get slower with more ports. The verdict for a group address is the one exception: it names all
other ports, is built at its first use and kept until the segment's membership changes (building it
for every port at every attachment would cost n squared).

A drop is a verdict too. An exception out of here is a bug of ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, NamedTuple

from .attachment import Attachment, State
from .fdb import Fdb
from .phy.port import PortId
from .service.steps import Step
from .wire import arp, ethernet, ipv4, ipv6, nd
from .wire.ethernet import HEADER, HEADER_LEN, Buffer, Mac
from .wire.vxlan import Vni, Vtep

UPLINK: Final = PortId(0)
Miss = Literal["rewrite", "flood", "drop"]


class Reason(StrEnum):
    """Why a frame went where it went. Closed: it names the counters, the tests and `trace`."""

    # From a guest.
    NO_PORT = "no_port"
    """The port has no attachment."""
    RUNT = "runt"
    """Shorter than the headers that it announces."""
    GROUP_SOURCE = "group_source"
    """The source MAC is a group address."""
    NOT_ACTIVE = "not_active"
    """A staged port, and not one of the guest's own MACs: the guest does not run here yet."""
    SPOOFED_MAC = "spoofed_mac"
    """The source MAC is not the attachment's."""
    TAGGED = "tagged"
    """802.1Q: a port is an access port, and a priority tag could carry a forgery past the guard."""
    SPOOFED_ADDRESS = "spoofed_address"
    """The IP source is not among the attachment's addresses."""
    SPOOFED_ARP = "spoofed_arp"
    """The sender inside ARP or RARP is not the attachment's."""
    SPOOFED_ND = "spoofed_nd"
    """What neighbour discovery claims is not the attachment's, or is a router's to say."""
    LINK_LOCAL_GROUP = "link_local_group"
    """To 01:80:c2:00:00:0x, which a bridge keeps to itself."""
    ACTIVATION = "activation"
    """The guest says that it runs here: a RARP, or the first frame of a staged guest. Consumed."""
    GROUP = "group"
    """Multicast or broadcast: to the other ports of the segment and one copy to the leaf."""
    GATEWAY = "gateway"
    """To the shared MAC: to the leaf."""
    SAME_PORT = "same_port"
    """The destination is behind the port that the frame came from."""
    LOCAL = "local"
    """The destination is on another port of the segment."""
    REMOTE = "remote"
    """miss = "flood": a MAC learnt from the uplink."""
    MISS_REWRITTEN = "miss_rewritten"
    """Unknown unicast: rewritten to the shared MAC, to the leaf."""
    MISS_UNROUTABLE = "miss_unroutable"
    """Unknown unicast that no router can forward (neither IP nor ARP)."""
    MISS_FLOODED = "miss_flooded"
    """miss = "flood": unknown unicast to all ports and the leaf, as a learning switch does."""
    MISS_DROPPED = "miss_dropped"
    """miss = "drop"."""

    # From the uplink.
    UPLINK_NOT_A_LEAF = "uplink_not_a_leaf"
    """The outer source address is not one of the configured leaves."""
    UPLINK_BAD_VXLAN = "uplink_bad_vxlan"
    """Shorter than a VXLAN header, or the I flag is clear."""
    UPLINK_UNKNOWN_VNI = "uplink_unknown_vni"
    """No segment has this VNI."""
    UPLINK_RUNT = "uplink_runt"
    """Shorter than an Ethernet header."""
    UPLINK_TAGGED = "uplink_tagged"
    """802.1Q inside VXLAN (RFC 7348 section 6.1)."""
    UPLINK_LINK_LOCAL_GROUP = "uplink_link_local_group"
    """To 01:80:c2:00:00:0x."""
    UPLINK_GROUP = "uplink_group"
    """Multicast or broadcast: to the ports of the segment."""
    UPLINK_LOCAL = "uplink_local"
    """To a guest of this switch."""
    UPLINK_MISS = "uplink_miss"
    """To a MAC that is not here: dropped, never sent back up."""


class Verdict(NamedTuple):
    """Where a frame goes (no port: nowhere), what is done to it, and why."""

    egress: tuple[PortId, ...]
    rewrite: Mac | None
    reason: Reason


STEPS: Final = (
    Step("is a guest attached to the port", (Reason.NO_PORT,)),
    Step("is the frame long enough for its headers", (Reason.RUNT,)),
    Step("is the source one station", (Reason.GROUP_SOURCE,)),
    Step("does the guest run here", (Reason.NOT_ACTIVE, Reason.ACTIVATION)),
    Step("is the source MAC the guest's", (Reason.SPOOFED_MAC,)),
    Step("is the frame untagged", (Reason.TAGGED,)),
    Step(
        "are the addresses inside the guest's",
        (Reason.SPOOFED_ADDRESS, Reason.SPOOFED_ARP, Reason.SPOOFED_ND),
    ),
    Step("may a bridge forward to this group", (Reason.LINK_LOCAL_GROUP,)),
    Step("is the destination a group", (Reason.GROUP,)),
    Step("is the destination the shared MAC", (Reason.GATEWAY,)),
    Step("is the destination in the MAC table", (Reason.LOCAL, Reason.SAME_PORT, Reason.REMOTE)),
    Step(
        "a unicast miss: what does the segment do with it",
        (
            Reason.MISS_REWRITTEN,
            Reason.MISS_UNROUTABLE,
            Reason.MISS_FLOODED,
            Reason.MISS_DROPPED,
        ),
    ),
)
UPLINK_STEPS: Final = (
    Step("is the sender a configured leaf", (Reason.UPLINK_NOT_A_LEAF,)),
    Step("is the VXLAN header valid", (Reason.UPLINK_BAD_VXLAN,)),
    Step("is the VNI one of our segments", (Reason.UPLINK_UNKNOWN_VNI,)),
    Step("is the frame long enough for its headers", (Reason.UPLINK_RUNT,)),
    Step("is the frame untagged", (Reason.UPLINK_TAGGED,)),
    Step("may a bridge forward to this group", (Reason.UPLINK_LINK_LOCAL_GROUP,)),
    Step("is the destination a group", (Reason.UPLINK_GROUP,)),
    Step("is the destination a guest of the segment", (Reason.UPLINK_LOCAL, Reason.UPLINK_MISS)),
)


def _drop(reason: Reason) -> Verdict:
    return Verdict((), None, reason)


_NO_PORT = _drop(Reason.NO_PORT)
_RUNT = _drop(Reason.RUNT)
_GROUP_SOURCE = _drop(Reason.GROUP_SOURCE)
_NOT_ACTIVE = _drop(Reason.NOT_ACTIVE)
_SPOOFED_MAC = _drop(Reason.SPOOFED_MAC)
_TAGGED = _drop(Reason.TAGGED)
_SPOOFED_ADDRESS = _drop(Reason.SPOOFED_ADDRESS)
_SPOOFED_ARP = _drop(Reason.SPOOFED_ARP)
_SPOOFED_ND = _drop(Reason.SPOOFED_ND)
_LINK_LOCAL_GROUP = _drop(Reason.LINK_LOCAL_GROUP)
_ACTIVATION = _drop(Reason.ACTIVATION)
_SAME_PORT = _drop(Reason.SAME_PORT)
_MISS_UNROUTABLE = _drop(Reason.MISS_UNROUTABLE)
_MISS_DROPPED = _drop(Reason.MISS_DROPPED)
_GATEWAY = Verdict((UPLINK,), None, Reason.GATEWAY)
_REMOTE = Verdict((UPLINK,), None, Reason.REMOTE)
_UPLINK_NOT_A_LEAF = _drop(Reason.UPLINK_NOT_A_LEAF)
_UPLINK_BAD_VXLAN = _drop(Reason.UPLINK_BAD_VXLAN)
_UPLINK_UNKNOWN_VNI = _drop(Reason.UPLINK_UNKNOWN_VNI)
_UPLINK_RUNT = _drop(Reason.UPLINK_RUNT)
_UPLINK_TAGGED = _drop(Reason.UPLINK_TAGGED)
_UPLINK_LINK_LOCAL_GROUP = _drop(Reason.UPLINK_LINK_LOCAL_GROUP)
_UPLINK_MISS = _drop(Reason.UPLINK_MISS)

_ROUTABLE = (ethernet.IPV4, ethernet.IPV6, ethernet.ARP)
_TAGS = (ethernet.VLAN, ethernet.PROVIDER_VLAN)


@dataclass(slots=True)
class Segment:
    """One broadcast domain on this switch."""

    vni: Vni
    miss: Miss
    fdb: Fdb[Verdict] = field(default_factory=Fdb)
    """What a frame *from a guest* to this MAC gets."""
    from_uplink: dict[Mac, Verdict] = field(default_factory=dict)
    members: tuple[PortId, ...] = ()
    """The ports with an active guest."""
    uplink_group: Verdict = _UPLINK_MISS
    gateways: frozenset[bytes] = frozenset()
    """The gateway's addresses as far as they are known, which no guest may use."""


class _Port:
    """What a decision needs of one port, worked out beforehand."""

    __slots__ = (
        "flooded",
        "group",
        "guard",
        "ipv4",
        "ipv6",
        "link_locals",
        "macs",
        "segment",
        "staged",
    )

    def __init__(self, attachment: Attachment, segment: Segment) -> None:
        self.segment = segment
        self.macs = attachment.macs
        self.staged = attachment.state is State.STAGED
        self.guard = attachment.spoof_guard
        v4 = {a for a in attachment.addresses if len(a) == 4}
        v6 = {a for a in attachment.addresses if len(a) == 16}
        # An empty set: this family is not held to any address.
        self.ipv4 = frozenset(v4 | {ipv4.UNSPECIFIED}) if v4 else frozenset()
        self.ipv6 = frozenset(v6 | {ipv6.UNSPECIFIED}) if v6 else frozenset()
        self.link_locals = v6.union(map(ipv6.link_local, attachment.macs))
        """Those that no other guest makes itself of its MAC."""
        self.group: Verdict | None = None
        self.flooded: Verdict | None = None


def _may_use(port: _Port, address: bytes) -> bool:
    """Say whether a guest may call an IPv6 address its own. Link-local ones it makes itself, of its
    own MACs or at random; what is made of another MAC is a neighbour's, or the gateway's of another
    group. That of this group's gateway is not to be had."""
    if address in port.segment.gateways:
        return False
    if ipv6.is_link_local(address):
        return address in port.link_locals or not ipv6.is_made_of_mac(address)
    return not port.ipv6 or address in port.ipv6


class Switch:
    """The tables of one vswitch, and its decision."""

    def __init__(self, shared_mac: Mac, leaves: Iterable[Vtep]) -> None:
        self._shared_mac = shared_mac
        self._leaves = frozenset(leaves)
        self._segments: dict[Vni, Segment] = {}
        self._ports: dict[PortId, _Port] = {}
        self._rewritten = Verdict((UPLINK,), shared_mac, Reason.MISS_REWRITTEN)

    # -- deciding ------------------------------------------------------------------------------

    def decide(self, ingress: PortId, frame: Buffer) -> Verdict:
        """Say where a `frame` that a guest sent into port `ingress` goes. Changes nothing."""
        port = self._ports.get(ingress)
        if port is None:
            return _NO_PORT
        if len(frame) < HEADER_LEN:
            return _RUNT
        destination, source, ethertype = HEADER.unpack_from(frame)

        if source in port.macs:
            if port.staged:
                return _ACTIVATION
        elif source[0] & 1:
            return _GROUP_SOURCE
        elif port.staged:
            return _NOT_ACTIVE
        elif port.guard:
            return _SPOOFED_MAC
        if ethertype in _TAGS:
            return _TAGGED
        if port.guard and (forged := self._forged(port, ethertype, frame)) is not None:
            return forged
        if ethertype == ethernet.RARP:
            return _ACTIVATION

        if destination[0] & 1:
            if ethernet.is_link_local_group(destination):
                return _LINK_LOCAL_GROUP
            return port.group or self._build_group(port, ingress)
        verdict = port.segment.fdb.verdicts.get(destination)
        if verdict is not None:
            return _SAME_PORT if verdict.egress[0] == ingress else verdict
        return self._miss(port, ingress, ethertype)

    def decide_uplink(self, source: Vtep, packet: Buffer) -> Verdict:
        """Say where a VXLAN `packet` from the VTEP `source` goes. Changes nothing."""
        if source not in self._leaves:
            return _UPLINK_NOT_A_LEAF
        if len(packet) < 8 or not packet[0] & 0x08:
            return _UPLINK_BAD_VXLAN
        segment = self._segments.get(Vni(packet[4] << 16 | packet[5] << 8 | packet[6]))
        if segment is None:
            return _UPLINK_UNKNOWN_VNI
        if len(packet) < 8 + HEADER_LEN:
            return _UPLINK_RUNT
        destination, _, ethertype = HEADER.unpack_from(packet, 8)
        if ethertype in _TAGS:
            return _UPLINK_TAGGED
        if destination[0] & 1:
            if ethernet.is_link_local_group(destination):
                return _UPLINK_LINK_LOCAL_GROUP
            return segment.uplink_group
        return segment.from_uplink.get(destination, _UPLINK_MISS)

    def _forged(self, port: _Port, ethertype: int, frame: Buffer) -> Verdict | None:
        """Hold what is said *inside* the frame to the attachment; None where it is in order."""
        if ethertype == ethernet.IPV4:
            if len(frame) < ipv4.MIN_FRAME_LEN:
                return _RUNT
            source = bytes(frame[ipv4.SOURCE_AT : ipv4.SOURCE_AT + 4])
            if source in port.segment.gateways or (port.ipv4 and source not in port.ipv4):
                return _SPOOFED_ADDRESS
            return None
        if ethertype == ethernet.IPV6:
            if len(frame) < ipv6.MIN_FRAME_LEN:
                return _RUNT
            if not _may_use(port, bytes(frame[ipv6.SOURCE_AT : ipv6.DESTINATION_AT])):
                return _SPOOFED_ADDRESS
            return self._forged_nd(port, frame)
        if ethertype in (ethernet.ARP, ethernet.RARP):
            if len(frame) < arp.MIN_FRAME_LEN:
                return _RUNT
            if bytes(frame[arp.SENDER_MAC_AT : arp.SENDER_MAC_AT + 6]) not in port.macs:
                return _SPOOFED_ARP
            sender = bytes(frame[arp.SENDER_IP_AT : arp.SENDER_IP_AT + 4])
            if sender in port.segment.gateways or (port.ipv4 and sender not in port.ipv4):
                return _SPOOFED_ARP
            return None
        return None

    @staticmethod
    def _forged_nd(port: _Port, frame: Buffer) -> Verdict | None:
        """Hold neighbour discovery to the attachment. A guest is no router (RFC 6105), and hides no
        message behind extension headers (RFC 6980, RFC 7113)."""
        kind = nd.kind_of(frame)
        if kind is None:
            return _SPOOFED_ND if nd.may_be_hidden(frame) else None
        if kind == nd.ROUTER_SOLICITATION:
            return None
        claimed = nd.claims(frame)
        if claimed is None:
            return _SPOOFED_ND
        target, mac = claimed
        if mac is not None and mac not in port.macs:
            return _SPOOFED_ND
        if kind == nd.ADVERTISEMENT and not _may_use(port, target):
            return _SPOOFED_ND
        return None

    def _miss(self, port: _Port, ingress: PortId, ethertype: int) -> Verdict:
        policy = port.segment.miss
        if policy == "rewrite":
            return self._rewritten if ethertype in _ROUTABLE else _MISS_UNROUTABLE
        if policy == "drop":
            return _MISS_DROPPED
        if port.flooded is None:
            port.flooded = Verdict(self._others(port, ingress), None, Reason.MISS_FLOODED)
        return port.flooded

    def _build_group(self, port: _Port, ingress: PortId) -> Verdict:
        port.group = Verdict(self._others(port, ingress), None, Reason.GROUP)
        return port.group

    @staticmethod
    def _others(port: _Port, ingress: PortId) -> tuple[PortId, ...]:
        return (*(member for member in port.segment.members if member != ingress), UPLINK)

    # -- learning and topology -----------------------------------------------------------------

    def learn(self, vni: Vni, mac: Mac, now: float) -> None:
        """Note that the uplink sent a frame from `mac`, where the segment is one that learns."""
        segment = self._segments.get(vni)
        if segment is not None and segment.miss == "flood" and not mac[0] & 1:
            segment.fdb.learn(mac, _REMOTE, now)

    def set_leaves(self, leaves: Iterable[Vtep]) -> None:
        """Take frames from these VTEPs and no others."""
        self._leaves = frozenset(leaves)

    def add_segment(self, vni: Vni, miss: Miss) -> Segment:
        """Add a segment without ports."""
        segment = Segment(vni, miss)
        segment.fdb.add(self._shared_mac, _GATEWAY)
        segment.uplink_group = Verdict((), None, Reason.UPLINK_GROUP)
        self._segments[vni] = segment
        self.set_gateways(vni, ())
        return segment

    def set_gateways(self, vni: Vni, addresses: Iterable[bytes]) -> None:
        """Keep these addresses, and the gateway's link-local one, from the guests of a segment."""
        own = ipv6.link_local(self._shared_mac)
        self._segments[vni].gateways = frozenset((own, *addresses))

    def set_miss(self, vni: Vni, miss: Miss) -> None:
        """Change what a unicast miss in this segment does; what was learnt is forgotten."""
        segment = self._segments[vni]
        segment.miss = miss
        segment.fdb.expire(float("inf"))

    def remove_segment(self, vni: Vni) -> None:
        """Remove a segment that has no ports left."""
        del self._segments[vni]

    def has_segment(self, vni: Vni) -> bool:
        """Say whether there is such a segment."""
        return vni in self._segments

    def segments(self) -> list[Segment]:
        """Return all segments."""
        return list(self._segments.values())

    def place(self, attachment: Attachment) -> None:
        """Enter an attachment, or what has changed of it, into the tables."""
        segment = self._segments[attachment.segment]
        self._ports[attachment.port] = _Port(attachment, segment)
        is_member = attachment.port in segment.members
        if attachment.state is not State.ACTIVE:
            if is_member:
                self._leave(segment, attachment)
        elif not is_member:
            for mac in attachment.macs:
                segment.fdb.add(mac, Verdict((attachment.port,), None, Reason.LOCAL))
                segment.from_uplink[mac] = Verdict((attachment.port,), None, Reason.UPLINK_LOCAL)
            self._set_members(segment, (*segment.members, attachment.port))

    def remove(self, attachment: Attachment) -> None:
        """Take an attachment out of the tables."""
        segment = self._segments[attachment.segment]
        if attachment.port in segment.members:
            self._leave(segment, attachment)
        del self._ports[attachment.port]

    def _leave(self, segment: Segment, attachment: Attachment) -> None:
        for mac in attachment.macs:
            segment.fdb.remove(mac)
            segment.from_uplink.pop(mac, None)
        left = tuple(member for member in segment.members if member != attachment.port)
        self._set_members(segment, left)

    def _set_members(self, segment: Segment, members: tuple[PortId, ...]) -> None:
        segment.members = members
        segment.uplink_group = Verdict(members, None, Reason.UPLINK_GROUP)
        for port in self._ports.values():
            if port.segment is segment:
                port.group = port.flooded = None

    def expire(self, now: float) -> None:
        """Forget learnt MACs that have grown old."""
        for segment in self._segments.values():
            segment.fdb.expire(now)

    def deadline(self) -> float | None:
        """Say when `expire` has something to do."""
        times = [t for s in self._segments.values() if (t := s.fdb.deadline()) is not None]
        return min(times, default=None)
