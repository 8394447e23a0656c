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

from collections.abc import Container
from struct import Struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from . import checksum, ethernet, ipv4, vnet
from .ethernet import HEADER_LEN, Buffer
from .flows import Bytes
from .vxlan import VXLAN_LEN

_TCP_MIN = 20
_UDP_LEN = 8
_FLAGS_AT, _TCP_CHECKSUM_AT, _UDP_CHECKSUM_AT = 13, 16, 6
_FIN, _SYN, _RST, _PSH, _URG, _CWR = 0x01, 0x02, 0x04, 0x08, 0x20, 0x80
_NOT_IN_A_TRAIN = _SYN | _RST | _URG
_U16, _U32, _NATIVE_U16 = Struct("!H"), Struct("!I"), Struct("<H")
_IP_AT = VXLAN_LEN + HEADER_LEN
_IP_ID_AT, _IP_CHECKSUM_AT = VXLAN_LEN + 18, VXLAN_LEN + 24
"""In an IPv4 packet behind a VXLAN header."""
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


def _pseudo_sum(frame: memoryview, layout: Layout, transport_len: int) -> int:
    """Sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1), in native words."""
    addresses = frame[26:34] if layout.is_ipv4 else frame[22:54]
    protocol = ipv4.TCP if layout.is_tcp else ipv4.UDP
    total = int.from_bytes(addresses, "big") + protocol + transport_len
    return int.from_bytes((total % 0xFFFF).to_bytes(2, "big"), "little")


Cut = tuple[Layout, int]
"""The layout of a super-frame, and into how many bytes of payload each it is to be cut."""


def how_to_cut(packet: memoryview, header: Buffer, room: int) -> Cut | None:
    """Look at a super-frame, with its VXLAN header in front and its `virtio_net_hdr` beside it.

    Packets of TCP, which is a stream, are at most `room` bytes long, whatever the header asks for.
    None for a super-frame that is not of a kind we know, contradicts itself, or would be cut into
    more than `MAX_SEGMENTS` (a guest of QEMU can ask for that, and for packets of any length).
    """
    _, gso, _, mss, start, _ = vnet.HEADER.unpack(header)
    layout = layout_of(packet[VXLAN_LEN:])
    if layout is None or gso & ~vnet.GSO_ECN != layout.gso_type:
        return None
    end = VXLAN_LEN + layout.header_len
    if layout.is_tcp:
        mss = min(mss, max(room - end, 0))
    payload = len(packet) - end
    if not mss or start != layout.transport_at or payload <= 0:
        return None
    if payload > mss * MAX_SEGMENTS or end + mss > MAX_SUPER_LEN:
        return None
    return layout, mss


class _Fields:
    """The fields that number the packets, in the heads of a table of packets."""

    def __init__(self, heads: Bytes, layout: Layout) -> None:
        at = VXLAN_LEN
        if layout.is_ipv4:
            self.ip_id = heads[:, at + 18 : at + 20].view(">u2")[:, 0]
            self.ip_checksum = heads[:, at + 24 : at + 26].view(">u2")[:, 0]
        transport = at + layout.transport_at
        if layout.is_tcp:
            self.sequence = heads[:, transport + 4 : transport + 8].view(">u4")[:, 0]
            self.flags = heads[:, transport + _FLAGS_AT]
        checksum_at = at + layout.checksum_at
        self.checksum = heads[:, checksum_at : checksum_at + 2].view("<u2")[:, 0]


class _Rows(_Fields):
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


def _number_ip(fields: _Fields, first_id: int, first_checksum: int) -> None:
    """Write the IPv4 checksums that go with the ids: where the one rises, the other falls."""
    known = np.uint32(first_id + first_checksum + 0xFFFF)
    np.remainder(known - fields.ip_id, 0xFFFF, out=fields.ip_checksum, casting="unsafe")


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

    def segment(
        self, packet: memoryview, header: Buffer, room: int = MAX_SUPER_LEN
    ) -> tuple[memoryview, int] | None:
        """Cut a super-frame, as `how_to_cut` says. Return the train and the size of its packets;
        None where it cannot be cut."""
        plan = how_to_cut(packet, header, room)
        if plan is None:
            return None
        layout, mss = plan
        end = VXLAN_LEN + layout.header_len
        payload = len(packet) - end
        rows, size = -(-payload // mss), end + mss
        if (shape := self._shape(layout, rows, size)) is None:
            return None

        view = self._view
        short = rows * mss - payload
        whole = rows - 1 if short else rows
        if whole:
            source = np.frombuffer(packet, np.uint8, whole * mss, end)
            shape.payloads[:whole] = source.reshape(whole, mss)
        if short:
            rest = rows * size - short
            view[rest - (mss - short) : rest] = packet[end + whole * mss :]
            view[rest : rows * size] = bytes(short)
        view[:end] = packet[:end]
        self._number(view, shape, layout, rows, size, short)
        sums = shape.transport_sums()
        # The negative of the sum: 0xffff0000 is a multiple of 0xffff beyond every sum.
        np.remainder(0xFFFF0000 - sums, 0xFFFF, out=shape.checksum, casting="unsafe")
        if not layout.is_tcp:  # Zero says that there is none (RFC 768).
            shape.checksum[shape.checksum == 0] = 0xFFFF
        return view[: rows * size - short], size

    @staticmethod
    def _number(
        view: memoryview, shape: _Rows, layout: Layout, rows: int, size: int, short: int
    ) -> None:
        """Make the heads of all packets out of the super-frame's, which is the first packet's.

        Where the transport checksum belongs there is the sum of the pseudo-header, as part of what
        is to be summed.
        """
        at = VXLAN_LEN + layout.transport_at
        last = (rows - 1) * size
        transport_len = size - at
        _write_lengths(view, 0, layout, transport_len)
        if layout.is_ipv4:
            _U16.pack_into(view, _IP_CHECKSUM_AT, 0)
            first_checksum = checksum.internet(view[_IP_AT:at])
            _U16.pack_into(view, _IP_CHECKSUM_AT, first_checksum)
        flags = 0
        if layout.is_tcp:
            flags = view[at + _FLAGS_AT]
            view[at + _FLAGS_AT] = flags & ~(_FIN | _PSH)
        shape.others[:] = shape.first
        if layout.is_ipv4:
            (first_id,) = _U16.unpack_from(view, _IP_ID_AT)
            np.add(shape.steps, first_id, out=shape.ip_id, casting="unsafe")
            _number_ip(shape, first_id, first_checksum)
        if layout.is_tcp:
            (first,) = _U32.unpack_from(view, at + 4)
            np.add(shape.offsets, np.uint32(first), out=shape.sequence)
            if flags & _CWR:
                shape.flags[1:] &= 0xFF & ~_CWR
            view[last + at + _FLAGS_AT] |= flags & (_FIN | _PSH)
        if short:
            _shorten(view, last, layout, transport_len, short)


class Coalescer:
    """Joins trains. Its buffer holds one super-frame, until the next one is joined."""

    def __init__(self) -> None:
        # A short last packet is copied with the zeros behind it.
        self._buffer = np.zeros(2 * MAX_SUPER_LEN, dtype=np.uint8)
        self._view = self._buffer.data
        self._shapes: dict[tuple[int, int, Layout, int, int], _Joint] = {}

    def _shape(self, slot: Bytes, start: int, layout: Layout, rows: int, size: int) -> _Joint:
        # The slots of an inbox live as long as the daemon, so their identity names them.
        key = (id(slot), start, layout, rows, size)
        shape = self._shapes.get(key)
        if shape is None:
            if len(self._shapes) >= MAX_SHAPES:
                self._shapes.clear()
            table = slot[start : start + rows * size].reshape(rows, size)
            shape = self._shapes[key] = _Joint(table, layout, self._buffer)
        return shape

    def coalesce(
        self,
        slot: Bytes,
        start: int,
        length: int,
        size: int,
        kinds: Container[int] = vnet.GSO_NAMES,
    ) -> tuple[memoryview, bytes] | None:
        """Join the train of VXLAN packets of `size` bytes that lies at `start` in `slot`.

        Return the super-frame, without VXLAN header, and its `virtio_net_hdr`; None where the
        packets do not all belong together, one of them is damaged, or the super-frame would be of
        none of the `kinds` (GSO types). `slot` must have room for a whole packet where the last one
        is short; that room is overwritten.
        """
        rows = -(-length // size)
        if rows < 2:
            return None
        data = slot.data
        frame = data[start + VXLAN_LEN : start + size]
        layout = layout_of(frame)
        if layout is None or layout.gso_type not in kinds:
            return None
        payload = len(frame) - layout.header_len
        short = rows * size - length
        total = rows * payload - short
        if short >= payload or layout.header_len + total > MAX_SUPER_LEN:
            return None
        if short:
            data[start + length : start + rows * size] = bytes(short)
        shape = self._shape(slot, start, layout, rows, size)
        last_flags = data[start + length - size + short + VXLAN_LEN + layout.flags_at]
        if not shape.is_one_train(frame, last_flags, short) or not shape.is_sound(frame, short):
            return None

        shape.body[:] = shape.payloads
        head_len = layout.header_len
        joined = self._view[: head_len + total]
        joined[:head_len] = frame[:head_len]
        if layout.is_tcp:
            joined[layout.flags_at] |= last_flags
        return joined, _finish(joined, layout, payload)


class _Joint(_Rows):
    """A received train, beside it the heads that it must have, and where its payload goes."""

    def __init__(self, table: Bytes, layout: Layout, buffer: Bytes) -> None:
        super().__init__(table, layout)
        rows, size = table.shape
        self._layout = layout
        self._transport_len = size - VXLAN_LEN - layout.transport_at
        self._wanted = np.zeros(self.heads.shape, dtype=np.uint8)
        self._wanted_view = self._wanted.reshape(-1).data
        self._fields = _Fields(self._wanted, layout)
        self._last = (rows - 1) * self.heads.shape[1]
        body_len = rows * self.payloads.shape[1]
        body = buffer[layout.header_len : layout.header_len + body_len]
        self.body = body.reshape(rows, -1)

    def is_one_train(self, frame: memoryview, last_flags: int, short: int) -> bool:
        """Say whether the heads are what `segment` would have made of one super-frame: numbered in
        order, with IPv4 header checksums that are right."""
        layout, wanted, fields = self._layout, self._wanted_view, self._fields
        self._wanted[:] = self.first
        if not _has_lengths(frame, layout, self._transport_len):
            return False
        if layout.is_ipv4:
            if not checksum.verifies(frame[HEADER_LEN : layout.transport_at]):
                return False
            (first_id,) = _U16.unpack_from(frame, _IP_ID_AT - VXLAN_LEN)
            (first_checksum,) = _U16.unpack_from(frame, _IP_CHECKSUM_AT - VXLAN_LEN)
            # The id of a packet that may not be fragmented means nothing (RFC 6864 section 4.1).
            if frame[20] & 0x40:
                fields.ip_id[:] = self.ip_id
            else:
                np.add(self.steps, first_id, out=fields.ip_id, casting="unsafe")
            _number_ip(fields, first_id, first_checksum)
        if layout.is_tcp:
            flags = frame[layout.flags_at]
            inner = flags & ~_CWR
            if inner & (_NOT_IN_A_TRAIN | _FIN | _PSH) or last_flags & ~(_FIN | _PSH) != inner:
                return False
            if flags & _CWR:
                fields.flags[1:] = inner
            wanted[self._last + VXLAN_LEN + layout.flags_at] = last_flags
            (first,) = _U32.unpack_from(frame, layout.transport_at + 4)
            np.add(self.offsets, np.uint32(first), out=fields.sequence)
        elif np.count_nonzero(self.checksum) < len(self.steps):
            return False
        if short:
            _shorten(wanted, self._last, layout, self._transport_len, short)
        fields.checksum[:] = self.checksum  # Looked at by `is_sound`.
        return self.heads.tobytes() == self._wanted.tobytes()

    def is_sound(self, frame: memoryview, short: int) -> bool:
        """Verify every transport checksum."""
        sums = self.transport_sums()
        sums += np.uint32(_pseudo_sum(frame, self._layout, self._transport_len))
        if short:
            sums[-1] += 0xFFFF - (short << 8 & 0xFF00 | short >> 8)
        return not np.count_nonzero(np.remainder(sums, 0xFFFF))


def _write_lengths(view: memoryview, at: int, layout: Layout, transport_len: int) -> None:
    """Write what the packet at `at` says of its length, and the sum of its pseudo-header where its
    transport checksum belongs."""
    frame = view[at + VXLAN_LEN :]
    if layout.is_ipv4:
        _U16.pack_into(frame, 16, transport_len + ipv4.MIN_HEADER_LEN)
    else:
        _U16.pack_into(frame, 18, transport_len)
    if not layout.is_tcp:
        _U16.pack_into(frame, layout.transport_at + 4, transport_len)
    pseudo = _pseudo_sum(frame, layout, transport_len)
    _NATIVE_U16.pack_into(frame, layout.checksum_at, pseudo)


def _shorten(view: memoryview, at: int, layout: Layout, transport_len: int, short: int) -> None:
    """Make the head at `at`, which is that of a packet of full size, one of a packet that is
    `short` bytes shorter."""
    _write_lengths(view, at, layout, transport_len - short)
    if layout.is_ipv4:
        (before,) = _U16.unpack_from(view, at + _IP_CHECKSUM_AT)
        _U16.pack_into(view, at + _IP_CHECKSUM_AT, (before + short) % 0xFFFF)


def _has_lengths(frame: memoryview, layout: Layout, transport_len: int) -> bool:
    """Say whether a frame's headers agree with its length."""
    if not layout.is_tcp:
        (found,) = _U16.unpack_from(frame, layout.transport_at + 4)
        if found != transport_len:
            return False
    if layout.is_ipv4:
        return bool(_U16.unpack_from(frame, 16)[0] == transport_len + ipv4.MIN_HEADER_LEN)
    return bool(_U16.unpack_from(frame, 18)[0] == transport_len)


def _finish(joined: memoryview, layout: Layout, payload: int) -> bytes:
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
        if joined[layout.flags_at] & _CWR:
            gso |= vnet.GSO_ECN
    else:
        _U16.pack_into(joined, at + 4, transport_len)
    # Left open: the sum of the pseudo-header, to which whoever completes it adds the rest.
    _NATIVE_U16.pack_into(joined, layout.checksum_at, _pseudo_sum(joined, layout, transport_len))
    return vnet.HEADER.pack(
        vnet.NEEDS_CHECKSUM, gso, layout.header_len, payload, at, layout.checksum_at - at
    )
