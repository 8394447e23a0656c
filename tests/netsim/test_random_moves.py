"""Fifty random moves among three hosts under constant traffic, some caches fresh and some stale."""

from __future__ import annotations

from random import Random

import pytest

from tests.netsim.scenario import Rack
from vswitch.switch import Reason

MOVES = 50


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_after_every_move_every_pair_can_talk(seed: int) -> None:
    chance = Random(seed)
    rack = Rack("ABC")
    rack.settle()
    world = rack.world
    for number in range(MOVES):
        guest = chance.choice(rack.guests)
        host = chance.choice([host for host in "ABC" if host != world.place[guest.name]])
        world.move(guest, host)
        assert rack.talk() == [], f"after move {number}, {guest.name} to {host}"
        for one in rack.guests:
            # Some guests confirm what they know, some ask anew, and some say that they are there.
            match chance.randrange(6):
                case 0:
                    peer = chance.choice([g for g in rack.guests if g.address in one.cache])
                    one.confirm(peer)
                case 1:
                    one.ask(chance.choice(sorted(one.cache)))
                case 2:
                    one.announce()
        world.advance(chance.choice((0.0, 0.01, 0.3, 2.0)))
    assert world.astray() == []
    for vswitch in world.vswitches.values():
        assert vswitch.counts[Reason.UPLINK_MISS] == 0
    bound = {b.address: b.vtep for b in world.leaf.slowpath.bindings.all()}
    assert bound == {g.address: world.vteps[world.place[g.name]] for g in rack.guests}
