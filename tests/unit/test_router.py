"""The decision of the leaf, a named row for every reason that it can give.

The names of the rows are the reasons themselves, and a test holds the table to the enum: a reason
cannot be added without an example of a packet that gets it. What is done to a forwarded packet has
a file of its own, `test_router_rewrite.py`.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest
from scapy.layers.inet import IPOption_NOP

from leaf.router import STEPS, Reason, Router
from leaf.topology import Route
from tests.frames import (
    BRIDGE_GROUP,
    BROADCAST,
    MULTICAST,
    OTHER_SHARED_MAC,
    SHARED_MAC,
    arp,
    fragments,
    ip,
    mac,
    ns,
    plain,
    rarp,
    udp,
    v4,
    vxlan,
)
from tests.unit.leaf_world import (
    FAR_LEAF,
    FAR_ROUTER_MAC,
    GUESTS,
    H1,
    H2,
    H3,
    H4,
    H5,
    H6,
    H7,
    ONE,
    OTHER,
    R9,
    ROUTER_MAC,
    SAME,
    STRANGER,
    TENANT,
    THIRD_LEAF,
    THIRD_ROUTER_MAC,
    TWO,
    X1,
    A,
    B,
    C,
    World,
    prefix,
    to_gateway,
    topology,
)
from vswitch.wire.vxlan import Vtep


@pytest.fixture
def world() -> World:
    return World(*GUESTS, ipv6=True)


class Row(NamedTuple):
    """A packet, and where it is expected to go."""

    reason: Reason
    source: Vtep
    packet: bytes
    vtep: Vtep | None = None


def from_leaf(dst_ip: str, vni: int = TENANT, **fields: object) -> bytes:
    """A packet that another leaf has routed to this one."""
    return vxlan(vni, ip(ROUTER_MAC, FAR_ROUTER_MAC, "10.20.0.1", dst_ip, **fields))


def broken(packet: bytes) -> bytes:
    """The same packet with a wrong header checksum."""
    return packet[:32] + bytes([packet[32] ^ 0xFF]) + packet[33:]


ROWS = (
    Row(Reason.NOT_A_PEER, STRANGER, to_gateway(H1, H3.ip)),
    Row(Reason.BAD_VXLAN, A, b"\0" + to_gateway(H1, H3.ip)[1:]),
    Row(Reason.UNKNOWN_VNI, A, vxlan(99, ip(SHARED_MAC, H1.mac, H1.ip, H3.ip))),
    Row(Reason.WRONG_SEGMENT, C, to_gateway(H5, H6.ip)),
    Row(Reason.RUNT, A, vxlan(ONE, SHARED_MAC + H1.mac + b"\x08")),
    Row(Reason.GROUP_SOURCE, A, vxlan(ONE, ip(SHARED_MAC, MULTICAST, H1.ip, H3.ip))),
    Row(Reason.ARP, A, vxlan(ONE, arp(BROADCAST, H1.mac, H1.ip, H3.ip))),
    Row(Reason.RARP, A, vxlan(ONE, rarp(H1.mac))),
    Row(Reason.ND, A, vxlan(ONE, ns(None, H1.mac, H1.six.ip, H3.six.ip))),
    Row(Reason.DHCP, A, vxlan(ONE, udp(BROADCAST, mac(99), "0.0.0.0", "255.255.255.255", 68, 67))),
    Row(Reason.MULTICAST_DROPPED, A, vxlan(ONE, ip(MULTICAST, H1.mac, H1.ip, "224.0.0.251"))),
    Row(Reason.MULTICAST_REPLICATED, A, vxlan(TWO, ip(MULTICAST, H5.mac, H5.ip, "224.0.0.251"))),
    Row(Reason.FOREIGN_MAC, A, vxlan(ONE, ip(H3.mac, H1.mac, H1.ip, H3.ip))),
    Row(Reason.NOT_IP, A, vxlan(ONE, plain(SHARED_MAC, H1.mac))),
    Row(Reason.BAD_IP_HEADER, A, broken(to_gateway(H1, H3.ip))),
    Row(Reason.MARTIAN, A, to_gateway(H1, "127.0.0.1")),
    Row(Reason.GATEWAY, A, to_gateway(H1, "1.1.1.254")),
    Row(Reason.NO_ROUTE, A, to_gateway(H1, "9.9.9.9")),
    Row(Reason.GLEAN, A, to_gateway(H1, "1.1.1.77")),
    Row(Reason.BRIDGED, A, to_gateway(H5, H6.ip), B),
    Row(Reason.EXPIRED, A, to_gateway(H1, H3.ip, ttl=1)),
    Row(Reason.LOOP, FAR_LEAF, from_leaf("10.20.0.9")),
    Row(Reason.ROUTED, A, to_gateway(H1, H3.ip), B),
)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.reason.value) for row in ROWS])
def test_a_packet(world: World, row: Row) -> None:
    verdict = world.router.decide(row.source, row.packet)
    assert (verdict.reason, verdict.vtep) == (row.reason, row.vtep)
    assert (verdict.header is None) == (row.vtep is None)


def test_every_reason_has_one_row() -> None:
    assert Counter(row.reason for row in ROWS) == Counter(Reason)


def test_every_reason_ends_exactly_one_step() -> None:
    assert Counter(reason for step in STEPS for reason in step.reasons) == Counter(Reason)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_the_kind_of_buffer_makes_no_difference(world: World, kind: type) -> None:
    """The engine hands over memoryviews, whose slices are no dictionary keys by themselves."""
    for row in ROWS:
        assert world.router.decide(row.source, kind(row.packet)).reason is row.reason


# DHCP.


def test_a_renewal_to_a_gateway_address_is_for_the_dhcp_rules(world: World) -> None:
    def reason(vni: int, dst: bytes, dst_ip: str, port: int) -> Reason:
        frame = udp(dst, mac(1), "1.1.1.1", dst_ip, 68, port)
        return world.router.decide(A, vxlan(vni, frame)).reason

    assert reason(ONE, SHARED_MAC, "1.1.1.254", 67) is Reason.DHCP
    assert reason(ONE, SHARED_MAC, "1.1.1.254", 68) is Reason.GATEWAY
    assert reason(ONE, SHARED_MAC, "1.1.1.3", 67) is Reason.ROUTED
    # Where the segment has no DHCP, a message is like any other.
    assert reason(SAME, SHARED_MAC, "1.1.1.254", 67) is Reason.GATEWAY
    assert reason(SAME, BROADCAST, "255.255.255.255", 67) is Reason.MULTICAST_DROPPED
    assert reason(TWO, BROADCAST, "255.255.255.255", 67) is Reason.MULTICAST_REPLICATED


def test_a_fragment_is_no_dhcp(world: World) -> None:
    whole = udp(BROADCAST, mac(1), "1.1.1.1", "255.255.255.255", 67, 67, bytes(200))
    first, *others = fragments(whole, 64)
    assert world.router.decide(A, vxlan(ONE, first)).reason is Reason.DHCP  # Not sound, later.
    for frame in others:
        assert world.router.decide(A, vxlan(ONE, frame)).reason is Reason.MULTICAST_DROPPED


# The border: who may send what.


def test_every_length_of_a_packet_has_a_verdict(world: World) -> None:
    """Cut anywhere, a packet that would be forwarded is not, and the reason fits where it ends."""
    whole = to_gateway(H1, H3.ip)
    for length in range(len(whole)):
        reason = world.router.decide(A, whole[:length]).reason
        expected = (
            Reason.BAD_VXLAN if length < 8 else Reason.RUNT if length < 22 else Reason.BAD_IP_HEADER
        )
        assert reason is expected, length


def test_all_24_bits_of_the_vni_count(world: World) -> None:
    for near in (ONE ^ 1, ONE ^ 0x100, ONE ^ 0x10000):
        packet = vxlan(near, ip(SHARED_MAC, H1.mac, H1.ip, H3.ip))
        assert world.router.decide(A, packet).reason is Reason.UNKNOWN_VNI


@pytest.mark.parametrize(
    ("source", "vni"),
    [
        pytest.param(FAR_LEAF, ONE, id="a_leaf_in_a_segment"),
        pytest.param(A, TENANT, id="a_vswitch_in_a_vrf"),
        pytest.param(C, SAME, id="a_vswitch_that_the_segment_is_not_on"),
    ],
)
def test_a_peer_may_not_send_into_a_vni_that_is_not_on_it(
    world: World, source: Vtep, vni: int
) -> None:
    for destination in (SHARED_MAC, ROUTER_MAC):
        packet = vxlan(vni, ip(destination, H1.mac, H1.ip, H3.ip))
        assert world.router.decide(source, packet).reason is Reason.WRONG_SEGMENT


def test_arp_to_any_gateway_mac_goes_to_the_rules(world: World) -> None:
    """Also to another group's, which a guest's cache holds after a move between groups."""
    for destination in (SHARED_MAC, OTHER_SHARED_MAC, ROUTER_MAC):
        packet = vxlan(ONE, arp(destination, H1.mac, H1.ip, H3.ip))
        assert world.router.decide(A, packet).reason is Reason.ARP
        assert world.router.decide(A, packet).segment is world.segment(ONE)


def test_arp_to_a_guests_mac_is_foreign(world: World) -> None:
    packet = vxlan(ONE, arp(H3.mac, H1.mac, H1.ip, H3.ip))
    assert world.router.decide(A, packet).reason is Reason.FOREIGN_MAC


@pytest.mark.parametrize("frame", [arp(BROADCAST, H1.mac), rarp(H1.mac)], ids=["arp", "rarp"])
def test_there_is_no_arp_between_leaves(world: World, frame: bytes) -> None:
    packet = vxlan(TENANT, frame)
    assert world.router.decide(FAR_LEAF, packet).reason is Reason.MULTICAST_DROPPED


@pytest.mark.parametrize("group", [BROADCAST, MULTICAST, BRIDGE_GROUP])
def test_a_group_is_never_routed(world: World, group: bytes) -> None:
    packet = vxlan(ONE, ip(group, H1.mac, H1.ip, H3.ip))
    verdict = world.router.decide(A, packet)
    assert (verdict.reason, verdict.vtep) == (Reason.MULTICAST_DROPPED, None)


def test_the_shared_mac_is_no_gateway_between_leaves(world: World) -> None:
    packet = vxlan(TENANT, ip(SHARED_MAC, FAR_ROUTER_MAC, "10.20.0.1", H3.ip))
    assert world.router.decide(FAR_LEAF, packet).reason is Reason.FOREIGN_MAC


# The IP header.


def padded(packet: bytes, count: int) -> bytes:
    return packet + bytes(count)


@pytest.mark.parametrize(
    ("fields", "sound"),
    [
        pytest.param({"version": 5}, False, id="version_5"),
        pytest.param({"version": 6}, False, id="version_6"),
        pytest.param({"ihl": 4}, False, id="header_shorter_than_20"),
        pytest.param({"ihl": 15}, False, id="header_beyond_the_packet"),
        pytest.param({"len": 19}, False, id="total_length_shorter_than_the_header"),
        pytest.param({"len": 20}, True, id="total_length_of_a_bare_header"),
        pytest.param({"len": 36}, False, id="total_length_beyond_the_packet"),
        pytest.param({"chksum": 0}, False, id="checksum_zero"),
        pytest.param({}, True, id="sound"),
    ],
)
def test_a_header_is_checked_as_rfc_1812_says(
    world: World, fields: dict[str, object], sound: bool
) -> None:
    """The checksum is right in every row but one, so that each shows its own mistake."""
    packet = to_gateway(H1, H3.ip, **fields)
    expected = Reason.ROUTED if sound else Reason.BAD_IP_HEADER
    assert world.router.decide(A, packet).reason is expected


def test_padding_behind_the_packet_is_no_mistake(world: World) -> None:
    packet = padded(to_gateway(H1, H3.ip, payload=b""), 18)
    assert world.router.decide(A, packet).reason is Reason.ROUTED


def test_options_are_no_mistake_while_they_are_all_there(world: World) -> None:
    options = [IPOption_NOP()] * 40
    packet = to_gateway(H1, H3.ip, options=options)
    assert packet[22] == 0x4F
    assert world.router.decide(A, packet).reason is Reason.ROUTED
    assert world.router.decide(A, packet[: 22 + 59]).reason is Reason.BAD_IP_HEADER
    assert world.router.decide(A, broken(packet)).reason is Reason.BAD_IP_HEADER


@pytest.mark.parametrize(
    "destination",
    ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"],
)
def test_no_martian_destination_is_forwarded_even_with_a_default_route(destination: str) -> None:
    changed = topology()
    changed.vrfs[0].routes.append(Route(prefix("0.0.0.0/0"), vtep=FAR_LEAF))
    router = Router(changed)
    assert router.decide(A, to_gateway(H1, destination)).reason is Reason.MARTIAN
    assert router.decide(A, to_gateway(H1, "9.9.9.9")).vtep == FAR_LEAF


@pytest.mark.parametrize(
    "source", ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"]
)
def test_nothing_from_a_martian_source_is_forwarded(world: World, source: str) -> None:
    """RFC 1812 section 5.3.7: network 0, loopback, multicast and class E are no sources."""
    packet = vxlan(ONE, ip(SHARED_MAC, H1.mac, source, H3.ip))
    assert world.router.decide(A, packet).reason is Reason.MARTIAN


GATEWAYS = ["1.1.1.254", "2.2.2.254", "3.3.3.126"]


@pytest.mark.parametrize("source", [*GATEWAYS, "1.1.1.0", "1.1.1.255", "2.2.2.255", "169.254.1.2"])
@pytest.mark.parametrize("destination", [H3.ip, "10.20.7.8", "1.1.1.254", "1.1.1.77"])
def test_no_guest_speaks_from_an_address_that_no_guest_has(
    world: World, source: str, destination: str
) -> None:
    """An ICMP redirect from the gateway's address would be believed (RFC 1122 section 3.2.2.2)."""
    asked = vxlan(ONE, ip(SHARED_MAC, H1.mac, source, destination))
    assert world.router.decide(A, asked).reason is Reason.MARTIAN


def test_what_no_guest_has_depends_on_the_vrf(world: World) -> None:
    asked = vxlan(SAME, ip(SHARED_MAC, X1.mac, "2.2.2.254", X1.ip))
    assert world.router.decide(B, asked).reason is Reason.ROUTED


def test_another_leafs_gateway_may_say_something_to_our_guests(world: World) -> None:
    """The gateway has its address on every leaf: time exceeded may come from there."""
    packet = vxlan(TENANT, ip(ROUTER_MAC, FAR_ROUTER_MAC, "1.1.1.254", H3.ip))
    assert world.router.decide(FAR_LEAF, packet).vtep == B


@pytest.mark.parametrize(
    "address", ["1.1.1.0", "1.1.1.255", "2.2.2.0", "2.2.2.255", "3.3.3.0", "3.3.3.127"]
)
def test_a_subnets_first_and_last_address_are_no_hosts(world: World, address: str) -> None:
    """Otherwise a directed broadcast (RFC 2644) would be gleaned for, or found a way in."""
    assert world.router.decide(A, to_gateway(H1, address)).reason is Reason.MARTIAN


# Longest prefix, host routes first.


def test_the_longest_prefix_wins_and_a_host_route_over_all() -> None:
    """A remote leaf has half of a subnet, but a guest of that half is here."""
    changed = topology()
    changed.vrfs[0].routes.append(Route(prefix("0.0.0.0/0"), vtep=THIRD_LEAF))
    changed.vrfs[0].routes.append(Route(prefix("1.1.1.64/26"), vtep=FAR_LEAF))
    router = Router(changed)
    world = World(H1)
    for address, vtep, reason in (
        ("1.1.1.63", None, Reason.GLEAN),
        ("1.1.1.64", FAR_LEAF, Reason.ROUTED),
        ("1.1.1.127", FAR_LEAF, Reason.ROUTED),
        ("1.1.1.128", None, Reason.GLEAN),
        ("1.1.2.1", THIRD_LEAF, Reason.ROUTED),
        ("1.1.0.255", THIRD_LEAF, Reason.ROUTED),
    ):
        verdict = router.decide(A, to_gateway(H1, address))
        assert (verdict.vtep, verdict.reason) == (vtep, reason), address
    binding = world.bindings.learn(ONE, v4("1.1.1.100"), mac(100), B, 0.0).changed[0]
    router.bind(changed.segments[0], binding)
    assert router.decide(A, to_gateway(H1, "1.1.1.100")).vtep == B
    assert router.decide(A, to_gateway(H1, "1.1.1.101")).vtep == FAR_LEAF
    router.unbind(changed.segments[0], v4("1.1.1.100"))
    assert router.decide(A, to_gateway(H1, "1.1.1.100")).vtep == FAR_LEAF


def test_unbinding_what_is_not_bound_is_no_error(world: World) -> None:
    world.router.unbind(world.segment(ONE), v4("1.1.1.200"))
    assert world.router.decide(A, to_gateway(H1, "1.1.1.200")).reason is Reason.GLEAN


@pytest.mark.parametrize(
    ("subnet", "address", "reason"),
    [
        pytest.param("1.1.1.0/24", "1.1.1.77", Reason.GLEAN, id="a_subnet"),
        pytest.param("1.1.1.255/32", "1.1.1.255", Reason.MARTIAN, id="its_last_address"),
        pytest.param("127.0.0.0/8", "127.0.0.1", Reason.MARTIAN, id="loopback"),
        pytest.param("224.0.0.0/3", "224.0.0.1", Reason.MARTIAN, id="multicast"),
    ],
)
def test_what_is_connected_or_no_host_is_not_replaced_by_a_static_route_to_it(
    subnet: str, address: str, reason: Reason
) -> None:
    changed = topology()
    changed.vrfs[0].routes.append(Route(prefix(subnet), vtep=FAR_LEAF))
    assert Router(changed).decide(A, to_gateway(H1, address)).reason is reason


# A route via a guest.


def test_a_route_via_a_guest_goes_to_that_guest(world: World) -> None:
    verdict = world.router.decide(A, to_gateway(H1, "10.10.3.4"))
    assert (verdict.reason, verdict.vtep) == (Reason.ROUTED, B)
    assert verdict.header == b"\x08\0\0\0\0\0\x64\0" + R9.mac + SHARED_MAC


def test_a_route_via_an_unbound_guest_asks_for_the_guest_not_for_the_destination() -> None:
    verdict = World().router.decide(A, to_gateway(H1, "10.10.3.4"))
    assert verdict.reason is Reason.GLEAN
    assert verdict.ask == R9.address
    assert verdict.segment is not None
    assert verdict.segment.vni == ONE


def test_a_route_via_a_guest_follows_it_when_it_moves(world: World) -> None:
    world.learn(R9, at=C)
    verdict = world.router.decide(A, to_gateway(H1, "10.10.3.4"))
    assert verdict.vtep == C
    assert verdict.header == b"\x08\0\0\0\0\0\x64\0" + R9.mac + OTHER_SHARED_MAC


def test_the_router_of_a_prefix_may_be_in_another_segment(world: World) -> None:
    verdict = world.router.decide(C, to_gateway(H4, "10.20.30.1"))
    assert (verdict.reason, verdict.vtep) == (Reason.ROUTED, B)
    assert verdict.header == b"\x08\0\0\0\0\0\xc8\0" + H6.mac + SHARED_MAC


# Other leaves.


def test_what_lies_at_another_leaf_goes_there_in_the_vrfs_vni(world: World) -> None:
    verdict = world.router.decide(A, to_gateway(H1, "10.20.7.8"))
    assert (verdict.reason, verdict.vtep) == (Reason.ROUTED, FAR_LEAF)
    assert verdict.header == b"\x08\0\0\0\x00\x13\x88\0" + FAR_ROUTER_MAC + ROUTER_MAC


def test_what_comes_from_another_leaf_is_delivered_in_the_guests_segment(world: World) -> None:
    verdict = world.router.decide(FAR_LEAF, from_leaf(H4.ip))
    assert (verdict.reason, verdict.vtep) == (Reason.ROUTED, C)
    assert verdict.header == b"\x08\0\0\0\0\0\x64\0" + H4.mac + OTHER_SHARED_MAC


def test_what_comes_from_one_leaf_may_go_on_to_a_third(world: World) -> None:
    verdict = world.router.decide(FAR_LEAF, from_leaf("10.30.0.1"))
    assert (verdict.reason, verdict.vtep) == (Reason.ROUTED, THIRD_LEAF)
    assert verdict.header == b"\x08\0\0\0\x00\x13\x88\0" + THIRD_ROUTER_MAC + ROUTER_MAC
    assert world.router.decide(THIRD_LEAF, from_leaf("10.30.0.1")).reason is Reason.LOOP


def test_a_looping_packet_that_is_used_up_has_expired(world: World) -> None:
    assert world.router.decide(FAR_LEAF, from_leaf("10.20.0.9", ttl=1)).reason is Reason.EXPIRED


def test_an_unbound_address_is_gleaned_for_another_leaf_too(world: World) -> None:
    verdict = world.router.decide(FAR_LEAF, from_leaf("2.2.2.77"))
    assert verdict.reason is Reason.GLEAN
    assert verdict.segment is world.segment(TWO)
    assert verdict.ask is None


# Hops.


def test_only_traffic_inside_a_hop_neutral_segment_keeps_its_ttl(world: World) -> None:
    """H6 is reached from its own segment, from another one, and from another leaf."""
    for ttl in (64, 1, 0):
        inside = world.router.decide(A, to_gateway(H5, H6.ip, ttl=ttl))
        assert (inside.reason, inside.vtep) == (Reason.BRIDGED, B)
    assert world.router.decide(A, to_gateway(H1, H6.ip)).reason is Reason.ROUTED
    assert world.router.decide(A, to_gateway(H1, H6.ip, ttl=1)).reason is Reason.EXPIRED
    assert world.router.decide(FAR_LEAF, from_leaf(H6.ip)).reason is Reason.ROUTED


def test_a_route_via_a_guest_of_ones_own_hop_neutral_segment_takes_a_hop(world: World) -> None:
    """Its destination is not in the segment; what is to the guest itself stays inside."""
    verdict = world.router.decide(A, to_gateway(H5, "10.20.30.1"))
    assert (verdict.reason, verdict.vtep) == (Reason.ROUTED, B)
    assert world.router.decide(A, to_gateway(H5, "10.20.30.1", ttl=1)).reason is Reason.EXPIRED
    assert world.router.decide(A, to_gateway(H5, H6.ip, ttl=1)).reason is Reason.BRIDGED


@pytest.mark.parametrize(("ttl", "reason"), [(0, Reason.EXPIRED), (1, Reason.EXPIRED), (2, None)])
def test_a_routed_packet_needs_a_ttl_of_two(world: World, ttl: int, reason: Reason | None) -> None:
    verdict = world.router.decide(A, to_gateway(H1, H3.ip, ttl=ttl))
    assert verdict.reason is (reason or Reason.ROUTED)


# Tenants.


def test_two_tenants_with_the_same_subnet_do_not_see_each_other(world: World) -> None:
    tenant = world.router.decide(B, vxlan(ONE, ip(SHARED_MAC, H3.mac, H3.ip, "1.1.1.1")))
    other = world.router.decide(B, vxlan(SAME, ip(SHARED_MAC, X1.mac, X1.ip, "1.1.1.1")))
    assert (tenant.vtep, other.vtep) == (A, B)
    assert tenant.header is not None and tenant.header[8:14] == H1.mac
    assert other.header is not None and other.header[8:14] == X1.mac
    in_one_only = vxlan(SAME, ip(SHARED_MAC, X1.mac, X1.ip, H2.ip))
    assert world.router.decide(B, in_one_only).reason is Reason.GLEAN
    for unreachable in (H5.ip, H7.ip, "10.20.0.1"):
        packet = vxlan(SAME, ip(SHARED_MAC, X1.mac, X1.ip, unreachable))
        assert world.router.decide(B, packet).reason is Reason.NO_ROUTE


def test_unbinding_one_tenants_address_leaves_the_others(world: World) -> None:
    world.router.unbind(world.segment(ONE), H1.address)
    assert world.router.decide(A, to_gateway(H2, "1.1.1.1")).reason is Reason.GLEAN
    packet = vxlan(SAME, ip(SHARED_MAC, X1.mac, X1.ip, "1.1.1.1"))
    assert world.router.decide(A, packet).vtep == B


def test_a_leaf_reaches_each_tenant_by_its_own_vni(world: World) -> None:
    assert world.router.decide(FAR_LEAF, from_leaf("1.1.1.1", TENANT)).vtep == A
    assert world.router.decide(FAR_LEAF, from_leaf("1.1.1.1", OTHER)).vtep == B


# The hairpin.


def test_back_to_where_it_came_from_only_where_the_binding_is_there(world: World) -> None:
    """Two guests behind one vswitch, one with a stale cache: the way back is the right one."""
    assert world.router.decide(A, to_gateway(H1, H2.ip)).vtep == A
    world.learn(H2, at=B)
    assert world.router.decide(A, to_gateway(H1, H2.ip)).vtep == B
    world.slowpath.routes.withdraw(world.segment(ONE), H2.mac, B)
    verdict = world.router.decide(A, to_gateway(H1, H2.ip))
    assert (verdict.reason, verdict.vtep) == (Reason.GLEAN, None)


# Groups.


def test_each_guest_sees_the_shared_mac_of_its_own_group(world: World) -> None:
    for source, packet, guest, shared in (
        (A, to_gateway(H1, H3.ip), H3, SHARED_MAC),
        (A, to_gateway(H1, H4.ip), H4, OTHER_SHARED_MAC),
        (C, to_gateway(H4, H1.ip), H1, SHARED_MAC),
    ):
        header = world.router.decide(source, packet).header
        assert header is not None
        assert header[8:] == guest.mac + shared


def test_a_frame_to_another_groups_shared_mac_is_routed(world: World) -> None:
    """Some vswitches rewrite it, but a cache that is stale after a move must not need that."""
    packet = vxlan(ONE, ip(OTHER_SHARED_MAC, H1.mac, H1.ip, H3.ip))
    assert world.router.decide(A, packet).vtep == B
    assert world.router.decide(A, vxlan(ONE, ip(ROUTER_MAC, H1.mac, H1.ip, H3.ip))).vtep == B


# Around the decision.


def test_the_segment_of_a_packet_is_that_of_its_vni(world: World) -> None:
    assert world.router.segment_of(to_gateway(H1, H3.ip)) is world.segment(ONE)
    assert world.router.segment_of(from_leaf(H3.ip)) is None
    assert world.router.segment_of(vxlan(99, bytes(60))) is None


def test_gateways_are_host_routes_of_every_segment(world: World) -> None:
    for address in ("1.1.1.254", "2.2.2.254", "3.3.3.126"):
        assert world.router.decide(A, to_gateway(H1, address)).reason is Reason.GATEWAY
        assert v4(address) in world.router.fib("tenant").hosts
    packet = vxlan(SAME, ip(SHARED_MAC, X1.mac, X1.ip, "2.2.2.254"))
    assert world.router.decide(B, packet).reason is Reason.NO_ROUTE


def test_a_route_via_an_address_of_no_subnet_is_refused() -> None:
    changed = topology()
    changed.vrfs[0].routes.append(Route(prefix("10.99.0.0/16"), via=v4("9.9.9.9")))
    with pytest.raises(ValueError, match="via"):
        Router(changed)
