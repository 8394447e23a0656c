"""What can be fuzzed: each target is made once, and then called with bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.netsim.test_scale import vswitch_with
from tests.unit.leaf_world import ONE, TWO, A, World
from tests.unit.relay_world import SERVER, SERVER6, RelayWorld
from vswitch.phy.port import PortId
from vswitch.wire import flows, ipv6, nd, pmtu, vxlan
from vswitch.wire.ethernet import Mac
from vswitch.wire.offload import Coalescer, Segmenter

Target = Callable[[bytes], None]


def leaf() -> Target:
    """The router's decision, and the slow path behind it: nothing may be raised out of either."""
    world = World(ipv6=True)
    now = [0.0]

    def failed(error: Exception) -> None:
        raise error

    world.slowpath._on_failure = failed

    def one(data: bytes) -> None:
        now[0] += 1.0  # Otherwise the policers would soon let nothing through.
        vni = TWO if data[:1] > b"\x7f" else ONE
        packet = memoryview(bytearray(vxlan.header(vni) + data[1:]))
        verdict = world.router.decide(A, packet)
        world.slowpath.handle(verdict, A, packet, now[0])
        world.slowpath.tick(now[0])

    return one


def relay() -> Target:
    """What comes to a relay: from guests, and from servers."""
    world = RelayWorld()
    now = [0.0]

    def failed(error: Exception) -> None:
        raise error

    world.slowpath._on_failure = failed

    def one(data: bytes) -> None:
        now[0] += 1.0
        if data[:1] > b"\x7f":
            world.punt(A, vxlan.header(ONE) + data[1:], now[0])
            world.slowpath.relayer.outbox.clear()
        else:
            world.tell(data[1:], now[0], server=SERVER if data[:1] > b"\x3f" else SERVER6)
        world.slowpath.tick(now[0])

    return one


def vswitch() -> Target:
    """The switch's decision, both ways, and what the spoof guard reads."""
    engine, _ = vswitch_with(2)

    def one(data: bytes) -> None:
        frame = bytearray(data)
        frame[6:12] = b"\x02\x00\x00\x00\x00\x01"  # Else hardly any comes past the first rule.
        engine.switch.decide(PortId(1), memoryview(frame))
        engine.switch.decide_uplink(vxlan.Vtep("192.0.2.1"), data)

    return one


def formats() -> Target:
    """The readers of single formats."""

    def one(data: bytes) -> None:
        frame = data.ljust(14, b"\0")
        nd.parse(frame)
        nd.claims(frame)
        nd.is_sound_router_solicitation(frame)
        pmtu.answer(frame, Mac(bytes(6)), 1350, ())
        pmtu.fragments(frame, 1350)
        if ipv6.is_sound(frame[14:]):
            ipv6.upper_layer(frame[14:])

    return one


def offload() -> Target:
    """Cutting super-frames and joining trains, with headers that contradict the frames."""
    slot = np.zeros(1 << 17, dtype=np.uint8)
    segmenter, coalescer = Segmenter(), Coalescer()

    def one(data: bytes) -> None:
        header, body = data[:10].ljust(10, b"\0"), data[10:].ljust(60, b"\0")
        segmenter.segment(memoryview(bytearray(vxlan.header(ONE) + body)), header)
        size = max(1, int.from_bytes(header[:2], "big") % len(body))
        slot.data[: len(body)] = body
        for start, length in flows.trains(slot, len(body), size):
            coalescer.coalesce(slot, start, length, min(size, length))

    return one


TARGETS: dict[str, Callable[[], Target]] = {
    "leaf": leaf,
    "relay": relay,
    "vswitch": vswitch,
    "formats": formats,
    "offload": offload,
}
