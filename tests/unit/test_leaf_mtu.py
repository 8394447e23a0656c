"""What MTU guests are told: what is configured, or else what fits into the tunnels."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6NDOptMTU
from scapy.layers.l2 import Ether

from leaf.bindings import DEFAULT_TIMERS
from leaf.engine import Engine
from leaf.limits import Limits
from leaf.mtu import Mtus
from leaf.punt import Send
from leaf.topology import Segment, Topology
from tests.frames import mac, rs, vxlan
from tests.unit.dhcp_client import Client
from tests.unit.leaf_world import ONE, SAME, TWO, A, B, C, World, topology
from vswitch.phy.memory import MemoryNetwork
from vswitch.wire.vxlan import Vtep

HEADERS = 8 + 14
"""VXLAN's and the inner Ethernet's, which a packet in the tunnel has before its IP."""
ROOM = {A: 1472, B: 1372, C: 1272}
"""Over IPv4, of links with 1500, 1400 and 1300 bytes."""


def unconfigured(mtu: int | None = None) -> Topology:
    """The topology with both families, where no MTU is configured, or this one."""
    made = topology(ipv6=True)
    for vrf in made.vrfs:
        vrf.segments = [_with_mtu(segment, mtu) for segment in vrf.segments]
    return made


def _with_mtu(segment: Segment, mtu: int | None) -> Segment:
    assert segment.advertised is not None
    return replace(
        segment,
        advertised=segment.advertised._replace(mtu=mtu),
        dhcp=segment.dhcp and segment.dhcp._replace(mtu=mtu),
    )


def serving(made: Topology) -> World:
    world = World(ipv6=True)
    world.slowpath.replace_topology(made)
    return world


@pytest.fixture
def world() -> World:
    return serving(unconfigured())


def told(send: Send) -> int | None:
    """The MTU in a router advertisement."""
    said = Ether(send.packet[8:])
    assert ICMPv6ND_RA in said
    return said[ICMPv6NDOptMTU].mtu if ICMPv6NDOptMTU in said else None


def solicited(world: World, vtep: Vtep = A, segment: int = ONE) -> int | None:
    """What a guest behind a VTEP is told that asks."""
    (send,) = world.punt(vtep, vxlan(segment, rs(mac(1))))
    return told(send)


def leased(world: World) -> int | None:
    """What a DHCP client of segment ONE is told."""
    offer = Client(world, mac(7)).discover()
    assert offer is not None
    (found,) = offer.options.get("interface-mtu", (None,))
    return found


def test_before_anything_is_known_nothing_is_said(world: World) -> None:
    assert (solicited(world), leased(world)) == (None, None)


def test_it_is_the_least_of_a_segments_vswitches_wherever_the_guest_is(world: World) -> None:
    """ONE is on A, B and C; TWO and SAME on A and B."""
    world.slowpath.measured({A: 1472, B: 1372, C: 1322 + HEADERS}, 10.0)
    assert [solicited(world, vtep) for vtep in (A, B, C)] == [1322] * 3
    assert [solicited(world, vtep, TWO) for vtep in (A, B)] == [1372 - HEADERS] * 2
    assert leased(world) == 1322


def test_a_vswitch_that_there_is_no_way_to_does_not_count(world: World) -> None:
    world.slowpath.measured({A: 1472, B: 1450}, 10.0)
    assert solicited(world) == 1450 - HEADERS


@pytest.mark.parametrize(
    ("fits", "advertised", "given"),
    [(9000, 9000, 9000), (1280, 1280, 1280), (1279, 1280, 1279), (68, 1280, 68), (67, 1280, None)],
)
def test_no_family_is_told_less_than_it_takes(
    world: World, fits: int, advertised: int, given: int | None
) -> None:
    world.slowpath.measured(dict.fromkeys((A, B, C), fits + HEADERS), 10.0)
    assert (solicited(world), leased(world)) == (advertised, given)


def test_a_change_is_advertised_at_once_and_only_where_it_is_one(world: World) -> None:
    world.slowpath.measured({A: 1472, B: 1472, C: 1472}, 10.0)
    assert len(world.slowpath.tick(10.0)) == 7
    world.slowpath.measured({A: 1472, B: 1472, C: 1472}, 12.0)
    assert world.slowpath.deadline() == 26.0
    world.slowpath.measured({A: 1472, B: 1472, C: 1372}, 20.0)
    assert world.slowpath.deadline() == 20.0
    sends = world.slowpath.tick(20.0)
    assert [(send.vtep, send.packet[6], told(send)) for send in sends] == [
        (vtep, ONE, 1350) for vtep in (A, B, C)
    ]
    # The others go on as they would have.
    assert {send.packet[6] for send in world.slowpath.tick(26.0)} == {TWO, SAME & 0xFF}


def test_what_is_configured_wins(world: World) -> None:
    world = serving(unconfigured(1400))
    world.slowpath.measured(ROOM, 10.0)
    assert (solicited(world), leased(world)) == (1400, 1400)


def test_a_reload_takes_effect_without_another_measurement(world: World) -> None:
    world.slowpath.measured({A: 1472, B: 1372, C: 1322}, 10.0)
    made = unconfigured()
    del made.segments[0].vteps[C]
    world.slowpath.replace_topology(made)
    assert solicited(world) == 1372 - HEADERS


def test_a_tunnel_too_narrow_for_ipv6_is_told_once() -> None:
    """Its guests would not believe a message that names less than 1280 bytes."""
    made = mtus(None, {A: 1280 + HEADERS, B: 1279 + HEADERS, Vtep("192.0.2.200"): 600})
    (said,) = made.complaints()
    assert said.startswith(f"the tunnel to {B} takes 1279 bytes of IP")
    assert said.endswith("to 1330 or more")
    made.set_room({A: 1472, B: 1000})
    assert made.complaints() == []
    made.set_room({A: 1000, B: 1000})
    (said,) = made.complaints()
    assert f"to {A} " in said
    made.set_segments([])
    assert made.complaints() == []
    made.set_segments(unconfigured().segments)
    assert len(made.complaints()) == 2


def test_without_ipv6_no_tunnel_is_too_narrow() -> None:
    made = Mtus(topology().segments)
    made.set_room({A: 100, B: 100})
    assert [said for said in made.complaints() if "IPv6" in said] == []


def mtus(configured: int | None, room: dict[Vtep, int]) -> Mtus:
    made = Mtus(unconfigured(configured).segments)
    made.set_room(room)
    return made


def test_what_is_configured_and_does_not_fit_is_told_once() -> None:
    made = mtus(1340, {**ROOM, C: 1352})
    (said,) = made.complaints()  # Of two places where it is said; elsewhere it fits.
    assert said.startswith("segment 'one': mtu 1340 is more than the 1330 bytes")
    assert made.complaints() == []
    made.set_room({**ROOM, C: 1342})
    assert made.complaints() == []
    made.set_segments(unconfigured(1345).segments)
    assert len(made.complaints()) == 1
    made.set_segments([])
    assert made.complaints() == []
    made.set_segments(unconfigured(1345).segments)
    assert len(made.complaints()) == 1


@pytest.mark.parametrize("configured", [None, 1300])
def test_there_is_no_complaint_about_what_fits(configured: int | None) -> None:
    assert mtus(configured, {**ROOM, C: 1322}).complaints() == []
    assert mtus(9000, {}).complaints() == []


def test_the_same_measurement_is_no_change() -> None:
    made = Mtus(unconfigured().segments)
    assert made.set_room(ROOM)
    assert not made.set_room(dict(ROOM))
    assert not made.set_room({**ROOM, Vtep("192.0.2.200"): 600})  # Of no segment.
    assert made.set_room({**ROOM, C: 1271})


def test_the_engine_tells_guests_and_the_log_what_it_measures() -> None:
    said: list[str] = []
    made = unconfigured()
    made.vrfs[1].segments = unconfigured(1400).vrfs[1].segments
    tunnel = MemoryNetwork().tunnel(Vtep("192.0.2.1"))
    engine = Engine(
        made,
        tunnel,
        lambda: 10.0,
        timers=DEFAULT_TIMERS,
        limits=Limits(),
        max_bindings=10,
        notice=said.append,
    )
    engine.measure()
    assert (said, engine.slowpath.mtus.fitting(ONE)) == ([], None)
    tunnel.room |= ROOM
    engine.measure()
    engine.measure()
    assert engine.deadline() == 10.0
    assert engine.slowpath.mtus.fitting(ONE) == 1250
    narrow, complaint = said
    assert narrow.startswith(f"the tunnel to {C} takes 1250 bytes")
    assert complaint.startswith("segment 'same': mtu 1400 is more than the 1350 bytes")
