"""The packets of a train: where things stand in them, and what numbers them.

A guest hands over up to 64 kB of one flow as a *super-frame*: one set of headers, one payload, and
beside it a `virtio_net_hdr` that names the segment size. On the wire it is a *train*: packets of
that size, each with complete headers of its own. `segmenter.py` makes the train, `coalescer.py`
makes the super-frame that the receiving guest gets. Both are pure functions over buffers: the
decision is taken once for all packets, and the kernel is called once. Here is what both know of the
packets; they are alike in all but lengths, consecutive IP ids, TCP sequence numbers, flags and the
checksums over these.

numpy costs about a microsecond a call, whatever the size, so the work is laid out as some twenty
calls over all packets at once. Sums are of native words: a one's-complement sum does not depend on
the byte order, so long as it is stored as it was read (RFC 1071 section 2(B)).
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from . import checksum, ethernet, ipv4, ipv6, vnet
from .ethernet import HEADER_LEN
from .flows import Bytes
from .vxlan import VXLAN_LEN

_TCP_MIN = 20
_UDP_LEN = 8
_IPV6_LEN = ipv6.MIN_HEADER_LEN
_FLAGS_AT, _TCP_CHECKSUM_AT, _UDP_CHECKSUM_AT = 13, 16, 6
FIN, SYN, RST, PSH, URG, CWR = 0x01, 0x02, 0x04, 0x08, 0x20, 0x80
"""Flags of TCP (RFC 9293 section 3.1, RFC 3168 section 6.1)."""
IP_ID_AT, IP_CHECKSUM_AT = 18, 24
"""In a frame with IPv4."""
_U16, _NATIVE_U16 = Struct("!H"), Struct("<H")
MAX_SHAPES = 256
"""Sets of views that are kept; a fabric has a handful."""
MAX_SUPER_LEN = 65_535
"""The IPv4 total length, and the IPv6 payload length, are 16 bits."""


class Layout(NamedTuple):
    """Where things stand in a frame of one flow, from the start of the frame."""

    is_ipv4: bool
    is_tcp: bool
    transport_at: int
    header_len: int
    """Up to the payload."""

    checksum_at: int
    flags_at: int
    """Of TCP."""
    gso_type: int


def _layout(is_ipv4: bool, is_tcp: bool, header_len: int) -> Layout:
    at = HEADER_LEN + (ipv4.MIN_HEADER_LEN if is_ipv4 else _IPV6_LEN)
    checksum_at = at + (_TCP_CHECKSUM_AT if is_tcp else _UDP_CHECKSUM_AT)
    of_tcp = vnet.GSO_TCPV4 if is_ipv4 else vnet.GSO_TCPV6
    gso_type = of_tcp if is_tcp else vnet.GSO_UDP_L4
    return Layout(is_ipv4, is_tcp, at, at + header_len, checksum_at, at + _FLAGS_AT, gso_type)


_LAYOUTS_UDP = {is_ipv4: _layout(is_ipv4, False, _UDP_LEN) for is_ipv4 in (True, False)}
_LAYOUTS_TCP = {
    (is_ipv4, words): _layout(is_ipv4, True, 4 * words)
    for is_ipv4 in (True, False)
    for words in range(_TCP_MIN // 4, 16)
}


def layout_of(frame: memoryview) -> Layout | None:
    """Find out where things stand; None for what is neither TCP nor UDP, or has IPv4 options, IPv6
    extension headers or fragments: rare, and handed over packet by packet."""
    if len(frame) < HEADER_LEN + ipv4.MIN_HEADER_LEN + _UDP_LEN:
        return None
    ethertype = frame[12] << 8 | frame[13]
    if ethertype == ethernet.IPV4:
        if frame[14] != 0x45 or frame[20] & 0x3F or frame[21]:
            return None
        is_ipv4, transport_at, protocol = True, HEADER_LEN + ipv4.MIN_HEADER_LEN, frame[23]
    elif ethertype == ethernet.IPV6:
        if len(frame) < HEADER_LEN + _IPV6_LEN + _UDP_LEN or frame[14] >> 4 != 6:
            return None
        is_ipv4, transport_at, protocol = False, HEADER_LEN + _IPV6_LEN, frame[20]
    else:
        return None
    if protocol == ipv4.UDP:
        return _LAYOUTS_UDP[is_ipv4]
    if protocol != ipv4.TCP or len(frame) < transport_at + _TCP_MIN:
        return None
    layout = _LAYOUTS_TCP.get((is_ipv4, frame[transport_at + 12] >> 4))
    return layout if layout is not None and len(frame) >= layout.header_len else None


def pseudo_sum(frame: memoryview, layout: Layout, transport_len: int) -> int:
    """Sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1), in native words."""
    addresses = frame[26:34] if layout.is_ipv4 else frame[22:54]
    protocol = ipv4.TCP if layout.is_tcp else ipv4.UDP
    total = int.from_bytes(addresses, "big") + protocol + transport_len
    return int.from_bytes((total % 0xFFFF).to_bytes(2, "big"), "little")


class Fields:
    """The fields that number the packets, in the heads of a table of packets."""

    def __init__(self, heads: Bytes, layout: Layout) -> None:
        at = VXLAN_LEN
        if layout.is_ipv4:
            ip_id, ip_checksum = at + IP_ID_AT, at + IP_CHECKSUM_AT
            self.ip_id = heads[:, ip_id : ip_id + 2].view(">u2")[:, 0]
            self.ip_checksum = heads[:, ip_checksum : ip_checksum + 2].view(">u2")[:, 0]
        transport = at + layout.transport_at
        if layout.is_tcp:
            self.sequence = heads[:, transport + 4 : transport + 8].view(">u4")[:, 0]
            self.flags = heads[:, transport + _FLAGS_AT]
        checksum_at = at + layout.checksum_at
        self.checksum = heads[:, checksum_at : checksum_at + 2].view("<u2")[:, 0]


class Rows(Fields):
    """Views of equal-sized packets that lie one behind the other; made once for each shape.

    A shorter last packet is taken as a whole one that ends in zeros, which no sum notices.
    """

    def __init__(self, table: Bytes, layout: Layout) -> None:
        end = VXLAN_LEN + layout.header_len
        self.heads = table[:, :end]
        super().__init__(self.heads, layout)
        self.first, self.others = self.heads[0], self.heads[1:]
        self.payloads = table[:, end:]
        self.steps = np.arange(len(table), dtype=np.uint32)
        self.offsets = self.steps * np.uint32(self.payloads.shape[1])
        segment = table[:, VXLAN_LEN + layout.transport_at :]
        self._odd = segment[:, -1] if segment.shape[1] & 1 else None
        self._words = segment[:, : segment.shape[1] & ~1].view("<u2")

    def transport_sums(self) -> npt.NDArray[np.uint32]:
        """Sum each packet's transport header and payload, in native words, not folded."""
        sums: npt.NDArray[np.uint32] = np.add.reduce(self._words, axis=1, dtype=np.uint32)
        if self._odd is not None:
            sums += self._odd
        return sums


def number_ip(fields: Fields, first_id: int, first_checksum: int) -> None:
    """Write the IPv4 checksums that go with the ids: where the one rises, the other falls."""
    known = np.uint32(first_id + first_checksum + 0xFFFF)
    np.remainder(known - fields.ip_id, 0xFFFF, out=fields.ip_checksum, casting="unsafe")


def write_lengths(view: memoryview, at: int, layout: Layout, transport_len: int) -> None:
    """Write what the packet at `at` says of its length, and the sum of its pseudo-header where its
    transport checksum belongs."""
    frame = view[at + VXLAN_LEN :]
    if layout.is_ipv4:
        _U16.pack_into(frame, 16, transport_len + ipv4.MIN_HEADER_LEN)
    else:
        _U16.pack_into(frame, 18, transport_len)
    if not layout.is_tcp:
        _U16.pack_into(frame, layout.transport_at + 4, transport_len)
    pseudo = pseudo_sum(frame, layout, transport_len)
    _NATIVE_U16.pack_into(frame, layout.checksum_at, pseudo)


def shorten(view: memoryview, at: int, layout: Layout, transport_len: int, short: int) -> None:
    """Make the head at `at`, which is that of a packet of full size, one of a packet that is
    `short` bytes shorter."""
    write_lengths(view, at, layout, transport_len - short)
    if layout.is_ipv4:
        checksum_at = at + VXLAN_LEN + IP_CHECKSUM_AT
        (before,) = _U16.unpack_from(view, checksum_at)
        _U16.pack_into(view, checksum_at, (before + short) % 0xFFFF)


def has_lengths(frame: memoryview, layout: Layout, transport_len: int) -> bool:
    """Say whether a frame's headers agree with its length."""
    if not layout.is_tcp:
        (found,) = _U16.unpack_from(frame, layout.transport_at + 4)
        if found != transport_len:
            return False
    if layout.is_ipv4:
        return bool(_U16.unpack_from(frame, 16)[0] == transport_len + ipv4.MIN_HEADER_LEN)
    return bool(_U16.unpack_from(frame, 18)[0] == transport_len)


def finish(joined: memoryview, layout: Layout, payload: int) -> bytes:
    """Write the lengths and sums of the whole; return its `virtio_net_hdr`."""
    at = layout.transport_at
    transport_len = len(joined) - at
    if layout.is_ipv4:
        _U16.pack_into(joined, 16, len(joined) - HEADER_LEN)
        _U16.pack_into(joined, 24, 0)
        _U16.pack_into(joined, 24, checksum.internet(joined[HEADER_LEN:at]))
    else:
        _U16.pack_into(joined, 18, transport_len)
    gso = layout.gso_type
    if layout.is_tcp:
        if joined[layout.flags_at] & CWR:
            gso |= vnet.GSO_ECN
    else:
        _U16.pack_into(joined, at + 4, transport_len)
    # Left open: the sum of the pseudo-header, to which whoever completes it adds the rest.
    _NATIVE_U16.pack_into(joined, layout.checksum_at, pseudo_sum(joined, layout, transport_len))
    return vnet.HEADER.pack(
        vnet.NEEDS_CHECKSUM, gso, layout.header_len, payload, at, layout.checksum_at - at
    )
