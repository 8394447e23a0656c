"""UDP over IPv4 and IPv6 (RFC 768): whole datagrams in Ethernet frames, for the slow path."""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from . import checksum, ethernet, ipv4, ipv6
from .ethernet import Buffer

HEADER = Struct("!HHHH")
"""Source port, destination port, length, checksum."""
HEADER_LEN = HEADER.size


class Datagram(NamedTuple):
    """What a frame carries by UDP."""

    source: bytes
    destination: bytes
    source_port: int
    destination_port: int
    payload: bytes


def destination_port(frame: Buffer) -> int | None:
    """Return the port to which the UDP in a frame goes, None where that cannot be told.

    This is for the forwarding path: nothing has been validated. None for anything but UDP right
    behind the IP header, and for a fragment other than the first.
    """
    if len(frame) < ipv4.MIN_FRAME_LEN + HEADER_LEN:
        return None
    kind = frame[12] << 8 | frame[13]
    if kind == ethernet.IPV4:
        first = frame[ethernet.HEADER_LEN]
        if frame[ethernet.HEADER_LEN + 9] != ipv4.UDP or first >> 4 != 4:
            return None
        if (frame[ethernet.HEADER_LEN + 6] << 8 | frame[ethernet.HEADER_LEN + 7]) & 0x1FFF:
            return None
        at = ethernet.HEADER_LEN + (first & 0x0F) * 4
    elif kind == ethernet.IPV6:
        if frame[ipv6.NEXT_HEADER_AT] != ipv6.UDP:
            return None
        at = ipv6.MIN_FRAME_LEN
    else:
        return None
    return frame[at + 2] << 8 | frame[at + 3] if at + 4 <= len(frame) else None


def parse(frame: Buffer) -> Datagram | None:
    """Read the datagram in a frame; None where it is not a whole and sound one."""
    if len(frame) < ethernet.HEADER_LEN:
        return None
    kind = frame[12] << 8 | frame[13]
    packet = bytes(frame[ethernet.HEADER_LEN :])
    if kind == ethernet.IPV4 and ipv4.is_sound(packet):
        if packet[9] != ipv4.UDP or (packet[6] << 8 | packet[7]) & ipv4.FRAGMENT_MASK:
            return None
        body = packet[(packet[0] & 0x0F) * 4 : packet[2] << 8 | packet[3]]
        source, destination = packet[12:16], packet[16:20]
    elif kind == ethernet.IPV6 and ipv6.is_sound(packet):
        if packet[6] != ipv6.UDP:
            return None
        body = packet[ipv6.MIN_HEADER_LEN : ipv6.MIN_HEADER_LEN + (packet[4] << 8 | packet[5])]
        source, destination = packet[8:24], packet[24:40]
    else:
        return None
    if len(body) < HEADER_LEN:
        return None
    source_port, to_port, length, stored = HEADER.unpack_from(body)
    if not HEADER_LEN <= length <= len(body):
        return None
    body = body[:length]
    # Over IPv4 a checksum of zero means that there is none; over IPv6 it must be (RFC 8200 s8.1).
    is_checked = bool(stored) or kind == ethernet.IPV6
    if is_checked and not checksum.verifies(body, _pseudo_sum(source, destination, length)):
        return None
    return Datagram(source, destination, source_port, to_port, body[HEADER_LEN:])


def build(to_mac: bytes, from_mac: bytes, datagram: Datagram) -> bytes:
    """Build the frame that carries a datagram of either family."""
    source, destination, source_port, to_port, payload = datagram
    length = HEADER_LEN + len(payload)
    body = bytearray(HEADER.pack(source_port, to_port, length, 0) + payload)
    made = checksum.internet(body, _pseudo_sum(source, destination, length)) or 0xFFFF
    body[6:8] = made.to_bytes(2, "big")
    if len(source) == 4:
        packet = ipv4.build(source, destination, ipv4.UDP, bytes(body))
        return ethernet.build(to_mac, from_mac, ethernet.IPV4, packet)
    packet = ipv6.build(source, destination, ipv6.UDP, bytes(body))
    return ethernet.build(to_mac, from_mac, ethernet.IPV6, packet)


def _pseudo_sum(source: bytes, destination: bytes, length: int) -> int:
    if len(source) == 16:
        return ipv6.pseudo_sum(source, destination, ipv6.UDP, length)
    return checksum.ones_sum(
        source + destination + bytes((0, ipv4.UDP)) + length.to_bytes(2, "big")
    )
