"""`struct virtio_net_hdr`: what stands beside a guest frame at a port (virtio 1.2, 5.1.6).

It says whether the checksum is still to be filled in and whether the frame is a super-frame that
is to be cut into segments. Ten bytes, little-endian with TUNSETVNETLE.

Around a super-frame that travels in a tunnel whole stands a longer one, which also says where the
outer headers are (`struct virtio_net_hdr_v1_hash_tunnel`; Linux 6.17). The fields that both have
are the same, but count from the outer Ethernet header on.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

import numpy as np

from . import checksum
from .ethernet import HEADER_LEN, Buffer
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

_TUNNEL = Struct("<BBHHHHHIHHHH")
"""As `HEADER`; buffers, hash, kind of hash and padding, which are unused here; where the outer UDP
header and the inner IP header are."""
TUNNEL_LEN = _TUNNEL.size
_IN_TUNNEL = {4: 0x20, 6: 0x40}
"""VIRTIO_NET_HDR_GSO_UDP_TUNNEL_IPV4 and _IPV6: beside the type, by the family of the tunnel."""
_OUTER_CHECKSUM = 0x08
"""VIRTIO_NET_HDR_F_UDP_TUNNEL_CSUM: the outer UDP checksum is to be completed, too."""
_VALID_CHECKSUM = 0x02
"""VIRTIO_NET_HDR_F_DATA_VALID: somebody has verified it already."""


class Encap(NamedTuple):
    """What stands before the frame in a tunnel."""

    version: int
    """Of the outer IP."""
    udp_at: int
    """Where the outer UDP header stands."""
    length: int
    """Up to the frame, in bytes."""


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


def into_tunnel(
    gso: int, start: int, offset: int, payload_at: int, size: int, encap: Encap
) -> bytes:
    """Return the header of a super-frame in a tunnel.

    Of the inner frame: its GSO type, where its transport header stands and in that its checksum,
    where its payload begins, and into how many bytes each that is to be cut.
    """
    flags = NEEDS_CHECKSUM | (_OUTER_CHECKSUM if encap.version == 6 else 0)
    return _TUNNEL.pack(
        *(flags, gso | _IN_TUNNEL[encap.version], encap.length + payload_at, size),
        *(encap.length + start, offset),
        *(0, 0, 0, 0),
        *(encap.udp_at, encap.length + HEADER_LEN),
    )


class Received(NamedTuple):
    """What a header says of what has come by a tunnel."""

    size: int
    """Of a train: bytes of each packet, from behind the outer UDP header on. Else 0."""
    header: bytes
    """Of the inner frame."""
    is_verified: bool
    """Whether the outer checksum need not be looked at."""


def out_of_tunnel(header: Buffer, encap: Encap) -> Received | None:
    """Read the header of what a packet socket has taken from a tunnel: an ordinary one, which does
    not say whether it counts to something inside the tunnel, but counts far enough. None for what
    does not fit a tunnel."""
    flags, gso, header_len, size, start, offset = HEADER.unpack_from(header)
    if not flags & NEEDS_CHECKSUM:
        return Received(0, PLAIN, bool(flags & _VALID_CHECKSUM)) if gso == GSO_NONE else None
    if start == encap.udp_at:
        # Of this machine, or joined by the kernel, which has verified it.
        if gso == GSO_NONE:
            return Received(0, PLAIN, True)
        return Received(size, PLAIN, True) if gso == GSO_UDP_L4 and size else None
    if start < encap.length + HEADER_LEN or (gso != GSO_NONE and not size):
        return None
    inner_len = max(header_len - encap.length, 0) if gso else 0
    inner = HEADER.pack(NEEDS_CHECKSUM, gso, inner_len, size, start - encap.length, offset)
    return Received(0, inner, True)


def is_super_frame(header: Buffer) -> bool:
    """Say whether the frame beside `header` is to be cut into segments."""
    return header[1] != GSO_NONE


def gso_kind(header: Buffer) -> int:
    """Return of which kind a super-frame is, or GSO_NONE."""
    return header[1] & ~GSO_ECN


def datagrams_of(header: Buffer, length: int) -> int:
    """Return into how many packets a super-frame of `length` bytes is cut: exactly of UDP; of TCP,
    whose header has no fixed length, as if the header were payload too."""
    _, gso, _, size, start, _ = HEADER.unpack(header)
    payload = length - start - (_UDP_LEN if gso == GSO_UDP_L4 else 0)
    packets: int = -(-payload // max(size, 1))
    return max(1, packets)


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
