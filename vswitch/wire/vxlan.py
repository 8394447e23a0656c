"""VXLAN (RFC 7348): the eight bytes between UDP and the inner frame, and the flow hash."""

from __future__ import annotations

from struct import Struct
from typing import NewType

from . import ethernet, ipv4
from .ethernet import HEADER_LEN, Buffer

Vni = NewType("Vni", int)
"""A VXLAN network identifier, 1 to 2**24 - 1."""
Vtep = NewType("Vtep", str)
"""The outer IP address of a tunnel end, as text in its canonical form (of IPv6: RFC 5952)."""

PORT = 4789
"""RFC 7348 section 5."""
HEADER = Struct("!B3xI")
"""Flags; reserved; VNI in the upper 24 bits of the last word (RFC 7348 section 5)."""
VXLAN_LEN = HEADER.size
VALID_VNI = 0x08
"""The I flag: without it the packet is dropped (RFC 7348 section 5)."""
GREETING = bytes(VXLAN_LEN)
"""A header without it and nothing behind it: all that it says is who has sent it."""
MAX_VNI = (1 << 24) - 1
OVERHEAD_IPV4 = 50
"""Outer IPv4 (20), UDP (8), VXLAN (8) and inner Ethernet (14)."""
OVERHEAD_IPV6 = 70
"""The same with outer IPv6 (40)."""
_WITH_PORTS = frozenset({6, 17, 33, 132})
"""TCP, UDP, DCCP and SCTP begin with their ports."""
SOURCE_PORTS = range(49152, 61440)
"""Where outer source ports come from: of RFC 7348 section 5, less the following."""
WHOLE_PORTS = range(61440, 65536)
"""The same for who takes super-frames of the tunnel in one piece, and says so by this (see
`phy/shortcut.py`). Linux takes ports for its own VXLAN devices from below, by default."""


def header(vni: int) -> bytes:
    """Build the header for `vni`."""
    return HEADER.pack(VALID_VNI, vni << 8)


def parse_vni(packet: Buffer) -> Vni | None:
    """Return the VNI, or None where the packet is too short or the I flag is clear."""
    if len(packet) < VXLAN_LEN or not packet[0] & VALID_VNI:
        return None
    return Vni(packet[4] << 16 | packet[5] << 8 | packet[6])


def flow_hash(frame: Buffer) -> int:
    """Hash the inner flow, for the outer source port (RFC 7348 section 5).

    For IP: both addresses, and both ports where the protocol has them and the packet is whole, so
    that all fragments of a packet take one way. For all else: the two MACs. With IPv4 options the
    first of them stand where the ports would; they are the same all through a flow. The value is
    only stable within one process.
    """
    ethertype = frame[12] << 8 | frame[13]
    if ethertype == ethernet.IPV4 and len(frame) >= ipv4.MIN_FRAME_LEN:
        if frame[23] not in _WITH_PORTS or frame[20] & 0x3F or frame[21]:
            return hash(bytes(frame[26:34]))
        return hash(bytes(frame[26:38]))
    if ethertype == ethernet.IPV6 and len(frame) >= HEADER_LEN + 40:
        # A fragment has the fragment header (44) as its next header, and so no ports here.
        end = HEADER_LEN + (44 if frame[HEADER_LEN + 6] in _WITH_PORTS else 40)
        return hash(bytes(frame[HEADER_LEN + 8 : end]))
    return hash(bytes(frame[:12]))
