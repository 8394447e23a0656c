"""The headers that a VXLAN packet travels in, where we write and read them ourselves.

Usually the kernel does both, behind a socket. The shortcut (`phy/shortcut.py`) exchanges Ethernet
frames with the underlay: what it takes in was chosen by a filter (UDP to our VTEP, no fragment),
but has passed none of the kernel's checks. They are made here.
"""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple

from . import checksum, ethernet, ipv4, ipv6, udp
from .ethernet import Buffer
from .vnet import Encap
from .vxlan import VXLAN_LEN, Vtep

_DF: Final = 0x4000
_MAX_LEN: Final = 0xFFFF


class Layout(NamedTuple):
    """Where things stand in the headers of one family, from the Ethernet header on."""

    version: int
    udp_at: int
    length: int
    """Of all headers in front of the VXLAN header."""
    source: slice
    destination: slice

    @property
    def encap(self) -> Encap:
        """Return what stands before the inner frame."""
        return Encap(self.version, self.udp_at, self.length + VXLAN_LEN)


LAYOUTS: Final = {
    4: Layout(4, 34, 42, slice(26, 30), slice(30, 34)),
    6: Layout(6, 54, 62, slice(22, 38), slice(38, 54)),
}


class Envelope:
    """The headers towards one VTEP."""

    __slots__ = ("_destination", "_ethernet", "_source", "_to_port")

    def __init__(self, mac: bytes, own_mac: bytes, local: Vtep, remote: Vtep, to_port: int) -> None:
        """`mac` is the next hop's; `to_port` is the VXLAN port."""
        self._source = ipaddress.ip_address(local).packed
        self._destination = ipaddress.ip_address(remote).packed
        self._to_port = to_port
        kind = ethernet.IPV4 if len(self._source) == 4 else ethernet.IPV6
        self._ethernet = ethernet.HEADER.pack(mac, own_mac, kind)

    def around(self, source_port: int, length: int) -> bytes | None:
        """Return the headers for `length` bytes, VXLAN header included; None where IP cannot carry
        as much.

        Over IPv4 the checksum of UDP is zero (RFC 7348 section 4.1). Over IPv6, where it may not be
        for everybody (RFC 8200 section 8.1), it is the sum of the pseudo-header, with which the
        kernel completes it.
        """
        whole = udp.HEADER_LEN + length
        if len(self._source) == 4:
            if whole > _MAX_LEN - ipv4.MIN_HEADER_LEN:
                return None
            total = ipv4.MIN_HEADER_LEN + whole
            fields = (0x45, 0, total, 0, _DF, ipv4.DEFAULT_TTL, ipv4.UDP)
            empty = ipv4.HEADER.pack(*fields, 0, self._source, self._destination)
            made = checksum.internet(empty)
            header = ipv4.HEADER.pack(*fields, made, self._source, self._destination)
            open_checksum = 0
        else:
            if whole > _MAX_LEN:
                return None
            header = ipv6.HEADER.pack(
                6 << 28, whole, ipv6.UDP, ipv6.DEFAULT_HOP_LIMIT, self._source, self._destination
            )
            open_checksum = ipv6.pseudo_sum(self._source, self._destination, ipv6.UDP, whole)
        return (
            self._ethernet
            + header
            + udp.HEADER.pack(source_port, self._to_port, whole, open_checksum)
        )


def has_sound_header(head: Buffer, layout: Layout) -> bool:
    """Say whether it is an IP header without options, and if of IPv4, whether its checksum holds
    (RFC 1812 section 5.2.2)."""
    if layout.version == 6:
        return head[ethernet.HEADER_LEN] >> 4 == 6
    header = head[ethernet.HEADER_LEN : ethernet.HEADER_LEN + ipv4.MIN_HEADER_LEN]
    return header[0] == 0x45 and not int.from_bytes(header, "big") % 0xFFFF


def sound_length(head: Buffer, layout: Layout, payload: Buffer) -> int:
    """Return the length of a datagram's payload, behind which there may be the padding of a short
    frame; -1 where the datagram is cut off, or its checksum does not hold. A checksum of zero means
    that there is none (RFC 768, and RFC 6935 section 5 for tunnels over IPv6)."""
    header = bytes(head[layout.udp_at : layout.length])
    _, _, whole, stored = udp.HEADER.unpack(header)
    length = int(whole) - udp.HEADER_LEN
    if not 0 <= length <= len(payload):
        return -1
    if stored:
        addresses = bytes(head[layout.source]) + bytes(head[layout.destination])
        pseudo = checksum.ones_sum(addresses + header, whole + ipv4.UDP)
        if not checksum.verifies(payload[:length], pseudo):
            return -1
    return length
