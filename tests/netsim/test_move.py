"""H1 moves from A to B while everybody keeps using what they knew before. Nothing is lost.

This is what the whole is for: no guest is asked to do anything, no frame is flooded, and caches
heal one by one, whenever a guest happens to confirm an entry.
"""

from __future__ import annotations

import pytest

from leaf.neighbour import Reason as AnswerReason
from leaf.router import Reason as LeafReason
from tests.frames import OTHER_SHARED_MAC, SHARED_MAC
from tests.netsim.families import Family
from tests.netsim.scenario import Rack, knows
from tests.netsim.world import LEAF
from vswitch.switch import Reason


@pytest.fixture
def rack(family: Family) -> Rack:
    made = Rack(family=family)
    made.settle()
    return made


def test_nothing_is_lost_at_any_step_of_a_move(rack: Rack) -> None:
    world, h1 = rack.world, rack.h1
    before = rack.caches()
    staged = world.stage(h1, "B")
    world.run()
    assert rack.talk() == []
    world.activate(h1, "B", staged)
    world.detach(h1, "A")
    world.place["H1"] = "B"
    world.run()
    assert rack.talk() == []
    assert rack.caches() == before, "the caches were stale all the time"
    world.advance(2.0)
    assert rack.talk() == []
    assert world.astray() == []
    for vswitch in world.vswitches.values():
        assert vswitch.counts[Reason.UPLINK_MISS] == 0


def test_a_staged_guest_gets_nothing_and_the_leaf_hears_nothing(rack: Rack) -> None:
    since = len(rack.world.wire)
    staged = rack.world.stage(rack.h1, "B")
    rack.world.advance(5.0)
    assert rack.world.wire[since:] == []
    rack.talk()
    assert not staged.received


def test_frames_with_a_stale_mac_are_rewritten_at_the_senders_host(rack: Rack) -> None:
    world, h1, h2 = rack.world, rack.h1, rack.h2
    world.move(h1, "B")
    a, b = world.vswitches["A"].counts, world.vswitches["B"].counts

    since = len(world.wire)
    h2.ping(h1)
    assert knows(h2, h1) == {h1.mac}
    before = a[Reason.MISS_REWRITTEN], b[Reason.MISS_REWRITTEN]
    world.run()
    # H2's ping is rewritten at A, H1's pong at B: both caches still name a former neighbour.
    assert knows(h1, h2) == {h2.mac}
    assert (a[Reason.MISS_REWRITTEN], b[Reason.MISS_REWRITTEN]) == (before[0] + 1, before[1] + 1)
    first, second, third, fourth = world.ip_packets(since)
    assert (first.source, first.vtep) == (world.vteps["A"], LEAF)
    assert (first.packet[8:14], first.packet[14:20]) == (SHARED_MAC, h2.mac)
    assert (second.source, second.vtep) == (LEAF, world.vteps["B"])
    assert (second.packet[8:14], second.packet[14:20]) == (h1.mac, SHARED_MAC)
    assert (third.source, fourth.vtep) == (world.vteps["B"], world.vteps["A"])


def test_a_confirmation_heals_a_stale_entry_in_one_round_trip(rack: Rack) -> None:
    world, h1, h2 = rack.world, rack.h1, rack.h2
    world.move(h1, "B")
    h2.confirm(h1)
    world.run()
    assert knows(h2, h1) == {SHARED_MAC}
    assert world.family.counts(world.leaf.slowpath)[AnswerReason.HEALED] == 1
    rewritten = world.vswitches["A"].counts[Reason.MISS_REWRITTEN]
    gateway = world.vswitches["A"].counts[Reason.GATEWAY]
    assert world.reaches(h2, h1)
    assert world.vswitches["A"].counts[Reason.MISS_REWRITTEN] == rewritten
    assert world.vswitches["A"].counts[Reason.GATEWAY] == gateway + 1


def test_new_neighbours_go_by_the_leaf_until_they_ask_and_then_directly(rack: Rack) -> None:
    """The question by unicast is met with silence, so that the guest asks by broadcast instead."""
    world, h1, h4 = rack.world, rack.h1, rack.h4
    world.move(h1, "B")
    assert knows(h1, h4) == {SHARED_MAC}
    since = len(world.wire)
    assert world.reaches(h1, h4)
    b = world.vteps["B"]
    assert [(c.source, c.vtep) for c in world.ip_packets(since)] == [(b, LEAF), (LEAF, b)] * 2

    h1.confirm(h4)
    world.run()
    assert knows(h1, h4) == {SHARED_MAC}
    assert world.family.counts(world.leaf.slowpath)[AnswerReason.HEALED] == 0
    h1.ask(h4.address)
    world.run()
    assert knows(h1, h4) == {h4.mac}
    # H4 has heard the question, and so corrected its own entry.
    assert knows(h4, h1) == {h1.mac}
    since = len(world.wire)
    assert world.reaches(h1, h4)
    assert world.reaches(h4, h1)
    assert world.ip_packets(since) == []


def test_an_announcement_of_the_moved_guest_heals_its_new_neighbours(rack: Rack) -> None:
    world, h1 = rack.world, rack.h1
    world.move(h1, "B")
    h1.announce()
    world.run()
    assert knows(rack.h3, h1) == knows(rack.h4, h1) == {h1.mac}
    assert knows(rack.h2, h1) == {h1.mac}, "stale, and yet the same MAC: it was never different"
    assert rack.talk() == []


def test_there_and_back_again(rack: Rack) -> None:
    for host in "BABAB":
        rack.world.move(rack.h1, host)
        assert rack.talk() == []
    assert rack.world.astray() == []


def test_a_guests_first_own_frame_activates_it(rack: Rack) -> None:
    """No orchestrator says a word: the guest that was stopped at A goes on at B by sending."""
    world, h1 = rack.world, rack.h1
    h1.machine.port = world.stage(h1, "B")
    h1.port.park(False)
    world.detach(h1, "A")
    world.place["H1"] = "B"
    assert world.reaches(h1, rack.h2)
    assert rack.talk() == []


def test_hop_neutral_flows_survive_with_a_ttl_of_one(family: Family) -> None:
    """GTSM and BFD talk with a neighbour; after a move it is still one, seen from the guests."""
    neutral, plain = Rack(hop_neutral=True, family=family), Rack(family=family)
    for rack, survives in ((neutral, True), (plain, False)):
        rack.settle()
        assert rack.world.reaches(rack.h1, rack.h2, ttl=1)
        rack.world.move(rack.h1, "B")
        assert rack.world.reaches(rack.h1, rack.h2, ttl=1) == survives
        assert rack.world.reaches(rack.h2, rack.h1, ttl=1) == survives
    assert plain.h1.errors == [(family.expired, plain.h2.address)]


def test_a_move_between_groups_with_another_shared_mac(family: Family) -> None:
    """At C even the gateway's MAC in H1's cache is a stale one, and so it is rewritten as well."""
    rack = Rack("ABC", second_group="C", family=family)
    rack.settle()
    world, h1 = rack.world, rack.h1
    world.move(h1, "C")
    before = rack.caches()
    assert rack.talk() == []
    assert rack.caches() == before
    assert SHARED_MAC in h1.cache.values()
    assert world.vswitches["C"].counts[Reason.MISS_REWRITTEN] > 0
    for peer in (h1.gateway, rack.h3.address):
        h1.ask(peer, SHARED_MAC)
        world.run()
        assert h1.cache[peer] == OTHER_SHARED_MAC
    assert rack.talk() == []
    assert world.astray() == []


# What others do with a miss.


def test_drop_loses_the_flow_and_shows_what_rewriting_is_for(family: Family) -> None:
    rack = Rack(miss="drop", family=family)
    rack.settle()
    world, h1, h2 = rack.world, rack.h1, rack.h2
    world.move(h1, "B")
    assert not world.reaches(h2, h1)
    assert not world.reaches(h1, h2)
    assert world.vswitches["A"].counts[Reason.MISS_DROPPED] == 1
    # Whoever went by the gateway before is not hurt.
    assert world.reaches(rack.h3, h1) and world.reaches(rack.h5, h1)


def test_flood_shows_the_flow_to_bystanders_and_still_loses_it(family: Family) -> None:
    rack = Rack(miss="flood", family=family)
    rack.settle()
    world, h1, h2 = rack.world, rack.h1, rack.h2
    world.move(h1, "B")
    assert not world.reaches(h1, h2)
    astray = rack.h3.machine.astray + rack.h4.machine.astray
    assert astray and all(frame[:6] == h2.mac and frame[6:12] == h1.mac for frame in astray)
    # The leaf does not flood: to a plain fabric, a MAC that it has not learnt is a foreign one.
    assert world.leaf.counts[LeafReason.FOREIGN_MAC] > 0


# Moves of several guests.


def test_two_guests_swap_their_hosts_at_the_same_time(rack: Rack) -> None:
    world, h2, h3 = rack.world, rack.h2, rack.h3
    ports = [world.stage(h2, "B"), world.stage(h3, "A")]
    world.run()
    world.activate(h2, "B", ports[0])
    world.activate(h3, "A", ports[1])
    world.detach(h2, "A")
    world.detach(h3, "B")
    world.place |= {"H2": "B", "H3": "A"}
    world.run()
    assert rack.talk() == []
    world.advance(2.0)
    assert rack.talk() == []
    assert world.astray() == []


def test_all_guests_of_a_host_leave_it(rack: Rack) -> None:
    for guest in (rack.h1, rack.h2, rack.h5):
        rack.world.move(guest, "B")
        assert rack.talk() == []
    since = len(rack.world.wire)
    assert rack.talk() == []
    assert not [c for c in rack.world.wire[since:] if rack.world.vteps["A"] in c[:2]]
