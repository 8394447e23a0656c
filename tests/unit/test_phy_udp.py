"""The real tunnel sends runs, on loopback: what arrives, in what order, by how many calls.

The other end is a plain UDP socket, for which the kernel takes a train apart again, so that what
it receives are the packets as any VTEP would. The sandbox of `tools/test` has a loopback of its
own.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from leaf.engine import Engine as Leaf
from tests.frames import SHARED_MAC, mac, udp, vxlan
from tests.unit import leaf_world
from tests.unit.engine_world import Clock, Journal
from tests.unit.topology import BLUE, RED, attachment
from vswitch.engine import Engine
from vswitch.phy.memory import MemoryPort
from vswitch.phy.port import BUDGET, HEADROOM, Burst, PortId
from vswitch.phy.sockets import TunnelError
from vswitch.phy.source import MAX_ROWS, OLD_MAX_ROWS
from vswitch.phy.tunnel import Inbox, Run, Train
from vswitch.phy.udp import UdpTunnel
from vswitch.switch import Verdict
from vswitch.wire import vnet
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import GREETING, Vtep

HERE, THERE, ELSEWHERE = Vtep("127.0.0.1"), Vtep("127.0.0.2"), Vtep("127.0.0.3")
LOOPBACK6 = Vtep("::1")
PORTS6 = 48_001, 48_002
UDP_NO_CHECK6_TX = 101
PATIENCE = 5.0
"""Seconds to wait for a packet, which on loopback is there at once."""


class Sender:
    """A socket of the tunnel's pool that notes each call, and fails where it is told to."""

    def __init__(self, sock: socket.socket, calls: list[list[bytes]]) -> None:
        self._socket = sock
        self.calls = calls
        self.takes_rows = 1000
        """Packets in a train."""
        self.is_down = False
        self.fails_next = 0

    def _fail(self) -> None:
        if self.is_down:
            raise OSError(errno.ENETUNREACH, "no route")
        number, self.fails_next = self.fails_next, 0
        if number:
            raise OSError(number, "the news of an earlier packet")

    def sendmsg(self, parts: list[bytes], control: Any, flags: int, address: Any) -> int:
        (size,) = struct.unpack("@H", control[0][2])
        if sum(map(len, parts)) > self.takes_rows * size:
            raise OSError(errno.EINVAL, "no such option, or too long")
        self._fail()
        self.calls.append([bytes(part) for part in parts])
        return self._socket.sendmsg(parts, control, flags, address)

    def sendto(self, packet: bytes, address: Any) -> int:
        self._fail()
        self.calls.append([bytes(packet)])
        return self._socket.sendto(packet, address)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class Ends:
    """A tunnel, and the socket that receives what it sends."""

    def __init__(self, *, offload: bool = True) -> None:
        self.receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.receiver.bind((THERE, 0))
        self.receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.receiver.settimeout(PATIENCE)
        self.port = self.receiver.getsockname()[1]
        self.notices: list[str] = []
        self.tunnel = UdpTunnel(HERE, self.port, 4, offload=offload, notice=self.notices.append)
        self.calls: list[list[bytes]] = []
        """The packets that each call has sent, in order."""
        self.senders = [Sender(source._socket, self.calls) for source in self.tunnel._pool]
        for source, sender in zip(self.tunnel._pool, self.senders, strict=True):
            source._sendto = sender.sendto
            source._sendmsg = sender.sendmsg

    def lengths(self) -> list[list[int]]:
        """Return how long the packets of each call were."""
        return [[len(packet) for packet in call] for call in self.calls]

    def received(self, count: int) -> list[bytes]:
        """Take so many packets, and see that there is no other."""
        packets = [self.receiver.recv(1 << 16) for _ in range(count)]
        self.receiver.setblocking(False)
        with pytest.raises(BlockingIOError):
            self.receiver.recv(1)
        self.receiver.settimeout(PATIENCE)
        return packets

    def close(self) -> None:
        self.tunnel.close()
        self.receiver.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


@pytest.fixture
def plain_ends() -> Iterator[Ends]:
    """With offloads off."""
    made = Ends(offload=False)
    yield made
    made.close()


@pytest.fixture(params=[True, False], ids=["offload", "no_offload"])
def either(request: pytest.FixtureRequest) -> Iterator[Ends]:
    made = Ends(offload=request.param)
    yield made
    made.close()


def packets_of(size: int, count: int, mark: int = 0) -> list[bytes]:
    """Packets of one size, of which no two are the same."""
    return [
        bytes((mark, number)) + bytes((number * 7 + at) & 0xFF for at in range(size - 2))
        for number in range(count)
    ]


def run_of(packets: list[bytes], header: bytes = vnet.PLAIN) -> Run:
    """The packets as a burst holds them, each in a slot of its own."""
    burst = Burst()
    for packet, noted, slot in zip(packets, burst.headers, burst.slots, strict=False):
        slot[: len(packet)] = packet
        noted[:] = header
        burst.lengths.append(len(packet) - HEADROOM)
    return burst.run(0, len(packets))


@pytest.mark.parametrize("size", [60, 300, 511])
def test_a_whole_burst_leaves_in_one_send(ends: Ends, size: int) -> None:
    packets = packets_of(size, BUDGET)
    assert ends.tunnel.send_run(THERE, 1, run_of(packets)) == BUDGET
    ends.tunnel.flush()
    assert ends.received(BUDGET) == packets
    assert ends.lengths() == [[size] * BUDGET]
    assert not any(ends.tunnel.faults.values())


def test_a_run_waits_for_the_flush(ends: Ends) -> None:
    """The end of the burst: what follows may make a longer train."""
    ends.tunnel.send_run(THERE, 1, run_of(packets_of(100, 40)))
    assert (ends.received(0), ends.calls) == ([], [])
    ends.tunnel.flush()
    ends.tunnel.flush()
    assert ends.received(40) == packets_of(100, 40)
    assert len(ends.calls) == 1


def test_the_packets_of_a_run_join_those_that_wait(ends: Ends) -> None:
    """Ten single ones and a whole burst are two sends, which are as full as they can be."""
    packets = packets_of(100, BUDGET + 10)
    for packet in packets[:10]:
        ends.tunnel.send(THERE, 1, packet)
    assert ends.tunnel.send_run(THERE, 1, run_of(packets[10:])) == BUDGET
    ends.tunnel.flush()
    assert ends.received(BUDGET + 10) == packets
    assert ends.lengths() == [[100] * BUDGET, [100] * 10]


def test_single_packets_join_a_run_that_waits(ends: Ends) -> None:
    packets = packets_of(100, BUDGET + 6)
    ends.tunnel.send_run(THERE, 1, run_of(packets[:60]))
    for packet in packets[60:]:
        ends.tunnel.send(THERE, 1, packet)
    ends.tunnel.flush()
    assert ends.received(BUDGET + 6) == packets
    assert ends.lengths() == [[100] * BUDGET, [100] * 6]


@pytest.mark.parametrize(
    ("size", "count", "sends"),
    [
        pytest.param(511, 128, [128], id="just_fits"),
        pytest.param(512, 128, [127, 1], id="one_too_many"),
        pytest.param(1450, 64, [45, 19], id="ethernet"),
        pytest.param(8950, 10, [7, 3], id="jumbo"),
        pytest.param(32_753, 3, [2, 1], id="two"),
        pytest.param(32_754, 3, [1, 1, 1], id="no_two"),
        pytest.param(65_000, 3, [1, 1, 1], id="one"),
    ],
)
def test_a_run_longer_than_a_datagram_is_split(
    ends: Ends, size: int, count: int, sends: list[int]
) -> None:
    packets = packets_of(size, count)
    assert ends.tunnel.send_run(THERE, 1, run_of(packets)) == count
    ends.tunnel.flush()
    assert ends.received(count) == packets
    assert ends.lengths() == [[size] * number for number in sends]
    assert all(sum(lengths) <= 65_507 for lengths in ends.lengths())


def test_without_offload_each_packet_is_sent_at_once(plain_ends: Ends) -> None:
    packets = packets_of(700, BUDGET)
    assert plain_ends.tunnel.send_run(THERE, 1, run_of(packets)) == BUDGET
    assert plain_ends.received(BUDGET) == packets
    assert plain_ends.lengths() == [[700]] * BUDGET


@pytest.mark.parametrize(("flow", "size"), [(1, 101), (1, 99), (2, 100), (2, 101)], ids=str)
def test_a_run_behind_others_keeps_the_order(either: Ends, flow: int, size: int) -> None:
    """Single packets, a run that does not go with them, and single ones again."""
    before, run, after = packets_of(100, 9, 1), packets_of(size, 30, 2), packets_of(100, 9, 3)
    for packet in before:
        either.tunnel.send(THERE, 1, packet)
    either.tunnel.send_run(THERE, flow, run_of(run))
    for packet in after:
        either.tunnel.send(THERE, 1, packet)
    either.tunnel.flush()
    order = [*before, *run, *after]
    assert [packet for call in either.calls for packet in call] == order
    # What two sockets have sent may overtake each other in the kernel.
    assert sorted(either.received(48)) == sorted(order)


def test_two_runs_behind_each_other_keep_the_order(either: Ends) -> None:
    first, second = packets_of(100, 50, 1), packets_of(100, 50, 2)
    runs = run_of(first), run_of(second)  # Held until the flush, so in two bursts.
    for run in runs:
        assert either.tunnel.send_run(THERE, 1, run) == 50
    either.tunnel.flush()
    assert either.received(100) == first + second


def test_a_run_keeps_to_the_source_port_of_its_flow(ends: Ends) -> None:
    for flow in (0, 1, 5, -3):
        ends.tunnel.send_run(THERE, flow, run_of(packets_of(100, 20)))
        ends.tunnel.flush()
        sources = {ends.receiver.recvfrom(200)[1] for _ in range(20)}
        assert sources == {ends.senders[flow % 4].getsockname()}


def test_runs_to_two_vteps_do_not_mix(ends: Ends) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((ELSEWHERE, ends.port))
        other.settimeout(PATIENCE)
        here, there = packets_of(100, 20, 1), packets_of(100, 20, 2)
        ends.tunnel.send_run(THERE, 1, run_of(here))
        ends.tunnel.send_run(ELSEWHERE, 1, run_of(there))
        ends.tunnel.flush()
        assert [other.recv(200) for _ in there] == there
    assert ends.received(20) == here


def test_a_run_is_received_as_one_train(ends: Ends) -> None:
    """By a tunnel at the other end, which takes trains whole."""
    ends.receiver.close()
    peer = UdpTunnel(THERE, ends.port, 1)
    try:
        frame = bytes(Ether() / IP(dst="10.0.0.2") / UDP())
        packets = [vxlan(RED, frame + bytes([number]) * 50) for number in range(BUDGET)]
        ends.tunnel.send_run(THERE, 1, run_of(packets))
        ends.tunnel.flush()
        inbox = Inbox()
        for lane in waiting(peer):
            peer.read(inbox, lane)
        (train,) = inbox.trains
        assert [bytes(packet) for packet in train.packets()] == packets
        assert train.source == HERE
    finally:
        peer.close()


# Lanes.


def waiting(tunnel: UdpTunnel) -> list[int]:
    """Return the lanes in which something waits."""
    filenos = tunnel.filenos()
    ready, _, _ = select.select(filenos, [], [], PATIENCE)
    return [filenos.index(fd) for fd in ready]


@pytest.fixture
def peer(ends: Ends) -> Iterator[UdpTunnel]:
    """A tunnel at the other end."""
    ends.receiver.close()
    made = UdpTunnel(THERE, ends.port, 1)
    yield made
    made.close()


def test_a_flow_keeps_to_one_lane_and_many_use_several(ends: Ends, peer: UdpTunnel) -> None:
    used = set()
    with contextlib.closing(UdpTunnel(HERE, 0, 64)) as crowd:
        crowd._port = ends.port
        for flow in range(64):
            packet = vxlan(RED, bytes([flow]) * 60)
            for _ in range(3):
                crowd.send(THERE, flow, packet)
                crowd.flush()
            (lane,) = waiting(peer)
            inbox = Inbox()
            peer.read(inbox, lane)
            assert sum(train.count for train in inbox.trains) == 3
            used.add(lane)
    # By chance all of 64 would fall into half of the lanes once in 10 to the 17.
    assert len(used) > len(peer.filenos()) / 2


def test_a_lane_that_is_full_does_not_keep_others_from_theirs(ends: Ends, peer: UdpTunnel) -> None:
    with contextlib.closing(UdpTunnel(HERE, 0, 64)) as crowd:
        crowd._port = ends.port
        for _ in range(200):  # 12 MB, several times what any lane holds.
            crowd.send_train(THERE, 0, vxlan(RED, bytes(1000)) * 60, 1008)
        (full,) = waiting(peer)
        for flow in range(1, 64):
            crowd.send(THERE, flow, vxlan(RED, bytes([flow]) * 60))
        crowd.flush()
        heard = set()
        for lane in waiting(peer):
            inbox = Inbox()
            while lane != full:
                peer.read(inbox, lane)
                if not inbox.trains:
                    break
                heard |= {bytes(packet[8:9]) for t in inbox.trains for packet in t.packets()}
    # All but those of the full lane, which an eighth of them share.
    assert len(heard) > 63 / 2


def test_the_address_of_a_tunnel_is_not_shared_with_another(ends: Ends, peer: UdpTunnel) -> None:
    with pytest.raises(TunnelError, match=r"another process .* holds this port"):
        UdpTunnel(THERE, ends.port)


# What cannot be sent.


def test_a_kernel_without_trains_gets_the_packets_of_a_run_one_by_one(ends: Ends) -> None:
    for sender in ends.senders:
        sender.takes_rows = 0
    packets = packets_of(100, 40)
    for part in (packets[:20], packets[20:]):
        assert ends.tunnel.send_run(THERE, 1, run_of(part)) == 20
        ends.tunnel.flush()
    assert ends.received(40) == packets
    assert ends.lengths() == [[100]] * 40
    (notice,) = ends.notices
    assert "one by one" in notice


def test_a_kernel_that_takes_shorter_trains_gets_those(ends: Ends) -> None:
    """As those do that are older."""
    for sender in ends.senders:
        sender.takes_rows = OLD_MAX_ROWS
    packets = packets_of(100, BUDGET)
    for _ in range(2):
        assert ends.tunnel.send_run(THERE, 1, run_of(packets)) == BUDGET
        ends.tunnel.flush()
        assert ends.received(BUDGET) == packets
    assert ends.lengths() == [[100]] * BUDGET + [[100] * OLD_MAX_ROWS] * 2
    assert not ends.notices


def test_a_long_train_does_not_tell_of_a_kernel_that_takes_none(ends: Ends) -> None:
    """It is refused once, and its second part comes before that is known."""
    for sender in ends.senders:
        sender.takes_rows = OLD_MAX_ROWS
    packets = packets_of(100, 250)
    for _ in range(2):
        assert ends.tunnel.send_train(THERE, 1, b"".join(packets), 100)
        assert ends.received(250) == packets
    assert [sum(map(len, parts)) for parts in ends.calls[MAX_ROWS:]] == [
        *(6400, 5800),
        *(6400, 6400, 6400, 5800),
    ]
    assert not ends.notices


def test_a_greeting_by_a_socket_brings_nothing(ends: Ends, peer: UdpTunnel) -> None:
    ends.tunnel.send(THERE, 1, GREETING)
    ends.tunnel.send(THERE, 1, packets_of(100, 1)[0])
    ends.tunnel.flush()
    inbox = Inbox()
    (lane,) = waiting(peer)
    peer.read(inbox, lane)
    assert [bytes(train.data) for train in inbox.trains] == packets_of(100, 1)


def test_what_a_datagram_cannot_hold_is_counted(plain_ends: Ends) -> None:
    """And is no reason not to send what comes after."""
    assert plain_ends.tunnel.send_run(THERE, 1, run_of(packets_of(65_508, 3))) == 0
    assert plain_ends.tunnel.faults["too_big"] == 3
    assert plain_ends.tunnel.send_run(THERE, 1, run_of(packets_of(100, 3))) == 3
    assert plain_ends.received(3) == packets_of(100, 3)


def test_what_a_datagram_cannot_hold_is_counted_with_trains_too(ends: Ends) -> None:
    ends.tunnel.send_run(THERE, 1, run_of(packets_of(65_508, 3)))
    ends.tunnel.flush()
    assert ends.tunnel.faults["too_big"] == 3
    ends.tunnel.send_run(THERE, 1, run_of(packets_of(100, 3)))
    ends.tunnel.flush()
    assert ends.received(3) == packets_of(100, 3)
    assert ends.lengths()[-1] == [100] * 3


@pytest.mark.parametrize("count", [1, 2, 40])
def test_what_was_held_back_and_is_lost_is_told_once(either: Ends, count: int) -> None:
    """Whether by a flush of ours or by one that a packet of another size caused."""
    for sender in either.senders:
        sender.is_down = True
    run = run_of(packets_of(100, count))
    told = count - either.tunnel.send_run(THERE, 1, run)
    told += not either.tunnel.send(THERE, 1, bytes(200))
    assert told + either.tunnel.flush() == count + 1
    assert either.tunnel.flush() == 0
    for sender in either.senders:
        sender.is_down = False
    either.tunnel.send_run(THERE, 1, run)
    assert (either.tunnel.flush(), len(either.received(count))) == (0, count)


@pytest.mark.parametrize("count", [1, 40])
def test_frames_that_are_lost_by_the_flush_are_counted(either: Ends, count: int) -> None:
    for sender in either.senders:
        sender.is_down = True
    frame = udp(mac(9), mac(1))
    engine = wire(either, *[(frame, vnet.PLAIN)] * count, announced=False)
    # An announcement before them: a RARP, and none of addresses.
    assert engine.events["uplink_failed"] == 1 + count


@pytest.mark.parametrize("offset", [93, 60_000])
def test_a_run_whose_checksum_lies_outside_is_refused_whole(either: Ends, offset: int) -> None:
    header = struct.pack("<BBHHHH", 1, 0, 0, 0, 34, offset - 34)
    run = run_of(packets_of(HEADROOM + 94, 20), header)
    assert either.tunnel.send_run(THERE, 1, run) == 0
    either.tunnel.flush()
    assert either.tunnel.faults["uncuttable"] == 20
    assert (either.received(0), either.calls) == ([], [])


@pytest.mark.parametrize("to_one", [False, True], ids=["train", "single"])
def test_news_of_a_narrow_path_is_not_taken_for_a_kernel_without_trains(
    ends: Ends, to_one: bool
) -> None:
    """What ICMP has said of an earlier packet fails the next send, whatever that is."""
    for sender in ends.senders:
        sender.fails_next = errno.EMSGSIZE
    packets = packets_of(100, 1 if to_one else 20)
    ends.tunnel.send_run(THERE, 1, run_of(packets))
    ends.tunnel.flush()
    assert ends.received(len(packets)) == packets
    ends.calls.clear()
    ends.tunnel.send_run(THERE, 1, run_of(packets_of(100, 20)))
    ends.tunnel.flush()
    assert (ends.lengths(), ends.notices) == ([[100] * 20], [])


# Over IPv6.


@pytest.fixture(params=[True, False], ids=["offload", "no_offload"])
def over_ipv6(request: pytest.FixtureRequest) -> Iterator[tuple[UdpTunnel, UdpTunnel]]:
    """Two tunnels on one loopback, which has one address: each sends to the other's port."""
    left = UdpTunnel(LOOPBACK6, PORTS6[0], 4, offload=request.param)
    right = UdpTunnel(LOOPBACK6, PORTS6[1], 4, offload=request.param)
    left._port, right._port = right._port, left._port
    yield left, right
    left.close()
    right.close()


def taken(tunnel: UdpTunnel) -> list[tuple[str, list[bytes]]]:
    inbox, found = Inbox(), []
    for lane in waiting(tunnel):
        tunnel.read(inbox, lane)
        while inbox.trains:
            found += [(one.source, [bytes(row) for row in one.packets()]) for one in inbox.trains]
            tunnel.read(inbox, lane)
    return found


def test_a_run_goes_over_ipv6(over_ipv6: tuple[UdpTunnel, UdpTunnel]) -> None:
    left, right = over_ipv6
    frame = bytes(Ether() / IP(dst="10.0.0.2") / UDP())
    packets = [vxlan(RED, frame + bytes([number]) * 1300) for number in range(BUDGET)]
    assert left.send_run(LOOPBACK6, 1, run_of(packets)) == BUDGET
    left.flush()
    got = taken(right)
    assert [packet for _, rows in got for packet in rows] == packets
    assert {source for source, _ in got} == {LOOPBACK6}
    assert not any(left.faults.values())
    if left._most_rows > 1:
        assert len(got) == 3  # What datagrams can hold, and the rest.


def test_the_room_over_ipv6_is_what_the_longest_packet_takes(
    over_ipv6: tuple[UdpTunnel, UdpTunnel],
) -> None:
    left, right = over_ipv6
    left.measure((LOOPBACK6,))
    room = left.room[LOOPBACK6]
    source, address = left._pool[0], (LOOPBACK6, left._port)
    assert source.send(address, bytes(room))
    assert not source.send(address, bytes(room + 1))
    assert left.faults["too_big"] == 1
    assert sum(len(row) for _, rows in taken(right) for row in rows) == room


@pytest.mark.parametrize("checksum", [True, False])
def test_a_checksum_of_zero_is_accepted_over_ipv6(
    over_ipv6: tuple[UdpTunnel, UdpTunnel], checksum: bool
) -> None:
    """RFC 6935: a tunnel's far end may leave it out (RFC 7348 section 5)."""
    _, right = over_ipv6
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as peer:
        peer.setsockopt(17, UDP_NO_CHECK6_TX, not checksum)
        peer.sendto(packets_of(100, 1)[0], (LOOPBACK6, PORTS6[1]))
    assert taken(right) == [(LOOPBACK6, packets_of(100, 1))]


def test_each_flow_over_ipv6_keeps_to_a_source_port() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as peer:
        peer.bind((LOOPBACK6, 0))
        peer.settimeout(PATIENCE)
        tunnel = UdpTunnel(LOOPBACK6, PORTS6[0], 4)
        tunnel._port = peer.getsockname()[1]
        try:
            for flow in (0, 1, 2, 3, 7):
                tunnel.send(LOOPBACK6, flow, b"packet")
            tunnel.flush()
            ports = [peer.recvfrom(100)[1][1] for _ in range(5)]
        finally:
            tunnel.close()
    assert len(set(ports)) == 4 and ports[4] == ports[3] and min(ports) >= 49152


def test_an_address_of_ipv6_that_nobody_has_is_named_with_a_remedy() -> None:
    with pytest.raises(TunnelError, match=r"add it, or change `vtep`; .* duplicate detection"):
        UdpTunnel(Vtep("2001:db8::77"), 0, 1)


# From a port to the wire.


def wire(ends: Ends, *frames: tuple[bytes, bytes], announced: bool = True) -> Engine:
    """Have a guest send frames, with a header each, through an engine as one burst."""
    engine = Engine(
        Mac(SHARED_MAC),
        (THERE,),
        ends.tunnel,
        clock=Clock(),
        log=Journal(),
        on_gone=lambda port_id, port: None,
    )
    engine.switch.add_segment(RED, "rewrite")
    port = MemoryPort()
    attached = engine.add(attachment("alice", PortId(-1), RED, mac(1)), port)
    if announced:
        assert ends.received(1)[0][20:22] == b"\x80\x35"
    ends.calls.clear()
    for frame, header in frames:
        port.emit(frame, header)
    engine.pump_port(attached.port)
    return engine


def guest_frame(transport: TCP | UDP, payload: bytes) -> tuple[bytes, bytes, int]:
    """Return a frame with its checksum left open, and whole, and where the checksum is."""
    ether = Ether(dst=SHARED_MAC.hex(":"), src=mac(1).hex(":"))
    whole = bytes(ether / IP(src="10.0.0.1", dst="10.0.0.2") / transport / payload)
    protocol, offset = (6, 16) if isinstance(transport, TCP) else (17, 6)
    pseudo = whole[26:34] + struct.pack("!HH", protocol, len(whole) - 34)
    total = sum(struct.unpack("!6H", pseudo))
    field = struct.pack("!H", (total & 0xFFFF) + (total >> 16))
    return whole[: 34 + offset] + field + whole[36 + offset :], whole, offset


@pytest.mark.parametrize("transport", [TCP, UDP])
@pytest.mark.parametrize("count", [3, BUDGET], ids=["single", "run"])
def test_open_checksums_are_complete_on_the_wire(
    either: Ends, transport: type[TCP | UDP], count: int
) -> None:
    frames, expected = [], []
    for number in range(count):
        body = transport(sport=4000, dport=5000)
        frame, whole, offset = guest_frame(body, bytes([number]) * 33)
        frames.append((frame, struct.pack("<BBHHHH", 1, 0, 0, 0, 34, offset)))
        expected.append(vxlan(RED, whole))
    wire(either, *frames)
    assert either.received(count) == expected
    assert len(either.calls) in (1, count)


def test_super_frames_of_one_length_are_cut_each(either: Ends) -> None:
    """They are alike in all that a run is told by."""
    frames = []
    for number in range(8):
        body = TCP(sport=4000, dport=5000, seq=number * 250, flags="A")
        frame, _, offset = guest_frame(body, bytes([number]) * 250)
        frames.append((frame, struct.pack("<BBHHHH", 1, 1, 54, 100, 34, offset)))
    wire(either, *frames)
    segments = [Ether(packet[8:])[TCP] for packet in either.received(24)]
    assert [bytes(segment.payload) for segment in segments] == [
        bytes([number]) * size for number in range(8) for size in (100, 100, 50)
    ]
    assert [segment.seq for segment in segments] == [
        number * 250 + at for number in range(8) for at in (0, 100, 200)
    ]
    assert either.tunnel.faults["uncuttable"] == 0


def test_super_frames_of_one_segment_each_arrive_as_they_were(ends: Ends) -> None:
    frames, expected = [], []
    for number in range(3):
        body = TCP(sport=4000, dport=5000, seq=number * 50, flags="A")
        frame, whole, offset = guest_frame(body, bytes([number]) * 50)
        frames.append((frame, struct.pack("<BBHHHH", 1, 1, 54, 100, 34, offset)))
        expected.append(vxlan(RED, whole))
    wire(ends, *frames)
    assert ends.received(3) == expected


def test_super_frames_of_one_segment_keep_their_place_among_others(ends: Ends) -> None:
    """They are not held back, so what was held back before them must go first."""
    frames, expected = [], []
    for number in range(20):
        frame, whole, offset = guest_frame(TCP(sport=4000, dport=5000), bytes([number]) * 50)
        is_super = number // 3 % 2
        note = struct.pack("<BBHHHH", 1, 1, 54, 100, 34, offset) if is_super else vnet.PLAIN
        frames.append((frame if is_super else whole, note))
        expected.append(vxlan(RED, whole))
    wire(ends, *frames)
    assert ends.received(20) == expected


# When something goes wrong.


def test_what_was_held_back_before_an_error_does_not_leave_as_another_guests(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A burst lies where the next guest's frames are read to."""
    engine = Engine(
        Mac(SHARED_MAC),
        (THERE,),
        ends.tunnel,
        clock=Clock(),
        log=Journal(),
        on_gone=lambda port_id, port: None,
    )
    attached = []
    for number, vni in enumerate((RED, BLUE), 1):
        engine.switch.add_segment(vni, "rewrite")
        port = MemoryPort()
        new = attachment(f"guest {number}", PortId(-1), vni, mac(number))
        attached.append((port, engine.add(new, port).port))
    assert len(ends.received(2)) == 2  # The announcements.
    (first, first_id), (second, second_id) = attached
    frames = [udp(SHARED_MAC, mac(number), payload=bytes([number]) * 20) for number in (1, 2)]
    decide = engine.switch.decide

    def fail(port: PortId, frame: bytes) -> Verdict:
        if len(frame) < 20:
            raise ZeroDivisionError("a bug of ours")
        return decide(port, frame)

    monkeypatch.setattr(engine.switch, "decide", fail)
    first.emit(frames[0])
    first.emit(bytes(19))
    with pytest.raises(ZeroDivisionError):
        engine.pump_port(first_id)
    second.emit(frames[1])
    engine.pump_port(second_id)
    assert ends.received(2) == [vxlan(RED, frames[0]), vxlan(BLUE, frames[1])]


def test_a_leaf_sends_what_was_held_back_before_an_error(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    topology = leaf_world.topology()
    tunnel = ends.tunnel
    engine = Leaf(
        topology,
        tunnel,
        Clock(),
        timers=leaf_world.DEFAULT_TIMERS,
        limits=leaf_world.DEFAULT_LIMITS,
        max_bindings=10,
    )
    packet = packets_of(100, 1)[0]

    def take(train: Train, now: float) -> None:
        if len(train.data) < 100:
            raise ZeroDivisionError("a bug of ours")
        tunnel.send_train(THERE, 1, train.data, train.size)

    monkeypatch.setattr(engine, "_take", take)
    waiting = [packet, b"short"]

    def read(inbox: Inbox, lane: int, most: int) -> None:
        inbox.trains.clear()
        for slot, received in zip(inbox.slots, waiting, strict=False):
            slot.data[: len(received)] = received
            inbox.add(slot, len(received), len(received), HERE)

    monkeypatch.setattr(tunnel, "read", read)
    with pytest.raises(ZeroDivisionError):
        engine.pump_tunnel()
    assert ends.received(1) == [packet]
