"""Cutting a super-frame into a train.

What `segment` writes is what the kernel's own segmentation would (RFC 9293 for TCP, Linux
Documentation/networking/segmentation-offloads.rst): lengths, consecutive IP ids, TCP sequence
numbers; FIN and PSH only on the last packet, CWR only on the first; every checksum complete.
`train.py` tells how the work is laid out.
"""

from __future__ import annotations

from struct import Struct

import numpy as np

from . import checksum, ipv6, vnet
from .ethernet import HEADER_LEN, Buffer
from .train import (
    CWR,
    FIN,
    IP_CHECKSUM_AT,
    IP_ID_AT,
    MAX_SHAPES,
    MAX_SUPER_LEN,
    PSH,
    Layout,
    Rows,
    layout_of,
    number_ip,
    shorten,
    write_lengths,
)
from .vxlan import VXLAN_LEN

_U16, _U32 = Struct("!H"), Struct("!I")
_IP_AT = VXLAN_LEN + HEADER_LEN
_IP_ID_AT, _IP_CHECKSUM_AT = VXLAN_LEN + IP_ID_AT, VXLAN_LEN + IP_CHECKSUM_AT
"""In an IPv4 packet behind a VXLAN header."""
MAX_SEGMENTS = 256
"""A guest that asks for segments of a few bytes would have us make megabytes out of 64 kB; Linux
never goes below 536 bytes of payload, which makes 122 segments."""

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


class Segmenter:
    """Cuts super-frames. Its buffer holds one train, until the next one is cut."""

    def __init__(self) -> None:
        longest_head = VXLAN_LEN + HEADER_LEN + ipv6.MIN_HEADER_LEN + 60
        self._buffer = np.zeros(MAX_SUPER_LEN + MAX_SEGMENTS * (longest_head + 1), dtype=np.uint8)
        self._view = self._buffer.data
        self._shapes: dict[tuple[Layout, int, int], Rows] = {}

    def _shape(self, layout: Layout, rows: int, size: int) -> Rows | None:
        if rows * size > len(self._buffer):
            return None
        key = (layout, rows, size)
        shape = self._shapes.get(key)
        if shape is None:
            if len(self._shapes) >= MAX_SHAPES:
                self._shapes.clear()
            table = self._buffer[: rows * size].reshape(rows, size)
            shape = self._shapes[key] = Rows(table, layout)
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
        view: memoryview, shape: Rows, layout: Layout, rows: int, size: int, short: int
    ) -> None:
        """Make the heads of all packets out of the super-frame's, which is the first packet's.

        Where the transport checksum belongs there is the sum of the pseudo-header, as part of what
        is to be summed.
        """
        at = VXLAN_LEN + layout.transport_at
        last = (rows - 1) * size
        transport_len = size - at
        write_lengths(view, 0, layout, transport_len)
        if layout.is_ipv4:
            _U16.pack_into(view, _IP_CHECKSUM_AT, 0)
            first_checksum = checksum.internet(view[_IP_AT:at])
            _U16.pack_into(view, _IP_CHECKSUM_AT, first_checksum)
        flags = 0
        if layout.is_tcp:
            flags_at = VXLAN_LEN + layout.flags_at
            flags = view[flags_at]
            view[flags_at] = flags & ~(FIN | PSH)
        shape.others[:] = shape.first
        if layout.is_ipv4:
            (first_id,) = _U16.unpack_from(view, _IP_ID_AT)
            np.add(shape.steps, first_id, out=shape.ip_id, casting="unsafe")
            number_ip(shape, first_id, first_checksum)
        if layout.is_tcp:
            (first,) = _U32.unpack_from(view, at + 4)
            np.add(shape.offsets, np.uint32(first), out=shape.sequence)
            if flags & CWR:
                shape.flags[1:] &= 0xFF & ~CWR
            view[last + flags_at] |= flags & (FIN | PSH)
        if short:
            shorten(view, last, layout, transport_len, short)
