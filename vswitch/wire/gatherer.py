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

from struct import Struct

import numpy as np

from . import ipv4, vnet
from .ethernet import HEADER_LEN, Buffer
from .flows import Bytes
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
_IP_AT = VXLAN_LEN + HEADER_LEN
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
    return layout if not layout.is_ipv4 or _is_sound(heads) else None


def _is_sound(heads: Bytes) -> bool:
    header = heads[:, _IP_AT : _IP_AT + ipv4.MIN_HEADER_LEN]
    if np.count_nonzero(header.view("<u2").sum(axis=1, dtype=np.uint32) % 0xFFFF):
        return False
    if header[0, 6] & _MAY_NOT_BE_CUT:
        return True
    ids = header[:, 4:6].view(">u2")[:, 0].astype(np.uint16)
    return not np.count_nonzero(ids[1:] - ids[:-1] != 1)


class Gatherer:
    """Makes super-frames of runs. Its buffer holds one, until the next one is made."""

    def __init__(self) -> None:
        self._buffer = np.zeros(VXLAN_LEN + MAX_SUPER_LEN, dtype=np.uint8)
        self._view = self._buffer.data

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
