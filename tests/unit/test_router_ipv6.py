"""The decision of the leaf about IPv6: what is as in IPv4, and what link-local addresses add.

That both families are forwarded by the same rules is written once and asked of both.
"""

from __future__ import annotations

import numpy as np
import pytest
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.layers.l2 import Ether

from leaf.router import Reason, Router
from leaf.topology import Route
from tests.frames import (
    ALL_NODES_MAC,
    OTHER_SHARED_MAC,
    SHARED_MAC,
    echo6,
    ip,
    ip6,
    link_local,
    na,
    ns,
    ra,
    redirect,
    rs,
    vxlan,
)
from tests.unit.families import FAMILIES, IPV6, Family
from tests.unit.leaf_world import (
    FAR_LEAF,
    FAR_ROUTER_MAC,
    GUESTS,
    GUESTS6,
    H1,
    H2,
    H3,
    H4,
    H5,
    H6,
    ONE,
    OTHER,
    R9,
    ROUTER_MAC,
    SAME,
    TENANT,
    THIRD_LEAF,
    TWO,
    X1,
    A,
    B,
    C,
    Guest,
    World,
    forwarded,
    prefix,
    to_gateway,
    topology,
)
from vswitch.wire import flows
from vswitch.wire.vxlan import Vtep

both = pytest.mark.parametrize("family", [pytest.param(f, id=f.name) for f in FAMILIES])
GATEWAY_LL, OTHER_GATEWAY_LL = link_local(SHARED_MAC), link_local(OTHER_SHARED_MAC)
REMOTE = {"ipv4": "10.20.7.8", "ipv6": "2001:db8:a20:7::8"}
VIA = {"ipv4": "10.10.3.4", "ipv6": "2001:db8:a10:3::4"}
VIA_H6 = {"ipv4": "10.20.30.1", "ipv6": "2001:db8:a20:30::1"}
THIRD = {"ipv4": "10.30.0.1", "ipv6": "2001:db8:a30::1"}


@pytest.fixture
def world() -> World:
    made = World(*GUESTS, *GUESTS6, ipv6=True)
    for guest in (H1, H2, H3, H4, H5, H6):
        made.learn(guest.link_local)
    return made


def packet(guest: Guest, dst_ip: str, hops: int = 64) -> bytes:
    """A guest's packet to its gateway, whichever the family."""
    return to_gateway(guest, dst_ip, **{"hlim" if ":" in dst_ip else "ttl": hops})


def from_leaf(dst_ip: str, vni: int = TENANT, hops: int = 64) -> bytes:
    if ":" in dst_ip:
        return vxlan(vni, ip6(ROUTER_MAC, FAR_ROUTER_MAC, "2001:db8:a20::1", dst_ip, hlim=hops))
    return vxlan(vni, ip(ROUTER_MAC, FAR_ROUTER_MAC, "10.20.0.1", dst_ip, ttl=hops))


# What is the same in both families.


@both
def test_a_bound_guest_is_reached_with_one_hop_less(world: World, family: Family) -> None:
    h1, h4 = family.of(H1), family.of(H4)
    verdict = world.router.decide(A, packet(h1, h4.ip))
    assert (verdict.reason, verdict.vtep) == (Reason.ROUTED, C)
    assert verdict.header == b"\x08\0\0\0\0\0\x64\0" + H4.mac + OTHER_SHARED_MAC


@both
@pytest.mark.parametrize(("hops", "reason"), [(0, "expired"), (1, "expired"), (2, "routed")])
def test_a_routed_packet_needs_two_hops(
    world: World, family: Family, hops: int, reason: str
) -> None:
    h1, h3 = family.of(H1), family.of(H3)
    assert world.router.decide(A, packet(h1, h3.ip, hops)).reason == reason


@both
def test_only_traffic_inside_a_hop_neutral_segment_keeps_its_hops(
    world: World, family: Family
) -> None:
    h1, h5, h6 = family.of(H1), family.of(H5), family.of(H6)
    for hops in (255, 64, 1, 0):
        inside = world.router.decide(A, packet(h5, h6.ip, hops))
        assert (inside.reason, inside.vtep) == (Reason.BRIDGED, B)
    assert world.router.decide(A, packet(h1, h6.ip)).reason is Reason.ROUTED
    assert world.router.decide(A, packet(h1, h6.ip, 1)).reason is Reason.EXPIRED
    assert world.router.decide(FAR_LEAF, from_leaf(h6.ip)).reason is Reason.ROUTED
    assert world.router.decide(A, packet(h5, VIA_H6[family.name], 1)).reason is Reason.EXPIRED


@both
def test_an_unbound_address_of_a_subnet_is_gleaned(world: World, family: Family) -> None:
    for subnet, vni in ((1, ONE), (3, ONE), (2, TWO)):
        verdict = world.router.decide(A, packet(family.of(H1), family.host(77, subnet)))
        assert (verdict.reason, verdict.ask) == (Reason.GLEAN, None)
        assert verdict.segment is world.segment(vni)
    assert world.router.decide(A, packet(family.of(H1), family.outside)).reason is Reason.NO_ROUTE


@both
def test_routes_via_a_guest_and_to_other_leaves(world: World, family: Family) -> None:
    h1, h4 = family.of(H1), family.of(H4)
    via = world.router.decide(A, packet(h1, VIA[family.name]))
    assert (via.reason, via.vtep) == (Reason.ROUTED, B)
    assert via.header == b"\x08\0\0\0\0\0\x64\0" + R9.mac + SHARED_MAC
    far = world.router.decide(A, packet(h1, REMOTE[family.name]))
    assert (far.reason, far.vtep) == (Reason.ROUTED, FAR_LEAF)
    assert far.header == b"\x08\0\0\0\x00\x13\x88\0" + FAR_ROUTER_MAC + ROUTER_MAC
    # A longer prefix inside it, via a guest of another segment.
    assert world.router.decide(C, packet(h4, VIA_H6[family.name])).header == (
        b"\x08\0\0\0\0\0\xc8\0" + H6.mac + SHARED_MAC
    )


@both
def test_a_route_via_an_unbound_guest_asks_for_the_guest(family: Family) -> None:
    verdict = World(ipv6=True).router.decide(A, packet(family.of(H1), VIA[family.name]))
    assert (verdict.reason, verdict.ask) == (Reason.GLEAN, family.of(R9).address)


@both
def test_between_leaves(world: World, family: Family) -> None:
    h4, x1 = family.of(H4), family.of(X1)
    assert world.router.decide(FAR_LEAF, from_leaf(h4.ip)).vtep == C
    assert world.router.decide(FAR_LEAF, from_leaf(x1.ip, OTHER)).vtep == B
    back = from_leaf(REMOTE[family.name])
    assert world.router.decide(FAR_LEAF, back).reason is Reason.LOOP
    assert world.router.decide(THIRD_LEAF, back).vtep == FAR_LEAF
    assert world.router.decide(FAR_LEAF, from_leaf(THIRD[family.name])).vtep == THIRD_LEAF


@both
def test_two_tenants_do_not_see_each_other(world: World, family: Family) -> None:
    h1, h5, x1 = family.of(H1), family.of(H5), family.of(X1)
    tenant = world.router.decide(B, packet(family.of(H3), h1.ip))
    other = world.router.decide(B, packet(x1, x1.ip))
    assert (tenant.vtep, other.vtep) == (A, B)
    assert tenant.header is not None and tenant.header[8:14] == H1.mac
    assert other.header is not None and other.header[8:14] == X1.mac
    assert world.router.decide(B, packet(x1, h5.ip)).reason is Reason.NO_ROUTE


@both
def test_a_default_route_gives_way_to_all_that_is_longer(family: Family) -> None:
    changed = topology(ipv6=True)
    bits = 32 if family.name == "ipv4" else 128
    everything = "0.0.0.0/0" if bits == 32 else "::/0"
    part = "1.1.1.64/26" if bits == 32 else "2001:db8:1:0:8000::/65"
    inside = "1.1.1.65" if bits == 32 else "2001:db8:1:0:8000::1"
    changed.vrfs[0].routes.append(Route(prefix(everything), vtep=THIRD_LEAF, bits=bits))
    changed.vrfs[0].routes.append(Route(prefix(part), vtep=FAR_LEAF, bits=bits))
    router, h1 = Router(changed), family.of(H1)
    assert router.decide(A, packet(h1, family.outside)).vtep == THIRD_LEAF
    assert router.decide(A, packet(h1, inside)).vtep == FAR_LEAF
    assert router.decide(A, packet(h1, family.host(33))).reason is Reason.GLEAN
    other = FAMILIES[bits == 32]
    assert router.decide(A, packet(other.of(H1), other.outside)).reason is Reason.NO_ROUTE


@both
def test_every_gateway_of_the_vrf_is_ours(world: World, family: Family) -> None:
    for address in (family.gateway, family.second_gateway):
        assert world.router.decide(A, packet(family.of(H5), address)).reason is Reason.GATEWAY
    assert (
        world.router.decide(B, packet(family.of(X1), family.second_gateway)).reason
        is Reason.NO_ROUTE
    )


@both
def test_unbinding_one_family_leaves_the_other(world: World, family: Family) -> None:
    other = FAMILIES[family.name == "ipv4"]
    world.router.unbind(world.segment(ONE), family.of(H3).address)
    assert world.router.decide(A, packet(family.of(H1), family.of(H3).ip)).reason is Reason.GLEAN
    assert world.router.decide(A, packet(other.of(H1), other.of(H3).ip)).vtep == B


# The IPv6 header.


@pytest.mark.parametrize(
    ("fields", "sound"),
    [
        pytest.param({"version": 4}, False, id="version_4"),
        pytest.param({"version": 7}, False, id="version_7"),
        pytest.param({"plen": 16}, False, id="longer_than_the_packet"),
        pytest.param({"plen": 14}, True, id="shorter_than_the_packet"),
        pytest.param({"plen": 0}, True, id="without_payload"),
        pytest.param({"tc": 0xFF, "fl": 0xFFFFF}, True, id="class_and_label"),
        pytest.param({}, True, id="sound"),
    ],
)
def test_a_header_is_checked(world: World, fields: dict[str, object], sound: bool) -> None:
    asked = to_gateway(H1.six, H3.six.ip, **fields)
    expected = Reason.ROUTED if sound else Reason.BAD_IP_HEADER
    assert world.router.decide(A, asked).reason is expected


def test_every_length_of_a_packet_has_a_verdict(world: World) -> None:
    whole = to_gateway(H1.six, H3.six.ip)
    for length in range(22, len(whole)):
        assert world.router.decide(A, whole[:length]).reason is Reason.BAD_IP_HEADER, length
    assert world.router.decide(A, whole + bytes(9)).reason is Reason.ROUTED


def test_extension_headers_are_a_matter_of_the_ends(world: World) -> None:
    frame = ip6(SHARED_MAC, H1.mac, H1.six.ip, H3.six.ip, extensions=IPv6ExtHdrDestOpt())
    assert world.router.decide(A, vxlan(ONE, frame)).vtep == B


MARTIANS = ("::", "::1", "::ffff:1.1.1.3", "ff02::1", "ff05::2", "ffff::1")


@pytest.mark.parametrize("destination", [*MARTIANS, "2001:db8:1::", "2001:db8:3::"])
def test_no_martian_destination_is_forwarded_even_with_a_default_route(destination: str) -> None:
    """Nor the routers' anycast address of a subnet (RFC 4291 section 2.6.1)."""
    changed = topology(ipv6=True)
    changed.vrfs[0].routes.append(Route(prefix("::/0"), vtep=FAR_LEAF, bits=128))
    router = Router(changed)
    assert router.decide(A, to_gateway(H1.six, destination)).reason is Reason.MARTIAN
    assert router.decide(A, to_gateway(H1.six, "2001:db8:9::9")).vtep == FAR_LEAF


def test_the_last_address_of_a_subnet_is_one_like_others(world: World) -> None:
    """There is no broadcast in IPv6."""
    asked = to_gateway(H1.six, "2001:db8:1:0:ffff:ffff:ffff:ffff")
    assert world.router.decide(A, asked).reason is Reason.GLEAN


@pytest.mark.parametrize("source", ["::", "::1", "ff02::1", "ff05::2"])
@pytest.mark.parametrize("destination", ["2001:db8:1::3", link_local(H3.mac), GATEWAY_LL])
def test_nothing_from_a_martian_source_is_forwarded(
    world: World, source: str, destination: str
) -> None:
    asked = vxlan(ONE, ip6(SHARED_MAC, H1.mac, source, destination))
    assert world.router.decide(A, asked).reason is Reason.MARTIAN


@pytest.mark.parametrize(
    "source", [IPV6.gateway, "2001:db8:2::fe", GATEWAY_LL, OTHER_GATEWAY_LL, "2001:db8:1::"]
)
@pytest.mark.parametrize("destination", ["2001:db8:1::3", link_local(H3.mac), GATEWAY_LL])
def test_no_guest_speaks_from_an_address_that_no_guest_has(
    world: World, source: str, destination: str
) -> None:
    """What claims to come from the gateway is believed: "packet too big", for one."""
    asked = vxlan(ONE, ip6(SHARED_MAC, H1.mac, source, destination))
    assert world.router.decide(A, asked).reason is Reason.MARTIAN


def test_a_link_local_gateway_is_one_only_where_its_group_is(world: World) -> None:
    """TWO has only the one group: there, the other's address is a guest's like any."""
    asked = vxlan(TWO, ip6(SHARED_MAC, H5.mac, OTHER_GATEWAY_LL, link_local(H6.mac)))
    assert world.router.decide(A, asked).reason is not Reason.MARTIAN


# Link-local addresses: of one segment, never routed.


def test_a_link_local_destination_is_relayed_inside_its_segment(world: World) -> None:
    """With its hop limit: whatever speaks to a neighbour by GTSM goes on (RFC 5082)."""
    for hops in (255, 1, 0):
        for guest in (H1.link_local, H1.six):
            verdict = world.router.decide(A, packet(guest, H3.link_local.ip, hops))
            assert (verdict.reason, verdict.vtep) == (Reason.BRIDGED, B)
            assert verdict.header == b"\x08\0\0\0\0\0\x64\0" + H3.mac + SHARED_MAC
    asked = packet(H1.link_local, H3.link_local.ip, 255)
    after = forwarded(asked, world.router.decide(A, asked))
    assert Ether(after[8:])[IPv6].hlim == 255
    assert after[20:] == asked[20:]


def test_a_link_local_destination_that_nobody_has_is_gleaned_in_its_own_segment(
    world: World,
) -> None:
    """H3's address is bound in ONE; in SAME and TWO it is another's, or nobody's."""
    for guest in (X1, H5):
        verdict = world.router.decide(guest.vtep, packet(guest.link_local, H3.link_local.ip))
        assert verdict.reason is Reason.GLEAN
        assert verdict.segment is world.segment(guest.segment)
    world.slowpath.routes.forget([b for b in world.bindings.all() if b.mac == H3.mac])
    verdict = world.router.decide(A, packet(H1.link_local, H3.link_local.ip))
    assert (verdict.reason, verdict.segment) == (Reason.GLEAN, world.segment(ONE))


def test_the_gateways_link_local_address_is_ours_for_every_group_of_the_segment(
    world: World,
) -> None:
    for address in (GATEWAY_LL, OTHER_GATEWAY_LL):
        for guest in (H1.link_local, H1.six):
            assert world.router.decide(A, packet(guest, address)).reason is Reason.GATEWAY
    # TWO has only the one group.
    assert world.router.decide(A, packet(H5.six, OTHER_GATEWAY_LL)).reason is Reason.GLEAN


def test_a_link_local_source_reaches_no_further_than_its_link(world: World) -> None:
    """RFC 4291 section 2.5.6; but the gateway's own addresses are on the link."""
    for address in (H3.six.ip, H6.six.ip, REMOTE["ipv6"], "2001:db8:9::9", IPV6.host(77)):
        assert world.router.decide(A, packet(H1.link_local, address)).reason is Reason.MARTIAN
    for address in (IPV6.gateway, "2001:db8:2::fe"):
        assert world.router.decide(A, packet(H1.link_local, address)).reason is Reason.GATEWAY


def test_between_leaves_there_is_no_link(world: World) -> None:
    for address in (H3.link_local.ip, GATEWAY_LL, "fe80::77"):
        assert world.router.decide(FAR_LEAF, from_leaf(address)).reason is Reason.MARTIAN


def test_a_segment_without_ipv6_has_no_link_local_addresses() -> None:
    world = World(*GUESTS)
    for address in (GATEWAY_LL, H3.link_local.ip):
        assert world.router.decide(A, packet(H1.link_local, address)).reason is Reason.MARTIAN


def test_a_link_local_binding_comes_and_goes_without_a_host_route(world: World) -> None:
    assert H3.link_local.address not in world.router.fib("tenant", 6).hosts
    world.learn(H3.link_local, at=C)
    verdict = world.router.decide(A, packet(H1.link_local, H3.link_local.ip))
    assert verdict.header == b"\x08\0\0\0\0\0\x64\0" + H3.mac + OTHER_SHARED_MAC
    world.slowpath.routes.withdraw(world.segment(ONE), H3.mac, C)
    asked = packet(H1.link_local, H3.link_local.ip)
    assert world.router.decide(A, asked).reason is Reason.GLEAN
    world.router.unbind(world.segment(ONE), H3.link_local.address)


def test_a_new_topology_starts_without_link_local_bindings(world: World) -> None:
    world.slowpath.replace_topology(topology(ipv6=True))
    asked = packet(H1.link_local, H3.link_local.ip)
    assert world.router.decide(A, asked).vtep == B
    world.router.set_topology(topology(ipv6=True))
    assert world.router.decide(A, asked).reason is Reason.GLEAN


# Neighbour discovery is never forwarded.

ND = (
    ns(None, H1.mac, H1.six.ip, H3.six.ip),
    ns(SHARED_MAC, H1.mac, H1.six.ip, H3.six.ip),
    ns(None, H1.mac, "::", H3.six.ip),
    na(None, H1.mac, H1.six.ip),
    na(SHARED_MAC, H1.mac, H1.six.ip, H3.six.ip),
    rs(H1.mac),
    rs(H1.mac, H1.link_local.ip),
    ra(H1.mac, H1.link_local.ip),
    ra(H1.mac, H1.link_local.ip, SHARED_MAC, H3.link_local.ip),
    redirect(SHARED_MAC, H1.mac, GATEWAY_LL, H3.link_local.ip, "2001:db8::9", H1.link_local.ip),
)


@pytest.mark.parametrize("frame", ND)
@pytest.mark.parametrize("source", [A, C])
def test_neighbour_discovery_goes_to_the_slow_path(
    world: World, frame: bytes, source: Vtep
) -> None:
    verdict = world.router.decide(source, vxlan(ONE, frame))
    assert (verdict.reason, verdict.segment) == (Reason.ND, world.segment(ONE))


@pytest.mark.parametrize("frame", ND)
def test_without_ipv6_neighbour_discovery_is_a_multicast_like_others(frame: bytes) -> None:
    world = World(*GUESTS)
    assert world.router.decide(A, vxlan(ONE, frame)).vtep is None
    assert world.router.decide(A, vxlan(SAME, frame)).reason is Reason.MULTICAST_DROPPED


def test_neighbour_discovery_to_a_guests_mac_is_foreign(world: World) -> None:
    asked = vxlan(ONE, ns(H3.mac, H1.mac, H1.six.ip, H3.six.ip))
    assert world.router.decide(A, asked).reason is Reason.FOREIGN_MAC


def test_there_is_no_neighbour_discovery_between_leaves(world: World) -> None:
    asked = vxlan(TENANT, ns(None, H1.mac, H1.six.ip, H3.six.ip))
    assert world.router.decide(FAR_LEAF, asked).reason is Reason.MULTICAST_DROPPED


def test_other_icmpv6_is_routed_like_anything(world: World) -> None:
    asked = vxlan(ONE, echo6(SHARED_MAC, H1.mac, H1.six.ip, H3.six.ip))
    assert world.router.decide(A, asked).reason is Reason.ROUTED
    group = vxlan(ONE, echo6(ALL_NODES_MAC, H1.mac, H1.six.ip, "ff02::1"))
    assert world.router.decide(A, group).reason is Reason.MULTICAST_DROPPED


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_the_kind_of_buffer_makes_no_difference(world: World, kind: type) -> None:
    for frame in ND:
        assert world.router.decide(A, kind(vxlan(ONE, frame))).reason is Reason.ND
    for dst_ip in (H3.six.ip, H3.link_local.ip, GATEWAY_LL, "ff02::1", "::1", "2001:db8:9::9"):
        asked = to_gateway(H1.six, dst_ip)
        assert world.router.decide(A, kind(asked)) == world.router.decide(A, asked)


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        pytest.param("::ffff:9.9.9.9", H3.six.ip, Reason.MARTIAN, id="mapped_source"),
        pytest.param(H1.six.ip, "febf::1", Reason.MARTIAN, id="link_local_that_nobody_has"),
        pytest.param(H1.link_local.ip, "fe80::77", Reason.GLEAN, id="link_local_to_ask_for"),
    ],
)
def test_addresses_that_are_none(source: str, target: str, reason: Reason) -> None:
    world = World(*GUESTS, *GUESTS6, ipv6=True)
    packet = vxlan(ONE, ip6(SHARED_MAC, H1.mac, source, target))
    assert world.router.decide(A, packet).reason is reason


def test_discovery_behind_extension_headers_is_not_carried_to_another_host() -> None:
    """It would arrive with the hop limit of 255 that says that no router was on the way."""
    world = World(*GUESTS, *GUESTS6, ipv6=True)
    own, other = H1.link_local.ip, H3.link_local.ip
    plain = na(SHARED_MAC, H1.mac, H1.six.ip, other, sender_ip=own)
    hidden = na(SHARED_MAC, H1.mac, H1.six.ip, other, sender_ip=own, extensions=IPv6ExtHdrDestOpt())
    assert world.router.decide(A, vxlan(ONE, plain)).reason is Reason.ND
    assert world.router.decide(A, vxlan(ONE, hidden)).reason is Reason.MARTIAN


def test_no_train_is_made_of_icmpv6() -> None:
    """An echo at its head would take an advertisement along."""
    echo = vxlan(ONE, echo6(SHARED_MAC, H1.mac, H1.link_local.ip, H3.link_local.ip))
    slot = np.zeros(len(echo) * 3, dtype=np.uint8)
    slot.data[:] = echo * 3
    assert len(flows.trains(slot, len(slot), len(echo))) == 3
