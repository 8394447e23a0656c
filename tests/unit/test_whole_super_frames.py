"""Super-frames that come through the tunnel in one piece: what the leaf and the vswitch do."""

from __future__ import annotations

import struct

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from leaf.engine import Engine
from leaf.router import Reason
from tests.frames import MULTICAST, mac, udp, vxlan
from tests.unit.engine_world import OWN, Clock, World
from tests.unit.leaf_world import (
    DEFAULT_LIMITS,
    DEFAULT_TIMERS,
    H1,
    H3,
    H5,
    H6,
    ONE,
    SHARED,
    TWO,
    A,
    B,
    Guest,
    topology,
)
from tests.unit.topology import LEAF, RED
from vswitch.phy.memory import QUEUE_LEN, MemoryNetwork, MemoryTunnel
from vswitch.switch import Reason as Decided
from vswitch.wire import vnet
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vtep

HERE = Vtep("192.0.2.1")
MSS = 1000
PAYLOAD = bytes(n & 0xFF for n in range(5 * MSS - 100))


def super_frame(
    to_mac: bytes, sender: Guest, target: str, ttl: int = 64, kind: type[TCP | UDP] = TCP
) -> tuple[bytes, bytes]:
    """Return a super-frame with its header."""
    is_ipv6 = ":" in target
    if is_ipv6:
        ip = IPv6(src=sender.ip, dst=target, hlim=ttl)
    else:
        ip = IP(src=sender.ip, dst=target, ttl=ttl, flags="DF")
    transport = TCP(sport=4000, dport=80, flags="A") if kind is TCP else UDP(sport=4000, dport=80)
    head = Ether(src=sender.mac.hex(":"), dst=to_mac.hex(":"))
    frame = bytes(head / ip / transport / PAYLOAD)
    at = 54 if is_ipv6 else 34
    gso = {(TCP, False): 1, (TCP, True): 4}.get((kind, is_ipv6), 5)
    offset = 16 if kind is TCP else 6
    header_len = at + (20 if kind is TCP else 8)
    return frame, struct.pack("<BBHHHH", 1, gso, header_len, MSS, at, offset)


class Rack:
    """A leaf with two vswitches, of which the test is both."""

    def __init__(self) -> None:
        network = MemoryNetwork()
        self.a, self.b = network.tunnel(A), network.tunnel(B)
        self.engine = Engine(
            topology(ipv6=True),
            network.tunnel(HERE),
            Clock(),
            timers=DEFAULT_TIMERS,
            limits=DEFAULT_LIMITS,
            max_bindings=50,
        )
        for guest in (H1, H3, H5, H6, H1.six, H3.six):
            segment = self.engine.router.segment(guest.segment)
            assert segment is not None
            self.engine.slowpath.discovery.learn(segment, guest.address, guest.mac, guest.vtep, 0.0)
        self.a.incoming.clear()
        self.b.incoming.clear()

    def send(self, frame: bytes, header: bytes, vni: int = ONE) -> None:
        """A sends, and the leaf takes it."""
        self.a.send(HERE, 0, vxlan(vni, frame), header)
        self.engine.pump_tunnel()


@pytest.fixture
def rack() -> Rack:
    return Rack()


def only(tunnel: MemoryTunnel) -> tuple[bytes, bytes]:
    """Return the one packet that has arrived, and its header."""
    ((_, packet, _, header),) = tunnel.incoming
    return packet, header


@pytest.mark.parametrize("kind", [TCP, UDP])
@pytest.mark.parametrize("is_ipv6", [False, True])
def test_the_leaf_routes_it_in_one_piece(rack: Rack, kind: type[TCP | UDP], is_ipv6: bool) -> None:
    sender, target = (H1.six, H3.six) if is_ipv6 else (H1, H3)
    frame, header = super_frame(SHARED[A], sender, target.ip, kind=kind)
    rack.send(frame, header)
    packet, beside = only(rack.b)
    assert beside == header
    arrived = Ether(packet[8:])
    assert arrived.dst == H3.mac.hex(":")
    network = arrived[IPv6 if is_ipv6 else IP]
    assert (network.hlim if is_ipv6 else network.ttl) == 63
    assert bytes(network.payload) == bytes(Ether(frame)[IPv6 if is_ipv6 else IP].payload)
    if not is_ipv6:
        stored = network.chksum
        del network.chksum
        assert IP(bytes(network)).chksum == stored
    assert rack.engine.counts[Reason.ROUTED] == 5


def test_one_of_tcp_is_passed_on_where_the_way_is_narrow_since_it_is_cut_there(rack: Rack) -> None:
    rack.engine.tunnel.room[B] = 900
    rack.send(*super_frame(SHARED[A], H1, H3.ip))
    assert len(rack.b.incoming) == 1


def test_one_of_udp_whose_datagrams_do_not_fit_is_answered(rack: Rack) -> None:
    rack.engine.tunnel.room[B] = 900
    rack.send(*super_frame(SHARED[A], H1, H3.ip, kind=UDP))
    assert not rack.b.incoming
    said = [packet for _, packet, _, _ in rack.a.incoming]
    assert said and all(packet[8 + 23] == 1 for packet in said), "ICMP"


def test_what_the_slow_path_takes_up_it_sees_as_packets(rack: Rack) -> None:
    rack.send(*super_frame(SHARED[A], H1, H3.ip, ttl=1))
    assert rack.engine.counts[Reason.EXPIRED] == 5
    quoted = [Ether(packet[8:])[IP].payload.payload for _, packet, _, _ in rack.a.incoming]
    assert [one.len for one in quoted] == [40 + MSS] * 4 + [40 + MSS - 100]


def test_one_that_contradicts_itself_is_not_taken_up(rack: Rack) -> None:
    frame, _ = super_frame(SHARED[A], H1, H3.ip, ttl=1)
    rack.send(frame, vnet.HEADER.pack(1, 4, 54, MSS, 34, 16))
    assert not rack.a.incoming and not rack.b.incoming


def test_one_of_udp_that_nobody_can_cut_is_counted(rack: Rack) -> None:
    rack.engine.tunnel.room[B] = 900
    frame, header = super_frame(SHARED[A], H1, H3.ip, kind=UDP)
    with_options = bytearray(frame)
    with_options[14] = 0x46
    with_options[24:26] = b"\0\0"
    total = sum(int.from_bytes(with_options[at : at + 2], "big") for at in range(14, 38, 2))
    with_options[24:26] = (0xFFFF - total % 0xFFFF).to_bytes(2, "big")
    rack.send(bytes(with_options), header)
    assert rack.engine.tunnel.faults["uncuttable"] == 1
    assert not rack.a.incoming and not rack.b.incoming


def test_multicast_is_policed_by_the_packets_that_it_is(rack: Rack) -> None:
    frame, header = super_frame(MULTICAST, H5, "224.0.0.251", kind=UDP)
    allowed = int(DEFAULT_LIMITS.multicast) // 5
    for _ in range(allowed + 10):
        rack.send(frame, header, TWO)
    assert len(rack.b.incoming) == allowed
    assert rack.engine.multicast_policed == 50
    assert rack.engine.multicast_copies == allowed * 5


def test_it_is_replicated_in_one_piece(rack: Rack) -> None:
    frame, header = super_frame(MULTICAST, H5, "224.0.0.251", kind=UDP)
    rack.send(frame, header, TWO)
    packet, beside = only(rack.b)
    assert packet == vxlan(TWO, frame) and beside == header


def test_a_frame_with_an_open_checksum_is_forwarded_with_what_says_so(rack: Rack) -> None:
    header = vnet.HEADER.pack(vnet.NEEDS_CHECKSUM, 0, 0, 0, 34, 6)
    rack.send(udp(SHARED[A], H1.mac, src_ip=H1.ip, dst_ip=H3.ip), header)
    _, beside = only(rack.b)
    assert beside == header


def test_the_vswitch_hands_it_over_in_one_piece() -> None:
    world = World()
    world.attach("bob", 2)
    frame, header = super_frame(mac(2), H1, H3.ip)
    world.leaves[LEAF].send(OWN, 0, vxlan(RED, frame), header)
    world.engine.pump_tunnel()
    assert world.heard("bob") == [frame]
    stats = world.engine.stats(world.port_id("bob"))
    assert (stats.received_frames, stats.received_bytes) == (1, len(frame))


def test_the_vswitch_decides_on_as_many_packets_as_the_leaf() -> None:
    """And its port is given one frame, or fails to take one."""
    world = World()
    world.attach("bob", 2)
    frame, header = super_frame(mac(2), H1, H3.ip, kind=UDP)
    received = world.ports["bob"].received
    received.extend([b"before"] * (QUEUE_LEN - 1))
    for _ in range(2):
        world.leaves[LEAF].send(OWN, 0, vxlan(RED, frame), header)
    world.leaves[LEAF].send(OWN, 0, vxlan(RED, super_frame(mac(7), H1, H3.ip, kind=UDP)[0]), header)
    world.engine.pump_tunnel()
    assert world.engine.counts[Decided.UPLINK_LOCAL] == 10
    assert world.engine.counts[Decided.UPLINK_MISS] == 5
    assert world.engine.stats(world.port_id("bob")).received_frames == 1
    assert world.engine.events["port_full"] == 1


def test_the_vswitch_counts_one_frame_with_an_open_checksum() -> None:
    world = World()
    world.attach("bob", 2)
    header = vnet.HEADER.pack(vnet.NEEDS_CHECKSUM, 0, 0, 0, 34, 6)
    world.leaves[LEAF].send(OWN, 0, vxlan(RED, udp(mac(2), H1.mac)), header)
    world.engine.pump_tunnel()
    assert world.engine.counts[Decided.UPLINK_LOCAL] == 1


def test_the_vswitch_sends_it_up_with_what_says_so() -> None:
    world = World()
    world.attach("bob", 2)
    frame, header = super_frame(mac(99), H1._replace(mac=Mac(mac(2))), H3.ip)
    world.ports["bob"].emit(frame, header)
    world.engine.pump_port(world.port_id("bob"))
    packet, beside = only(world.leaves[LEAF])
    assert beside == header and packet[8 + 6 :] == frame[6:]
