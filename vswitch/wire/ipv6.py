"""IPv6 headers (RFC 8200): where fields are, what a router must check, how one is built.

Decisions read the fields that they need straight from the buffer at these offsets. The header has
no checksum of its own, so a forwarded packet needs nothing but a lower hop limit; the pseudo-header
that the checksums inside cover is summed here, for whoever builds or verifies one.
"""

from __future__ import annotations

from struct import Struct

from . import checksum
from .ethernet import HEADER_LEN, Buffer, Mac

HEADER = Struct("!IHBB16s16s")
"""Version with traffic class and flow label, payload length, next header, hop limit, source,
destination (RFC 8200 section 3)."""
MIN_HEADER_LEN = HEADER.size

# Offsets from the start of an Ethernet frame.
NEXT_HEADER_AT = HEADER_LEN + 6
HOP_LIMIT_AT = HEADER_LEN + 7
SOURCE_AT = HEADER_LEN + 8
DESTINATION_AT = HEADER_LEN + 24
MIN_FRAME_LEN = HEADER_LEN + MIN_HEADER_LEN

UNSPECIFIED = bytes(16)
LOOPBACK = bytes(15) + b"\x01"
ALL_NODES = b"\xff\x02" + bytes(13) + b"\x01"
"""ff02::1 (RFC 4291 section 2.7.1)."""
ALL_ROUTERS = b"\xff\x02" + bytes(13) + b"\x02"
"""ff02::2 (RFC 4291 section 2.7.1)."""
SOLICITED_NODE = b"\xff\x02" + bytes(9) + b"\x01\xff"
"""The first 13 bytes of ff02::1:ff00:0/104 (RFC 4291 section 2.7.1)."""

TCP = 6
UDP = 17
ICMP = 58
"""RFC 4443 section 1."""

# Extension headers (RFC 8200 section 4).
HOP_BY_HOP = 0
ROUTING = 43
FRAGMENT = 44
DESTINATION_OPTIONS = 60
EXTENSIONS = frozenset({HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS})
MAX_EXTENSIONS = 8
"""RFC 8200 section 4.1 foresees six at most; a longer chain is nobody's honest packet."""

DEFAULT_HOP_LIMIT = 64
"""RFC 1700, and what hosts send by default."""

_PSEUDO_HEADER = Struct("!16s16sII")
"""The pseudo-header: source, destination, length, next header (RFC 8200 section 8.1)."""


def is_sound(packet: Buffer) -> bool:
    """Say whether a router may forward by this header: whole, version 6, nothing cut off.

    (RFC 8200 section 3.) Behind the payload there may be more, the padding of a short frame.
    """
    return (
        len(packet) >= MIN_HEADER_LEN
        and packet[0] >> 4 == 6
        and MIN_HEADER_LEN + (packet[4] << 8 | packet[5]) <= len(packet)
    )


def is_link_local(address: bytes) -> bool:
    """Say whether `address` is in fe80::/10 (RFC 4291 section 2.5.6)."""
    return address[0] == 0xFE and address[1] & 0xC0 == 0x80


def is_multicast(address: bytes) -> bool:
    """Say whether `address` is in ff00::/8 (RFC 4291 section 2.7)."""
    return address[0] == 0xFF


def solicited_node(address: bytes) -> bytes:
    """Return the group that whoever has `address` listens to (RFC 4291 section 2.7.1)."""
    return SOLICITED_NODE + address[13:]


def group_mac(address: bytes) -> Mac:
    """Return the MAC address to which packets for a multicast `address` go (RFC 2464 section 7)."""
    return Mac(b"\x33\x33" + address[12:])


def link_local(mac: Mac) -> bytes:
    """Return fe80:: with the modified EUI-64 of `mac` (RFC 4291 appendix A)."""
    return b"\xfe\x80" + bytes(6) + bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:]


def is_made_of_mac(address: bytes) -> bool:
    """Say whether `address` ends in what looks like a modified EUI-64 of a MAC: ff:fe in its middle
    (RFC 4291 appendix A). Of those made at random it is one in 65,536."""
    return address[11] == 0xFF and address[12] == 0xFE


def pseudo_sum(source: bytes, destination: bytes, next_header: int, length: int) -> int:
    """Return the sum of the pseudo-header, the `initial` of a checksum inside (RFC 8200 s8.1).

    `length` is that of the upper-layer packet, and `next_header` its protocol, both without
    extension headers.
    """
    return checksum.ones_sum(_PSEUDO_HEADER.pack(source, destination, length, next_header))


def upper_layer(packet: Buffer) -> tuple[int, int] | None:
    """Return the protocol behind the extension headers of a sound packet, and where it begins.

    None where that cannot be told: a fragment other than the first, a header that is cut off or
    more than `MAX_EXTENSIONS` of them. A header that is none of the four kinds walked here counts
    as the upper layer, and so does the place behind the last byte of a packet without one.
    """
    end = MIN_HEADER_LEN + (packet[4] << 8 | packet[5])
    following, at = packet[6], MIN_HEADER_LEN
    for _ in range(MAX_EXTENSIONS + 1):
        if following == FRAGMENT:
            length = 8
        elif following in (HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS):
            length = (packet[at + 1] + 1) * 8 if at + 2 <= end else 8
        else:
            return following, at
        if at + length > end:
            return None
        if following == FRAGMENT and (packet[at + 2] << 8 | packet[at + 3]) & 0xFFF8:
            return None
        following, at = packet[at], at + length
    return None


def is_later_fragment(packet: Buffer) -> bool:
    """Say whether a sound packet is a fragment other than the first, which has no upper layer."""
    end = MIN_HEADER_LEN + (packet[4] << 8 | packet[5])
    following, at = packet[6], MIN_HEADER_LEN
    for _ in range(MAX_EXTENSIONS):
        if at + 8 > end or following not in EXTENSIONS:
            return False
        if following == FRAGMENT:
            return bool((packet[at + 2] << 8 | packet[at + 3]) & 0xFFF8)
        following, at = packet[at], at + (packet[at + 1] + 1) * 8
    return False


def build(
    source: bytes,
    destination: bytes,
    next_header: int,
    payload: bytes,
    *,
    hop_limit: int = DEFAULT_HOP_LIMIT,
) -> bytes:
    """Build a packet without extension headers; traffic class and flow label are zero."""
    header = HEADER.pack(6 << 28, len(payload), next_header, hop_limit, source, destination)
    return header + payload
