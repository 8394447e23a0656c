"""Completing what a guest has left to its port: checksums, against what scapy computes."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from vswitch.wire import vnet


def _unfinished(transport: TCP | UDP, offset: int) -> tuple[bytearray, bytearray, bytes]:
    """Return a frame as a guest with checksum offload sends it, its header, and the whole frame."""
    packet = Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / transport / (b"payload" * 3)
    whole = bytes(packet)
    frame = bytearray(whole)
    segment = len(whole) - 34
    protocol = 6 if isinstance(transport, TCP) else 17
    pseudo = bytes([10, 0, 0, 1, 10, 0, 0, 2, 0, protocol]) + struct.pack("!H", segment)
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    frame[34 + offset : 36 + offset] = struct.pack("!H", (total & 0xFFFF) + (total >> 16))
    header = bytearray(vnet.HEADER.pack(vnet.NEEDS_CHECKSUM, 0, 0, 0, 34, offset))
    return frame, header, whole


@pytest.mark.parametrize(
    ("transport", "offset"),
    [(TCP(sport=1, dport=2, seq=7), 16), (UDP(sport=1, dport=2), 6)],
    ids=["tcp", "udp"],
)
def test_an_open_checksum_is_filled_in(transport: TCP | UDP, offset: int) -> None:
    frame, header, whole = _unfinished(transport, offset)
    assert bytes(frame) != whole
    assert vnet.complete(memoryview(frame), header)
    assert bytes(frame) == whole
    assert bytes(header) == vnet.PLAIN


@pytest.mark.parametrize("row_of", [TCP, UDP], ids=["tcp", "udp"])
def test_the_open_checksums_of_a_run_are_filled_in(row_of: type[TCP | UDP]) -> None:
    offset = 16 if row_of is TCP else 6
    made = [_unfinished(row_of(sport=number, dport=2), offset) for number in range(1, 65)]
    headers = [header for _, header, _ in made]
    table = np.array([list(frame) for frame, _, _ in made], dtype=np.uint8)
    assert vnet.complete_all(table, headers)
    assert [bytes(row) for row in table] == [whole for _, _, whole in made]
    assert headers == [vnet.PLAIN] * len(made)


def test_a_plain_frame_stays_as_it_is() -> None:
    frame = bytearray(b"anything")
    assert vnet.complete(memoryview(frame), bytearray(vnet.PLAIN))
    assert frame == b"anything"


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param((1, 1, 54, 1400, 34, 16), id="super_frame"),
        pytest.param((1, 0, 0, 0, 34, 60_000), id="outside"),
        pytest.param((1, 0, 0, 0, 65_535, 65_535), id="far_outside"),
    ],
)
def test_what_cannot_be_completed_is_refused_unchanged(fields: tuple[int, ...]) -> None:
    frame, _, _ = _unfinished(TCP(sport=1, dport=2), 16)
    before = bytes(frame)
    assert not vnet.complete(memoryview(frame), bytearray(vnet.HEADER.pack(*fields)))
    assert bytes(frame) == before


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        pytest.param((1, vnet.GSO_TCPV4, 54, 9000, 34, 16), True, id="tcp"),
        pytest.param((1, vnet.GSO_TCPV6 | vnet.GSO_ECN, 54, 9000, 54, 16), True, id="tcp_with_cwr"),
        pytest.param((1, vnet.GSO_UDP_L4, 42, 1400, 34, 6), True, id="udp"),
        pytest.param((1, vnet.GSO_UDP_L4, 42, 1423, 34, 6), False, id="udp_too_long"),
        pytest.param((1, vnet.GSO_UDP_L4, 30_000, 1400, 34, 6), True, id="udp_in_one_buffer"),
        pytest.param((1, vnet.GSO_NONE, 54, 9000, 34, 16), False, id="no_super_frame"),
    ],
)
def test_what_can_be_cut_to_fit(fields: tuple[int, ...], fits: bool) -> None:
    assert vnet.can_be_cut_to(vnet.HEADER.pack(*fields), 1464) is fits


ENCAPS = {4: vnet.Encap(4, 34, 50), 6: vnet.Encap(6, 54, 70)}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("ecn", [0, vnet.GSO_ECN])
def test_a_super_frame_in_a_tunnel_says_where_everything_is(version: int, ecn: int) -> None:
    encap = ENCAPS[version]
    about = vnet.into_tunnel(vnet.GSO_TCPV4 | ecn, 34, 16, 66, 1398, encap)
    flags, gso, header_len, size, start, offset, *_, udp_at, ip_at = struct.unpack(
        "<BBHHHHHIHHHH", about
    )
    assert len(about) == vnet.TUNNEL_LEN
    assert flags == (0x01 if version == 4 else 0x09)
    assert gso == 0x01 | ecn | (0x20 if version == 4 else 0x40)
    assert (header_len, size) == (encap.length + 66, 1398)
    assert (start, offset) == (encap.length + 34, 16)
    assert (udp_at, ip_at) == (encap.udp_at, encap.length + 14)


def inner(gso: int, size: int, header_len: int, start: int, offset: int) -> vnet.Received:
    made = vnet.HEADER.pack(vnet.NEEDS_CHECKSUM, gso, header_len, size, start, offset)
    return vnet.Received(0, made, True)


PLAIN_VERIFIED, PLAIN_UNVERIFIED = (vnet.Received(0, vnet.PLAIN, known) for known in (True, False))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param((0, 0, 0, 0, 0, 0), PLAIN_UNVERIFIED, id="to_be_verified"),
        pytest.param((2, 0, 0, 0, 0, 0), PLAIN_VERIFIED, id="verified"),
        pytest.param((1, 0, 0, 0, 34, 6), PLAIN_VERIFIED, id="of_our_machine"),
        pytest.param((1, 5, 0, 1458, 34, 6), vnet.Received(1458, vnet.PLAIN, True), id="train"),
        pytest.param((1, 0, 0, 0, 84, 16), inner(0, 0, 0, 34, 16), id="inner_checksum_open"),
        pytest.param((1, 1, 116, 1398, 84, 16), inner(1, 1398, 66, 34, 16), id="super_of_tcp"),
        pytest.param((1, 0x81, 116, 9, 84, 16), inner(0x81, 9, 66, 34, 16), id="with_ecn"),
        pytest.param((1, 5, 92, 1400, 84, 6), inner(5, 1400, 42, 34, 6), id="super_of_udp"),
        pytest.param((1, 1, 40, 1398, 84, 16), inner(1, 1398, 0, 34, 16), id="a_poor_hint"),
        pytest.param((1, 0, 0, 0, 40, 16), None, id="checksum_in_between"),
        pytest.param((1, 1, 0, 1398, 34, 16), None, id="tcp_where_udp_is"),
        pytest.param((1, 1, 0, 1398, 60, 16), None, id="inside_the_inner_ethernet"),
        pytest.param((1, 5, 0, 0, 34, 6), None, id="train_of_nothing"),
        pytest.param((1, 1, 0, 0, 84, 16), None, id="super_of_nothing"),
        pytest.param((0, 1, 0, 1398, 84, 16), None, id="super_without_open_checksum"),
    ],
)
def test_what_a_tunnel_brings_is_told_apart(
    fields: tuple[int, ...], expected: vnet.Received | None
) -> None:
    assert vnet.out_of_tunnel(vnet.HEADER.pack(*fields), ENCAPS[4]) == expected
