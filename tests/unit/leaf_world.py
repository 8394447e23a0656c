"""The one small world of the leaf's unit tests: two tenants, three vswitches, two other leaves.

TENANT  ONE   1.1.1.0/24 and 3.3.3.0/25                on A and B (group one) and C (group two)
              gives out 1.1.1.100 to 1.1.1.103, and reserves 1.1.1.50 for `RESERVED`
        TWO   2.2.2.0/24, hop-neutral, replicating     on A and B
        10.10.0.0/16 via the guest 1.1.1.9; 10.20.0.0/16 at FAR_LEAF, and in it 10.20.30.0/24 via
        the guest 2.2.2.6; 10.30.0.0/16 at THIRD_LEAF
OTHER   SAME  1.1.1.0/24 once more                     on A and B

With `ipv6` the same once more beside it: 2001:db8:1::/64 and 2001:db8:3::/64 in ONE,
2001:db8:2::/64 in TWO, 2001:db8:1::/64 in SAME, gateways ::fe; 2001:db8:a10::/48 via
2001:db8:1::9; 2001:db8:a20::/48 at FAR_LEAF, and in it 2001:db8:a20:30::/64 via 2001:db8:2::6;
2001:db8:a30::/48 at THIRD_LEAF. Each guest has the address whose last digit is that of its IPv4
address, and a link-local one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, NamedTuple

from scapy.layers.l2 import ARP, Ether

from leaf.bindings import DEFAULT_TIMERS, Bindings, Timers
from leaf.fib import Prefix
from leaf.leases import Leases, Pool
from leaf.limits import Limits
from leaf.punt import Send
from leaf.rewrite import rewrite
from leaf.router import Router, Verdict
from leaf.slowpath import SlowPath
from leaf.topology import Gateway, Group, Route, Segment, Service, Topology, Vrf
from tests.frames import (
    BROADCAST,
    OTHER_SHARED_MAC,
    SHARED_MAC,
    arp,
    ip,
    ip6,
    link_local,
    mac,
    v4,
    v6,
    vxlan,
)
from vswitch.wire.ethernet import Mac
from vswitch.wire.nd import Advertisement, PrefixInfo
from vswitch.wire.vxlan import Vni, Vtep

ONE, TWO, SAME, TENANT, OTHER = Vni(100), Vni(200), Vni(300), Vni(5000), Vni(6000)
A, B, C = Vtep("192.0.2.11"), Vtep("192.0.2.12"), Vtep("192.0.2.13")
FAR_LEAF, THIRD_LEAF, STRANGER = Vtep("192.0.2.2"), Vtep("192.0.2.3"), Vtep("198.51.100.9")

ROUTER_MAC: Final = Mac(bytes.fromhex("0200c0000201"))
FAR_ROUTER_MAC: Final = Mac(bytes.fromhex("0200c0000202"))
THIRD_ROUTER_MAC: Final = Mac(bytes.fromhex("0200c0000203"))
GROUP_ONE = Group("one", Mac(SHARED_MAC))
GROUP_TWO = Group("two", Mac(OTHER_SHARED_MAC))
DEFAULT_LIMITS = Limits()
SHARED: Final = {A: SHARED_MAC, B: SHARED_MAC, C: OTHER_SHARED_MAC}


def packed(text: str) -> bytes:
    return v6(text) if ":" in text else v4(text)


class Guest(NamedTuple):
    """A guest and where it is."""

    ip: str
    mac: Mac
    vtep: Vtep
    segment: Vni = ONE

    @property
    def address(self) -> bytes:
        return packed(self.ip)

    @property
    def six(self) -> Guest:
        """The same guest by its IPv6 address."""
        first, *_, last = self.ip.split(".")
        return self._replace(ip=f"2001:db8:{first}::{last}")

    @property
    def link_local(self) -> Guest:
        """The same guest by its link-local address."""
        return self._replace(ip=link_local(self.mac))


H1 = Guest("1.1.1.1", Mac(mac(1)), A)
H2 = Guest("1.1.1.2", Mac(mac(2)), A)
H3 = Guest("1.1.1.3", Mac(mac(3)), B)
H4 = Guest("1.1.1.4", Mac(mac(4)), C)
H5 = Guest("2.2.2.5", Mac(mac(5)), A, TWO)
H6 = Guest("2.2.2.6", Mac(mac(6)), B, TWO)
H7 = Guest("3.3.3.7", Mac(mac(7)), B)
R9 = Guest("1.1.1.9", Mac(mac(9)), B)
"""The guest that routes 10.10.0.0/16."""
X1 = Guest("1.1.1.1", Mac(mac(0x11)), B, SAME)
"""The other tenant's 1.1.1.1."""
GUESTS = (H1, H2, H3, H4, H5, H6, H7, R9, X1)
GUESTS6 = tuple(guest.six for guest in GUESTS)
LATE = Guest("1.1.1.77", mac(77), B)
"""A guest that the leaf does not know yet."""
GATEWAY: Final = "1.1.1.254"


def prefix(text: str) -> Prefix:
    network, length = text.split("/")
    return Prefix(int.from_bytes(packed(network), "big"), int(length))


def gateway(address: str, subnet: str) -> Gateway:
    return Gateway(packed(address), prefix(subnet))


RESERVED: Final = Mac(mac(50))
LEASE_TIME = 600


def service() -> Service:
    """What DHCP gives out on segment ONE."""
    first, last = (int.from_bytes(v4(f"1.1.1.{n}"), "big") for n in (100, 103))
    pool = Pool(4, ((first, last),), {RESERVED: v4("1.1.1.50")})
    routes = ((v4("10.0.0.0"), 8, v4("1.1.1.9")), (v4("10.1.2.0"), 25, None))
    return Service(pool, LEASE_TIME, (v4("9.9.9.9"), v4("8.8.8.8")), "example.org", 1450, routes)


def _add_ipv6(made: Topology) -> Topology:
    """Give every segment IPv6 beside IPv4, and the first tenant the same routes."""
    for segment, subnets in zip(made.segments, ((1, 3), (2,), (1,)), strict=True):
        segment.gateways += tuple(
            gateway(f"2001:db8:{n}::fe", f"2001:db8:{n}::/64") for n in subnets
        )
        prefixes = (
            PrefixInfo(v6(f"2001:db8:{n}::"), 64, True, True, 2592000, 604800) for n in subnets
        )
        segment.advertised = Advertisement(
            64, False, False, 1800, 1450, tuple(prefixes), (v6("2001:db8:1::53"),), 1800
        )
    made.vrfs[0].routes += [
        Route(prefix("2001:db8:a10::/48"), via=v6("2001:db8:1::9"), bits=128),
        Route(prefix("2001:db8:a20::/48"), vtep=FAR_LEAF, bits=128),
        Route(prefix("2001:db8:a20:30::/64"), via=v6("2001:db8:2::6"), bits=128),
        Route(prefix("2001:db8:a30::/48"), vtep=THIRD_LEAF, bits=128),
    ]
    return rebuilt(made)


def topology(*, ipv6: bool = False) -> Topology:
    """The topology, new at each call, so that a test may change it."""
    one = Segment(
        "one",
        ONE,
        "tenant",
        (gateway("1.1.1.254", "1.1.1.0/24"), gateway("3.3.3.126", "3.3.3.0/25")),
        {A: GROUP_ONE, B: GROUP_ONE, C: GROUP_TWO},
        dhcp=service(),
    )
    two = Segment(
        "two",
        TWO,
        "tenant",
        (gateway("2.2.2.254", "2.2.2.0/24"),),
        {A: GROUP_ONE, B: GROUP_ONE},
        hop_neutral=True,
        multicast="replicate",
    )
    same = Segment(
        "same",
        SAME,
        "other",
        (gateway("1.1.1.254", "1.1.1.0/24"),),
        {A: GROUP_ONE, B: GROUP_ONE},
    )
    routes = [
        Route(prefix("10.10.0.0/16"), via=v4("1.1.1.9")),
        Route(prefix("10.20.0.0/16"), vtep=FAR_LEAF),
        Route(prefix("10.20.30.0/24"), via=v4("2.2.2.6")),
        Route(prefix("10.30.0.0/16"), vtep=THIRD_LEAF),
    ]
    made = Topology(
        ROUTER_MAC,
        [Vrf("tenant", TENANT, [one, two], routes), Vrf("other", OTHER, [same])],
        {FAR_LEAF: FAR_ROUTER_MAC, THIRD_LEAF: THIRD_ROUTER_MAC},
    )
    return _add_ipv6(made) if ipv6 else made


def rebuilt(changed: Topology) -> Topology:
    """The same topology with its segments made anew, so that what they work out is right again."""
    for vrf in changed.vrfs:
        vrf.segments = [replace(segment) for segment in vrf.segments]
    return changed


class World:
    """A leaf's tables and its slow path, without an engine."""

    def __init__(
        self,
        *guests: Guest,
        timers: Timers = DEFAULT_TIMERS,
        limits: Limits = DEFAULT_LIMITS,
        capacity: int = 1000,
        leases: Leases | None = None,
        ipv6: bool = False,
    ) -> None:
        self.topology = topology(ipv6=ipv6)
        self.router = Router(self.topology)
        self.bindings = Bindings(timers, capacity)
        self.slowpath = SlowPath(self.topology, self.router, self.bindings, limits, leases=leases)
        for guest in guests:
            self.learn(guest)

    def segment(self, vni: Vni) -> Segment:
        found = self.router.segment(vni)
        assert found is not None
        return found

    def learn(
        self, guest: Guest, now: float = 0.0, *, at: Vtep | None = None, configured: bool = False
    ) -> list[Send]:
        return self.slowpath.discovery.learn(
            self.segment(guest.segment),
            guest.address,
            guest.mac,
            at or guest.vtep,
            now,
            configured=configured,
        )

    def punt(self, source: Vtep, packet: bytes, now: float = 0.0) -> list[Send]:
        """Decide on a packet and hand it to the slow path, as the engine does."""
        verdict = self.router.decide(source, packet)
        admitted = self.slowpath.admit(verdict.reason, source, packet, 1, now)
        return self.slowpath.handle(verdict, source, [packet][:admitted], now)


def to_gateway(guest: Guest, dst_ip: str, **fields: object) -> bytes:
    """A guest's packet to the shared MAC of its vswitch's group, as the leaf receives it."""
    build = ip6 if ":" in dst_ip else ip
    return vxlan(guest.segment, build(SHARED[guest.vtep], guest.mac, guest.ip, dst_ip, **fields))


def forwarded(packet: bytes, verdict: Verdict) -> bytes:
    """What `packet` is on the wire after `verdict` was carried out."""
    edited = bytearray(packet)
    rewrite(memoryview(edited), verdict)
    return bytes(edited)


def announces(guest: Guest) -> bytes:
    return vxlan(guest.segment, arp(BROADCAST, guest.mac, guest.ip, guest.ip))


def answers(guest: Guest) -> bytes:
    """What the guest says to the leaf's question."""
    shared = SHARED[guest.vtep]
    return vxlan(guest.segment, arp(shared, guest.mac, guest.ip, GATEWAY, op=2))


def questions(sends: list[Send]) -> list[tuple[str, str]]:
    """The ARP questions among what was sent: to which vswitch, for which address."""
    asked = []
    for send in sends:
        frame = Ether(send.packet[8:])
        if ARP in frame and frame[ARP].op == 1:
            asked.append((send.vtep, frame[ARP].pdst))
    return asked


def one_of(number: int) -> Guest:
    """One of the MACs of a guest on A that floods with sixteen."""
    return H1._replace(mac=Mac(mac(0x100 + number % 16)))
