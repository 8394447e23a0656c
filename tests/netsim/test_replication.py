"""Groups at the leaf, and vswitches that cannot be reached: what goes out, and what is counted."""

from __future__ import annotations

from leaf.router import Reason
from tests.frames import BROADCAST, MULTICAST, arp, udp
from tests.netsim.scenario import Rack
from tests.netsim.world import LEAF

NEWS = udp(MULTICAST, b"\x02\0\0\0\0\x01", "1.1.1.1", "224.0.0.251", payload=b"news")


def test_a_replicating_segment_sends_one_copy_to_each_other_vswitch_with_guests() -> None:
    rack = Rack("ABC", multicast="replicate")
    world = rack.world
    assert rack.h1.mac == NEWS[6:12]
    since = len(world.wire)
    rack.h1.port.emit(NEWS)
    world.run()
    up, *down = world.wire[since:]
    assert (up.source, up.vtep) == (world.vteps["A"], LEAF)
    # C has no guest of this segment.
    assert [(c.source, c.vtep) for c in down] == [(LEAF, world.vteps["B"])]
    # As it came: a group frame is bridged and not routed, so its TTL stays too.
    assert {c.packet for c in down} == {up.packet}
    assert world.leaf.counts[Reason.MULTICAST_REPLICATED] == 1


def test_arp_is_not_replicated_even_so() -> None:
    rack = Rack("ABC", multicast="replicate")
    since = len(rack.world.wire)
    rack.h1.port.emit(arp(BROADCAST, rack.h1.mac, "1.1.1.1", "1.1.1.2"))
    rack.world.run()
    assert [c.source for c in rack.world.wire[since:]] == [rack.world.vteps["A"]]


def test_a_vswitch_that_cannot_be_reached_is_counted_and_hurts_nobody_else() -> None:
    rack = Rack("ABC", multicast="replicate")
    rack.settle()
    world = rack.world
    del world.network.tunnels[world.vteps["B"]]
    failed = world.leaf.send_failed
    assert not world.reaches(rack.h1, rack.h3)
    assert world.leaf.send_failed == failed + 1
    rack.h1.port.emit(NEWS)
    world.run()
    assert world.leaf.send_failed == failed + 2
    assert world.leaf.tunnel.faults["refused"] == 2
    # The leaf's own questions fail alike.
    rack.h1.ask(bytes((1, 1, 1, 99)))
    world.run()
    assert world.leaf.send_failed == failed + 3
    assert world.reaches(rack.h1, rack.h2) and world.reaches(rack.h1, rack.h5)
