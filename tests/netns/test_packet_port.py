"""A packet-socket port against the kernel. The test holds the TAP's descriptor, as QEMU does.

What the owner of a TAP takes it has said by TUNSETOFFLOAD; what it gets must be what scapy builds,
whole or cut, whatever that was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import socket
import struct
from collections.abc import Iterator
from fcntl import ioctl
from typing import NamedTuple

import numpy as np
import pytest
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from tests.frames import BROADCAST, arp, mac, udp
from tests.property.test_offload import CWR, FIN, PSH, Super
from tools.fabric.namespace import Namespace
from vswitch.phy import tap
from vswitch.phy.packet import PacketPort
from vswitch.phy.port import BUDGET, BUDGET_BYTES, Burst, PortGone
from vswitch.phy.tap import TapPort
from vswitch.phy.tunnel import Train
from vswitch.phy.udp import UdpTunnel
from vswitch.wire import vnet
from vswitch.wire.segmenter import Segmenter
from vswitch.wire.vxlan import VXLAN_LEN, Vtep

TUNSETOFFLOAD = 0x400454D0
CSUM, TSO4, TSO6, TSO_ECN, USO4, USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
TAKES = {
    "nothing": 0,
    "checksums": CSUM,
    "tcp": CSUM | TSO4 | TSO6 | TSO_ECN,
    "all": CSUM | TSO4 | TSO6 | TSO_ECN | USO4 | USO6,
}
"""What drivers of virtio network cards negotiate."""
KINDS = {
    f"{'tcp' if is_tcp else 'udp'}{4 if is_ipv4 else 6}": Super(is_ipv4, is_tcp, 1000, b"")
    for is_ipv4 in (True, False)
    for is_tcp in (True, False)
}
PLACE, LINK = "packetport", "qemu0"
PAYLOAD = random.Random(1).randbytes(20_500)


class Frame(NamedTuple):
    """What the owner of the TAP reads, or what a port does."""

    header: bytes
    frame: bytes

    @property
    def is_super(self) -> bool:
        return self.header[1] != 0

    def completed(self) -> bytes:
        """Return the frame with its checksum filled in, as a guest that does not look would."""
        header, frame = bytearray(self.header), bytearray(self.frame)
        assert vnet.complete(memoryview(frame), header)
        return bytes(frame)


class Owner:
    """Who holds the TAP."""

    def __init__(self, takes: int) -> None:
        self.node = Namespace(PLACE)
        self.node.create()
        self.fd = tap.open_queue(LINK, PLACE, multi_queue=False)
        ioctl(self.fd, TUNSETOFFLOAD, takes)
        self.node.link_up(LINK)

    def read(self) -> list[Frame]:
        """Read what waits: the kernel queues what a packet socket sends before it returns."""
        found = []
        while True:
            try:
                data = os.read(self.fd, 1 << 17)
            except BlockingIOError:
                return found
            found.append(Frame(data[: vnet.VNET_LEN], data[vnet.VNET_LEN :]))

    def write(self, frame: bytes, header: bytes = vnet.PLAIN) -> None:
        os.writev(self.fd, (header, frame))

    def remove(self) -> None:
        os.close(self.fd)
        self.node.remove()


@pytest.fixture
def owner(request: pytest.FixtureRequest) -> Iterator[Owner]:
    made = Owner(getattr(request, "param", TAKES["all"]))
    yield made
    made.remove()


@pytest.fixture
def port(owner: Owner) -> Iterator[PacketPort]:
    with_offload = PacketPort(LINK, PLACE, offload=True, notice=pytest.fail)
    yield with_offload
    with_offload.close()


def train_of(packets: list[bytes]) -> Train:
    """Lay packets into a slot, as the tunnel receives them."""
    data = b"".join(packets)
    slot = np.zeros(1 << 17, dtype=np.uint8)
    slot[: len(data)] = np.frombuffer(data, np.uint8)
    return Train(slot, 0, len(data), len(packets[0]), Vtep("10.0.0.1"))


def frames_of(made: Super) -> list[bytes]:
    """Return the packets that the guest is to see."""
    return [packet[VXLAN_LEN:] for packet in made.expected()]


@pytest.mark.parametrize("made", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(("owner", "takes"), [(v, k) for k, v in TAKES.items()], indirect=["owner"])
def test_a_train_reaches_the_guest_as_it_takes_it(
    owner: Owner, port: PacketPort, takes: str, made: Super
) -> None:
    flags = FIN | PSH | CWR | 0x10 if made.is_tcp else made.flags
    made = made._replace(payload=PAYLOAD, flags=flags, may_fragment=True)
    packets = made.expected()
    assert port.write_train(train_of(packets)) == len(packets)
    got = owner.read()
    if takes == "all" or (takes == "tcp" and made.is_tcp):
        frame, header = made.packet_and_header()
        ((noted, whole),) = got
        assert whole == frame[VXLAN_LEN:]
        # The header length is a hint, and is not compared.
        assert noted[:2] + noted[4:] == header[:2] + header[4:]
    else:
        assert not any(one.is_super for one in got)
        assert takes != "nothing" or all(one.header == vnet.PLAIN for one in got)
        assert [one.completed() for one in got] == frames_of(made)


@pytest.mark.parametrize("made", KINDS.values(), ids=KINDS)
def test_without_offload_every_packet_goes_by_itself(owner: Owner, made: Super) -> None:
    """Though the guest would take super-frames. Those of other guests are cut for it."""
    port = PacketPort(LINK, PLACE, offload=False)
    made = made._replace(payload=PAYLOAD, may_fragment=True)
    packets = made.expected()
    assert port.write_train(train_of(packets)) == len(packets)
    assert owner.read() == [Frame(vnet.PLAIN, frame) for frame in frames_of(made)]
    packet, header = made.packet_and_header()
    assert port.write(packet[VXLAN_LEN:], header)
    assert owner.read() == [Frame(vnet.PLAIN, frame) for frame in frames_of(made)]
    port.close()


@pytest.mark.parametrize("made", KINDS.values(), ids=KINDS)
def test_a_neighbours_super_frame_is_handed_over_as_it_is(
    owner: Owner, port: PacketPort, made: Super
) -> None:
    packet, header = made._replace(payload=PAYLOAD).packet_and_header()
    assert port.write(packet[VXLAN_LEN:], header)
    ((_, frame),) = owner.read()
    assert frame == packet[VXLAN_LEN:]


def test_a_damaged_train_is_handed_over_packet_by_packet(owner: Owner, port: PacketPort) -> None:
    packets = KINDS["tcp4"]._replace(payload=PAYLOAD).expected()
    packets[3] = packets[3][:-1] + bytes([packets[3][-1] ^ 1])
    assert port.write_train(train_of(packets)) == len(packets)
    assert owner.read() == [Frame(vnet.PLAIN, packet[VXLAN_LEN:]) for packet in packets]


# -- from the guest ------------------------------------------------------------------------------


def read(port: PacketPort | TapPort, burst: Burst) -> list[Frame]:
    port.read(burst)
    return [
        Frame(bytes(burst.headers[at]), bytes(burst.frame(at))) for at in range(len(burst.lengths))
    ]


@pytest.mark.parametrize("made", KINDS.values(), ids=KINDS)
def test_a_guests_super_frame_is_read_whole_and_can_be_cut(
    owner: Owner, port: PacketPort, made: Super
) -> None:
    made = made._replace(payload=PAYLOAD, may_fragment=True)
    packet, header = made.packet_and_header()
    owner.write(packet[VXLAN_LEN:], header)
    (got,) = read(port, Burst())
    assert got.frame == packet[VXLAN_LEN:]
    cut = Segmenter().segment(memoryview(bytes(VXLAN_LEN) + got.frame), got.header)
    assert cut is not None
    train, size = cut
    rows = [bytes(train[at + VXLAN_LEN : at + size]) for at in range(0, len(train), size)]
    assert rows == frames_of(made)


@pytest.mark.parametrize("made", KINDS.values(), ids=KINDS)
def test_a_guests_open_checksum_is_read_as_one(owner: Owner, port: PacketPort, made: Super) -> None:
    packet, header = made._replace(payload=b"one packet").packet_and_header()
    owner.write(packet[VXLAN_LEN:], header[:1] + b"\0" + header[2:4] + b"\0\0" + header[6:])
    (got,) = read(port, Burst())
    assert not got.is_super
    assert got.frame != got.completed()
    assert [got.completed()] == frames_of(made._replace(payload=b"one packet"))


@pytest.mark.parametrize("provider", [False, True], ids=["8100", "88a8"])
@pytest.mark.parametrize("tags", [1, 2])
def test_a_tag_stays_on_the_frame(
    owner: Owner, port: PacketPort, tags: int, provider: bool
) -> None:
    """The kernel takes it off, and a guest's VLAN would become part of its segment."""
    kind = 0x88A8 if provider else 0x8100
    frame = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01", type=kind)
    for number in range(tags):
        frame /= Dot1Q(vlan=100 + number, prio=3, type=0x0800 if number == tags - 1 else kind)
    data = bytes(frame / Raw(b"x" * 60))
    owner.write(data)
    owner.write(bytes(Ether(type=0x0800) / Raw(b"untagged")))
    tagged, untagged = read(port, Burst())
    assert tagged.frame == data
    assert untagged.frame.endswith(b"untagged")


def test_what_the_host_itself_sends_on_the_link_is_not_read(owner: Owner, port: PacketPort) -> None:
    with owner.node.socket(socket.AF_PACKET, socket.SOCK_RAW) as host:
        host.bind((LINK, 0))
        host.send(bytes(Ether(type=0x88B5) / Raw(b"of the host")))
        assert [got.frame[14:] for got in owner.read()] == [b"of the host"]
    port.write(bytes(Ether(type=0x88B5) / Raw(b"of the port")))
    assert read(port, Burst()) == []


HOSTS_OWN, GUESTS_OWN = "10.77.0.1", "1.1.1.3"


@pytest.mark.parametrize("is_shut", [False, True], ids=["open", "as_in_the_readme"])
def test_a_guest_does_not_reach_the_hosts_own_kernel(
    owner: Owner, port: PacketPort, is_shut: bool
) -> None:
    """Where the link is a port of a bridge that stays down. Without it the guest does."""
    node = owner.node
    node.link_up("lo")
    node.add_address("lo", HOSTS_OWN, 32)
    node.run(["ip", "route", "add", GUESTS_OWN, "dev", LINK])
    if is_shut:
        node.add_link("nowhere", "bridge")
        node.run(["ip", "link", "set", LINK, "master", "nowhere"])
        node.sysctl(f"ipv4/conf/{LINK}/rp_filter", 1)
        node.sysctl(f"ipv4/conf/{LINK}/arp_ignore", 8)
    link = node.link(LINK)
    assert link is not None
    heard = []
    with node.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind((HOSTS_OWN, 9999))
        service.settimeout(0.3)
        read(port, Burst())
        owner.read()
        for to in (bytes.fromhex(link.mac.replace(":", "")), BROADCAST):
            owner.write(udp(to, mac(3), src_ip=GUESTS_OWN, dst_ip=HOSTS_OWN, dport=9999))
            with contextlib.suppress(TimeoutError):
                heard.append(service.recv(2000))
            assert len(read(port, Burst())) == 1
    owner.write(arp(BROADCAST, mac(3), sender_ip=GUESTS_OWN, target_ip=HOSTS_OWN))
    assert len(read(port, Burst())) == 1
    answers = [got for got in owner.read() if got.frame[12:14] == b"\x08\x06"]
    assert (len(heard), len(answers)) == ((0, 0) if is_shut else (2, 1))


def test_a_burst_keeps_to_its_budget_and_loses_nothing(owner: Owner, port: PacketPort) -> None:
    burst, small = Burst(), bytes(Ether(type=0x88B5) / Raw(b"small"))
    for _ in range(BUDGET + 10):
        owner.write(small)
    assert len(read(port, burst)) == BUDGET
    assert len(read(port, burst)) == 10
    packet, header = KINDS["tcp4"]._replace(payload=bytes(60_000)).packet_and_header()
    # As many as a guest may have on its way: by default the socket holds four.
    for _ in range(30):
        owner.write(bytes(packet[VXLAN_LEN:]), header)
    sizes = []
    while got := read(port, burst):
        sizes.append(sum(len(one.frame) for one in got))
    assert sum(sizes) == 30 * (len(packet) - VXLAN_LEN)
    assert max(sizes) < BUDGET_BYTES + (1 << 16)


def test_nothing_that_a_guest_hands_over_ends_the_port_or_the_tunnel(
    owner: Owner, port: PacketPort
) -> None:
    """Frames of every length with headers that lie. The kernel refuses most of the lies; what it
    lets through is cut, completed, or counted."""
    chance, burst, passed = random.Random(7), Burst(), 0
    local = Vtep("127.0.0.1")
    tunnel = UdpTunnel(local, port=0, source_ports=1)
    heads = [bytes(kind._replace(payload=b"x").packet_and_header()[0]) for kind in KINDS.values()]
    tag = bytes.fromhex("81000064")
    for _ in range(3000):
        frame = bytearray(chance.choice(heads)[VXLAN_LEN:])
        frame += bytes(chance.choice((0, 1, 500, 1400, 20_000, 65_000, 65_450, 65_535, 69_000)))
        if chance.random() < 0.2:
            frame[12:12] = tag
        start = chance.choice((0, 14, 34, 54, 38, 65_000, chance.randrange(1 << 16)))
        header = struct.pack(
            "<BBHHHH",
            chance.choice((0, 1, 1, 2, 255)),
            chance.choice((0, 1, 4, 5, 0x81, 0x84, 3, 255)),
            chance.choice((0, 54, 66, 2000, 65_535)),
            chance.choice((0, 1, 100, 1400, 65_000, 65_500, 65_534, 65_535)),
            start,
            chance.choice((16, 6, 0, chance.randrange(1 << 16))),
        )
        try:
            owner.write(bytes(frame), header)
        except OSError as error:
            assert error.errno in (errno.EINVAL, errno.EMSGSIZE, errno.ENOMEM, errno.E2BIG)
            continue
        port.read(burst)
        for at in range(len(burst.lengths)):
            packet = burst.slots[at][: VXLAN_LEN + burst.lengths[at]]
            vnet.can_be_cut_to(burst.headers[at], 1450)
            tunnel.send(local, 0, packet, burst.headers[at])
            tunnel.flush()
            passed += 1
    assert passed > 500
    tunnel.close()


@pytest.mark.parametrize("made", KINDS.values(), ids=KINDS)
def test_a_super_frame_longer_than_any_packet_is_refused(
    owner: Owner, port: PacketPort, made: Super
) -> None:
    """The kernel lets a guest's 69 kB pass, which no header could say the length of."""
    packet, header = made._replace(payload=b"x").packet_and_header()
    frame, burst = bytes(packet[VXLAN_LEN:]) + bytes(69_000), Burst()
    for size in (65_400, 65_500, 65_530):
        owner.write(frame, header[:4] + struct.pack("<H", size) + header[6:])
        (got,) = read(port, burst)
        assert got.is_super
        assert Segmenter().segment(memoryview(bytes(VXLAN_LEN) + got.frame), got.header) is None


# -- the link ------------------------------------------------------------------------------------


def test_a_link_that_goes_down_and_comes_back_keeps_its_port(
    owner: Owner, port: PacketPort
) -> None:
    packets = KINDS["tcp4"]._replace(payload=PAYLOAD).expected()
    owner.node.link_set(LINK, state="down")
    assert port.write_train(train_of(packets)) == 0
    assert not port.write(packets[0][VXLAN_LEN:])
    assert read(port, Burst()) == []  # ENETDOWN.
    owner.node.link_up(LINK)
    owner.read()
    assert port.write_train(train_of(packets)) == len(packets)
    assert len(owner.read()) == 1
    owner.write(packets[0][VXLAN_LEN:])
    assert [got.frame for got in read(port, Burst())] == [packets[0][VXLAN_LEN:]]


def test_a_link_that_is_removed_takes_its_port_along(owner: Owner, port: PacketPort) -> None:
    packets = KINDS["tcp4"]._replace(payload=PAYLOAD).expected()
    owner.node.remove_link(LINK)
    with pytest.raises(PortGone):
        port.read(Burst())
    with pytest.raises(PortGone):
        port.write_train(train_of(packets))


def test_a_queue_that_is_full_takes_no_more_and_empties(owner: Owner, port: PacketPort) -> None:
    """As of a guest that has stopped. The link counts what did not fit."""
    made = KINDS["tcp4"]._replace(payload=PAYLOAD)
    packets = made.expected()
    owner.node.link_set(LINK, txqlen=8)
    train = train_of(packets)
    for _ in range(20):
        port.write_train(train)
    assert len(owner.read()) == 8
    (line,) = re.findall(rf"{LINK}:(.*)", owner.node.run(["cat", "/proc/net/dev"]).stdout)
    assert int(line.split()[11]) == 12  # Transmit drops.
    assert port.write_train(train) == len(packets)
    assert len(owner.read()) == 1


def test_frames_longer_than_the_links_mtu_are_not_taken(owner: Owner, port: PacketPort) -> None:
    assert not port.write(bytes(Ether(type=0x88B5) / Raw(bytes(2000))))
    assert owner.read() == []


def test_a_tap_port_without_offload_cuts_what_others_have_read(owner: Owner) -> None:
    """The other kind of port, by the same rule: its guest reads from the link."""
    owner.node.add_tap("ours", "02:00:00:00:00:02", 1500)
    port = TapPort("ours", PLACE, multi_queue=True, offload=False)
    owner.node.link_up("ours")
    guest = PacketPort("ours", PLACE)
    made = KINDS["udp6"]._replace(payload=PAYLOAD)
    packet, header = made.packet_and_header()
    assert port.write(packet[VXLAN_LEN:], header)
    assert [one.frame for one in read(guest, Burst())] == frames_of(made)
    guest.close()
    port.close()
