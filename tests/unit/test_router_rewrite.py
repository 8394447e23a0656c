"""What a forwarded packet leaves with, compared with a full recomputation by other code.

The product changes the checksum by an increment (RFC 1624); here it is computed anew, once by the
addition of RFC 1071 section 4.1 and once by scapy.
"""

from __future__ import annotations

from random import Random
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, IPOption_NOP, IPOption_RR
from scapy.layers.l2 import Ether

from leaf.rewrite import rewrite
from leaf.router import IP_AT, Reason, Verdict
from tests.frames import SHARED_MAC, v4, vxlan
from tests.unit.leaf_world import (
    FAR_LEAF,
    FAR_ROUTER_MAC,
    GUESTS,
    H1,
    H3,
    H5,
    H6,
    ONE,
    ROUTER_MAC,
    A,
    B,
    World,
    forwarded,
    to_gateway,
)

TEN, TWELVE = IP_AT + 10, IP_AT + 12
HEADER = b"\x08\0\0\0\x12\x34\x56\0" + H3.mac + SHARED_MAC
ROUTED = Verdict(Reason.ROUTED, B, HEADER)
BRIDGED = Verdict(Reason.BRIDGED, B, HEADER)


def naive(data: bytes) -> int:
    """RFC 1071 section 4.1, word by word."""
    total = 0
    for at in range(0, len(data), 2):
        total += data[at] << 8 | data[at + 1]
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def with_checksum(header: bytes) -> bytes:
    blank = header[:10] + b"\0\0" + header[12:]
    return blank[:10] + pack("!H", naive(blank)) + blank[12:]


def random_header(chance: Random, ttl: int) -> bytes:
    """A sound header with random fields and options; its total length is its own."""
    words = chance.randrange(5, 16)
    start = bytes((0x40 | words, chance.randrange(256))) + pack("!H", words * 4)
    rest = chance.randbytes(4) + bytes((ttl, chance.randrange(256))) + b"\0\0"
    return with_checksum(start + rest + chance.randbytes(8 + (words - 5) * 4))


@pytest.mark.parametrize("ttl", range(2, 256))
def test_the_checksum_is_the_full_recomputation(ttl: int) -> None:
    chance = Random(ttl)
    for _ in range(20):
        header = random_header(chance, ttl)
        packet = vxlan(ONE, SHARED_MAC + H1.mac + b"\x08\0" + header + b"payload")
        after = forwarded(packet, ROUTED)[IP_AT:]
        assert after == with_checksum(header[:8] + bytes([ttl - 1]) + header[9:]) + b"payload"


def test_a_checksum_that_becomes_zero_is_written_as_zero() -> None:
    """RFC 1624 section 3: 0xffff, the other zero of one's complement, stands in no header."""
    header = bytearray(with_checksum(random_header(Random(1), 64)[:20]))
    header[0], header[2:4] = 0x45, b"\0\x14"
    header[8] = 63
    header[4:6] = header[10:12] = b"\0\0"
    header[4:6] = pack("!H", naive(bytes(header)))
    assert with_checksum(bytes(header))[10:12] == b"\0\0"
    header[8] = 64
    packet = vxlan(ONE, SHARED_MAC + H1.mac + b"\x08\0" + with_checksum(bytes(header)))
    assert forwarded(packet, ROUTED)[TEN:TWELVE] == b"\0\0"


@given(
    tos=st.integers(0, 255),
    identification=st.integers(0, 0xFFFF),
    flags=st.integers(0, 7),
    frag=st.integers(0, 0x1FFF),
    ttl=st.integers(2, 255),
    proto=st.integers(0, 255),
    src=st.integers(0x01000000, 0x7EFFFFFF),
)
def test_scapy_agrees(
    tos: int, identification: int, flags: int, frag: int, ttl: int, proto: int, src: int
) -> None:
    source = ".".join(str(part) for part in src.to_bytes(4, "big"))
    fields = {"tos": tos, "id": identification, "flags": flags, "frag": frag, "proto": proto}
    before = IP(src=source, dst=H3.ip, ttl=ttl, **fields)
    expected = bytes(IP(src=source, dst=H3.ip, ttl=ttl - 1, **fields))
    packet = vxlan(ONE, SHARED_MAC + H1.mac + b"\x08\0" + bytes(before))
    assert forwarded(packet, ROUTED)[IP_AT:] == expected


def test_options_and_padding_stay_as_they_are() -> None:
    options = [IPOption_NOP(), IPOption_RR(routers=["9.9.9.9", "8.8.8.8"])]
    packet = to_gateway(H1, H3.ip, options=options) + b"\0\0padding"
    after = forwarded(packet, ROUTED)
    parsed = Ether(after[8:])[IP]
    assert parsed.ttl == 63
    assert parsed.options[1].routers == ["9.9.9.9", "8.8.8.8"]
    assert after[TWELVE:] == packet[TWELVE:]
    assert naive(after[IP_AT : IP_AT + parsed.ihl * 4]) == 0


def test_a_bridged_packet_is_the_same_from_the_ethertype_on() -> None:
    packet = to_gateway(H5, H6.ip, ttl=1)
    assert forwarded(packet, BRIDGED) == HEADER + packet[20:]


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_it_is_done_in_place(kind: type) -> None:
    """A train is edited where it lies; a copy would be sent on unchanged."""
    memory = bytearray(to_gateway(H1, H3.ip))
    rewrite(kind(memory) if kind is memoryview else memory, ROUTED)
    assert memory[:20] == HEADER
    assert memory[IP_AT + 8] == 63


def test_from_end_to_end_scapy_reads_what_was_meant() -> None:
    """The way to another leaf and the way to a guest, with every field that has changed."""
    world = World(*GUESTS)
    for dst_ip, vtep, vni, dst, src in (
        (H3.ip, B, 100, H3.mac, SHARED_MAC),
        ("10.20.1.1", FAR_LEAF, 5000, FAR_ROUTER_MAC, ROUTER_MAC),
    ):
        packet = to_gateway(H1, dst_ip, ttl=17)
        verdict = world.router.decide(A, packet)
        after = forwarded(packet, verdict)
        frame = Ether(after[8:])
        assert verdict.vtep == vtep
        assert after[:8] == b"\x08\0\0\0" + vni.to_bytes(3, "big") + b"\0"
        assert (frame.dst, frame.src) == (dst.hex(":"), src.hex(":"))
        assert (frame[IP].ttl, frame[IP].src, frame[IP].dst) == (16, H1.ip, dst_ip)
        assert after[TWELVE : TWELVE + 8] == v4(H1.ip) + v4(dst_ip)
