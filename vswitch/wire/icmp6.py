"""ICMPv6 (RFC 4443): what a gateway says to guests. (Neighbour Discovery is in `nd`.)

Unlike that of ICMP, the checksum covers the addresses of the packet around the message. So whoever
builds a message must know both, and whoever verifies one needs the whole packet.
"""

from __future__ import annotations

from . import checksum, ipv6
from .ethernet import Buffer

UNREACHABLE = 1
TOO_BIG = 2
TIME_EXCEEDED = 3
ECHO_REQUEST = 128
ECHO_REPLY = 129
REDIRECT = 137

# Codes of UNREACHABLE (RFC 4443 section 3.1).
NO_ROUTE = 0
BEYOND_SCOPE = 2
ADDRESS_UNREACHABLE = 3

FIRST_QUERY = 128
"""Types below are error messages, from here on informational (RFC 4443 section 2.1)."""

# Offsets from the start of a packet without extension headers.
MESSAGE_AT = ipv6.MIN_HEADER_LEN
MIN_MESSAGE_LEN = 8

MIN_MTU = 1280
"""RFC 8200 section 5."""
QUOTED = MIN_MTU - ipv6.MIN_HEADER_LEN - MIN_MESSAGE_LEN
"""An error quotes as much as lets its own packet pass everywhere (RFC 4443 section 2.4(c))."""


def build(
    kind: int, code: int, rest: bytes, payload: bytes, source: bytes, destination: bytes
) -> bytes:
    """Build a message between two addresses; `rest` is its second word, four bytes."""
    message = bytearray(bytes((kind, code, 0, 0)) + rest + payload)
    around = ipv6.pseudo_sum(source, destination, ipv6.ICMP, len(message))
    message[2:4] = checksum.internet(message, around).to_bytes(2, "big")
    return bytes(message)


def error(
    kind: int, code: int, rest: bytes, packet: Buffer, source: bytes, destination: bytes
) -> bytes:
    """Build an error message that quotes the IPv6 `packet`.

    `rest` is the MTU for TOO_BIG (RFC 4443 section 3.2) and zero for the other kinds.
    """
    return build(kind, code, rest, bytes(packet[:QUOTED]), source, destination)


def verifies(packet: Buffer) -> bool:
    """Say whether the checksum of the message in a sound packet without extensions is right."""
    length = packet[4] << 8 | packet[5]
    around = ipv6.pseudo_sum(bytes(packet[8:24]), bytes(packet[24:40]), ipv6.ICMP, length)
    return checksum.verifies(packet[MESSAGE_AT : MESSAGE_AT + length], around)


def echo_reply(packet: Buffer) -> bytes | None:
    """Build the message that answers the echo request in a sound packet without extensions.

    It goes from the packet's destination to its source. None for anything else, for a wrong
    checksum, and where an end is no single host (RFC 4443 section 4.2 would have an answer to a
    group come from an address that is not in the packet).
    """
    end = MESSAGE_AT + (packet[4] << 8 | packet[5])
    if packet[6] != ipv6.ICMP or end < MESSAGE_AT + MIN_MESSAGE_LEN:
        return None
    if packet[MESSAGE_AT] != ECHO_REQUEST or packet[MESSAGE_AT + 1] != 0:
        return None
    source, destination = bytes(packet[8:24]), bytes(packet[24:40])
    if ipv6.is_multicast(destination) or ipv6.is_multicast(source) or not any(source):
        return None
    if not verifies(packet):
        return None
    rest, payload = bytes(packet[44:48]), bytes(packet[48:end])
    return build(ECHO_REPLY, 0, rest, payload, destination, source)


def may_be_answered(packet: Buffer) -> bool:
    """Say whether an error about the sound `packet` may be sent at all (RFC 4443 section 2.4(e)).

    Never about an error message or a redirect, to a group, or to a source that is not one host;
    nor where the headers do not show what the packet is. (What came in an Ethernet multicast
    never gets as far as this question. The exceptions for groups, that path MTU discovery needs,
    are for routers that route multicast.)
    """
    source = bytes(packet[8:24])
    if source in (ipv6.UNSPECIFIED, ipv6.LOOPBACK) or ipv6.is_multicast(source):
        return False
    if packet[24] == 0xFF:
        return False
    found = ipv6.upper_layer(packet)
    if found is None:
        return False
    protocol, at = found
    if protocol != ipv6.ICMP:
        return True
    if at >= ipv6.MIN_HEADER_LEN + (packet[4] << 8 | packet[5]):
        return False
    return packet[at] >= FIRST_QUERY and packet[at] != REDIRECT
