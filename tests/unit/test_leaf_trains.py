"""What the leaf's engine does with packets that the kernel has received as one."""

from __future__ import annotations

import pytest

from leaf.engine import Engine
from leaf.router import Reason
from tests.frames import udp, vxlan
from tests.unit.engine_world import Clock
from tests.unit.leaf_world import (
    DEFAULT_LIMITS,
    DEFAULT_TIMERS,
    H1,
    H3,
    ONE,
    SHARED,
    A,
    B,
    topology,
)
from vswitch.phy.memory import MemoryNetwork
from vswitch.wire.vxlan import Vtep

LEAF = Vtep("192.0.2.1")


@pytest.mark.parametrize("at", [24, 32], ids=["total_length", "checksum"])
@pytest.mark.parametrize("where", [0, 1, 4, 7])
def test_a_damaged_packet_is_refused_wherever_it_stands_and_its_neighbours_are_not(
    where: int, at: int
) -> None:
    network = MemoryNetwork()
    host, other = network.tunnel(A), network.tunnel(B)
    engine = Engine(
        topology(),
        network.tunnel(LEAF),
        Clock(),
        timers=DEFAULT_TIMERS,
        limits=DEFAULT_LIMITS,
        max_bindings=10,
    )
    for guest in (H1, H3):
        segment = engine.router.segment(guest.segment)
        assert segment is not None
        engine.slowpath.discovery.learn(segment, guest.address, guest.mac, guest.vtep, 0.0)
    packets = [
        bytearray(
            vxlan(ONE, udp(SHARED[A], H1.mac, src_ip=H1.ip, dst_ip=H3.ip, payload=bytes([n]) * 50))
        )
        for n in range(8)
    ]
    packets[where][at : at + 2] = b"\xff\xf0"
    host.send_train(LEAF, 0, b"".join(packets), len(packets[0]))
    engine.pump_tunnel()
    arrived = [
        train[start + 50]
        for _, train, size, _ in other.incoming
        for start in range(0, len(train), size)
    ]
    assert arrived == [n for n in range(8) if n != where]
    assert engine.counts[Reason.BAD_IP_HEADER] == 1
    assert engine.counts[Reason.ROUTED] == 7
