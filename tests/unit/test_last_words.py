"""What a reload takes back, guests are told: RFC 4861 section 6.2.5."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet6 import (
    ICMPv6ND_RA,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    IPv6,
)
from scapy.layers.l2 import Ether

from leaf.punt import Send
from leaf.topology import Topology
from tests.frames import link_local
from tests.unit.leaf_world import ONE, SAME, SHARED, TWO, A, B, C, World, topology

GROUP = "33:33:00:00:00:01"
TWO_HOURS = 7200


@pytest.fixture
def world() -> World:
    return World(ipv6=True)


def said(send: Send) -> dict[str, Any]:
    """What a guest reads."""
    frame = Ether(send.packet[8:])
    prefixes, option = {}, frame[ICMPv6ND_RA]
    while option := option.payload.getlayer(ICMPv6NDOptPrefixInfo):
        prefixes[option.prefix] = (option.validlifetime, option.preferredlifetime)
    return {
        "vni": int.from_bytes(send.packet[4:7], "big"),
        "to": frame.dst,
        "from": frame[IPv6].src,
        "lifetime": frame[ICMPv6ND_RA].routerlifetime,
        "prefixes": prefixes,
        "dns": frame[ICMPv6NDOptRDNSS].lifetime,
        "mtu": ICMPv6NDOptMTU in frame,
    }


def _without_segment(made: Topology) -> None:
    made.vrfs[0].segments = [one for one in made.vrfs[0].segments if one.vni != ONE]


def _without_advertisements(made: Topology) -> None:
    made.segments[0].advertised = None


def _with_another_vni(made: Topology) -> None:
    made.segments[0].vni = type(ONE)(101)


@pytest.mark.parametrize(
    "change", [_without_segment, _without_advertisements, _with_another_vni], ids=str
)
def test_a_gateway_that_goes_is_no_default_router(world: World, change: Any) -> None:
    new = topology(ipv6=True)
    change(new)
    sends = world.slowpath.advertiser.last_words(new)
    assert [send.vtep for send in sends] == [A, B, C]
    for send in sends:
        assert said(send) == {
            "vni": ONE,
            "to": GROUP,
            "from": link_local(SHARED[send.vtep]),
            "lifetime": 0,
            "prefixes": {f"2001:db8:{n}::": (TWO_HOURS, 0) for n in (1, 3)},
            "dns": 0,
            "mtu": False,
        }
    assert world.slowpath.events["router_last_words"] == 3


def test_a_prefix_that_goes_is_deprecated_and_the_gateway_stays(world: World) -> None:
    new = topology(ipv6=True)
    stays = new.segments[0].advertised
    assert stays is not None
    new.segments[0].advertised = stays._replace(prefixes=stays.prefixes[:1])
    sends = world.slowpath.advertiser.last_words(new)
    assert [send.vtep for send in sends] == [A, B, C]
    for send in sends:
        read = said(send)
        assert (read["lifetime"], read["dns"]) == (1800, 1800)
        assert read["prefixes"] == {"2001:db8:3::": (TWO_HOURS, 0)}


def test_what_stays_as_it_is_is_not_talked_about(world: World) -> None:
    assert world.slowpath.advertiser.last_words(topology(ipv6=True)) == []


def test_a_new_prefix_takes_nothing_back(world: World) -> None:
    new = topology(ipv6=True)
    stays = new.segments[0].advertised
    assert stays is not None
    more = stays.prefixes[0]._replace(network=bytes(range(16)))
    new.segments[0].advertised = stays._replace(prefixes=(*stays.prefixes, more), mtu=1300)
    assert world.slowpath.advertiser.last_words(new) == []


def test_where_nothing_was_advertised_nothing_is_taken_back() -> None:
    new = topology()
    new.vrfs[1].segments.clear()
    assert World().slowpath.advertiser.last_words(new) == []


def test_a_vswitch_that_another_leaf_may_serve_is_told_nothing(world: World) -> None:
    """The gateway is the same there: its guests would lose it."""
    new = topology(ipv6=True)
    for segment in new.segments:
        segment.vteps.pop(A)
    assert world.slowpath.advertiser.last_words(new) == []
    new.segments[1].advertised = None
    assert [(send.vtep, send.packet[6]) for send in world.slowpath.advertiser.last_words(new)] == [
        (B, TWO)
    ]


def test_deciding_changes_nothing_but_the_count(world: World) -> None:
    new = topology(ipv6=True)
    del new.vrfs[1]
    assert {send.vtep for send in world.slowpath.advertiser.last_words(new)} == {A, B}
    assert world.router.segment(SAME) is not None
    world.slowpath.replace_topology(new)
    world.slowpath.advertiser.advertise(10.0)
    assert {send.packet[6] for send in world.slowpath.tick(10.0)} == {ONE, TWO}
    assert world.slowpath.advertiser.last_words(new) == []
