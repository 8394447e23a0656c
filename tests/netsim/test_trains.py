"""A train at the leaf: decided once, edited in place, and the same as its packets one by one."""

from __future__ import annotations

from leaf.router import Reason
from tests.frames import SHARED_MAC, arp, ip, vxlan
from tests.netsim.scenario import Rack
from tests.netsim.world import LEAF, RED
from tests.unit.test_router_rewrite import naive


def packets(rack: Rack, *ttls: int) -> list[bytes]:
    """Packets from H1 to H3, as long as each other but for the last."""
    lengths = [100] * (len(ttls) - 1) + [37]
    return [
        vxlan(
            RED,
            ip(
                SHARED_MAC,
                rack.h1.mac,
                "1.1.1.1",
                "1.1.1.3",
                ttl=ttl,
                payload=bytes([at]) * length,
            ),
        )
        for at, (ttl, length) in enumerate(zip(ttls, lengths, strict=True))
    ]


def test_a_train_leaves_as_its_packets_would_one_by_one() -> None:
    rack = Rack()
    world = rack.world
    rows = packets(rack, 64, 64, 64, 64)
    since = len(world.wire)
    tunnel = world.vswitches["A"].tunnel
    for row in rows:
        tunnel.send(LEAF, 0, row)
    world.run()
    one_by_one = [c.packet for c in world.wire[since:] if c.source == LEAF]
    since = len(world.wire)
    tunnel.send_train(LEAF, 0, b"".join(rows), len(rows[0]))
    world.run()
    (whole,) = [c.packet for c in world.wire[since:] if c.source == LEAF]
    assert whole == b"".join(one_by_one)
    assert world.leaf.counts[Reason.ROUTED] == 2 * len(rows)


def test_every_packet_of_a_train_is_punted_by_itself() -> None:
    rack = Rack()
    world = rack.world
    question = vxlan(RED, arp(SHARED_MAC, rack.h1.mac, "1.1.1.1", "1.1.1.3"))
    since = len(world.wire)
    world.vswitches["A"].tunnel.send_train(LEAF, 0, question * 3, len(question))
    world.run()
    assert len([c for c in world.wire[since:] if c.source == LEAF]) == 3


def test_a_train_whose_packets_differ_in_ttl_ends_nothing() -> None:
    """A train has one flow, which does not say one TTL: a guest writes there what it likes."""
    rack = Rack()
    world = rack.world
    rows = packets(rack, 64, 0, 1, 64)
    since = len(world.wire)
    world.vswitches["A"].tunnel.send_train(LEAF, 0, b"".join(rows), len(rows[0]))
    world.run()
    sent = [c.packet for c in world.wire[since:] if c.source == LEAF]
    went_on = [packet[22:42] for packet in sent if packet[31] == 17]
    assert [header[8] for header in went_on] == [63, 63], "a packet that was used up went on"
    for header in went_on:
        assert naive(header) == 0
    assert rack.talk() == []
