"""The shortcut on queues that the test holds the other end of."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from tests.property.test_offload import ACK, Super
from vswitch.phy import shortcut as module
from vswitch.phy.shortcut import Shortcut, ShortcutGone
from vswitch.phy.tunnel import Inbox, Train
from vswitch.phy.underlay import Link
from vswitch.wire import outer, vnet
from vswitch.wire.vxlan import GREETING, Vtep

PORT = 4789
OWN_MAC, MAC, OTHER_MAC = (bytes((2, 0, 0, 0, 0, n)) for n in (1, 2, 3))
WHOLE, PACKETS = 61500, 50000
"""Source ports of who takes super-frames, and of who does not."""
ADDRESSES = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
SUPER = Super(True, True, 1000, bytes(4500), flags=ACK)


class FakeUnderlay:
    """A device of which the test is the kernel."""

    name, link = "vxtap0", Link(2, "eth0")

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ours.setblocking(False)
        self.sent: list[bytes] = []
        self.refusal = 0
        self.bound = True

    def filenos(self) -> list[int]:
        return [self._ours.fileno()]

    def give(self, frame: bytes) -> None:
        self._theirs.send(frame)

    def is_bound(self) -> bool:
        return self.bound

    def write(self, parts: Sequence[memoryview | bytes]) -> None:
        if self.refusal:
            raise OSError(self.refusal, os.strerror(self.refusal))
        self.sent.append(b"".join(parts))

    def taken(self) -> list[bytes]:
        taken, self.sent = self.sent, []
        return taken

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


class World:
    """A shortcut, its device, and the time."""

    def __init__(self, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.version = version
        self.local, self.remote = map(Vtep, ADDRESSES[version])
        self.tap = FakeUnderlay()
        self.now = 100.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        self.room = {self.remote: 1450}
        self.shortcut = Shortcut(self.tap, self.local, PORT, self.room)  # type: ignore[arg-type]
        self.inbox = Inbox()
        self.measured: list[Vtep] = []

    def headers(self, source_port: int, mac: bytes, source: str, length: int) -> bytes:
        """The outer headers of what the peer sends, without checksum of UDP."""
        ip = IPv6 if self.version == 6 else IP
        head = Ether(src=mac, dst=OWN_MAC) / ip(src=source, dst=self.local)
        udp = UDP(sport=source_port, dport=PORT, chksum=0)
        return bytes(head / udp / bytes(length))[:-length]

    def hear(
        self,
        source_port: int = WHOLE,
        mac: bytes = MAC,
        packet: bytes = bytes(64),
        about: bytes = vnet.PLAIN,
        source: str | None = None,
    ) -> list[Train]:
        """The peer sends a packet; return what was received."""
        sender = self.remote if source is None else source
        self.tap.give(about + self.headers(source_port, mac, sender, len(packet)) + packet)
        self.read()
        return list(self.inbox.trains)

    def read(self) -> int:
        self.inbox.trains.clear()
        return self.shortcut.read(self.inbox, 0)

    def send(self, made: Super = SUPER, port: int = WHOLE) -> int | None:
        packet, header = made.packet_and_header()

        def measure(vteps: Iterable[Vtep]) -> None:
            self.measured += vteps

        return self.shortcut.send(self.remote, port, packet, header, measure)


@pytest.fixture(params=[4, 6])
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(request.param, monkeypatch)
    yield made
    made.tap.close()


def test_nothing_goes_to_who_was_not_heard(world: World) -> None:
    assert world.send() is None
    world.hear(source="192.0.2.77" if world.version == 4 else "2001:db8::77")
    assert world.send() is None and not world.tap.taken()


def test_nothing_goes_to_who_takes_packets_only(world: World) -> None:
    world.hear(PACKETS)
    assert world.send() is None
    world.hear(WHOLE)
    assert world.send() == 0
    world.hear(PACKETS)
    assert world.send() is None, "it has started again, without"


def test_a_super_frame_goes_back_to_the_mac_that_was_heard_last(world: World) -> None:
    for mac in (MAC, OTHER_MAC, MAC):
        world.hear(mac=mac)
        assert world.send() == 0
        (sent,) = world.tap.taken()
        packet = Ether(sent[vnet.TUNNEL_LEN :])
        assert (packet.dst, packet.src) == (mac.hex(":"), OWN_MAC.hex(":"))
        assert packet[UDP].dport == PORT and packet[UDP].sport == WHOLE


def test_what_is_sent_is_the_super_frame_behind_its_headers(world: World) -> None:
    world.hear()
    assert world.send() == 0
    (sent,) = world.tap.taken()
    packet, _ = SUPER.packet_and_header()
    encap = outer.LAYOUTS[world.version].encap
    assert sent.startswith(vnet.into_tunnel(1, 34, 16, 54, 1000, encap))
    assert sent.endswith(bytes(packet))
    assert len(sent) == vnet.TUNNEL_LEN + encap.length - 8 + len(packet)


def about_super(world: World, header: bytes) -> bytes:
    """What the kernel says of a super-frame that a packet socket takes."""
    flags, gso, header_len, size, start, offset = vnet.HEADER.unpack(header)
    encap = outer.LAYOUTS[world.version].encap.length
    return vnet.HEADER.pack(flags, gso, header_len + encap, size, start + encap, offset)


def test_a_super_frame_that_comes_is_handed_on_with_its_header(world: World) -> None:
    packet, header = SUPER.packet_and_header()
    for _ in range(2):  # The second one's front is known.
        (train,) = world.hear(packet=bytes(packet), about=about_super(world, header))
        assert bytes(train.data) == bytes(packet) and bytes(train.header) == header
        assert train.source == world.remote and (train.count, train.datagrams) == (1, 5)
        assert [bytes(one) for one in train.complete_packets()] == SUPER.expected()


def test_a_train_that_comes_is_one(world: World) -> None:
    packets = SUPER.expected()
    about = vnet.HEADER.pack(1, 5, 0, len(packets[0]), outer.LAYOUTS[world.version].udp_at, 6)
    (train,) = world.hear(packet=b"".join(packets), about=about)
    assert [bytes(one) for one in train.packets()] == packets
    assert train.datagrams == len(packets)


def test_who_is_silent_is_left_to_the_kernels_routes(world: World) -> None:
    world.hear()
    world.now += module.FRESH
    assert world.send() == 0
    world.now += 0.01
    assert world.send() is None
    world.hear()
    assert world.send() == 0


def test_the_room_is_looked_at_from_time_to_time_and_kept_to(world: World) -> None:
    for _ in range(5):
        world.hear()
        assert world.send() == 0
    assert world.measured == [world.remote]
    world.now += module.FRESH + 0.1
    world.hear()
    world.room[world.remote] = 700
    assert world.send() == 0
    assert world.measured == [world.remote] * 2
    *_, sent = world.tap.taken()
    size = vnet.HEADER.unpack_from(sent)[3]
    assert size == 700 - 8 - 54


def test_without_room_or_sense_it_is_left_to_be_cut(world: World) -> None:
    world.hear()
    world.room.clear()
    assert world.send() is None
    world.room[world.remote] = 1450
    packet, _ = SUPER.packet_and_header()
    wrong = vnet.HEADER.pack(1, 4, 54, 1000, 34, 16)
    for header in (wrong, vnet.HEADER.pack(1, 1, 54, 1, 34, 16)):  # 4,500 packets of a byte.
        sent = world.shortcut.send(world.remote, WHOLE, packet, header, lambda vteps: None)
        assert sent is None and not world.tap.taken()


def test_one_too_long_for_the_outer_header_is_left_to_be_cut(world: World) -> None:
    world.hear()
    assert world.send(Super(True, True, 1000, bytes(65_480), flags=ACK)) is None


def test_the_memory_of_peers_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_PEERS", 10)
    for number in range(1, 60):
        world.hear(source=f"192.0.2.{number}" if world.version == 4 else f"2001:db8::{number:x}")
        assert len(world.shortcut._peers) <= 10
    world.hear()
    assert world.send() == 0


@pytest.mark.parametrize("at", [-1, 20], ids=["payload", "source"])
def test_what_is_damaged_is_counted_and_left_out(world: World, at: int) -> None:
    ip = IPv6 if world.version == 6 else IP
    whole = Ether(src=MAC, dst=OWN_MAC) / ip(src=world.remote, dst=world.local)
    frame = bytearray(bytes(whole / UDP(sport=WHOLE, dport=PORT) / bytes(100)))
    frame[at if at < 0 else outer.LAYOUTS[world.version].source.start] ^= 1
    world.tap.give(vnet.PLAIN + bytes(frame))
    assert world.read() == 1
    assert not world.inbox.trains


@pytest.mark.parametrize("length", [0, 1, 20, 51])
def test_what_is_cut_off_is_counted_and_takes_nothing_from_the_one_before(
    world: World, length: int
) -> None:
    about = vnet.HEADER.pack(1, 0, 0, 0, outer.LAYOUTS[world.version].udp_at, 6)
    world.hear(about=about)
    world.tap.give((about + world.headers(WHOLE, MAC, world.remote, 64))[:length])
    assert world.read() == 1
    assert not world.inbox.trains


def test_a_tap_that_is_gone_is_noticed(world: World) -> None:
    world.hear()
    world.tap.refusal = errno.EBADFD
    with pytest.raises(ShortcutGone):
        world.send()


@pytest.mark.parametrize(("refusal", "answer"), [(errno.EINVAL, None), (errno.EIO, errno.EIO)])
def test_what_the_tap_refuses_is_cut_or_lost(
    world: World, refusal: int, answer: int | None
) -> None:
    world.hear()
    world.tap.refusal = refusal
    assert world.send() == answer


def test_a_device_that_is_gone_is_told_from_one_that_is_down(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> int:
        raise OSError(errno.ENETDOWN, "Network is down")

    with monkeypatch.context() as patched:
        patched.setattr(os, "readv", fails)
        assert world.read() == 0
        world.tap.bound = False
        with pytest.raises(ShortcutGone):
            world.read()


# Greetings.


def test_who_is_heard_again_and_again_is_greeted_now_and_then(world: World) -> None:
    greeted = []
    for _ in range(20):
        world.hear()
        greeted.append(world.shortcut.greet())
        assert world.shortcut.greet() is None
        world.now += 0.1
    gaps = [at for at, vtep in enumerate(greeted) if vtep]
    assert greeted[0] == world.remote and len(gaps) == 5
    assert all(later - earlier == 4 for earlier, later in pairwise(gaps))


def test_who_is_sent_super_frames_needs_no_greeting(world: World) -> None:
    world.hear()
    world.shortcut.greet()
    for _ in range(20):
        world.now += 0.1
        world.hear()
        assert world.send() == 0
        assert world.shortcut.greet() is None


def test_who_takes_packets_only_is_not_greeted(world: World) -> None:
    world.hear(PACKETS)
    assert world.shortcut.greet() is None


def test_a_crowd_is_not_greeted_all_at_once(world: World) -> None:
    name = "192.0.2.{}" if world.version == 4 else "2001:db8::{}"
    greeted = 0
    for number in range(10, 110):
        world.room[Vtep(name.format(number))] = 1450
        world.hear(source=name.format(number))
        greeted += world.shortcut.greet() is not None
        world.now += 0.0001
    assert 9 <= greeted <= 11


def test_only_who_the_daemon_has_to_do_with_is_greeted(world: World) -> None:
    """Anybody in the underlay can make up a source."""
    name = "192.0.2.77" if world.version == 4 else "2001:db8::77"
    world.hear()
    world.hear(source=name)
    assert world.shortcut.greet() == world.remote
    world.hear(source=name)
    assert world.shortcut.greet() is None


def test_a_greeting_that_was_padded_is_one(world: World) -> None:
    """A card says that its checksum is right; the frame was too short for Ethernet without."""
    valid = bytes([2]) + vnet.PLAIN[1:]
    assert world.hear(packet=GREETING + bytes(10), about=valid) == []
    assert world.shortcut.takes(world.remote)


def test_a_greeting_is_heard_and_brings_nothing(world: World) -> None:
    assert not world.shortcut.takes(world.remote)
    assert world.hear(packet=GREETING) == []
    assert world.shortcut.takes(world.remote) and world.send() == 0
    world.now += module.FRESH + 0.1
    assert not world.shortcut.takes(world.remote)
    assert len(world.hear(packet=bytes([8]) + bytes(7))) == 1, "it is none"
