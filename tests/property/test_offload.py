"""Super-frames and trains: every packet of a train against scapy, and the way there and back.

The super-frames are built by scapy, with their checksum left open as a guest's kernel leaves it.
What `segment` makes of one must be, packet by packet, what scapy builds from the same fields; what
`coalesce` makes of that train must be the super-frame again. Damage of any kind must not be joined.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tests.frames import vxlan
from vswitch.wire import flows, vnet
from vswitch.wire.coalescer import Coalescer
from vswitch.wire.segmenter import Segmenter
from vswitch.wire.vxlan import VXLAN_LEN

VNI = 100
MAX_TCP_HEADER = 60
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
OPTIONS = (
    [],
    [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))],
    [("NOP", None), ("NOP", None), ("SAck", (5, 9))],
)


class Super(NamedTuple):
    """What a super-frame is made of."""

    is_ipv4: bool
    is_tcp: bool
    mss: int
    payload: bytes
    identification: int = 7
    may_fragment: bool = False
    sequence: int = 1000
    flags: int = ACK
    options: int = 0

    def frame(self, payload: bytes, **fields: Any) -> bytes:
        """Build one whole frame with these fields, by scapy."""
        if self.is_ipv4:
            flag = "" if self.may_fragment else "DF"
            ip = IP(src="10.0.0.1", dst="10.0.0.2", id=fields.get("id", self.identification))
            ip.flags = flag
        else:
            ip = IPv6(src="2001:db8::1", dst="2001:db8::2")
        if self.is_tcp:
            transport = TCP(
                sport=4000,
                dport=5000,
                seq=fields.get("seq", self.sequence),
                ack=77,
                flags=fields.get("flags", self.flags),
                options=OPTIONS[self.options],
            )
        else:
            transport = UDP(sport=4000, dport=5000)
        head = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")
        return bytes(head / ip / transport / Raw(payload))

    @property
    def transport_at(self) -> int:
        return 34 if self.is_ipv4 else 54

    @property
    def checksum_offset(self) -> int:
        return 16 if self.is_tcp else 6

    @property
    def header_len(self) -> int:
        return len(self.frame(b"x")) - 1

    def packet_and_header(self) -> tuple[memoryview, bytes]:
        """Return what a port reads: the frame with an open checksum, behind a VXLAN header."""
        frame = bytearray(self.frame(self.payload))
        at = self.transport_at
        addresses = bytes(frame[26:34] if self.is_ipv4 else frame[22:54])
        pseudo = addresses + struct.pack("!II", len(frame) - at, 6 if self.is_tcp else 17)
        total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        struct.pack_into("!H", frame, at + self.checksum_offset, total)
        gso = (1 if self.is_ipv4 else 4) if self.is_tcp else 5
        gso |= 0x80 if self.is_tcp and self.flags & CWR else 0
        header = struct.pack("<BBHHHH", 1, gso, self.header_len, self.mss, at, self.checksum_offset)
        return memoryview(bytearray(vxlan(VNI, bytes(frame)))), header

    def expected(self) -> list[bytes]:
        """Build each packet by itself."""
        cuts = range(0, len(self.payload), self.mss)
        made = []
        for row, at in enumerate(cuts):
            flags = self.flags
            if at + self.mss < len(self.payload):
                flags &= ~(FIN | PSH)
            if row:
                flags &= ~CWR
            fields = {
                "id": (self.identification + row) & 0xFFFF,
                "seq": (self.sequence + at) & 0xFFFFFFFF,
                "flags": flags,
            }
            made.append(vxlan(VNI, self.frame(self.payload[at : at + self.mss], **fields)))
        return made


@st.composite
def supers(draw: st.DrawFn) -> Super:
    mss = draw(st.sampled_from([8, 9, 100, 536, 1001, 1398, 1400, 8948]) | st.integers(6, 1500))
    rows = draw(st.integers(1, 64))
    length = min(60_000, rows * mss - draw(st.integers(0, mss - 1)))
    seed = draw(st.integers(0, 2**32 - 1))
    payload = np.random.default_rng(seed).bytes(length)
    is_tcp = draw(st.booleans())
    return Super(
        draw(st.booleans()),
        is_tcp,
        mss,
        payload,
        draw(st.integers(0, 0xFFFF)),
        draw(st.booleans()),
        draw(st.integers(0, 0xFFFFFFFF)),
        ACK | draw(st.sampled_from([0, PSH, FIN, PSH | FIN, CWR, CWR | PSH, ECE])),
        draw(st.integers(0, len(OPTIONS) - 1)),
    )


def cut(made: Super, segmenter: Segmenter) -> list[bytes]:
    """Cut a super-frame into its packets."""
    packet, header = made.packet_and_header()
    result = segmenter.segment(packet, header)
    assert result is not None
    train, size = result
    return [bytes(train[at : at + size]) for at in range(0, len(train), size)]


def join(packets: list[bytes], coalescer: Coalescer, start: int = 0) -> tuple[bytes, bytes] | None:
    """Join packets that lie in a slot as a train, with rubbish behind it."""
    size = len(packets[0])
    train = b"".join(packets)
    slot = np.full(start + (len(packets) + 1) * size, 0xA5, dtype=np.uint8)
    slot[start : start + len(train)] = np.frombuffer(train, np.uint8)
    joined = coalescer.coalesce(slot, start, len(train), size)
    return None if joined is None else (bytes(joined[0]), joined[1])


SEGMENTER, COALESCER = Segmenter(), Coalescer()
"""Shared by all examples, as by all frames: a cached view of another shape must do no harm."""


@given(supers())
def test_each_packet_is_what_scapy_builds(made: Super) -> None:
    packets, expected = cut(made, SEGMENTER), made.expected()
    assert len(packets) == len(expected)
    for packet, wanted in zip(packets, expected, strict=True):
        assert packet == wanted


@given(supers())
@example(Super(True, False, 18, bytes(18 * 128)))
@example(Super(False, False, 18, bytes(18 * 128)))
def test_a_super_frame_is_counted_as_the_packets_that_it_stands_for(made: Super) -> None:
    packet, header = made.packet_and_header()
    packets = -(-len(made.payload) // made.mss)
    counted = vnet.datagrams_of(header, len(packet) - VXLAN_LEN)
    if made.is_tcp:
        assert packets <= counted <= packets + -(-MAX_TCP_HEADER // made.mss)
    else:
        assert counted == packets


@given(supers(), st.integers(0, 100))
def test_there_and_back(made: Super, start: int) -> None:
    packets = cut(made, SEGMENTER)
    assume(len(packets) > 1)
    joined = join(packets, Coalescer(), start)
    packet, header = made.packet_and_header()
    assert joined is not None
    assert joined[0] == bytes(packet[8:])
    assert joined[1] == header


@given(supers(), st.data())
def test_a_damaged_packet_is_never_joined(made: Super, data: st.DataObject) -> None:
    """One bit, anywhere behind the Ethernet header. Of what is flipped in an address or a number,
    the headers tell; of all else, a checksum."""
    packets = cut(made, SEGMENTER)
    assume(len(packets) > 1)
    row = data.draw(st.integers(0, len(packets) - 1))
    bad = bytearray(packets[row])
    at = data.draw(st.integers(22, len(bad) - 1))
    # The Ethernet payload of IPv6 has fields that no checksum covers; those must still match.
    bad[at] ^= 1 << data.draw(st.integers(0, 7))
    packets[row] = bytes(bad)
    assert join(packets, Coalescer()) is None


@given(supers(), st.randoms(use_true_random=False))
def test_packets_out_of_order_are_never_joined(made: Super, chance: Any) -> None:
    packets = cut(made, SEGMENTER)
    assume(made.is_tcp and len(packets) > 2)
    shuffled = packets[:-1]
    chance.shuffle(shuffled)
    assume(shuffled != packets[:-1])
    assert join([*shuffled, packets[-1]], Coalescer()) is None


@pytest.mark.parametrize("flag", [SYN, RST, URG])
def test_what_is_no_plain_data_is_not_joined(flag: int) -> None:
    rows = [
        vxlan(
            VNI,
            Super(True, True, 100, b"", sequence=1000 + 100 * n, flags=ACK | flag).frame(
                bytes(100), id=7 + n
            ),
        )
        for n in range(3)
    ]
    assert join(rows, Coalescer()) is None


def test_two_flows_are_not_joined() -> None:
    one = cut(Super(True, True, 100, bytes(200)), SEGMENTER)
    other = cut(Super(True, True, 100, bytes(200), options=1), SEGMENTER)
    assert join([one[0], other[1][: len(one[1])]], Coalescer()) is None


@given(st.binary(min_size=8, max_size=300), st.binary(min_size=10, max_size=10))
def test_random_bytes_never_raise(packet: bytes, header: bytes) -> None:
    SEGMENTER.segment(memoryview(bytearray(packet)), header)
    if len(packet) > 20:
        slot = np.frombuffer(bytearray(packet + bytes(600)), np.uint8)
        for size in (1, 9, 30, len(packet) // 2):
            COALESCER.coalesce(slot, 0, len(packet), size)
            starts = flows.trains(slot, len(packet), size)
            assert sum(length for _, length in starts) == len(packet)


@given(supers(), st.binary(min_size=10, max_size=10))
def test_a_header_that_lies_never_raises(made: Super, header: bytes) -> None:
    packet, good = made.packet_and_header()
    SEGMENTER.segment(packet, header)
    SEGMENTER.segment(packet, good[:2] + header[2:])
    SEGMENTER.segment(packet, header[:1] + good[1:2] + header[2:4] + good[4:6] + header[6:])


def test_segments_of_a_byte_are_refused() -> None:
    """They would make four megabytes out of 64 kB."""
    packet, header = Super(True, True, 1, bytes(1000)).packet_and_header()
    assert Segmenter().segment(packet, header) is None


def _slot(packets: list[bytes]) -> tuple[np.ndarray[Any, Any], int]:
    joined = b"".join(packets)
    room = bytes(len(packets[0]))
    return np.frombuffer(bytearray(joined + room), np.uint8), len(joined)


def test_neighbours_of_one_flow_are_one_run_and_others_are_split() -> None:
    flow = cut(Super(True, False, 50, bytes(200)), SEGMENTER)
    other = [bytearray(packet) for packet in flow]
    for packet in other:
        packet[8:14] = b"\x02\0\0\0\0\x09"
    size = len(flow[0])
    slot, length = _slot([*flow, *map(bytes, other), flow[0]])
    assert flows.trains(slot, length, size) == [
        (0, 4 * size),
        (4 * size, 4 * size),
        (8 * size, size),
    ]


@pytest.mark.parametrize("at", [0, 6, 13, 19, 23, 30, 31, 37, 41])
def test_what_a_packet_is_forwarded_by_splits_a_run(at: int) -> None:
    """VXLAN header, both MACs, TOS, TTL, protocol and both addresses."""
    flow = cut(Super(True, False, 50, bytes(150)), SEGMENTER)
    odd = bytearray(flow[1])
    odd[at] ^= 1
    size = len(odd)
    slot, length = _slot([flow[0], bytes(odd), flow[2]])
    assert flows.trains(slot, length, size) == [(0, size), (size, size), (2 * size, size)]


@pytest.mark.parametrize("at", [0, 6, 13, 19, 21, 22, 23, 25, 28, 29, 30, 45, 46, 61])
def test_what_an_ipv6_packet_is_forwarded_by_splits_a_run(at: int) -> None:
    """VXLAN header, both MACs, type, class, label, next header, hop limit and both addresses."""
    flow = cut(Super(False, False, 50, bytes(150)), SEGMENTER)
    odd = bytearray(flow[1])
    odd[at] ^= 1
    size = len(odd)
    slot, length = _slot([flow[0], bytes(odd), flow[2]])
    assert flows.trains(slot, length, size) == [(0, size), (size, size), (2 * size, size)]


@pytest.mark.parametrize("at", [62, 63, 70, 90])
def test_what_is_behind_an_ipv6_header_keeps_a_run_together(at: int) -> None:
    flow = cut(Super(False, True, 50, bytes(150)), SEGMENTER)
    odd = bytearray(flow[1])
    odd[at] ^= 1
    slot, length = _slot([flow[0], bytes(odd), flow[2]])
    assert flows.trains(slot, length, len(odd)) == [(0, length)]


def test_runs_of_ipv6_to_two_destinations_are_split() -> None:
    flow = cut(Super(False, False, 50, bytes(200)), SEGMENTER)
    other = [packet[:61] + b"\x99" + packet[62:] for packet in flow]
    size = len(flow[0])
    slot, length = _slot([*flow, *other, flow[0]])
    assert flows.trains(slot, length, size) == [
        (0, 4 * size),
        (4 * size, 4 * size),
        (8 * size, size),
    ]


@pytest.mark.parametrize("first_is_ipv4", [True, False])
def test_both_families_in_one_receive_are_told_apart(first_is_ipv4: bool) -> None:
    """Packets of one size, that the kernel has joined because their outer flow is the same."""
    four = cut(Super(True, False, 70, bytes(140)), SEGMENTER)
    six = cut(Super(False, False, 50, bytes(150)), SEGMENTER)
    size = len(six[0])
    assert len(four[0]) == size
    rows = [*four, *six, four[0]] if first_is_ipv4 else [*six, *four, six[0]]
    firsts = (len(four), len(six)) if first_is_ipv4 else (len(six), len(four))
    slot, length = _slot(rows)
    assert flows.trains(slot, length, size) == [
        (0, firsts[0] * size),
        (firsts[0] * size, firsts[1] * size),
        (sum(firsts) * size, size),
    ]


@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=12),
    missing=st.integers(0, 60),
)
def test_a_train_is_of_one_destination_whatever_is_joined(
    rows: list[tuple[int, bool]], missing: int
) -> None:
    """Whoever is decided on with the first of a train has the same headers as it."""
    four = cut(Super(True, False, 70, bytes(70)), SEGMENTER)[0]
    six = cut(Super(False, False, 50, bytes(50)), SEGMENTER)[0]
    packets = [
        (six[:61] + bytes([to]) + six[62:]) if is_ipv6 else (four[:41] + bytes([to]) + four[42:])
        for to, is_ipv6 in rows
    ]
    slot, length = _slot(packets)
    length -= missing
    size = len(six)
    found = flows.trains(slot, length, size)
    assert sum(part for _, part in found) == length
    assert [start for start, _ in found] == [
        sum(part for _, part in found[:at]) for at in range(len(found))
    ]
    for start, part in found:
        assert start % size == 0
        assert len(set(rows[start // size : -(-(start + part) // size)])) == 1


def test_a_short_last_packet_stays_in_its_run() -> None:
    flow = cut(Super(True, False, 50, bytes(120)), SEGMENTER)
    slot, length = _slot(flow)
    assert flows.trains(slot, length, len(flow[0])) == [(0, length)]


def test_a_last_packet_without_a_whole_header_is_by_itself() -> None:
    """Behind it lies what was received before: it must not be taken for its header."""
    flow = cut(Super(True, False, 50, bytes(200)), SEGMENTER)
    size = len(flow[0])
    slot, length = _slot(flow)
    cut_off = length - size + 30
    assert flows.trains(slot, cut_off, size) == [(0, 3 * size), (3 * size, 30)]


def test_the_header_says_what_the_constants_say() -> None:
    assert (vnet.GSO_TCPV4, vnet.GSO_TCPV6, vnet.GSO_UDP_L4, vnet.GSO_ECN) == (1, 4, 5, 0x80)
