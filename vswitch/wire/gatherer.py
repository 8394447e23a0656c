"""Gathering a run of datagrams into a super-frame, before they leave.

What a guest has sent datagram by datagram arrives in a burst as a *run*: frames of one flow and one
length. As a super-frame of UDP they are one thing for everybody on the way: the leaf looks at one
set of headers and edits it, no checksum is completed, and nothing has to be joined at the end.

What is gathered must be what the super-frame would be cut into again, so the headers are compared,
as `coalescer.py` does. Their checksums are not verified, since there are none: only frames are
gathered whose checksum the guest has left open. Nothing that was damaged can come out repaired, for
nothing has travelled yet. Whatever else it is leaves as it came.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

import numpy as np

from . import vnet
from .ethernet import Buffer
from .flows import Bytes, have_sound_ipv4_headers
from .train import (
    IP_CHECKSUM_AT,
    IP_ID_AT,
    MAX_SUPER_LEN,
    Layout,
    finish,
    has_lengths,
    layout_of,
    pseudo_sum,
)
from .vxlan import VXLAN_LEN

_MAY_NOT_BE_CUT = 0x40
"""The DF bit, where the flags are."""
_NATIVE_U16 = Struct("<H")
_FLAGS_AT = VXLAN_LEN + IP_ID_AT + 2
MAX_LEN = MAX_SUPER_LEN // 4
"""Bytes of a frame that is gathered. Several make a super-frame then, and no part of a run is left
over that is only one, which would be none."""


def can_gather(table: Bytes, header: Buffer) -> Layout | None:
    """Say whether the packets of a run, VXLAN header in front and `header` beside each, make a
    super-frame; return its layout, or None.

    They must be of UDP with open checksums, the same in all but the number of the IP packet, with
    IPv4 header checksums that are right. The number of one that may not be fragmented means nothing
    (RFC 6864 section 4.1); others are numbered in order.
    """
    flags, gso, _, _, start, offset = vnet.HEADER.unpack(header)
    if flags != vnet.NEEDS_CHECKSUM or gso:
        return None
    frame = table[0, VXLAN_LEN:].data
    layout = layout_of(frame)
    if layout is None or layout.is_tcp or start != layout.transport_at:
        return None
    length = len(frame) - start
    (open_sum,) = _NATIVE_U16.unpack_from(frame, layout.checksum_at)
    if (
        start + offset != layout.checksum_at
        or not layout.header_len < len(frame) <= MAX_LEN
        or not has_lengths(frame, layout, length)
        or open_sum != pseudo_sum(frame, layout, length)
    ):
        return None
    heads = table[:, : VXLAN_LEN + layout.header_len]
    differ = heads[1:] != heads[:-1]
    if layout.is_ipv4:
        differ[:, VXLAN_LEN + IP_ID_AT : VXLAN_LEN + IP_ID_AT + 2] = False
        differ[:, VXLAN_LEN + IP_CHECKSUM_AT : VXLAN_LEN + IP_CHECKSUM_AT + 2] = False
    if differ.any():
        return None
    if layout.is_ipv4 and not (have_sound_ipv4_headers(table) and _are_numbered(table)):
        return None
    return layout


def _are_numbered(table: Bytes) -> bool:
    """Say whether IPv4 packets have the numbers that the parts of a super-frame get."""
    if table[0, _FLAGS_AT] & _MAY_NOT_BE_CUT:
        return True
    at = VXLAN_LEN + IP_ID_AT
    ids = table[:, at : at + 2].view(">u2")[:, 0].astype(np.uint16)
    return not np.count_nonzero(ids[1:] - ids[:-1] != 1)


class Gatherer:
    """Makes super-frames of runs. Its buffer holds one, until the next one is made."""

    def __init__(self) -> None:
        self._buffer = np.zeros(VXLAN_LEN + MAX_SUPER_LEN, dtype=np.uint8)
        self._view = self._buffer.data

    def gather_all(
        self, table: Bytes, layout: Layout, longest: int
    ) -> Iterator[tuple[int, memoryview, bytes]]:
        """Make as few super-frames of a run as it takes, none of more than `longest` bytes, which
        is room for `MAX_LEN` several times. Yield how many packets each is of, and what `gather`
        returns; it is there until the next one is asked for."""
        rows, size = table.shape
        # Of much the same length: one packet alone is no super-frame.
        for part in np.array_split(table, -(-rows // (longest // size))):
            yield len(part), *self.gather(part, layout)

    def gather(self, table: Bytes, layout: Layout) -> tuple[memoryview, bytes]:
        """Make the super-frame of packets of which `can_gather` has given the layout, and which are
        no longer than one in all. Return it with its VXLAN header, and its `virtio_net_hdr`."""
        rows, size = table.shape
        end = VXLAN_LEN + layout.header_len
        length = end + rows * (size - end)
        self._buffer[:end] = table[0, :end]
        self._buffer[end:length].reshape(rows, size - end)[:] = table[:, end:]
        packet = self._view[:length]
        return packet, finish(packet[VXLAN_LEN:], layout, size - end)
