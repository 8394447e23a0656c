"""The slow path: its door, what it survives, and what a reload does to what is under way.

What its parts do has their own files; here it is a core with input, output and time.
"""

from __future__ import annotations

import pytest

from leaf import advertiser, asker, discovery, oversize, teller
from leaf import neighbour as rules
from leaf.bindings import State
from leaf.limits import Limits
from leaf.router import Reason, Verdict
from leaf.slowpath import EVENTS, SlowPath
from tests.frames import BROADCAST, arp, ip, ip6, mac, ns, rarp, vxlan
from tests.unit.leaf_world import (
    FAR_LEAF,
    FAR_ROUTER_MAC,
    GROUP_ONE,
    GUESTS,
    GUESTS6,
    H1,
    H2,
    H3,
    H5,
    LATE,
    ONE,
    ROUTER_MAC,
    TENANT,
    A,
    B,
    C,
    World,
    announces,
    answers,
    one_of,
    questions,
    rebuilt,
    to_gateway,
    topology,
)


@pytest.fixture
def world() -> World:
    return World(*GUESTS)


# Policing.


def test_one_vteps_flood_does_not_starve_anothers() -> None:
    world = World(*GUESTS, limits=Limits(punts=10.0))
    from_a = vxlan(ONE, arp(BROADCAST, H1.mac, H1.ip, H3.ip))
    from_b = vxlan(ONE, arp(BROADCAST, H3.mac, H3.ip, H1.ip))
    assert sum(len(world.punt(A, from_a, 5.0)) for _ in range(100)) == 10
    assert world.slowpath.events["punts_policed"] == 90
    assert sum(len(world.punt(B, from_b, 5.0)) for _ in range(10)) == 10
    # And it is over when it is over.
    assert len(world.punt(A, from_a, 5.2)) == 1


def test_a_policed_packet_teaches_nothing() -> None:
    world = World(limits=Limits(punts=1.0))
    world.punt(A, announces(H1), 5.0)
    world.punt(A, announces(H2), 5.0)
    assert world.bindings.get(ONE, H1.address) is not None
    assert world.bindings.get(ONE, H2.address) is None


def test_forwarding_passes_no_policer() -> None:
    """It never comes here; were it handed over by mistake, nothing would be said of it."""
    world = World(*GUESTS)
    packet = to_gateway(H1, H3.ip)
    verdict = world.router.decide(A, packet)
    assert verdict.vtep == B
    assert world.slowpath.handle(verdict, A, [packet], 1.0) == []


# Garbage.


@pytest.mark.parametrize(
    ("reason", "packet"),
    [
        pytest.param(Reason.ARP, vxlan(ONE, arp(BROADCAST, H1.mac))[:30], id="arp_cut"),
        pytest.param(Reason.ND, vxlan(ONE, ns(None, H1.mac, "::", "fe80::1"))[:70], id="nd_cut"),
        pytest.param(Reason.ND, b"", id="nd_empty"),
        pytest.param(Reason.RARP, vxlan(ONE, rarp(H1.mac))[:30], id="rarp_cut"),
        pytest.param(Reason.RARP, vxlan(ONE, rarp(H1.mac, sender_mac=H2.mac)), id="rarp_forged"),
        pytest.param(Reason.GATEWAY, vxlan(ONE, b""), id="gateway_empty"),
        pytest.param(Reason.EXPIRED, b"\x08", id="expired_one_byte"),
        pytest.param(Reason.GLEAN, b"", id="glean_without_a_segment"),
    ],
)
def test_garbage_is_counted_and_ends_nothing_else(
    world: World, reason: Reason, packet: bytes
) -> None:
    segment = None if reason is Reason.GLEAN else world.segment(ONE)
    before = [repr(binding) for binding in world.bindings.all()]
    counts = {
        Reason.ARP: world.slowpath.discovery.arp_counts,
        Reason.ND: world.slowpath.discovery.nd_counts,
    }
    if reason in counts and packet:
        # The rules count what they cannot read themselves.
        assert world.slowpath.handle(Verdict(reason, segment=segment), A, [packet], 1.0) == []
        assert counts[reason][rules.Reason.MALFORMED] == 1
    else:
        assert world.slowpath.handle(Verdict(reason, segment=segment), A, [packet], 1.0) == []
        counter = {Reason.RARP: "rarp_malformed", Reason.ND: "router_rogue"}.get(
            reason, "punts_failed"
        )
        assert world.slowpath.events[counter] == 1
    assert [repr(binding) for binding in world.bindings.all()] == before
    assert len(world.punt(A, vxlan(ONE, arp(BROADCAST, H1.mac, H1.ip, H3.ip)), 2.0)) == 1


def test_one_guest_that_floods_starves_neither_its_neighbour_nor_gleaning() -> None:
    """Both are behind one vswitch, and so behind one VTEP."""
    world = World(*GUESTS, limits=Limits(guest_punts=5.0, guest_gleans=2.0))
    flood = [vxlan(ONE, arp(BROADCAST, H1.mac, H1.ip, f"3.3.3.{n}")) for n in range(1, 20)]
    for packet in flood:
        world.punt(A, packet, 10.0)
    assert world.slowpath.events["guests_policed"] == len(flood) - 5
    assert len(world.slowpath.asker.gleaner) == 2
    assert len(world.punt(A, vxlan(ONE, arp(BROADCAST, H2.mac, H2.ip, H3.ip)), 10.0)) == 1


def test_a_guest_with_sixteen_macs_does_not_silence_its_neighbours() -> None:
    """An answer that is lost to the policer would end the neighbour's binding."""
    world = World(*GUESTS)
    for number in range(6400):
        world.punt(A, vxlan(ONE, arp(BROADCAST, one_of(number).mac, H1.ip, H3.ip)), 5.0)
    assert world.slowpath.events["punts_policed"] > 2000
    binding = world.bindings.get(ONE, H2.address)
    assert binding is not None
    world.bindings.probe_now(binding, 5.0)
    world.punt(A, answers(H2), 5.0)
    assert (binding.state, binding.heard) == (State.REACHABLE, 5.0)


def test_a_flood_of_other_packets_leaves_a_guests_own_arp_alone() -> None:
    world = World(*GUESTS, limits=Limits(guest_punts=5.0))
    for _ in range(50):
        world.punt(A, to_gateway(H1, "9.9.9.9"), 5.0)
    assert world.slowpath.events["guests_policed"] == 45
    assert len(world.punt(A, vxlan(ONE, arp(BROADCAST, H1.mac, H1.ip, H3.ip)), 5.0)) == 1


def test_what_one_guest_is_told_by_icmp_is_not_taken_from_its_neighbours() -> None:
    """Neither of unreachable addresses, with all its MACs, nor of packets that do not fit."""
    world = World(*GUESTS)
    for number in range(6400):
        world.punt(A, to_gateway(one_of(number), "9.9.9.9"), 5.0)
    assert len(world.punt(A, to_gateway(H2, "9.9.9.9"), 5.0)) == 1

    world = World(*GUESTS)
    large = memoryview(to_gateway(H1, H3.ip, payload=bytes(1400), flags="DF"))
    verdict = world.router.decide(A, large)
    told = [world.slowpath.too_big(verdict, A, [large], 1000, 5.0) for _ in range(1000)]
    assert sum(len(sends) for sends in told) == 200
    assert len(world.punt(A, to_gateway(H2, "9.9.9.9"), 5.0)) == 1


def test_the_guests_behind_another_leaf_are_as_many_as_they_are() -> None:
    """All that another leaf routes has its MAC; one guest there must not use up the others'."""
    world = World(*GUESTS, *GUESTS6, ipv6=True, limits=Limits(guest_punts=5.0, guest_gleans=2.0))

    def routed(source: str, destination: str) -> bytes:
        build = ip6 if ":" in source else ip
        return vxlan(TENANT, build(ROUTER_MAC, FAR_ROUTER_MAC, source, destination))

    for near, far in (("1.1.1.", "10.20.0."), ("2001:db8:1::", "2001:db8:a20::")):
        for number in range(20):
            world.punt(FAR_LEAF, routed(far + "1", near + str(150 + number)), 5.0)
        sends = world.punt(FAR_LEAF, routed(far + "2", near + "90"), 5.0)
        assert {send.vtep for send in sends} == {A, B, C}
    assert world.slowpath.events["guests_policed"] == 30
    assert len(world.slowpath.asker.gleaner) == 6


def test_what_the_slow_path_fails_on_is_told() -> None:
    told: list[Exception] = []
    world = World()
    world.slowpath = SlowPath(
        world.topology, world.router, world.bindings, Limits(), on_failure=told.append
    )
    assert world.slowpath.handle(Verdict(Reason.GLEAN), A, [b""], 1.0) == []
    assert len(told) == 1


@pytest.mark.parametrize("reason", sorted(Reason))
def test_no_reason_with_no_packet_raises(world: World, reason: Reason) -> None:
    assert world.slowpath.admit(reason, A, b"", 1, 1.0) == 1
    assert world.slowpath.handle(Verdict(reason), A, [b""], 1.0) == []


# What the parts count.


def test_every_counter_of_a_part_is_documented_and_has_one_part(world: World) -> None:
    assert list(world.slowpath.events) == list(EVENTS)
    parts = (teller, oversize, discovery, asker, advertiser)
    assert sum(len(part.EVENTS) for part in parts) + 3 == len(EVENTS)


# Time and reload.


def test_the_deadline_is_the_nearer_of_the_two() -> None:
    world = World()
    assert world.slowpath.deadline() is None
    world.learn(H1, 0.0)
    assert world.slowpath.deadline() == 60.0
    world.punt(A, to_gateway(H1, LATE.ip), 10.0)
    assert world.slowpath.deadline() == 11.0


def test_what_is_gleaned_for_in_a_segment_that_goes_is_dropped(world: World) -> None:
    world.punt(A, to_gateway(H5, "2.2.2.77"), 10.0)
    new = topology()
    new.vrfs[0].segments.pop()
    new.vrfs[0].routes.clear()
    world.slowpath.replace_topology(rebuilt(new))
    for at in (11.0, 12.0, 13.0):
        assert world.slowpath.tick(at) == []


def test_a_waiting_senders_vswitch_may_go_meanwhile(world: World) -> None:
    """Its packet can be answered to nobody; the others that wait must be told all the same."""
    world.punt(A, to_gateway(H1, LATE.ip), 10.0)
    world.punt(B, to_gateway(H3, LATE.ip), 10.0)
    new = topology()
    for segment in new.segments:
        segment.vteps.pop(A, None)
    world.slowpath.replace_topology(rebuilt(new))
    for at in (11.0, 12.0):
        assert {vtep for vtep, _ in questions(world.slowpath.tick(at))} == {B, C}
    assert [send.vtep for send in world.slowpath.tick(13.0)] == [B]


def test_a_waiting_senders_packet_is_not_released_into_what_it_has_left(world: World) -> None:
    world.punt(A, to_gateway(H1, LATE.ip), 10.0)
    new = topology()
    for segment in new.segments:
        segment.vteps.pop(A, None)
    world.slowpath.replace_topology(rebuilt(new))
    assert world.punt(B, announces(LATE), 10.5) == []


def test_a_waiting_prober_whose_vswitch_goes_is_not_told(world: World) -> None:
    world.punt(C, vxlan(ONE, arp(BROADCAST, mac(99), "0.0.0.0", H3.ip)), 10.0)
    new = topology()
    del new.segments[0].vteps[C]
    world.slowpath.replace_topology(rebuilt(new))
    assert world.punt(B, answers(H3), 10.5) == []


def test_a_new_vswitch_is_asked_too(world: World) -> None:
    world.punt(A, to_gateway(H5, "2.2.2.77"), 10.0)
    new = topology()
    new.segments[1].vteps[C] = GROUP_ONE
    world.slowpath.replace_topology(rebuilt(new))
    assert questions(world.slowpath.tick(11.0)) == [(v, "2.2.2.77") for v in (A, B, C)]
