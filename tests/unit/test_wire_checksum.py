"""The Internet checksum against a second implementation and against scapy.

The second implementation is the one of RFC 1071 section 4.1: add 16-bit words, fold the carries,
complement. It knows nothing of the arithmetic modulo 0xffff of the product.
"""

from __future__ import annotations

import random
from struct import pack

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.utils import checksum as scapy_checksum

from vswitch.wire import checksum


def naive(data: bytes) -> int:
    """RFC 1071, word by word."""
    if len(data) % 2:
        data += b"\0"
    total = 0
    for at in range(0, len(data), 2):
        total += data[at] << 8 | data[at + 1]
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@given(st.binary(max_size=100))
@example(b"")
@example(b"\0\0")
@example(b"\xff\xff")
@example(b"\x12\x34\xed\xcb")
@example(b"\xff\xff\xff\xff")
@example(b"\x01")
def test_it_is_that_of_rfc_1071(data: bytes) -> None:
    """Also for words that sum to 0xffff, whose checksum is 0x0000 and nothing else."""
    assert checksum.internet(data) == naive(data)


@given(st.binary(max_size=100))
def test_it_is_that_of_scapy(data: bytes) -> None:
    assert checksum.internet(data) == scapy_checksum(data)


@given(st.binary(min_size=1, max_size=60), st.binary(min_size=1, max_size=60))
def test_a_sum_can_be_handed_on(first: bytes, second: bytes) -> None:
    """As a pseudo-header's is; the part before must be of even length."""
    even = first + b"\0" * (len(first) % 2)
    whole = checksum.internet(second, checksum.ones_sum(even))
    assert whole % 0xFFFF == naive(even + second) % 0xFFFF


@given(st.binary(min_size=2, max_size=80))
def test_a_buffer_with_its_checksum_verifies_and_one_changed_bit_does_not(data: bytes) -> None:
    even = data + b"\0" * (len(data) % 2)
    whole = bytearray(even + pack("!H", naive(even)))
    assert checksum.verifies(whole)
    whole[0] ^= 0x10
    assert not checksum.verifies(whole)


def headers(count: int) -> list[bytearray]:
    """Random sound headers, packed by hand; their TTL is still 0."""
    chance = random.Random(1624)
    made = []
    for _ in range(count):
        tos, length, identification, offset = (chance.randrange(1 << n) for n in (8, 16, 16, 16))
        start = pack("!BBHHHBB", 0x45, tos, length, identification, offset, 0, 17)
        made.append(bytearray(start + bytes(2) + chance.randbytes(8)))
    return made


def with_checksum(header: bytearray) -> bytearray:
    header[10:12] = b"\0\0"
    header[10:12] = pack("!H", naive(bytes(header)))
    return header


@pytest.mark.parametrize("ttl", range(1, 256))
def test_the_update_for_a_lower_ttl_is_the_full_computation(ttl: int) -> None:
    for header in headers(40):
        header[8] = ttl
        before = int.from_bytes(with_checksum(header)[10:12], "big")
        header[8] = ttl - 1
        after = int.from_bytes(with_checksum(header)[10:12], "big")
        assert checksum.after_ttl_decrement(before) == after


def test_the_update_is_right_for_every_checksum_that_a_header_can_have() -> None:
    """Above all where the carry wraps: 0xfeff becomes 0x0000, not 0xffff (RFC 1624 section 3).

    The identification field steers the header to every checksum but 0xffff, which only a header of
    zeros has.
    """
    for wanted in range(0xFFFF):
        header = bytearray(
            pack("!BBHHHBBH4s4s", 0x45, 0, 40, 0, 0, 64, 6, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
        )
        spare = (naive(bytes(header)) - wanted) % 0xFFFF
        header[4:6] = pack("!H", spare)
        before = naive(bytes(header))
        assert before == wanted
        header[8] -= 1
        assert checksum.after_ttl_decrement(before) == naive(bytes(header)), hex(wanted)


def test_scapy_agrees_on_a_forwarded_packet() -> None:
    before = IP(bytes(IP(src="10.0.0.1", dst="10.0.0.2", ttl=64)))
    after = IP(bytes(IP(src="10.0.0.1", dst="10.0.0.2", ttl=63)))
    assert checksum.after_ttl_decrement(before.chksum) == after.chksum
