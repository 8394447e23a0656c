"""The slow path: its policer, what it survives, what it holds and releases, and a reload.

What it says by ARP and ICMP has its own files; here it is a core with input, output and time.
"""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Ether

from leaf import neighbour as rules
from leaf.bindings import Outcome, State, Timers
from leaf.glean import Outcome as GleanOutcome
from leaf.router import Reason, Verdict
from leaf.slowpath import Limits, Send, SlowPath
from leaf.topology import Topology
from tests.frames import BROADCAST, SHARED_MAC, arp, ip, ip6, mac, ns, rarp, v4, vxlan
from tests.unit.leaf_world import (
    FAR_LEAF,
    FAR_ROUTER_MAC,
    GROUP_ONE,
    GROUP_TWO,
    GUESTS,
    GUESTS6,
    H1,
    H2,
    H3,
    H4,
    H5,
    H6,
    ONE,
    R9,
    ROUTER_MAC,
    SHARED,
    TENANT,
    TWO,
    X1,
    A,
    B,
    C,
    Guest,
    World,
    gateway,
    rebuilt,
    to_gateway,
    topology,
)
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vtep

GATEWAY = "1.1.1.254"
LATE = Guest("1.1.1.77", mac(77), B)
"""A guest that the leaf does not know yet."""


@pytest.fixture
def world() -> World:
    return World(*GUESTS)


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
    assert world.slowpath.handle(verdict, A, packet, 1.0) == []


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
    counts = {Reason.ARP: world.slowpath.arp_counts, Reason.ND: world.slowpath.nd_counts}
    if reason in counts and packet:
        # The rules count what they cannot read themselves.
        assert world.slowpath.handle(Verdict(reason, segment=segment), A, packet, 1.0) == []
        assert counts[reason][rules.Reason.MALFORMED] == 1
    else:
        assert world.slowpath.handle(Verdict(reason, segment=segment), A, packet, 1.0) == []
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
    assert len(world.slowpath.gleaner) == 2
    assert len(world.punt(A, vxlan(ONE, arp(BROADCAST, H2.mac, H2.ip, H3.ip)), 10.0)) == 1


def one_of(number: int) -> Guest:
    """One of the MACs of a guest on A that floods with sixteen."""
    return H1._replace(mac=Mac(mac(0x100 + number % 16)))


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
    assert len(world.slowpath.gleaner) == 6


def test_what_the_slow_path_fails_on_is_told() -> None:
    told: list[Exception] = []
    world = World()
    world.slowpath = SlowPath(
        world.topology, world.router, world.bindings, Limits(), on_failure=told.append
    )
    assert world.slowpath.handle(Verdict(Reason.GLEAN), A, b"", 1.0) == []
    assert len(told) == 1


@pytest.mark.parametrize("reason", sorted(Reason))
def test_no_reason_with_no_packet_raises(world: World, reason: Reason) -> None:
    assert world.slowpath.handle(Verdict(reason), A, b"", 1.0) == []


# Gleaning.


def test_a_packet_for_an_unbound_address_asks_every_vswitch_of_the_segment(world: World) -> None:
    sends = world.punt(A, to_gateway(H1, LATE.ip), 10.0)
    assert questions(sends) == [(A, LATE.ip), (B, LATE.ip), (C, LATE.ip)]
    assert len(sends) == 3
    assert world.slowpath.glean_counts[GleanOutcome.ASKED] == 1
    assert world.slowpath.events["arp_questions"] == 3
    assert world.punt(A, to_gateway(H1, LATE.ip), 10.1) == []


def test_an_arp_question_for_an_unknown_address_asks_every_vswitch_too(world: World) -> None:
    sends = world.punt(A, vxlan(ONE, arp(BROADCAST, H1.mac, H1.ip, LATE.ip)), 10.0)
    assert questions(sends) == [(A, LATE.ip), (B, LATE.ip), (C, LATE.ip)]
    # The answer binds it, and the asker's next question is answered.
    assert world.punt(B, answers(LATE), 10.1) == []
    (send,) = world.punt(A, vxlan(ONE, arp(BROADCAST, H1.mac, H1.ip, LATE.ip)), 11.0)
    assert Ether(send.packet[8:])[ARP].hwsrc == SHARED_MAC.hex(":")


def test_held_packets_go_on_in_order_and_rewritten(world: World) -> None:
    """From two senders, one of them in another segment; each as if it had come just now."""
    first = to_gateway(H1, LATE.ip, payload=b"first")
    second = to_gateway(H5, LATE.ip, payload=b"second", ttl=9)
    third = to_gateway(H3, LATE.ip, payload=b"third")
    world.punt(A, first, 10.0)
    world.punt(A, second, 10.1)
    world.punt(B, third, 10.2)
    sends = world.punt(B, answers(LATE), 10.5)
    assert [send.vtep for send in sends] == [B, B, B]
    frames = [Ether(send.packet[8:]) for send in sends]
    assert [frame.lastlayer().load for frame in frames] == [b"first", b"second", b"third"]
    assert [frame[IP].ttl for frame in frames] == [63, 8, 63]
    for send, frame in zip(sends, frames, strict=True):
        assert send.packet[:8] == b"\x08\0\0\0\0\0\x64\0"
        assert (frame.dst, frame.src) == (LATE.mac.hex(":"), SHARED_MAC.hex(":"))
    assert world.slowpath.events["released"] == 3
    assert world.slowpath.glean_counts[GleanOutcome.RESOLVED] == 1


def test_an_announcement_releases_as_an_answer_does(world: World) -> None:
    world.punt(A, to_gateway(H1, LATE.ip), 10.0)
    (send,) = world.punt(B, announces(LATE), 10.1)
    assert (send.vtep, send.packet[8:14]) == (B, LATE.mac)


def test_a_packet_inside_a_hop_neutral_segment_is_released_with_its_ttl(world: World) -> None:
    late = Guest("2.2.2.77", mac(78), B, TWO)
    world.punt(A, to_gateway(H5, late.ip, ttl=1), 10.0)
    (send,) = world.punt(B, announces(late), 10.1)
    assert Ether(send.packet[8:])[IP].ttl == 1


def test_a_packet_for_a_route_via_a_guest_waits_for_that_guest() -> None:
    world = World(H1)
    sends = world.punt(A, to_gateway(H1, "10.10.1.1"), 10.0)
    assert questions(sends) == [(A, R9.ip), (B, R9.ip), (C, R9.ip)]
    (send,) = world.punt(B, announces(R9), 10.1)
    frame = Ether(send.packet[8:])
    assert (send.vtep, frame.dst, frame[IP].dst) == (B, R9.mac.hex(":"), "10.10.1.1")


def test_the_buffer_of_a_held_packet_may_be_reused(world: World) -> None:
    """The tunnel's next read overwrites what this one returned."""
    memory = bytearray(to_gateway(H1, LATE.ip, payload=b"before"))
    verdict = world.router.decide(A, memory)
    world.slowpath.handle(verdict, A, memoryview(memory), 10.0)
    memory[:] = bytes(len(memory))
    (send,) = world.punt(B, announces(LATE), 10.1)
    assert send.packet.endswith(b"before")


def test_a_refused_binding_releases_nothing() -> None:
    world = World(H1, capacity=1)
    world.punt(A, to_gateway(H1, LATE.ip), 10.0)
    assert world.punt(B, announces(LATE), 10.1) == []
    assert world.slowpath.binding_counts[Outcome.FULL] == 1
    assert world.router.decide(A, to_gateway(H1, LATE.ip)).reason is Reason.GLEAN


def test_nobody_answers(world: World) -> None:
    """Three questions, then host unreachable for each that waited, and for who comes after."""
    world.learn(H1, 9.0)
    world.punt(A, to_gateway(H1, LATE.ip), 10.0)
    world.punt(B, to_gateway(H3, LATE.ip), 10.2)
    assert world.slowpath.deadline() == 11.0
    assert questions(world.slowpath.tick(11.0)) == [(A, LATE.ip), (B, LATE.ip), (C, LATE.ip)]
    assert len(questions(world.slowpath.tick(12.0))) == 3
    sends = world.slowpath.tick(13.0)
    assert [send.vtep for send in sends] == [A, B]
    for send, guest in zip(sends, (H1, H3), strict=True):
        frame = Ether(send.packet[8:])
        assert (frame.dst, frame[IP].src, frame[IP].dst) == (guest.mac.hex(":"), GATEWAY, guest.ip)
        assert (frame[ICMP].type, frame[ICMP].code) == (3, 1)
    assert world.slowpath.glean_counts[GleanOutcome.UNANSWERED] == 1

    (send,) = world.punt(A, to_gateway(H1, LATE.ip), 20.0)
    assert Ether(send.packet[8:])[ICMP].code == 1
    assert world.punt(A, vxlan(ONE, arp(BROADCAST, H1.mac, H1.ip, LATE.ip)), 20.0) == []
    assert world.slowpath.glean_counts[GleanOutcome.NEGATIVE] == 2
    assert len(questions(world.punt(A, to_gateway(H1, LATE.ip), 33.0))) == 3


def test_a_guest_that_comes_late_ends_the_negative_time(world: World) -> None:
    world.punt(A, to_gateway(H1, LATE.ip), 10.0)
    for at in (11.0, 12.0, 13.0):
        world.slowpath.tick(at)
    world.punt(B, announces(LATE), 14.0)
    world.slowpath.withdraw(world.segment(ONE), LATE.mac, B)
    assert len(questions(world.punt(A, to_gateway(H1, LATE.ip), 15.0))) == 3


def test_gleaning_is_limited() -> None:
    world = World(H1, limits=Limits(gleans=10.0))
    asked = [
        len(questions(world.punt(A, to_gateway(H1, f"1.1.1.{100 + n}"), 10.0))) for n in range(8)
    ]
    assert asked == [3] * 5 + [0] * 3
    assert world.slowpath.glean_counts[GleanOutcome.POLICED] == 3
    # What is asked for already needs no new question; and half a second brings five more.
    assert world.punt(A, to_gateway(H1, "1.1.1.100"), 10.0) == []
    assert world.slowpath.glean_counts[GleanOutcome.HELD] == 1
    assert len(questions(world.punt(A, to_gateway(H1, "1.1.1.107"), 10.5))) == 3


@pytest.mark.parametrize("limits", [Limits(gleans=40.0), Limits(questions=200.0)])
def test_one_tenants_scan_leaves_room_for_another(limits: Limits) -> None:
    """X1 is the other tenant's; sixteen MACs of ONE ask for 120 addresses as often as they can."""
    world = World(X1, limits=limits)
    flood = [to_gateway(one_of(number), f"1.1.1.{number + 100}") for number in range(120)]
    for second in range(4):
        now = 10.0 + second
        world.slowpath.tick(now)
        assert sum(len(questions(world.punt(A, packet, now))) for packet in flood) > 30
        (one, two) = questions(world.punt(B, to_gateway(X1, f"1.1.1.{100 + second}"), now))
        assert {one[0], two[0]} == {A, B}


def on_many_vswitches(limits: Limits) -> World:
    """Segment ONE on 200 vswitches."""
    world = World(limits=limits)
    made = topology()
    made.segments[0].vteps |= {Vtep(f"192.0.2.{n}"): GROUP_ONE for n in range(20, 217)}
    world.slowpath.replace_topology(rebuilt(made))
    world.learn(H1)
    world.learn(H2)
    return world


def asked_for(world: World, *packets: bytes, now: float) -> int:
    """How many questions packets from A cause, until nobody has answered them."""
    count = sum(len(questions(world.punt(A, packet, now))) for packet in packets)
    return count + sum(len(questions(world.slowpath.tick(now + n))) for n in (1.0, 2.0))


def scan(guest: Guest) -> list[bytes]:
    return [to_gateway(guest, f"1.1.1.{n}") for n in range(100, 180)]


def test_questions_are_limited_whatever_the_number_of_vswitches() -> None:
    world = on_many_vswitches(Limits(questions=12_000.0))
    assert asked_for(world, *scan(H1), now=10.0) == 2 * 200 * 3
    # What one guest may cause, another may too.
    assert asked_for(world, to_gateway(H2, "1.1.1.200"), now=13.0) == 200 * 3
    world = on_many_vswitches(Limits(questions=3600.0))
    sixteen = [packet for number in range(16) for packet in scan(one_of(number))[number:]]
    assert asked_for(world, *sixteen, now=10.0) == 3 * 200 * 3


def test_a_segment_with_more_vswitches_than_questions_is_asked_all_the_same() -> None:
    world = on_many_vswitches(Limits(questions=60.0))
    assert asked_for(world, *scan(H1), now=10.0) == 200 * 3
    assert asked_for(world, *scan(H2), now=19.0) == 0
    assert asked_for(world, *scan(one_of(1)), now=22.0) == 200 * 3


def test_every_group_is_asked_from_its_own_shared_mac(world: World) -> None:
    sends = world.punt(A, to_gateway(H1, LATE.ip), 10.0)
    assert {send.vtep: send.packet[14:20] for send in sends} == SHARED


def test_a_remote_leafs_packet_that_nobody_wants_is_dropped_in_silence(world: World) -> None:
    packet = vxlan(5000, to_gateway(H1, LATE.ip)[8:])
    held = Verdict(Reason.GLEAN, segment=world.segment(ONE))
    assert len(questions(world.slowpath.handle(held, FAR_LEAF, packet, 10.0))) == 3
    for at in (11.0, 12.0):
        world.slowpath.tick(at)
    assert world.slowpath.tick(13.0) == []
    assert world.slowpath.events["icmp_silent"] == 1


# Bindings and the router.


def test_a_silent_guest_is_asked_and_then_leaves_the_fib() -> None:
    world = World(H3, timers=Timers(confirm_after=60.0, probe_interval=1.0, probes=3))
    asked = []
    for _ in range(4):
        at = world.slowpath.deadline()
        assert at is not None
        asked += questions(world.slowpath.tick(at))
    assert asked == [(B, H3.ip)] * 3
    assert world.router.decide(A, to_gateway(H1, H3.ip)).reason is Reason.GLEAN
    assert world.slowpath.binding_counts[Outcome.EXPIRED] == 1
    assert world.slowpath.deadline() is None


def test_withdrawal_takes_every_address_out_of_the_fib(world: World) -> None:
    world.slowpath.learn(world.segment(ONE), v4("1.1.1.101"), H1.mac, A, 0.0)
    news = world.slowpath.withdraw(world.segment(ONE), H1.mac, A)
    assert news.outcome is Outcome.WITHDRAWN
    for address in (H1.ip, "1.1.1.101"):
        assert world.router.decide(A, to_gateway(H2, address)).reason is Reason.GLEAN
    assert world.router.decide(B, vxlan(X1.segment, to_gateway(X1, X1.ip)[8:])).vtep == B


def test_a_stale_withdrawal_leaves_the_fib_alone(world: World) -> None:
    world.learn(H1, at=B)
    assert world.slowpath.withdraw(world.segment(ONE), H1.mac, A).outcome is Outcome.STALE
    assert world.router.decide(A, to_gateway(H2, H1.ip)).vtep == B


def test_the_deadline_is_the_nearer_of_the_two() -> None:
    world = World()
    assert world.slowpath.deadline() is None
    world.learn(H1, 0.0)
    assert world.slowpath.deadline() == 60.0
    world.punt(A, to_gateway(H1, LATE.ip), 10.0)
    assert world.slowpath.deadline() == 11.0


def test_forgetting_takes_the_host_routes_too(world: World) -> None:
    gone = [b for b in world.bindings.all() if b.mac in (H1.mac, H6.mac)]
    world.slowpath.forget(gone)
    assert world.router.decide(A, to_gateway(H2, H1.ip)).reason is Reason.GLEAN
    assert world.router.decide(A, to_gateway(H5, H6.ip)).reason is Reason.GLEAN
    assert len(world.bindings) == len(GUESTS) - 2


# Reload.


def lost_names(world: World, new: Topology) -> set[tuple[int, bytes]]:
    return {(b.segment, b.address) for b in world.slowpath.replace_topology(rebuilt(new))}


def test_the_same_topology_loses_nothing(world: World) -> None:
    before = dict(world.router.fib("tenant").hosts)
    assert lost_names(world, topology()) == set()
    assert {a: e.verdict[:3] for a, e in world.router.fib("tenant").hosts.items()} == {
        a: e.verdict[:3] for a, e in before.items()
    }


def test_a_vswitch_that_is_gone_takes_its_bindings_along(world: World) -> None:
    new = topology()
    for segment in new.segments:
        segment.vteps.pop(B, None)
    lost = lost_names(world, new)
    assert lost == {(g.segment, g.address) for g in GUESTS if g.vtep == B}
    assert world.router.decide(A, to_gateway(H1, H3.ip)).reason is Reason.GLEAN
    assert world.router.decide(A, to_gateway(H1, H4.ip)).vtep == C


def test_a_segment_that_is_gone_takes_its_bindings_along(world: World) -> None:
    new = topology()
    del new.vrfs[1].segments[0], new.vrfs[0].segments[1]
    new.vrfs[0].routes.clear()
    assert lost_names(world, new) == {(g.segment, g.address) for g in (H5, H6, X1)}
    assert world.slowpath.segment(TWO) is None
    assert world.router.decide(A, to_gateway(H1, H3.ip)).vtep == B


def test_a_subnet_or_gateway_that_changes_takes_what_no_longer_fits(world: World) -> None:
    new = topology()
    new.vrfs[0].routes.clear()
    new.segments[0].gateways = (gateway("1.1.1.3", "1.1.1.0/24"),)
    assert lost_names(world, new) == {(ONE, H3.address), (ONE, v4("3.3.3.7"))}
    assert world.router.decide(A, to_gateway(H1, "1.1.1.3")).reason is Reason.GATEWAY
    assert world.router.decide(A, to_gateway(H1, H4.ip)).vtep == C


def test_a_vswitchs_new_group_shows_in_what_is_forwarded(world: World) -> None:
    new = topology()
    new.segments[0].vteps[B] = GROUP_TWO
    assert lost_names(world, new) == set()
    header = world.router.decide(A, to_gateway(H1, H3.ip)).header
    assert header is not None and header[14:20] == GROUP_TWO.shared_mac


def test_a_segments_options_take_effect(world: World) -> None:
    new = topology()
    new.segments[0].hop_neutral = True
    world.slowpath.replace_topology(rebuilt(new))
    assert world.router.decide(A, to_gateway(H1, H3.ip)).reason is Reason.BRIDGED


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
