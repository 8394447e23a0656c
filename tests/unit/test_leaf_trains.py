"""What the leaf's engine does with packets that the kernel has received as one."""

from __future__ import annotations

from typing import Any

import pytest

from leaf.engine import Engine
from leaf.gate import Entry, Gate
from leaf.limits import Limits
from leaf.punt import Send
from leaf.router import Reason
from tests.frames import udp, vxlan
from tests.unit.engine_world import Clock
from tests.unit.leaf_world import (
    DEFAULT_LIMITS,
    DEFAULT_TIMERS,
    GATEWAY,
    H1,
    H3,
    ONE,
    SHARED,
    A,
    B,
    topology,
)
from vswitch.phy.memory import MemoryNetwork
from vswitch.phy.port import BUDGET
from vswitch.wire import vnet
from vswitch.wire.segmenter import Segmenter
from vswitch.wire.vxlan import Vtep

LEAF = Vtep("192.0.2.1")


class Rack:
    """A leaf with two vswitches, of which the test is both."""

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        network = MemoryNetwork()
        self.host, self.other = network.tunnel(A), network.tunnel(B)
        self.clock = Clock()
        self.engine = Engine(
            topology(),
            network.tunnel(LEAF),
            self.clock,
            timers=DEFAULT_TIMERS,
            limits=limits,
            max_bindings=10,
        )
        for guest in (H1, H3):
            segment = self.engine.router.segment(guest.segment)
            assert segment is not None
            learn = self.engine.slowpath.discovery.learn
            learn(segment, guest.address, guest.mac, guest.vtep, 0.0)


def datagrams(count: int, target: str) -> list[bytearray]:
    """What H1 sends by its gateway."""
    return [
        bytearray(
            vxlan(ONE, udp(SHARED[A], H1.mac, src_ip=H1.ip, dst_ip=target, payload=bytes([n]) * 50))
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("at", [24, 32], ids=["total_length", "checksum"])
@pytest.mark.parametrize("where", [0, 1, 4, 7])
def test_a_damaged_packet_is_refused_wherever_it_stands_and_its_neighbours_are_not(
    where: int, at: int
) -> None:
    rack, packets = Rack(), datagrams(8, H3.ip)
    packets[where][at : at + 2] = b"\xff\xf0"
    rack.host.send_train(LEAF, 0, b"".join(packets), len(packets[0]))
    rack.engine.pump_tunnel()
    arrived = [
        train[start + 50]
        for _, train, size, _ in rack.other.incoming
        for start in range(0, len(train), size)
    ]
    assert arrived == [n for n in range(8) if n != where]
    assert rack.engine.counts[Reason.BAD_IP_HEADER] == 1
    assert rack.engine.counts[Reason.ROUTED] == 7


class Witness:
    """Counts what the slow path is asked about the packets of a leaf, and how often one is cut."""

    def __init__(self, rack: Rack, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = self.seen = self.cut = 0
        slowpath, enter, cut = rack.engine.slowpath, Gate.enter, Segmenter.segment
        handle = slowpath.handle

        def entering(gate: Gate, guest: Any, now: float) -> Entry:
            self.asked += gate is slowpath._others
            return enter(gate, guest, now)

        def handling(verdict: Any, source: Vtep, packets: Any, now: float) -> list[Send]:
            self.seen += len(packets)
            return handle(verdict, source, packets, now)

        def cutting(segmenter: Segmenter, packet: memoryview, header: Any, *room: int) -> Any:
            self.cut += 1
            return cut(segmenter, packet, header, *room)

        monkeypatch.setattr(Gate, "enter", entering)
        monkeypatch.setattr(slowpath, "handle", handling)
        monkeypatch.setattr(Segmenter, "segment", cutting)


LIMITS = {
    "guests_policed": DEFAULT_LIMITS._replace(guest_punts=10.0),
    "punts_policed": DEFAULT_LIMITS._replace(punts=10.0),
}


@pytest.mark.parametrize("whole", [False, True], ids=["train", "super_frame"])
@pytest.mark.parametrize("event", LIMITS)
def test_a_flood_of_trains_for_the_slow_path_costs_what_it_lets_in(
    event: str, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it does not is counted, packet by packet."""
    rack = Rack(LIMITS[event])
    witness = Witness(rack, monkeypatch)
    packets = datagrams(BUDGET, GATEWAY)
    size = len(packets[0])
    for _ in range(20):
        if whole:
            frame = udp(SHARED[A], H1.mac, src_ip=H1.ip, dst_ip=GATEWAY, payload=bytes(50 * BUDGET))
            header = vnet.HEADER.pack(1, vnet.GSO_UDP_L4, 42, 50, 34, 6)
            rack.host.send(LEAF, 0, vxlan(ONE, frame), header)
        else:
            rack.host.send_train(LEAF, 0, b"".join(packets), size)
        rack.engine.pump_tunnel()
    assert rack.engine.counts[Reason.GATEWAY] == 20 * BUDGET
    assert rack.engine.slowpath.events[event] == 20 * BUDGET - 10
    assert (witness.seen, witness.asked) == (10, 10 + 20)
    assert witness.cut == whole

    # And it is over when it is over.
    rack.clock.now += 0.1
    rack.host.send(LEAF, 0, packets[0])
    rack.engine.pump_tunnel()
    assert witness.seen == 11
