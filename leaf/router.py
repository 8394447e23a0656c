"""THE decision of the leaf: where a packet goes, what is done to it, and why.

Theory of operation. `decide` takes a VXLAN packet as the tunnel received it and looks, in the order
in which `STEPS` is written, for the first rule that applies. It reads the outer source, the VNI,
three fields of the Ethernet header and, for IP to a gateway MAC, the IP header; nothing is copied
or parsed further. It does no I/O, reads no clock and changes nothing.

Forwarding is by IP only. The leaf keeps no MACs of remote hosts and floods nothing: a unicast frame
to any MAC but a gateway's is dropped, since the vswitch should have rewritten it.

A verdict that forwards holds the 20 bytes that the packet leaves with: the VXLAN header and both
MACs. They are built when a binding changes; per packet, `rewrite` copies them over the old ones and
takes one off the TTL, in place. A train is decided once, by its first packet (the tunnel has made
sure that its packets belong together and have sound IP headers), and every packet of it is
rewritten.

What must be answered or asked (ARP, ND, ICMP, gleaning) is only named here; the slow path does it,
behind its policer.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import ip_network
from typing import Final, NamedTuple

from vswitch.service.steps import Step
from vswitch.wire import dhcp, ethernet, ipv4, ipv6, nd, vxlan
from vswitch.wire.ethernet import Buffer, Mac
from vswitch.wire.vxlan import VXLAN_LEN, Vni, Vtep

from .bindings import Binding
from .fib import Fib, Prefix
from .topology import Segment, Topology, Vrf


class Reason(StrEnum):
    """Why a packet went where it went. Closed: it names the counters, the tests and `trace`."""

    NOT_A_PEER = "not_a_peer"
    """The outer source address is neither a configured vswitch's nor a remote leaf's."""
    BAD_VXLAN = "bad_vxlan"
    """Shorter than a VXLAN header, or the I flag is clear."""
    UNKNOWN_VNI = "unknown_vni"
    """No segment and no VRF has this VNI."""
    WRONG_SEGMENT = "wrong_segment"
    """The sender is a peer, but this VNI is not on it."""
    RUNT = "runt"
    """Shorter than an Ethernet header."""
    GROUP_SOURCE = "group_source"
    """The inner source MAC is a group address."""
    ARP = "arp"
    """To the ARP rules."""
    RARP = "rarp"
    """A guest says where it is."""
    ND = "nd"
    """Neighbour discovery: to the same rules as ARP, or answered by a router advertisement."""
    DHCP = "dhcp"
    """A guest's message to a DHCP server, where the segment has DHCP: to the DHCP rules."""
    MULTICAST_DROPPED = "multicast_dropped"
    """Any other group destination: it ends here. So do IGMP and MLD, which speak to a router."""
    MULTICAST_REPLICATED = "multicast_replicated"
    """The segment has multicast = "replicate": to its other vswitches that have guests."""
    FOREIGN_MAC = "foreign_mac"
    """Unicast to a MAC that is not the gateway's: what a plain fabric does to a moved guest's
    frames where the vswitch does not rewrite them."""
    NOT_IP = "not_ip"
    """To the gateway's MAC, but neither IP nor ARP."""
    BAD_IP_HEADER = "bad_ip_header"
    """Version, length or checksum of the IP header is wrong (RFC 1812 section 5.2.2)."""
    MARTIAN = "martian"
    """A source or destination that no router may forward (RFC 1812 section 5.3.7, RFC 4291 sections
    2.5 and 2.7), a guest's packet from an address of ours, or neighbour discovery behind extension
    headers, which would pass for local."""
    GATEWAY = "gateway"
    """To a gateway address: an echo is answered."""
    NO_ROUTE = "no_route"
    """No prefix holds the destination: ICMP unreachable."""
    GLEAN = "glean"
    """In a subnet of ours, but without a binding: the segment is asked."""
    BRIDGED = "bridged"
    """Inside its own segment, which is hop-neutral, or to a link-local address: forwarded with its
    TTL or hop limit."""
    EXPIRED = "expired"
    """The TTL or hop limit is used up: ICMP time exceeded."""
    LOOP = "loop"
    """The next hop is the remote leaf that it came from."""
    ROUTED = "routed"
    """Forwarded, with the TTL one less."""


STEPS: Final = (
    Step("is the sender a configured peer", (Reason.NOT_A_PEER,)),
    Step("is the VXLAN header valid", (Reason.BAD_VXLAN,)),
    Step("is the VNI one of ours", (Reason.UNKNOWN_VNI,)),
    Step("is this VNI on the sender", (Reason.WRONG_SEGMENT,)),
    Step("is the frame long enough for its header", (Reason.RUNT,)),
    Step("is the source one station", (Reason.GROUP_SOURCE,)),
    Step("is it ARP, RARP or neighbour discovery", (Reason.ARP, Reason.RARP, Reason.ND)),
    Step("is it for a DHCP server", (Reason.DHCP,)),
    Step("is the destination a group", (Reason.MULTICAST_DROPPED, Reason.MULTICAST_REPLICATED)),
    Step("is the destination a gateway MAC", (Reason.FOREIGN_MAC,)),
    Step("is it IP", (Reason.NOT_IP,)),
    Step("is the IP header sound", (Reason.BAD_IP_HEADER,)),
    Step("are source and destination hosts", (Reason.MARTIAN,)),
    Step("is it to the gateway itself", (Reason.GATEWAY,)),
    Step("is there a route", (Reason.NO_ROUTE,)),
    Step("is the next hop bound", (Reason.GLEAN,)),
    Step("does it stay inside a hop-neutral segment", (Reason.BRIDGED,)),
    Step("is its TTL more than one", (Reason.EXPIRED,)),
    Step("does it go on to somewhere else", (Reason.LOOP, Reason.ROUTED)),
)


class Verdict(NamedTuple):
    """Where a packet goes (no VTEP: nowhere), with what in front, and why."""

    reason: Reason
    vtep: Vtep | None = None
    header: bytes | None = None
    """20 bytes: the VXLAN header, destination MAC, source MAC."""
    segment: Segment | None = None
    """Of GLEAN: the segment to ask. Of all that came from a segment and is not forwarded: that."""
    ask: bytes | None = None
    """Of GLEAN: the address to ask for, where it is not the destination's own."""


class Entry(NamedTuple):
    """What the FIB holds for an address: the verdict, ready to be returned."""

    verdict: Verdict
    bridged: Verdict | None = None
    """For packets from the same, hop-neutral segment."""
    vni: Vni | None = None
    """The segment of the destination; none for a prefix, which is a remote leaf's or a guest's."""
    via: bytes | None = None
    """The guest that routes this prefix; `verdict` is for the time when it has no binding."""


class _Tables(NamedTuple):
    """The tables of a VRF."""

    ipv4: Fib[Entry]
    ipv6: Fib[Entry]

    def of(self, address: bytes) -> Fib[Entry]:
        """Return the table for the family of `address`."""
        return self.ipv4 if len(address) == 4 else self.ipv6


class _Domain:
    """What a decision needs of one VNI, worked out beforehand."""

    __slots__ = (
        "arp",
        "dhcp",
        "fib",
        "fib6",
        "glean",
        "link_locals",
        "macs",
        "multicast",
        "nd",
        "nobodys",
        "rarp",
        "segment",
        "vni",
        "vteps",
    )

    def __init__(
        self,
        vni: Vni,
        tables: _Tables,
        vteps: frozenset[Vtep],
        macs: frozenset[Mac],
        segment: Segment | None,
        nobodys: frozenset[bytes] = frozenset(),
    ) -> None:
        """`nobodys`: the addresses of both families that no guest has, and none may send from."""
        self.vni = vni
        self.nobodys = nobodys
        self.fib, self.fib6 = tables
        self.link_locals: dict[bytes, Verdict] = {}
        """Link-local addresses belong to a segment, not to the VRF."""
        self.vteps = vteps
        self.macs = macs
        self.segment = segment
        replicates = segment is not None and segment.multicast == "replicate"
        self.multicast = Verdict(
            Reason.MULTICAST_REPLICATED if replicates else Reason.MULTICAST_DROPPED,
            segment=segment,
        )
        # Between leaves there is no ARP: it counts as what it is, a group frame.
        self.arp = Verdict(Reason.ARP, segment=segment) if segment else self.multicast
        self.rarp = Verdict(Reason.RARP, segment=segment) if segment else self.multicast
        has_ipv6 = segment is not None and segment.has_ipv6
        # Where there is no DHCP its messages are like any others.
        has_dhcp = segment is not None and segment.dhcp is not None
        self.dhcp = Verdict(Reason.DHCP, segment=segment) if has_dhcp else None
        self.nd = Verdict(Reason.ND, segment=segment) if has_ipv6 else self.multicast
        self.glean = Verdict(Reason.GLEAN, segment=segment) if has_ipv6 else _MARTIAN
        for gateway in segment.link_locals if segment else ():
            self.link_locals[gateway.address] = _GATEWAY


_NOT_A_PEER = Verdict(Reason.NOT_A_PEER)
_BAD_VXLAN = Verdict(Reason.BAD_VXLAN)
_UNKNOWN_VNI = Verdict(Reason.UNKNOWN_VNI)
_WRONG_SEGMENT = Verdict(Reason.WRONG_SEGMENT)
_RUNT = Verdict(Reason.RUNT)
_GROUP_SOURCE = Verdict(Reason.GROUP_SOURCE)
_FOREIGN_MAC = Verdict(Reason.FOREIGN_MAC)
_NOT_IP = Verdict(Reason.NOT_IP)
_BAD_IP_HEADER = Verdict(Reason.BAD_IP_HEADER)
_MARTIAN = Verdict(Reason.MARTIAN)
_MULTICAST_ENDED = Verdict(Reason.MULTICAST_DROPPED)
_GATEWAY = Verdict(Reason.GATEWAY)
_NO_ROUTE = Verdict(Reason.NO_ROUTE)
_EXPIRED = Verdict(Reason.EXPIRED)
_LOOP = Verdict(Reason.LOOP)

IP_AT: Final = VXLAN_LEN + ethernet.HEADER_LEN
"""Where the inner IP header stands in a VXLAN packet."""
TTL_AT: Final = VXLAN_LEN + ipv4.TTL_AT
CHECKSUM_AT: Final = VXLAN_LEN + ipv4.CHECKSUM_AT
_SOURCE_AT: Final = VXLAN_LEN + ipv4.SOURCE_AT
_DESTINATION_AT: Final = VXLAN_LEN + ipv4.DESTINATION_AT
HOP_LIMIT_AT: Final = VXLAN_LEN + ipv6.HOP_LIMIT_AT
_SOURCE6_AT: Final = VXLAN_LEN + ipv6.SOURCE_AT
_DESTINATION6_AT: Final = VXLAN_LEN + ipv6.DESTINATION_AT
HEADER_LEN: Final = VXLAN_LEN + 12
"""What a forwarding verdict puts in front: the VXLAN header and both MACs."""

MARTIANS: Final = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")
"""Destinations that no router forwards to: this network, loopback, link-local (RFC 3927 section 7),
multicast and all above (RFC 6890)."""
_LINK_LOCAL4: Final = bytes((169, 254))
"""A source that no router forwards from either (RFC 3927 section 7)."""
_MAPPED: Final = bytes(10) + b"\xff\xff"
_LINK_LOCAL: Final = b"\xfe\x80" + bytes(6)
"""The only part of fe80::/10 in use (RFC 4291 section 2.5.6)."""
MARTIANS6: Final = ("::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8")
"""Of IPv6: unspecified and loopback, mapped IPv4, link-local where it is not the segment's own, and
multicast (RFC 6890)."""


class Router:
    """The tables of one leaf, and its decision."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._peers: frozenset[Vtep] = frozenset()
        self._domains: dict[int, _Domain] = {}
        self._fibs: dict[str, _Tables] = {}
        self.set_topology(topology)

    # -- deciding ------------------------------------------------------------------------------

    def decide(self, source: Vtep, packet: Buffer) -> Verdict:
        """Say where a VXLAN `packet` from the VTEP `source` goes. Changes nothing."""
        if source not in self._peers:
            return _NOT_A_PEER
        length = len(packet)
        if length < VXLAN_LEN or not packet[0] & vxlan.VALID_VNI:
            return _BAD_VXLAN
        domain = self._domains.get(packet[4] << 16 | packet[5] << 8 | packet[6])
        if domain is None:
            return _UNKNOWN_VNI
        if source not in domain.vteps:
            return _WRONG_SEGMENT
        if length < IP_AT:
            return _RUNT
        destination, mac, ethertype = ethernet.HEADER.unpack_from(packet, VXLAN_LEN)
        if mac[0] & 1:
            return _GROUP_SOURCE

        own = destination in domain.macs
        if own or destination[0] & 1:
            if ethertype == ethernet.ARP:
                return domain.arp
            if ethertype == ethernet.RARP:
                return domain.rarp
            if ethertype == ethernet.IPV6 and nd.kind_of(packet[VXLAN_LEN:]) is not None:
                return domain.nd
        if destination[0] & 1:
            if domain.dhcp is not None and dhcp.is_for_server(packet[VXLAN_LEN:]):
                return domain.dhcp
            return _MULTICAST_ENDED if _is_membership(ethertype, packet) else domain.multicast
        if not own:
            return _FOREIGN_MAC
        if ethertype == ethernet.IPV4:
            if not ipv4.is_sound(packet[IP_AT:]):
                return _BAD_IP_HEADER
            sender = bytes(packet[_SOURCE_AT:_DESTINATION_AT])
            first = sender[0]
            if first in (0, 127) or first >= 224 or sender in domain.nobodys:
                return _MARTIAN
            if sender.startswith(_LINK_LOCAL4):
                return _MARTIAN
            address = bytes(packet[_DESTINATION_AT : _DESTINATION_AT + 4])
            verdict = self._route(domain, domain.fib, source, address, packet[TTL_AT])
            if (
                verdict is _GATEWAY
                and domain.dhcp is not None
                and dhcp.is_for_server(packet[VXLAN_LEN:])
            ):
                return domain.dhcp
            return verdict
        if ethertype == ethernet.IPV6:
            if not ipv6.is_sound(packet[IP_AT:]):
                return _BAD_IP_HEADER
            return self._route6(domain, source, packet)
        return _NOT_IP

    def _route6(self, domain: _Domain, source: Vtep, packet: Buffer) -> Verdict:
        """What IPv6 has beyond IPv4: link-local addresses, which never leave their segment."""
        sender = bytes(packet[_SOURCE6_AT:_DESTINATION6_AT])
        if sender[0] == 0xFF or sender in (ipv6.UNSPECIFIED, ipv6.LOOPBACK):
            return _MARTIAN
        if sender.startswith(_MAPPED) or sender in domain.nobodys:
            return _MARTIAN
        if nd.may_be_hidden(packet[VXLAN_LEN:]):
            return _MARTIAN
        address = bytes(packet[_DESTINATION6_AT : _DESTINATION6_AT + 16])
        if ipv6.is_link_local(address):
            unknown = domain.glean if address.startswith(_LINK_LOCAL) else _MARTIAN
            return domain.link_locals.get(address, unknown)
        verdict = self._route(domain, domain.fib6, source, address, packet[HOP_LIMIT_AT])
        if ipv6.is_link_local(sender) and verdict is not _GATEWAY:
            return _MARTIAN
        return verdict

    @staticmethod
    def _route(domain: _Domain, fib: Fib[Entry], source: Vtep, address: bytes, ttl: int) -> Verdict:
        entry = fib.lookup(address)
        if entry is None:
            return _NO_ROUTE
        hop = entry if entry.via is None else fib.hosts.get(entry.via, entry)
        verdict = hop.verdict
        if verdict.vtep is None:
            return verdict
        # Of the entry, not of the hop: what a guest of the segment only passes on does not stay
        # inside, and we are a router on its way, which takes a hop (RFC 1812 section 5.3.1).
        if hop.bridged is not None and entry.vni == domain.vni:
            return hop.bridged
        if ttl <= 1:
            return _EXPIRED
        if hop.vni is None and verdict.vtep == source:
            return _LOOP
        return verdict

    def segment_of(self, packet: Buffer) -> Segment | None:
        """Return the segment that a sound packet came from; none for a VRF's own VNI."""
        return self.segment(Vni(packet[4] << 16 | packet[5] << 8 | packet[6]))

    def segment(self, vni: Vni) -> Segment | None:
        """Return the segment with this VNI; none where it is a VRF's own, or unknown."""
        domain = self._domains.get(vni)
        return domain.segment if domain else None

    # -- topology ------------------------------------------------------------------------------

    def set_topology(self, topology: Topology) -> None:
        """Start anew with this topology and without bindings."""
        self._topology = topology
        shared = topology.shared_macs
        remote = frozenset(topology.remote_leaves)
        vswitches = {vtep for segment in topology.segments for vtep in segment.vteps}
        self._peers = remote | vswitches
        self._domains, self._fibs = {}, {}
        for vrf in topology.vrfs:
            tables = self._fibs[vrf.name] = _Tables(Fib(32), Fib(128))
            router_mac = frozenset({topology.router_mac})
            self._domains[vrf.vni] = _Domain(vrf.vni, tables, remote, router_mac, None)
            nobodys = _nobodys(vrf)
            for segment in vrf.segments:
                vteps = frozenset(segment.vteps)
                macs = shared | router_mac
                self._domains[segment.vni] = _Domain(
                    segment.vni,
                    tables,
                    vteps,
                    macs,
                    segment,
                    nobodys | {gateway.address for gateway in segment.link_locals},
                )
            prefixes = self._prefixes(vrf)
            for bits, fib in zip((32, 128), tables, strict=True):
                fib.set_prefixes((p.prefix, p.entry) for p in prefixes if p.bits == bits)
            for gateway in (g for segment in vrf.segments for g in segment.gateways):
                tables.of(gateway.address).hosts[gateway.address] = Entry(_GATEWAY)

    def _prefixes(self, vrf: Vrf) -> list[_PrefixEntry]:
        entries = []
        for route in vrf.routes:
            if route.via is not None:
                asked = self._segment_of_address(vrf, route.via)
                verdict = Verdict(Reason.GLEAN, segment=asked, ask=route.via)
                entry = Entry(verdict, via=route.via)
                entries.append(_PrefixEntry(route.bits, route.prefix, entry))
            else:
                assert route.vtep is not None
                mac = self._topology.remote_leaves[route.vtep]
                header = vxlan.header(vrf.vni) + mac + self._topology.router_mac
                verdict = Verdict(Reason.ROUTED, route.vtep, header)
                entries.append(_PrefixEntry(route.bits, route.prefix, Entry(verdict)))
        # What is connected, and what is no host, goes before what was written for the same prefix.
        for segment in vrf.segments:
            glean = Entry(Verdict(Reason.GLEAN, segment=segment))
            for gateway in segment.gateways:
                entries += _connected(8 * len(gateway.address), gateway.prefix, glean)
        return entries + [
            _PrefixEntry.parse(text, Entry(_MARTIAN)) for text in (*MARTIANS, *MARTIANS6)
        ]

    @staticmethod
    def _segment_of_address(vrf: Vrf, address: bytes) -> Segment:
        for segment in vrf.segments:
            if segment.gateway_for(address) is not None:
                return segment
        raise ValueError("a static route's `via` is in no subnet of its VRF")  # Checked before.

    @property
    def peers(self) -> frozenset[Vtep]:
        """All VTEPs that packets may come from."""
        return self._peers

    def fib(self, vrf: str, version: int = 4) -> Fib[Entry]:
        """Return a VRF's table, for `show`."""
        return self._fibs[vrf][version == 6]

    def bind(self, segment: Segment, binding: Binding) -> None:
        """Enter a binding's host route."""
        group = segment.vteps[binding.vtep]
        header = vxlan.header(segment.vni) + binding.mac + group.shared_mac
        bridged = Verdict(Reason.BRIDGED, binding.vtep, header) if segment.hop_neutral else None
        verdict = Verdict(Reason.ROUTED, binding.vtep, header)
        if _is_link_local(binding.address):
            inside = Verdict(Reason.BRIDGED, binding.vtep, header)
            self._domains[segment.vni].link_locals[binding.address] = inside
            return
        hosts = self._fibs[segment.vrf].of(binding.address).hosts
        hosts[binding.address] = Entry(verdict, bridged, segment.vni)

    def unbind(self, segment: Segment, address: bytes) -> None:
        """Remove a host route."""
        if _is_link_local(address):
            self._domains[segment.vni].link_locals.pop(address, None)
            return
        self._fibs[segment.vrf].of(address).hosts.pop(address, None)


_IGMP: Final = 2
_MLD: Final = (130, 131, 132, 143)
"""RFC 2710 section 3, RFC 3810 section 5."""


def _is_membership(ethertype: int, packet: Buffer) -> bool:
    """Say whether a group frame is IGMP, or MLD, which always has a hop-by-hop header (RFC 3810
    section 5)."""
    if len(packet) <= IP_AT + 48:
        return ethertype == ethernet.IPV4 and len(packet) > IP_AT + 9 and packet[IP_AT + 9] == _IGMP
    if ethertype == ethernet.IPV4:
        return packet[IP_AT + 9] == _IGMP
    if ethertype != ethernet.IPV6 or packet[IP_AT + 6] != ipv6.HOP_BY_HOP:
        return False
    return packet[IP_AT + 40] == ipv6.ICMP and packet[IP_AT + 48] in _MLD


def _is_link_local(address: bytes) -> bool:
    return len(address) == 16 and ipv6.is_link_local(address)


class _PrefixEntry(NamedTuple):
    bits: int
    """Length of an address of its family."""
    prefix: Prefix
    entry: Entry

    @classmethod
    def parse(cls, text: str, entry: Entry) -> _PrefixEntry:
        network = ip_network(text)
        prefix = Prefix(int(network.network_address), network.prefixlen)
        return cls(network.max_prefixlen, prefix, entry)


def _connected(bits: int, prefix: Prefix, glean: Entry) -> list[_PrefixEntry]:
    """A subnet, and in it the addresses that are no host's: the first and last of IPv4 (RFC 1812
    section 4.2.3.1), the routers' anycast address of IPv6 (RFC 4291 section 2.6.1)."""
    nobody = [_PrefixEntry(bits, Prefix(at, bits), Entry(_MARTIAN)) for at in _ends(bits, prefix)]
    return [_PrefixEntry(bits, prefix, glean), *nobody]


def _ends(bits: int, prefix: Prefix) -> tuple[int, ...]:
    """The addresses of a subnet that are no host's."""
    if prefix.length > bits - 2:
        return ()
    last = prefix.network + (1 << (bits - prefix.length)) - 1
    return (prefix.network, last) if bits == 32 else (prefix.network,)


def _nobodys(vrf: Vrf) -> frozenset[bytes]:
    """What no guest of a VRF may send from: the gateways' addresses, whose ICMP hosts believe (RFC
    1122 section 3.2.2.2), and broadcasts, which an answer would go to (RFC 1812 section 5.3.7).

    Not so between leaves: the gateway has its addresses on each of them, and may send from there.
    """
    found = set()
    for gateway in (gateway for segment in vrf.segments for gateway in segment.gateways):
        length = len(gateway.address)
        ends = _ends(8 * length, gateway.prefix)
        found |= {gateway.address, *(at.to_bytes(length, "big") for at in ends)}
    return frozenset(found)
