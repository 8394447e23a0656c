"""Super-frames and trains: cutting the one into the other, and joining it again.

A guest hands over up to 64 kB of one flow as a *super-frame*: one set of headers, one payload, and
beside it a `virtio_net_hdr` that names the segment size. On the wire it is a *train*: packets of
that size, each with complete headers of its own. `segment` makes the train, `coalesce` makes the
super-frame that the receiving guest gets. Both are pure functions over buffers: the decision is
taken once for all packets, and the kernel is called once.

What `segment` writes is what the kernel's own segmentation would (RFC 9293 for TCP, Linux
Documentation/networking/segmentation-offloads.rst): lengths, consecutive IP ids, TCP sequence
numbers; FIN and PSH only on the last packet, CWR only on the first; every checksum complete.

What `coalesce` joins must be what `segment` would have made: all headers the same but for the
fields that number the packets, and these in order; every IP and transport checksum *verified*. The
super-frame goes to the guest with its checksum left open, which the guest's kernel takes as proof
that the data is good: joining unverified packets would repair, silently, what was damaged on the
way. Whatever does not belong together is handed over packet by packet, as it came, and a damaged
packet is left for the guest to find. Nothing is guessed.

numpy costs about a microsecond a call, whatever the size, so the work is laid out as some twenty
calls over all packets at once. Sums are of native words: a one's-complement sum does not depend on
the byte order, so long as it is stored as it was read (RFC 1071 section 2(B)).
"""

from __future__ import annotations

from itertools import pairwise
from struct import Struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from . import checksum, ethernet, ipv4, vnet
from .ethernet import HEADER_LEN, Buffer
from .vxlan import VXLAN_LEN

Bytes = npt.NDArray[np.uint8]

_TCP_MIN = 20
_UDP_LEN = 8
_FLAGS_AT, _TCP_CHECKSUM_AT, _UDP_CHECKSUM_AT = 13, 16, 6
_FIN, _SYN, _RST, _PSH, _URG, _CWR = 0x01, 0x02, 0x04, 0x08, 0x20, 0x80
_NOT_IN_A_TRAIN = _SYN | _RST | _URG
_U16 = Struct("!H")
_IPV6_LEN = 40
MAX_SEGMENTS = 256
"""A guest that asks for segments of a few bytes would have us make megabytes out of 64 kB; Linux
never goes below 536 bytes of payload, which makes 122 segments."""
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

    @property
    def checksum_at(self) -> int:
        return self.transport_at + (_TCP_CHECKSUM_AT if self.is_tcp else _UDP_CHECKSUM_AT)

    @property
    def gso_type(self) -> int:
        if not self.is_tcp:
            return vnet.GSO_UDP_L4
        return vnet.GSO_TCPV4 if self.is_ipv4 else vnet.GSO_TCPV6


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
        return Layout(is_ipv4, False, transport_at, transport_at + _UDP_LEN)
    if protocol != ipv4.TCP or len(frame) < transport_at + _TCP_MIN:
        return None
    tcp_len = (frame[transport_at + 12] >> 4) * 4
    if tcp_len < _TCP_MIN or len(frame) < transport_at + tcp_len:
        return None
    return Layout(is_ipv4, True, transport_at, transport_at + tcp_len)


def _pseudo_sum(frame: memoryview, layout: Layout, transport_len: int) -> int:
    """Sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1), in native words."""
    addresses = frame[26:34] if layout.is_ipv4 else frame[22:54]
    protocol = ipv4.TCP if layout.is_tcp else ipv4.UDP
    total = int.from_bytes(addresses, "big") + protocol + transport_len
    return int.from_bytes((total % 0xFFFF).to_bytes(2, "big"), "little")


def _fold(sums: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Fold sums of words into 1 to 0xffff, as one's-complement addition does (none is zero)."""
    return np.asarray((sums - 1) % 0xFFFF + 1, dtype=np.uint32)


class _Rows:
    """Views of equal-sized packets that lie one behind the other; made once for each shape.

    A shorter last packet is taken as a whole one that ends in zeros, which no sum notices.
    """

    def __init__(self, table: Bytes, layout: Layout) -> None:
        at, end = VXLAN_LEN, VXLAN_LEN + layout.header_len
        transport = at + layout.transport_at
        self.heads = table[:, :end]
        self.payloads = table[:, end:]
        self.steps = np.arange(len(table), dtype=np.uint32)
        self.must_match = np.ones(end, dtype=np.bool_)
        if layout.is_ipv4:
            self.ip_length = table[:, at + 16 : at + 18].view(">u2")[:, 0]
            self.ip_id = table[:, at + 18 : at + 20].view(">u2")[:, 0]
            self.ip_checksum = table[:, at + 24 : at + 26].view("<u2")[:, 0]
            self.ip_words = table[:, at + 14 : at + 34].view("<u2")
            self.must_match[at + 16 : at + 20] = self.must_match[at + 24 : at + 26] = False
        else:
            self.ip_length = table[:, at + 18 : at + 20].view(">u2")[:, 0]
            self.must_match[at + 18 : at + 20] = False
        if layout.is_tcp:
            self.sequence = table[:, transport + 4 : transport + 8].view(">u4")[:, 0]
            self.flags = table[:, transport + _FLAGS_AT]
            self.must_match[transport + 4 : transport + 8] = False
            self.must_match[transport + _FLAGS_AT] = False
        else:
            self.udp_length = table[:, transport + 4 : transport + 6].view(">u2")[:, 0]
            self.must_match[transport + 4 : transport + 6] = False
        checksum_at = at + layout.checksum_at
        self.checksum = table[:, checksum_at : checksum_at + 2].view("<u2")[:, 0]
        self.must_match[checksum_at : checksum_at + 2] = False
        segment = table[:, transport:]
        self._odd = segment[:, -1] if segment.shape[1] & 1 else None
        self._words = segment[:, : segment.shape[1] & ~1].view("<u2")

    def transport_sums(self, full: int, last: int) -> npt.NDArray[np.uint32]:
        """Sum each packet's transport header, payload, and pseudo-header: `full` is that of all
        packets but the last."""
        sums: npt.NDArray[np.uint32] = np.add.reduce(self._words, axis=1, dtype=np.uint32)
        if self._odd is not None:
            sums += self._odd
        sums[:-1] += np.uint32(full)
        sums[-1] += np.uint32(last)
        return sums


class Segmenter:
    """Cuts super-frames. Its buffer holds one train, until the next one is cut."""

    def __init__(self) -> None:
        longest_head = VXLAN_LEN + HEADER_LEN + _IPV6_LEN + 60
        self._buffer = np.zeros(MAX_SUPER_LEN + MAX_SEGMENTS * (longest_head + 1), dtype=np.uint8)
        self._view = self._buffer.data
        self._shapes: dict[tuple[Layout, int, int], _Rows] = {}

    def _shape(self, layout: Layout, rows: int, size: int) -> _Rows | None:
        if rows * size > len(self._buffer):
            return None
        key = (layout, rows, size)
        shape = self._shapes.get(key)
        if shape is None:
            if len(self._shapes) >= MAX_SHAPES:
                self._shapes.clear()
            table = self._buffer[: rows * size].reshape(rows, size)
            shape = self._shapes[key] = _Rows(table, layout)
        return shape

    def segment(self, packet: memoryview, header: Buffer) -> tuple[memoryview, int] | None:
        """Cut a super-frame, with its VXLAN header in front and its `virtio_net_hdr` beside it.

        Return the train and the size of its packets; None for a super-frame that is not of a kind
        we know, or contradicts itself.
        """
        _, gso, _, mss, start, _ = vnet.HEADER.unpack(header)
        frame = packet[VXLAN_LEN:]
        layout = layout_of(frame)
        if layout is None or gso & ~vnet.GSO_ECN != layout.gso_type:
            return None
        payload = len(frame) - layout.header_len
        if not mss or start != layout.transport_at or payload <= 0:
            return None
        rows = -(-payload // mss)
        end = VXLAN_LEN + layout.header_len
        if rows > MAX_SEGMENTS or (shape := self._shape(layout, rows, end + mss)) is None:
            return None

        source = np.frombuffer(packet, np.uint8, payload, end)
        shape.heads[:] = np.frombuffer(packet, np.uint8, end)
        full, rest = divmod(payload, mss)
        shape.payloads[:full] = source[: full * mss].reshape(full, mss)
        if rest:
            shape.payloads[full, :rest] = source[full * mss :]
            shape.payloads[full, rest:] = 0
        short = mss - rest if rest else 0
        transport_len = layout.header_len - layout.transport_at + mss
        self._number(shape, layout, frame, transport_len, short)
        shape.checksum[:] = 0
        sums = shape.transport_sums(
            _pseudo_sum(frame, layout, transport_len),
            _pseudo_sum(frame, layout, transport_len - short),
        )
        sums = 0xFFFF - _fold(sums)
        if not layout.is_tcp:
            sums[sums == 0] = 0xFFFF  # Zero says that there is none (RFC 768).
        shape.checksum[:] = sums
        return self._view[: rows * (end + mss) - short], end + mss

    @staticmethod
    def _number(
        shape: _Rows, layout: Layout, frame: memoryview, transport_len: int, short: int
    ) -> None:
        """Write what is different in each packet, but for the transport checksum."""
        ip_len = transport_len + (ipv4.MIN_HEADER_LEN if layout.is_ipv4 else 0)
        shape.ip_length[:] = ip_len
        shape.ip_length[-1] = ip_len - short
        if layout.is_ipv4:
            shape.ip_id[:] = shape.steps + (frame[18] << 8 | frame[19])
            shape.ip_checksum[:] = 0
            shape.ip_checksum[:] = 0xFFFF - _fold(
                np.add.reduce(shape.ip_words, axis=1, dtype=np.uint32)
            )
        at = layout.transport_at
        if layout.is_tcp:
            mss = transport_len - (layout.header_len - at)
            first = int.from_bytes(frame[at + 4 : at + 8], "big")
            shape.sequence[:] = shape.steps * np.uint32(mss) + np.uint32(first)
            flags = frame[at + _FLAGS_AT]
            shape.flags[:] = flags & ~(_FIN | _PSH | _CWR)
            shape.flags[0] |= flags & _CWR
            shape.flags[-1] |= flags & (_FIN | _PSH)
        else:
            shape.udp_length[:] = transport_len
            shape.udp_length[-1] = transport_len - short


class Coalescer:
    """Joins trains. Its buffer holds one super-frame, until the next one is joined."""

    def __init__(self) -> None:
        # A short last packet is copied with the zeros behind it.
        self._buffer = np.zeros(2 * MAX_SUPER_LEN, dtype=np.uint8)
        self._view = self._buffer.data
        self._shapes: dict[tuple[int, int, Layout, int, int], _Rows] = {}

    def _shape(self, slot: Bytes, start: int, layout: Layout, rows: int, size: int) -> _Rows:
        # The slots of an inbox live as long as the daemon, so their identity names them.
        key = (id(slot), start, layout, rows, size)
        shape = self._shapes.get(key)
        if shape is None:
            if len(self._shapes) >= MAX_SHAPES:
                self._shapes.clear()
            table = slot[start : start + rows * size].reshape(rows, size)
            shape = self._shapes[key] = _Rows(table, layout)
        return shape

    def coalesce(
        self, slot: Bytes, start: int, length: int, size: int
    ) -> tuple[memoryview, bytes] | None:
        """Join the train of VXLAN packets of `size` bytes that lies at `start` in `slot`.

        Return the super-frame, without VXLAN header, and its `virtio_net_hdr`; None where the
        packets do not all belong together, or one of them is damaged. `slot` must have room for a
        whole packet where the last one is short; that room is overwritten.
        """
        rows = -(-length // size)
        frame = slot.data[start + VXLAN_LEN : start + size]
        layout = layout_of(frame) if rows > 1 else None
        if layout is None:
            return None
        payload = len(frame) - layout.header_len
        short = rows * size - length
        total = rows * payload - short
        if short >= payload or layout.header_len + total > MAX_SUPER_LEN:
            return None
        if short:
            slot[start + length : start + rows * size] = 0
        shape = self._shape(slot, start, layout, rows, size)
        transport_len = len(frame) - layout.transport_at
        if not self._belongs_together(shape, layout, frame, transport_len, short):
            return None
        if not self._is_sound(shape, layout, frame, transport_len, short):
            return None

        head_len = layout.header_len
        body = self._buffer[head_len : head_len + rows * payload].reshape(rows, payload)
        body[:] = shape.payloads
        joined = self._view[: head_len + total]
        joined[:head_len] = frame[:head_len]
        return joined, self._finish(joined, layout, shape, payload)

    @staticmethod
    def _belongs_together(
        shape: _Rows, layout: Layout, frame: memoryview, transport_len: int, short: int
    ) -> bool:
        """Say whether the headers are those of one train, and numbered in order."""
        heads = shape.heads
        if ((heads != heads[0]) & shape.must_match).any():
            return False
        ip_len = transport_len + (ipv4.MIN_HEADER_LEN if layout.is_ipv4 else 0)
        lengths = shape.ip_length
        if (lengths[:-1] != ip_len).any() or lengths[-1] != ip_len - short:
            return False
        # The id of a packet that may not be fragmented means nothing (RFC 6864 section 4.1).
        if layout.is_ipv4 and not frame[20] & 0x40:
            ids = (shape.steps + np.uint32(shape.ip_id[0])) % 0x10000
            if (shape.ip_id != ids).any():
                return False
        if not layout.is_tcp:
            lengths = shape.udp_length
            return not (lengths[:-1] != transport_len).any() and bool(
                lengths[-1] == transport_len - short and (shape.checksum != 0).all()
            )
        payload = shape.payloads.shape[1]
        first = np.uint32(shape.sequence[0])
        if (shape.sequence != shape.steps * np.uint32(payload) + first).any():
            return False
        flags = shape.flags
        inner = int(flags[0]) & ~_CWR
        if inner & (_NOT_IN_A_TRAIN | _FIN | _PSH) or (flags[1:-1] != inner).any():
            return False
        return int(flags[-1]) & ~(_FIN | _PSH) == inner

    @staticmethod
    def _is_sound(
        shape: _Rows, layout: Layout, frame: memoryview, transport_len: int, short: int
    ) -> bool:
        """Verify every checksum."""
        if layout.is_ipv4:
            sums = np.add.reduce(shape.ip_words, axis=1, dtype=np.uint32)
            if (_fold(sums) != 0xFFFF).any():
                return False
        sums = shape.transport_sums(
            _pseudo_sum(frame, layout, transport_len),
            _pseudo_sum(frame, layout, transport_len - short),
        )
        return not (_fold(sums) != 0xFFFF).any()

    @staticmethod
    def _finish(joined: memoryview, layout: Layout, shape: _Rows, payload: int) -> bytes:
        """Write the headers of the whole; return its `virtio_net_hdr`."""
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
            joined[at + _FLAGS_AT] = int(shape.flags[0]) | int(shape.flags[-1])
            if int(shape.flags[0]) & _CWR:
                gso |= vnet.GSO_ECN
        else:
            _U16.pack_into(joined, at + 4, transport_len)
        # Left open: the sum of the pseudo-header, to which whoever completes it adds the rest.
        pseudo = _pseudo_sum(joined, layout, transport_len)
        joined[layout.checksum_at : layout.checksum_at + 2] = pseudo.to_bytes(2, "little")
        return vnet.HEADER.pack(
            vnet.NEEDS_CHECKSUM, gso, layout.header_len, payload, at, layout.checksum_at - at
        )


_HEAD_LEN = VXLAN_LEN + HEADER_LEN + ipv4.MIN_HEADER_LEN
_SAME = np.ones(_HEAD_LEN, dtype=np.bool_)
"""Columns of a VXLAN packet by which it is forwarded: all of its headers up to the IPv4 addresses,
but for what is different in each packet: length, id and checksum."""
_SAME[24:28] = _SAME[32:34] = False


def runs(slot: Bytes, length: int, size: int) -> list[tuple[int, int]]:
    """Split packets that the kernel has received as one into trains: (start, length) each.

    The kernel joins what has one *outer* flow; the inner flows may differ where a sender has put
    packets of one size into one send. Only neighbours are compared, so order is kept.
    """
    rows = -(-length // size)
    if size < _HEAD_LEN:
        return [(at, min(size, length - at)) for at in range(0, length, size)]
    rest = length % size
    if 0 < rest < _HEAD_LEN:  # Too short to have what it would be compared by.
        return [*runs(slot, length - rest, size), (length - rest, rest)]
    heads = slot[: rows * size].reshape(rows, size)[:, :_HEAD_LEN]
    if not ((heads != heads[0]) & _SAME).any():
        return [(0, length)]
    differs = ((heads[1:] != heads[:-1]) & _SAME).any(axis=1)
    starts = [0, *(int(row + 1) * size for row in differs.nonzero()[0]), length]
    return [(start, end - start) for start, end in pairwise(starts)]
