"""`struct virtio_net_hdr`: what stands beside a guest frame at a port (virtio 1.2, 5.1.6).

It says whether the checksum is still to be filled in and whether the frame is a super-frame that
is to be cut into segments. Ten bytes, little-endian with TUNSETVNETLE.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

import numpy as np

from . import checksum
from .ethernet import Buffer
from .flows import Bytes

HEADER = Struct("<BBHHHH")
"""Flags, GSO type, header length, GSO size, checksum start, checksum offset."""
VNET_LEN = HEADER.size

NEEDS_CHECKSUM = 1
"""VIRTIO_NET_HDR_F_NEEDS_CSUM."""

GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 = 0, 1, 4, 5
GSO_ECN = 0x80
"""Beside a TCP type: the super-frame has CWR set."""
GSO_NAMES = {GSO_TCPV4: "TCP over IPv4", GSO_TCPV6: "TCP over IPv6", GSO_UDP_L4: "UDP"}
"""The kinds of super-frames that we know."""
_UDP_LEN = 8

PLAIN = bytes(VNET_LEN)
"""A frame that is complete as it stands."""


def can_be_cut_to(header: Buffer, room: int) -> bool:
    """Say whether a frame that is longer than `room` leaves in packets that are not: a super-frame
    of TCP, which is a stream, or one of UDP whose datagrams fit.

    Where the payload begins follows from where the checksum does: the header length is a hint, and
    a guest that has the whole super-frame in one buffer gives the length of all of it.
    """
    _, gso, _, size, start, _ = HEADER.unpack(header)
    if gso & ~GSO_ECN in (GSO_TCPV4, GSO_TCPV6):
        return True
    return bool(gso == GSO_UDP_L4 and start + _UDP_LEN + size <= room)


def is_super_frame(header: Buffer) -> bool:
    """Say whether the frame beside `header` is to be cut into segments."""
    return header[1] != GSO_NONE


def gso_kind(header: Buffer) -> int:
    """Return of which kind a super-frame is, or GSO_NONE."""
    return header[1] & ~GSO_ECN


def complete(frame: memoryview, header: Buffer) -> bool:
    """Fill in the checksum that the sender has left open, and make `header` say so.

    Called for frames whose header is not all zero, with a header that may be written. False where
    the frame is a super-frame or its header points outside of it; it is then as it was.
    """
    flags, gso, _, _, start, offset = HEADER.unpack(header)
    if gso != GSO_NONE:
        return False
    if flags & NEEDS_CHECKSUM:
        at = start + offset
        if at + 2 > len(frame):
            return False
        # The field holds the sum of the pseudo-header already, so it is summed with the rest.
        value = checksum.internet(frame[start:])
        # Zero would mean "no checksum" in UDP (RFC 768) and is the same number as 0xffff.
        frame[at : at + 2] = (value or 0xFFFF).to_bytes(2, "big")
    header[:] = PLAIN  # type: ignore[index]
    return True


def complete_all(frames: Bytes, headers: Sequence[Buffer]) -> bool:
    """Do the same for frames of one length whose headers are the same."""
    flags, gso, _, _, start, offset = HEADER.unpack(headers[0])
    if gso != GSO_NONE:
        return False
    if flags & NEEDS_CHECKSUM:
        at, size = start + offset, frames.shape[1]
        if at + 2 > size:
            return False
        words = frames[:, start : size - (size - start & 1)].view("<u2")
        sums = np.add.reduce(words, axis=1, dtype=np.uint32)
        if size - start & 1:
            sums += frames[:, -1]
        values = frames[:, at : at + 2].view("<u2")[:, 0]
        np.remainder(0xFFFF0000 - sums, 0xFFFF, out=values, casting="unsafe")
        values[values == 0] = 0xFFFF
    for header in headers:
        header[:] = PLAIN  # type: ignore[index]
    return True
