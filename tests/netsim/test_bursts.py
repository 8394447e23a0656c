"""A burst of datagrams with open checksums, which crosses the underlay as one super-frame."""

from __future__ import annotations

import pytest

from tests.netsim.families import Family
from tests.netsim.scenario import Rack
from tests.netsim.world import LEAF
from vswitch.phy.port import BUDGET
from vswitch.switch import Reason


@pytest.mark.parametrize("is_routed", [False, True], ids=["bridged", "routed"])
def test_a_burst_of_datagrams_arrives_as_it_was_sent(family: Family, is_routed: bool) -> None:
    rack = Rack(family=family, hop_neutral=True)
    rack.settle()
    world, peer = rack.world, rack.h6 if is_routed else rack.h3
    far = world.vswitches["B"].counts
    at_leaf, at_far = sum(world.leaf.counts.values()), far[Reason.UPLINK_LOCAL]
    since = len(world.wire)
    peer.pongs.clear()

    payloads = [bytes([number]) * 99 for number in range(BUDGET)]
    rack.h1.burst(peer, payloads)
    world.run()

    assert peer.pongs == payloads
    assert world.astray() == []
    ways = [(crossing.source, crossing.vtep) for crossing in world.wire[since:]]
    assert ways == [(world.vteps["A"], LEAF), (LEAF, world.vteps["B"])]
    hops_at = 8 + (22 if len(peer.address) == 4 else 21)
    assert world.wire[-1].packet[hops_at] == (63 if is_routed else 64)
    assert all(len(crossing.packet) > BUDGET * 99 for crossing in world.wire[since:])
    assert sum(world.leaf.counts.values()) == at_leaf + BUDGET
    assert far[Reason.UPLINK_LOCAL] == at_far + BUDGET
