"""IPv4 headers (RFC 791): where fields are, what a router must check, how one is built.

Decisions read the fields that they need straight from the buffer at these offsets.
"""

from __future__ import annotations

from struct import Struct

from . import checksum
from .ethernet import HEADER_LEN, Buffer

HEADER = Struct("!BBHHHBBH4s4s")
"""Version and length, TOS, total length, id, flags and fragment offset, TTL, protocol, checksum,
source, destination (RFC 791 section 3.1)."""
MIN_HEADER_LEN = HEADER.size

# Offsets from the start of an Ethernet frame.
TTL_AT = HEADER_LEN + 8
CHECKSUM_AT = HEADER_LEN + 10
SOURCE_AT = HEADER_LEN + 12
DESTINATION_AT = HEADER_LEN + 16
MIN_FRAME_LEN = HEADER_LEN + MIN_HEADER_LEN

UNSPECIFIED = bytes(4)
ICMP = 1
TCP = 6
UDP = 17
FRAGMENT_MASK = 0x3FFF
"""More-fragments flag and fragment offset (RFC 791 section 3.1)."""
OFFSET_MASK = 0x1FFF

DEFAULT_TTL = 64
"""RFC 1700."""


def is_sound(packet: Buffer) -> bool:
    """Say whether a router may forward by this header (RFC 1812 section 5.2.2).

    Checked: version 4, header length at least 20 and inside the packet, header checksum, total
    length at least the header and not beyond the packet.
    """
    if len(packet) < MIN_HEADER_LEN:
        return False
    first = packet[0]
    if first == 0x45:  # No options: nearly every packet.
        header_len = MIN_HEADER_LEN
    else:
        header_len = (first & 0x0F) * 4
        if first >> 4 != 4 or header_len < MIN_HEADER_LEN or header_len > len(packet):
            return False
    if int.from_bytes(packet[:header_len], "big") % 0xFFFF:
        return False
    return header_len <= (packet[2] << 8 | packet[3]) <= len(packet)


def build(
    source: bytes,
    destination: bytes,
    protocol: int,
    payload: bytes,
    *,
    ttl: int = DEFAULT_TTL,
    tos: int = 0,
    identification: int = 0,
) -> bytes:
    """Build a packet without options."""
    total = MIN_HEADER_LEN + len(payload)
    header = bytearray(
        HEADER.pack(0x45, tos, total, identification, 0, ttl, protocol, 0, source, destination)
    )
    header[10:12] = checksum.internet(header).to_bytes(2, "big")
    return bytes(header) + payload


def fragment(head: Buffer, flags: int, payload: bytes) -> bytes:
    """Build a fragment: `head` with other flags and offset, and its part of the payload."""
    header = bytearray(head)
    header[2:4] = (len(header) + len(payload)).to_bytes(2, "big")
    header[6:8] = flags.to_bytes(2, "big")
    header[10:12] = bytes(2)
    header[10:12] = checksum.internet(header).to_bytes(2, "big")
    return bytes(header) + payload
