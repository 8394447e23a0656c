"""ICMP for IPv4 (RFC 792): what a gateway says to guests."""

from __future__ import annotations

from . import checksum, ipv4
from .ethernet import Buffer

ECHO_REPLY = 0
UNREACHABLE = 3
ECHO_REQUEST = 8
TIME_EXCEEDED = 11

# Codes of UNREACHABLE (RFC 792, RFC 1812 section 5.2.7.1).
NET_UNREACHABLE = 0
HOST_UNREACHABLE = 1

_QUERIES = frozenset({ECHO_REPLY, ECHO_REQUEST, 9, 10, 13, 14, 15, 16, 17, 18})
"""The types that are no error messages (RFC 1122 section 3.2.2)."""

QUOTED = 548
"""An error quotes as much of the packet as fits in 576 bytes (RFC 1812 section 4.3.2.3):
576 less 20 of IPv4 and 8 of ICMP."""


def build(kind: int, code: int, rest: bytes, payload: bytes) -> bytes:
    """Build a message; `rest` is its second word, four bytes."""
    message = bytearray(bytes((kind, code, 0, 0)) + rest + payload)
    message[2:4] = checksum.internet(message).to_bytes(2, "big")
    return bytes(message)


def error(kind: int, code: int, packet: Buffer) -> bytes:
    """Build an error message that quotes the IPv4 `packet`."""
    return build(kind, code, bytes(4), bytes(packet[:QUOTED]))


def echo_reply(message: Buffer) -> bytes | None:
    """Build the answer to an echo request; None for anything else or a wrong checksum."""
    if len(message) < 8 or message[0] != ECHO_REQUEST or message[1] != 0:
        return None
    if not checksum.verifies(message):
        return None
    return build(ECHO_REPLY, 0, bytes(message[4:8]), bytes(message[8:]))


def may_be_answered(packet: Buffer) -> bool:
    """Say whether an error about the IPv4 `packet` may be sent at all (RFC 1812 section 4.3.2.7).

    Never about an error message, a fragment other than the first, or a source that is not one
    host. (What came in an Ethernet broadcast or multicast never gets as far as this question.)
    """
    header_len = (packet[0] & 0x0F) * 4
    source = bytes(packet[12:16])
    if source == ipv4.UNSPECIFIED or source[0] >= 224 or source[0] == 127:
        return False
    if (packet[6] << 8 | packet[7]) & ipv4.OFFSET_MASK:
        return False
    if packet[9] != ipv4.ICMP:
        return True
    return len(packet) > header_len and packet[header_len] in _QUERIES
