"""Joining a train into a super-frame.

What `coalesce` joins must be what `segment` would have made: all headers the same but for the
fields that number the packets, and these in order; every IP and transport checksum *verified*. The
super-frame goes to the guest with its checksum left open, which the guest's kernel takes as proof
that the data is good: joining unverified packets would repair, silently, what was damaged on the
way. Whatever does not belong together is handed over packet by packet, as it came, and a damaged
packet is left for the guest to find. Nothing is guessed. `train.py` tells how the work is laid out.
"""

from __future__ import annotations

from collections.abc import Container
from struct import Struct

import numpy as np

from . import checksum, vnet
from .ethernet import HEADER_LEN
from .flows import Bytes
from .train import (
    CWR,
    FIN,
    IP_CHECKSUM_AT,
    IP_ID_AT,
    MAX_SHAPES,
    MAX_SUPER_LEN,
    PSH,
    RST,
    SYN,
    URG,
    Fields,
    Layout,
    Rows,
    finish,
    has_lengths,
    layout_of,
    number_ip,
    pseudo_sum,
    shorten,
)
from .vxlan import VXLAN_LEN

_NOT_IN_A_TRAIN = SYN | RST | URG
_U16, _U32 = Struct("!H"), Struct("!I")


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
        return joined, finish(joined, layout, payload)


class _Joint(Rows):
    """A received train, beside it the heads that it must have, and where its payload goes."""

    def __init__(self, table: Bytes, layout: Layout, buffer: Bytes) -> None:
        super().__init__(table, layout)
        rows, size = table.shape
        self._layout = layout
        self._transport_len = size - VXLAN_LEN - layout.transport_at
        self._wanted = np.zeros(self.heads.shape, dtype=np.uint8)
        self._wanted_view = self._wanted.reshape(-1).data
        self._fields = Fields(self._wanted, layout)
        self._last = (rows - 1) * self.heads.shape[1]
        body_len = rows * self.payloads.shape[1]
        body = buffer[layout.header_len : layout.header_len + body_len]
        self.body = body.reshape(rows, -1)

    def is_one_train(self, frame: memoryview, last_flags: int, short: int) -> bool:
        """Say whether the heads are what `segment` would have made of one super-frame: numbered in
        order, with IPv4 header checksums that are right."""
        layout, wanted, fields = self._layout, self._wanted_view, self._fields
        self._wanted[:] = self.first
        if not has_lengths(frame, layout, self._transport_len):
            return False
        if layout.is_ipv4:
            if not checksum.verifies(frame[HEADER_LEN : layout.transport_at]):
                return False
            (first_id,) = _U16.unpack_from(frame, IP_ID_AT)
            (first_checksum,) = _U16.unpack_from(frame, IP_CHECKSUM_AT)
            # The id of a packet that may not be fragmented means nothing (RFC 6864 section 4.1).
            if frame[20] & 0x40:
                fields.ip_id[:] = self.ip_id
            else:
                np.add(self.steps, first_id, out=fields.ip_id, casting="unsafe")
            number_ip(fields, first_id, first_checksum)
        if layout.is_tcp:
            flags = frame[layout.flags_at]
            inner = flags & ~CWR
            if inner & (_NOT_IN_A_TRAIN | FIN | PSH) or last_flags & ~(FIN | PSH) != inner:
                return False
            if flags & CWR:
                fields.flags[1:] = inner
            wanted[self._last + VXLAN_LEN + layout.flags_at] = last_flags
            (first,) = _U32.unpack_from(frame, layout.transport_at + 4)
            np.add(self.offsets, np.uint32(first), out=fields.sequence)
        elif np.count_nonzero(self.checksum) < len(self.steps):
            return False
        if short:
            shorten(wanted, self._last, layout, self._transport_len, short)
        fields.checksum[:] = self.checksum  # Looked at by `is_sound`.
        return self.heads.tobytes() == self._wanted.tobytes()

    def is_sound(self, frame: memoryview, short: int) -> bool:
        """Verify every transport checksum."""
        sums = self.transport_sums()
        sums += np.uint32(pseudo_sum(frame, self._layout, self._transport_len))
        if short:
            sums[-1] += 0xFFFF - (short << 8 & 0xFF00 | short >> 8)
        return not np.count_nonzero(np.remainder(sums, 0xFFFF))
