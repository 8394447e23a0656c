"""What can be fuzzed: each target is made once, and then called with bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.frames import SHARED_MAC
from tests.fuzz import seeds
from tests.netsim.test_scale import vswitch_with
from tests.property.dhcp_world import CLIENTS, PLACES, DhcpWorld, frame4, frame6, packed
from tests.property.runs import is_gathered_right
from tests.unit.leaf_world import ONE, TWO, A
from tests.unit.relay_world import SERVER, SERVER6, RelayWorld
from vswitch.phy.port import PortId
from vswitch.wire import dhcp, dhcp6, flows, ipv6, nd, pmtu, udp, vxlan
from vswitch.wire.coalescer import Coalescer
from vswitch.wire.ethernet import Mac
from vswitch.wire.segmenter import Segmenter

Target = Callable[[bytes], None]


def leaf() -> Target:
    """The router's decision, and the slow path behind it: nothing may be raised out of either, and
    no promise of DHCP may break another.

    The first byte of an input says how the rest is to be taken: as a frame, or as a client's DHCP
    message of either family, which then gets headers with right lengths and checksums; from which
    client; and after how much time. A random change of a whole frame hardly ever keeps its
    checksums.
    """
    world = DhcpWorld()

    def one(data: bytes) -> None:
        how, rest = seeds.how(data)
        # Time always passes: otherwise the policers would soon let nothing through.
        world.wait(how.seconds)
        client, vtep = CLIENTS[how.client], PLACES[how.client % len(PLACES)]
        if how.form is seeds.Form.FRAME:
            packet = vxlan.header(TWO if how.client % 2 else ONE) + rest
        else:
            packet = packed(client, rest, how.form is seeds.Form.DHCP6)
        world.punt(vtep, packet)

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
        udp.destination_port(data)
        assert dhcp.is_for_server(data) in (True, False)
        _dhcp(data)
        # Once more without the outer layers, whose lengths and checksums few changes keep right.
        _dhcp(frame4(CLIENTS[0], data))
        _dhcp(frame6(CLIENTS[0], data))

    return one


def _dhcp(frame: bytes) -> None:
    """Read a frame as DHCP of either family; what is built as an answer must be readable."""
    asked, asked6 = dhcp.parse(frame), dhcp6.parse(frame)
    assert asked is None or asked6 is None
    server = Mac(SHARED_MAC)
    if asked is not None:
        answer = dhcp.reply(asked, dhcp.ACK, asked.ciaddr, bytes(4), server)
        said = udp.parse(answer)
        assert said is not None and dhcp.parse_payload(said.payload) is not None
    if asked6 is not None:
        said = udp.parse(dhcp6.reply(asked6, dhcp6.REPLY, CLIENTS[0], server, b""))
        assert said is not None and said.destination == asked6.source


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


def gather() -> Target:
    """Gathering a run: what is made of it must be cut into the same datagrams again.

    An input begins as `seeds.run` tells: how many datagrams there are, whether they are numbered in
    order, in which of them a byte is another one, and what stands beside each. The rest is one.
    """

    def one(data: bytes) -> None:
        table, header = seeds.run(data)
        is_gathered_right(table, header)

    return one


TARGETS: dict[str, Callable[[], Target]] = {
    "leaf": leaf,
    "relay": relay,
    "vswitch": vswitch,
    "formats": formats,
    "offload": offload,
    "gather": gather,
}
