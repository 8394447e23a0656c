"""What goes wrong around a move: lost news, late news, a leaf that forgets, guests that vanish."""

from __future__ import annotations

import pytest

from leaf.bindings import Outcome, Timers
from leaf.glean import Outcome as GleanOutcome
from leaf.router import Reason as LeafReason
from tests.frames import OTHER_SHARED_MAC, SHARED_MAC, datagram, udp, vxlan
from tests.netsim.families import FAMILIES, Family
from tests.netsim.scenario import Rack, knows
from tests.netsim.world import LEAF, RED, Crossing
from vswitch.switch import Reason


@pytest.fixture
def rack(family: Family) -> Rack:
    made = Rack(family=family)
    made.settle()
    return made


# News that gets lost.


def test_an_announcement_that_is_lost_is_repeated(rack: Rack) -> None:
    """Until then the leaf sends to the old host, which drops and sends nothing back up."""
    world, h1 = rack.world, rack.h1
    lost = []

    def first_news(crossing: Crossing) -> bool:
        is_news = crossing.vtep == LEAF and not any(crossing.is_ip(one) for one in FAMILIES)
        if is_news and len(lost) < 6:
            lost.append(crossing)
            return True
        return False

    world.drop = first_news
    world.move(h1, "B")
    assert len(lost) == 3, "a RARP, and an announcement of each family"
    assert not world.reaches(rack.h3, h1)
    world.advance(0.05)
    assert len(lost) == 6
    assert not world.reaches(rack.h3, h1)
    world.advance(0.2)
    assert rack.talk() == []
    assert world.vswitches["A"].counts[Reason.UPLINK_MISS] == 2
    assert world.astray() == []


def test_an_answer_that_is_lost_is_asked_for_again(rack: Rack) -> None:
    world = rack.world
    h7 = world.guest("H7", "1.1.1.7", "A")
    world.drop = lambda crossing: crossing.source == LEAF
    assert not world.reaches(h7, rack.h3)
    world.drop = lambda crossing: False
    h7.retry()
    world.run()
    assert len(h7.pongs) == 1


def test_a_leafs_question_that_is_lost_is_asked_again(rack: Rack) -> None:
    world = rack.world
    world.restart_leaf()
    world.drop = lambda crossing: crossing.is_discovery(world.family)
    assert not world.reaches(rack.h1, rack.h3)
    world.drop = lambda crossing: False
    world.advance(1.0)
    assert len(rack.h3.ttls) > 0
    assert rack.talk() == []


# A leaf that has forgotten everything.


def test_a_new_leaf_recovers_without_any_act_of_the_guests(rack: Rack) -> None:
    """It gleans for whatever it is sent, and holds the first packets meanwhile: none is lost."""
    world = rack.world
    before = rack.caches()
    world.restart_leaf()
    assert len(world.leaf.slowpath.bindings) == 0
    assert world.reaches(rack.h1, rack.h3)
    assert world.leaf.slowpath.asker.counts[GleanOutcome.RESOLVED] >= 1
    assert rack.talk() == []
    assert rack.caches() == before
    assert world.astray() == []


def test_a_new_leaf_in_the_middle_of_a_move(rack: Rack) -> None:
    world = rack.world
    world.move(rack.h1, "B")
    world.restart_leaf()
    assert world.reaches(rack.h2, rack.h1)
    assert rack.talk() == []


# Guests that the leaf has not heard of.


def test_a_silent_guest_is_found_by_a_question_of_another(rack: Rack) -> None:
    """Its vswitch does not know its address, and it has never said a word."""
    world = rack.world
    h7 = world.guest("H7", "1.1.1.7", "A", listed=False)
    assert world.leaf.slowpath.bindings.get(RED, h7.address) is None
    assert not world.reaches(rack.h3, h7)
    binding = world.leaf.slowpath.bindings.get(RED, h7.address)
    assert binding is not None and binding.vtep == world.vteps["A"]
    rack.h3.retry()
    world.run()
    assert knows(rack.h3, h7) == {SHARED_MAC}
    assert len(h7.ttls) == 1


def test_a_silent_guest_is_found_by_a_packet_from_another_subnet(rack: Rack) -> None:
    world = rack.world
    h7 = world.guest("H7", "1.1.1.7", "A", listed=False)
    assert world.reaches(rack.h6, h7)
    assert h7.ttls == [63]


def test_a_silent_guests_neighbour_finds_it_without_the_leaf(rack: Rack) -> None:
    world = rack.world
    h7 = world.guest("H7", "1.1.1.7", "A", listed=False)
    since = len(world.wire)
    assert world.reaches(rack.h1, h7)
    assert knows(rack.h1, h7) == {h7.mac}
    assert world.ip_packets(since) == []


def test_a_silent_guest_that_moves_takes_its_gleaned_address_along(rack: Rack) -> None:
    """The announcement of its arrival names no address; the leaf knows which the MAC has."""
    world = rack.world
    h7 = world.guest("H7", "1.1.1.7", "A", listed=False)
    assert world.reaches(rack.h6, h7)
    staged = world.stage(h7, "B", listed=False)  # Without listing its address there either.
    world.activate(h7, "B", staged)
    world.detach(h7, "A")
    world.run()
    assert world.reaches(rack.h6, h7)
    assert world.vswitches["A"].counts[Reason.UPLINK_MISS] == 0


def test_nobody_has_the_address(rack: Rack) -> None:
    """Three questions to every host, then the sender is told; for a while nobody is asked again."""
    world = rack.world
    nobody = rack.h3
    world.detach(nobody, "B")
    world.leaf.slowpath.routes.withdraw(world.topology.segments[0], nobody.mac, world.vteps["B"])
    since = len(world.wire)
    assert not world.reaches(rack.h6, nobody)
    world.advance(3.0)
    assert rack.h6.errors == [(world.family.unreachable, nobody.address)]
    asked = [c for c in world.wire[since:] if c.source == LEAF and c.is_discovery(world.family)]
    assert [c.vtep for c in asked] == [*world.vteps.values()] * 3
    since = len(world.wire)
    assert not world.reaches(rack.h6, nobody)
    assert rack.h6.errors == [(world.family.unreachable, nobody.address)] * 2
    assert len(world.wire) - since == 2


# Guests that leave without a word.


def test_a_guest_that_vanishes_is_found_out_and_its_senders_are_told(family: Family) -> None:
    rack = Rack(timers=Timers(confirm_after=30.0, probe_interval=1.0, probes=3), family=family)
    rack.settle()
    world, h3 = rack.world, rack.h3
    world.detach(h3, "B")
    misses = world.vswitches["B"].counts[Reason.UPLINK_MISS]
    assert not world.reaches(rack.h6, h3)
    assert not world.reaches(rack.h1, h3)
    assert world.vswitches["B"].counts[Reason.UPLINK_MISS] > misses
    world.advance(40.0)
    assert world.leaf.slowpath.bindings.get(RED, h3.address) is None
    assert world.leaf.slowpath.routes.counts[Outcome.EXPIRED] == len(FAMILIES)
    assert world.leaf.slowpath.routes.counts[Outcome.WITHDRAWN] == 0
    others = len(world.leaf.slowpath.bindings)
    assert others == 5 * len(FAMILIES), "they have answered their probes"
    for sender in (rack.h6, rack.h1):
        assert not world.reaches(sender, h3)
    world.advance(3.0)
    assert rack.h6.errors == rack.h1.errors == [(world.family.unreachable, h3.address)]
    # It comes back elsewhere, and all is well at once.
    staged = world.stage(h3, "A")
    world.activate(h3, "A", staged)
    world.run()
    assert rack.talk() == []


def test_a_guest_that_has_crashed_behind_its_port_is_found_out_too(family: Family) -> None:
    rack = Rack(timers=Timers(confirm_after=30.0, probe_interval=1.0, probes=3), family=family)
    rack.settle()
    rack.h3.machine.silent = True
    rack.world.advance(40.0)
    assert rack.world.leaf.slowpath.bindings.get(RED, rack.h3.address) is None
    assert len(rack.world.leaf.slowpath.bindings) == 5 * len(FAMILIES)


def test_a_port_that_vanishes_under_the_vswitch(rack: Rack) -> None:
    world, h1 = rack.world, rack.h1
    h1.port.gone = True
    assert not world.reaches(rack.h2, h1)
    assert world.vswitches["A"].events["ports_gone"] == 1
    assert [pair for pair in rack.talk() if "H1" not in pair] == []


# News that comes late.


@pytest.mark.parametrize("sequence", [None, 0, 50])
def test_a_late_withdrawal_of_the_old_place_does_not_delete(
    rack: Rack, sequence: int | None
) -> None:
    world, h1 = rack.world, rack.h1
    world.move(h1, "B")
    news = world.leaf.slowpath.routes.withdraw(
        world.topology.segments[0], h1.mac, world.vteps["A"], sequence
    )
    assert news.outcome is Outcome.STALE
    assert rack.talk() == []
    assert world.leaf.slowpath.asker.counts[GleanOutcome.ASKED] == 0


def test_late_news_of_the_old_place_with_its_sequence_does_not_draw_traffic_back(
    rack: Rack,
) -> None:
    world, h1 = rack.world, rack.h1
    segment = world.topology.segments[0]
    slowpath = world.leaf.slowpath
    slowpath.discovery.learn(segment, h1.address, h1.mac, world.vteps["A"], world.now, sequence=7)
    world.move(h1, "B")
    slowpath.discovery.learn(segment, h1.address, h1.mac, world.vteps["A"], world.now, sequence=7)
    assert slowpath.routes.counts[Outcome.STALE] == 1
    assert rack.talk() == []


# Loops.


@pytest.mark.parametrize("miss", ["rewrite", "flood", "drop"])
def test_a_miss_from_the_uplink_never_goes_back_up(miss: str, family: Family) -> None:
    """Whatever the leaf believes wrongly, a frame crosses to a vswitch once and ends there."""
    rack = Rack(miss=miss, family=family)
    rack.settle()
    world = rack.world
    stale = rack.h1.mac
    world.detach(rack.h1, "A")
    since = len(world.wire)
    packet = family.ethertype + datagram(rack.h3.address, rack.h1.address, 4000, 5000, b"payload")
    frames = [
        stale + SHARED_MAC + packet,
        SHARED_MAC + rack.h3.mac + packet,
        OTHER_SHARED_MAC + SHARED_MAC + packet,
        family.question(SHARED_MAC, rack.h1.gateway, rack.h1.address, stale),
    ]
    leaf = world.leaf.tunnel
    for frame in frames:
        assert leaf.send(world.vteps["A"], 0, vxlan(RED, frame))
    world.run()
    assert len(world.wire) - since == len(frames)
    assert world.vswitches["A"].counts[Reason.UPLINK_MISS] == len(frames)


def test_a_leaf_that_believes_wrongly_makes_no_ping_pong(rack: Rack) -> None:
    """Both ends of a flow were bound to hosts on which they are not."""
    world = rack.world
    segment = world.topology.segments[0]
    slowpath = world.leaf.slowpath
    for guest, wrong in ((rack.h1, "B"), (rack.h3, "A")):
        slowpath.discovery.learn(segment, guest.address, guest.mac, world.vteps[wrong], world.now)
    since = len(world.wire)
    assert not world.reaches(rack.h1, rack.h3)
    assert len(world.ip_packets(since)) == 2
    # The guests' next word of their own puts it right.
    rack.h1.announce()
    rack.h3.announce()
    world.run()
    assert rack.talk() == []


def test_a_broadcast_of_a_guest_goes_to_no_other_host(rack: Rack) -> None:
    world = rack.world
    since = len(world.wire)
    rack.h1.port.emit(udp(b"\xff" * 6, rack.h1.mac, "1.1.1.1", "255.255.255.255"))
    world.run()
    assert [(c.source, c.vtep) for c in world.wire[since:]] == [(world.vteps["A"], LEAF)]
    assert world.leaf.counts[LeafReason.MULTICAST_DROPPED] == 1


def test_a_duplicate_address_is_detected_across_hosts(rack: Rack) -> None:
    """A newcomer at B probes for H2's address before it uses it (RFC 5227, RFC 4862)."""
    world = rack.world
    newcomer = world.guest("N", "1.1.1.2", "B", listed=False)
    newcomer.probe()
    world.run()
    assert newcomer.conflicts == [SHARED_MAC]
    binding = world.leaf.slowpath.bindings.get(RED, newcomer.address)
    assert binding is not None and binding.mac == rack.h2.mac
    assert rack.talk() == []


@pytest.mark.parametrize("moves", ["", "B", "BA"])
def test_a_guests_own_address_is_no_duplicate_wherever_it_is(rack: Rack, moves: str) -> None:
    """It has moved, and then boots and probes, as it does before it uses its address."""
    for host in moves:
        rack.world.move(rack.h1, host)
    for half in (rack.h1, rack.h1.other):
        half.probe()
        rack.world.advance(2.0)
        assert half.conflicts == []
    assert rack.talk() == []
