"""When a tunnel uses its shortcut, and what it says to others of it by its source ports."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from tests.property.test_offload import Super
from vswitch.phy.port import HEADROOM, Burst
from vswitch.phy.shortcut import Shortcut, ShortcutGone
from vswitch.phy.tunnel import Inbox, Run
from vswitch.phy.udp import UdpTunnel
from vswitch.phy.underlay import UnderlayError
from vswitch.wire import vnet
from vswitch.wire.vxlan import GREETING, SOURCE_PORTS, WHOLE_PORTS, Vtep

HERE, THERE = Vtep("127.0.0.31"), Vtep("127.0.0.32")
SUPER = Super(True, True, 1000, bytes(4500))
LANES = 8


class FakeShortcut:
    """A shortcut that does what the test says."""

    def __init__(self) -> None:
        self.skipped: list[socket.socket] = []
        self.sent: list[tuple[Vtep, int]] = []
        self.answer: int | None = 0
        self.brings = self.is_gone = self.is_closed = False
        self.does_take = True
        self.packets: list[bytes] = []
        self.silent_to: Vtep | None = None
        self.lost = 0

    def __str__(self) -> str:
        return "vxtap0 on eth0"

    def filenos(self) -> list[int]:
        return []

    def skip(self, sock: socket.socket) -> None:
        self.skipped.append(sock)

    def overrun(self) -> int:
        return self.lost

    def read(self, inbox: Inbox, lane: int, most: int) -> int:
        if self.is_gone:
            raise ShortcutGone(errno.ENETDOWN, "gone")
        if self.brings:
            inbox.add(inbox.slots[0], 64, 64, THERE)
        return 3

    def greet(self) -> Vtep | None:
        return self.silent_to

    def takes(self, vtep: Vtep) -> bool:
        return self.does_take

    def send(self, vtep: Vtep, source_port: int, packet: memoryview, *rest: Any) -> int | None:
        if self.is_gone:
            raise ShortcutGone(errno.EBADFD, "gone")
        self.sent.append((vtep, source_port))
        self.packets.append(bytes(packet))
        return self.answer

    def close(self) -> None:
        self.is_closed = True


class World:
    """A tunnel with such a shortcut, and the socket that hears its packets."""

    def __init__(self) -> None:
        self.receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.receiver.bind((THERE, 0))
        self.receiver.settimeout(5)
        self.port = self.receiver.getsockname()[1]
        self.shortcut = FakeShortcut()
        self.notices: list[str] = []
        self.tunnel = self.open(lambda room: cast(Shortcut, self.shortcut))
        self.inbox = Inbox()

    def open(self, shortcut: Callable[[dict[Vtep, int]], Shortcut]) -> UdpTunnel:
        return UdpTunnel(HERE, self.port, 4, shortcut=shortcut, notice=self.notices.append)

    def send_super(self) -> bool:
        packet, header = SUPER.packet_and_header()
        return self.tunnel.send(THERE, 0, packet, header)

    def heard(self) -> tuple[int, int]:
        """Return how long the next packet is, and from what port it came."""
        packet, source = self.receiver.recvfrom(1 << 16)
        return len(packet), source[1]

    def bring(self) -> None:
        """The shortcut brings the first packet."""
        self.shortcut.brings = True
        self.tunnel.read(self.inbox, LANES)

    def close(self) -> None:
        self.tunnel.close()
        self.receiver.close()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def is_cut(world: World) -> bool:
    sent = world.send_super()
    return sent and [world.heard()[0] for _ in range(5)] == [1062, 1062, 1062, 1062, 562]


def port_of_a_packet(world: World) -> int:
    world.tunnel.send(THERE, 0, bytes(64))
    world.tunnel.flush()
    return world.heard()[1]


def test_where_there_is_no_way_the_sockets_do_all_and_it_is_said(world: World) -> None:
    def fails(room: dict[Vtep, int]) -> Shortcut:
        raise UnderlayError("no right")

    world.tunnel.close()
    world.tunnel = world.open(fails)
    assert world.notices == ["super-frames are cut here, and not by the kernel: no right"]
    assert is_cut(world) and world.tunnel.way == "sockets"
    assert len(world.tunnel.filenos()) == LANES


def test_the_sockets_leave_alone_what_the_shortcut_takes(world: World) -> None:
    assert [sock.fileno() for sock in world.shortcut.skipped] == world.tunnel.filenos()
    assert world.tunnel.way == "sockets, and super-frames by vxtap0 on eth0"


def test_it_is_claimed_and_used_once_it_has_brought_something(world: World) -> None:
    assert is_cut(world) and port_of_a_packet(world) in SOURCE_PORTS
    world.tunnel.read(world.inbox, LANES)
    assert port_of_a_packet(world) in SOURCE_PORTS, "nothing has come"
    world.bring()
    port = port_of_a_packet(world)
    assert port in WHOLE_PORTS
    assert world.send_super() and world.shortcut.sent == [(THERE, port)]


def test_what_the_shortcut_does_not_take_is_cut(world: World) -> None:
    world.bring()
    world.shortcut.answer = None
    assert is_cut(world)


def test_what_the_shortcut_loses_is_counted(world: World) -> None:
    world.bring()
    world.shortcut.answer, world.shortcut.lost = errno.ENOBUFS, 7
    before = dict(world.tunnel.faults)
    assert not world.send_super()
    world.tunnel.read(world.inbox, LANES)
    world.tunnel.measure(())
    now = world.tunnel.faults
    risen = {name: now[name] - before[name] for name in now if now[name] != before[name]}
    assert risen == {"no_buffers": 1, "damaged": 3, "overrun": 7}


def test_a_tap_that_vanishes_is_done_without(world: World) -> None:
    world.bring()
    world.shortcut.is_gone = True
    assert is_cut(world) and is_cut(world)
    assert world.notices == ["vxtap0 on eth0 has vanished: super-frames are cut here from now on"]
    assert port_of_a_packet(world) in WHOLE_PORTS, "they are still taken"


def test_a_device_that_vanishes_is_no_longer_claimed(world: World) -> None:
    world.bring()
    world.shortcut.is_gone = True
    world.tunnel.read(world.inbox, LANES)
    assert port_of_a_packet(world) in SOURCE_PORTS
    assert is_cut(world) and len(world.notices) == 1 and world.tunnel.way == "sockets"
    world.shortcut.is_gone = False
    world.bring()
    assert port_of_a_packet(world) in SOURCE_PORTS


def test_a_packet_that_waits_is_not_lost_to_other_ports(world: World) -> None:
    world.tunnel.send(THERE, 0, bytes(64))
    world.bring()
    world.tunnel.flush()
    assert world.heard()[1] in WHOLE_PORTS


def test_it_is_closed_with_the_tunnel(world: World) -> None:
    world.tunnel.close()
    assert world.shortcut.is_closed


def test_plain_frames_never_go_by_it(world: World) -> None:
    world.bring()
    world.tunnel.send(THERE, 0, bytes(64), vnet.PLAIN)
    world.tunnel.flush()
    assert world.heard()[0] == 64 and not world.shortcut.sent


# Runs.


DATAGRAMS = Super(True, False, 50, bytes(range(250)) * 20)


def run_of(made: Super) -> tuple[Run, list[bytes]]:
    """A run of the datagrams that a super-frame stands for, with open checksums; and them as they
    leave one by one."""
    opened = [
        made._replace(payload=made.payload[at : at + made.mss], identification=7 + row)
        for row, at in enumerate(range(0, len(made.payload), made.mss))
    ]
    burst = Burst()
    for one, noted, slot in zip(opened, burst.headers, burst.slots, strict=False):
        packet, header = one.packet_and_header()
        slot[: len(packet)] = packet
        noted[:] = header[:1] + b"\0" + bytes(4) + header[6:]
        burst.lengths.append(len(packet) - HEADROOM)
    return burst.run(0, len(opened)), [one.expected()[0] for one in opened]


def test_a_run_leaves_as_one_super_frame(world: World) -> None:
    world.bring()
    run, _ = run_of(DATAGRAMS)
    assert world.tunnel.send_run(THERE, 0, run) == 100
    packet, _ = DATAGRAMS.packet_and_header()
    assert world.shortcut.packets == [bytes(packet)]


def test_a_run_that_is_longer_than_one_is_parted_evenly(world: World) -> None:
    world.bring()
    run, _ = run_of(DATAGRAMS._replace(mss=1400, payload=bytes(1400 * 47)))
    assert world.tunnel.send_run(THERE, 0, run) == 47
    assert [len(packet) for packet in world.shortcut.packets] == [50 + 24 * 1400, 50 + 23 * 1400]


@pytest.mark.parametrize("why", ["not_taken", "refused", "complete", "not_claimed"])
def test_a_run_that_cannot_leaves_as_datagrams(world: World, why: str) -> None:
    if why != "not_claimed":
        world.bring()
    world.shortcut.does_take = why != "not_taken"
    world.shortcut.answer = None if why == "refused" else 0
    run, packets = run_of(DATAGRAMS)
    if why == "complete":
        assert vnet.complete_all(run.table[:, HEADROOM:], run.headers)
    assert world.tunnel.send_run(THERE, 0, run) == 100
    world.tunnel.flush()
    assert [world.receiver.recv(1 << 16) for _ in packets] == packets


def test_what_waits_leaves_before_a_run(world: World) -> None:
    world.bring()
    world.tunnel.send(THERE, 0, bytes(64))
    world.tunnel.send_run(THERE, 0, run_of(DATAGRAMS)[0])
    assert world.heard()[0] == 64


# Greetings.


def test_who_is_heard_and_told_nothing_is_greeted_from_a_port_that_tells(world: World) -> None:
    world.shortcut.silent_to = THERE
    world.tunnel.read(world.inbox, LANES)  # Not before we claim that we take them.
    world.bring()
    packet, source = world.receiver.recvfrom(1 << 16)
    assert packet == GREETING and source[1] in WHOLE_PORTS
