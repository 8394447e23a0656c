"""Asking for addresses without a binding: who is asked, how often, and what waits meanwhile."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Ether

from leaf.bindings import Outcome
from leaf.glean import Outcome as GleanOutcome
from leaf.limits import Limits
from leaf.router import Reason, Verdict
from tests.frames import BROADCAST, SHARED_MAC, arp, mac, vxlan
from tests.unit.leaf_world import (
    FAR_LEAF,
    GATEWAY,
    GROUP_ONE,
    GUESTS,
    H1,
    H2,
    H3,
    H5,
    LATE,
    ONE,
    R9,
    SHARED,
    TWO,
    X1,
    A,
    B,
    C,
    Guest,
    World,
    announces,
    answers,
    one_of,
    questions,
    rebuilt,
    to_gateway,
    topology,
)
from vswitch.wire.vxlan import Vtep


@pytest.fixture
def world() -> World:
    return World(*GUESTS)


def test_a_packet_for_an_unbound_address_asks_every_vswitch_of_the_segment(world: World) -> None:
    sends = world.punt(A, to_gateway(H1, LATE.ip), 10.0)
    assert questions(sends) == [(A, LATE.ip), (B, LATE.ip), (C, LATE.ip)]
    assert len(sends) == 3
    assert world.slowpath.asker.counts[GleanOutcome.ASKED] == 1
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
    assert world.slowpath.asker.counts[GleanOutcome.RESOLVED] == 1


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
    world.slowpath.handle(verdict, A, [memoryview(memory)], 10.0)
    memory[:] = bytes(len(memory))
    (send,) = world.punt(B, announces(LATE), 10.1)
    assert send.packet.endswith(b"before")


def test_a_refused_binding_releases_nothing() -> None:
    world = World(H1, capacity=1)
    world.punt(A, to_gateway(H1, LATE.ip), 10.0)
    assert world.punt(B, announces(LATE), 10.1) == []
    assert world.slowpath.routes.counts[Outcome.FULL] == 1
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
    assert world.slowpath.asker.counts[GleanOutcome.UNANSWERED] == 1

    (send,) = world.punt(A, to_gateway(H1, LATE.ip), 20.0)
    assert Ether(send.packet[8:])[ICMP].code == 1
    assert world.punt(A, vxlan(ONE, arp(BROADCAST, H1.mac, H1.ip, LATE.ip)), 20.0) == []
    assert world.slowpath.asker.counts[GleanOutcome.NEGATIVE] == 2
    assert len(questions(world.punt(A, to_gateway(H1, LATE.ip), 33.0))) == 3


def test_a_guest_that_comes_late_ends_the_negative_time(world: World) -> None:
    world.punt(A, to_gateway(H1, LATE.ip), 10.0)
    for at in (11.0, 12.0, 13.0):
        world.slowpath.tick(at)
    world.punt(B, announces(LATE), 14.0)
    world.slowpath.routes.withdraw(world.segment(ONE), LATE.mac, B)
    assert len(questions(world.punt(A, to_gateway(H1, LATE.ip), 15.0))) == 3


def test_gleaning_is_limited() -> None:
    world = World(H1, limits=Limits(gleans=10.0))
    asked = [
        len(questions(world.punt(A, to_gateway(H1, f"1.1.1.{100 + n}"), 10.0))) for n in range(8)
    ]
    assert asked == [3] * 5 + [0] * 3
    assert world.slowpath.asker.counts[GleanOutcome.POLICED] == 3
    # What is asked for already needs no new question; and half a second brings five more.
    assert world.punt(A, to_gateway(H1, "1.1.1.100"), 10.0) == []
    assert world.slowpath.asker.counts[GleanOutcome.HELD] == 1
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
    assert len(questions(world.slowpath.handle(held, FAR_LEAF, [packet], 10.0))) == 3
    for at in (11.0, 12.0):
        world.slowpath.tick(at)
    assert world.slowpath.tick(13.0) == []
    assert world.slowpath.events["icmp_silent"] == 1
