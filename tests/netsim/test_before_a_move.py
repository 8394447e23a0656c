"""A rack at rest: who is reached how, and what each guest then believes of the others."""

from __future__ import annotations

import pytest

from leaf.neighbour import Reason as AnswerReason
from leaf.router import Reason as LeafReason
from tests.frames import SHARED_MAC
from tests.netsim.families import Family
from tests.netsim.scenario import Rack, knows
from tests.netsim.world import LEAF
from vswitch.switch import Reason


@pytest.fixture
def rack(family: Family) -> Rack:
    return Rack(family=family)


def test_the_leaf_knows_everybody_before_anybody_has_spoken(rack: Rack) -> None:
    """From the vswitches' announcements alone: the guests' caches are still empty."""
    assert rack.world.bound() == rack.world.places()
    assert not any(rack.caches().values())


def test_local_guests_talk_by_their_true_macs_and_not_by_the_leaf(rack: Rack) -> None:
    assert rack.world.reaches(rack.h1, rack.h2)
    assert knows(rack.h1, rack.h2) == {rack.h2.mac}
    assert knows(rack.h2, rack.h1) == {rack.h1.mac}
    assert rack.world.ip_packets() == []
    assert rack.world.vswitches["A"].counts[Reason.LOCAL] >= 2
    assert rack.world.family.counts(rack.world.leaf.slowpath)[AnswerReason.SAME_VTEP] == 1


def test_remote_guests_talk_by_the_shared_mac_through_the_leaf(rack: Rack) -> None:
    """The question crosses to the leaf and stops there: the other host never hears it."""
    since = len(rack.world.wire)
    assert rack.world.reaches(rack.h1, rack.h3)
    assert knows(rack.h1, rack.h3) == knows(rack.h3, rack.h1) == {SHARED_MAC}
    crossings = rack.world.ip_packets(since)
    a, b = rack.world.vteps["A"], rack.world.vteps["B"]
    assert [(c.source, c.vtep) for c in crossings] == [(a, LEAF), (LEAF, b), (b, LEAF), (LEAF, a)]
    assert rack.world.leaf.counts[LeafReason.ROUTED] == 2
    assert rack.h1.address not in rack.h4.cache
    for crossing in rack.world.wire[since:]:
        if crossing.source == LEAF:
            assert not crossing.packet[8] & 1


def test_between_subnets_only_the_gateway_is_known(rack: Rack) -> None:
    assert rack.world.reaches(rack.h1, rack.h5)
    assert rack.world.reaches(rack.h1, rack.h6)
    assert rack.h1.cache == {rack.h1.gateway: SHARED_MAC}
    assert rack.h5.cache == rack.h6.cache == {rack.h5.gateway: SHARED_MAC}
    assert rack.h5.ttls == rack.h6.ttls == [63]


def test_everybody_reaches_everybody_and_nobody_sees_what_is_not_for_it(rack: Rack) -> None:
    assert rack.talk() == []
    assert rack.world.astray() == []
    for host, here, elsewhere in (
        ("A", (rack.h1, rack.h2), (rack.h3, rack.h4)),
        ("B", (rack.h3, rack.h4), (rack.h1, rack.h2)),
    ):
        for guest in here:
            others = [other for other in here if other is not guest]
            assert knows(guest, *others) == {other.mac for other in others}
            assert knows(guest, *elsewhere) == {SHARED_MAC}
        assert rack.world.vswitches[host].counts[Reason.UPLINK_MISS] == 0
        assert rack.world.vswitches[host].counts[Reason.MISS_REWRITTEN] == 0


def test_a_routed_hop_is_counted_and_a_local_one_is_not(rack: Rack) -> None:
    for peer, ttl in ((rack.h2, 64), (rack.h3, 63), (rack.h5, 63)):
        assert rack.world.reaches(rack.h1, peer)
        assert peer.ttls == [ttl]


def test_hop_neutral_means_that_a_subnet_is_one_hop_wherever_its_guests_are(
    family: Family,
) -> None:
    rack = Rack(hop_neutral=True, family=family)
    for peer, ttl in ((rack.h2, 64), (rack.h3, 64), (rack.h5, 63)):
        assert rack.world.reaches(rack.h1, peer)
        assert peer.ttls == [ttl]


def test_the_gateway_answers_a_ping_of_ttl_one_that_is_to_go_on(rack: Rack) -> None:
    assert not rack.world.reaches(rack.h1, rack.h5, ttl=1)
    assert rack.h1.errors == [(rack.world.family.expired, rack.h5.address)]
    assert rack.h5.ttls == []


def test_an_announcement_stays_on_its_host(rack: Rack) -> None:
    rack.settle()
    before = rack.caches()
    since = len(rack.world.wire)
    rack.h1.announce()
    rack.world.run()
    assert [(c.source, c.vtep) for c in rack.world.wire[since:]] == [(rack.world.vteps["A"], LEAF)]
    assert rack.caches() == before


def test_a_host_that_pings_itself_into_a_corner_stops(rack: Rack) -> None:
    """Nothing of the leaf's own questions makes vswitches and leaf talk for ever."""
    rack.settle()
    since = len(rack.world.wire)
    rack.world.advance(30.0)
    assert rack.world.wire[since:] == []
