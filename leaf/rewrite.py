"""Carrying out a verdict on packets: new headers, TTL and checksum, written in place.

The 20 bytes that a forwarding verdict puts in front were built when the binding changed; here they
are copied over the old ones. In a train all packets have one TTL (or hop limit), so it is one
number less one in all of them; the IPv4 checksums differ by their ids and are updated incrementally
(RFC 1624). IPv6 has none.

numpy costs a microsecond a call, so the views of a train's columns are kept by its shape.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

import numpy as np

from vswitch.phy.tunnel import Train
from vswitch.wire import checksum, ethernet
from vswitch.wire.flows import Bytes

from .router import CHECKSUM_AT, HEADER_LEN, HOP_LIMIT_AT, TTL_AT, Reason, Verdict

_U16: Final = Struct("!H")
_IPV6: Final = ethernet.IPV6 >> 8
"""The first byte of its ethertype, which IPv4's differs from."""
FEW: Final = 3
"""Packets that are rewritten faster one by one."""
MAX_SHAPES: Final = 256
"""Sets of views that are kept; a fabric has a handful."""


class _Columns:
    """What is written in the packets of a train."""

    __slots__ = ("checksums", "heads", "hop_limits", "ttls")

    def __init__(self, table: Bytes) -> None:
        self.heads = table[:, :HEADER_LEN]
        self.ttls = table[:, TTL_AT]
        self.hop_limits = table[:, HOP_LIMIT_AT]
        self.checksums = table[:, CHECKSUM_AT : CHECKSUM_AT + 2].view(">u2")[:, 0]


class Rewriter:
    """Rewrites trains."""

    def __init__(self) -> None:
        self._shapes: dict[tuple[int, int, int, int], _Columns] = {}

    def rewrite(self, train: Train, verdict: Verdict) -> None:
        """Make a train, which `verdict` forwards, ready to leave."""
        rows = -(-train.length // train.size)
        if rows <= FEW:
            for packet in train.packets():
                rewrite(packet, verdict)
            return
        assert verdict.header is not None
        columns = self._columns(train, rows)
        columns.heads[:] = np.frombuffer(verdict.header, np.uint8)
        if verdict.reason is Reason.BRIDGED:
            return
        if train.data[HEADER_LEN] == _IPV6:
            columns.hop_limits[:] = train.data[HOP_LIMIT_AT] - 1
        else:
            columns.ttls[:] = train.data[TTL_AT] - 1
            # As `checksum.after_ttl_decrement`, for all of them.
            risen = np.add(columns.checksums, 0x0100, dtype=np.uint32)
            np.remainder(risen, 0xFFFF, out=columns.checksums, casting="unsafe")

    def _columns(self, train: Train, rows: int) -> _Columns:
        # The slots of an inbox live as long as the daemon, so their identity names them. There is
        # room behind a train for what its last packet lacks, which is written to as well.
        key = (id(train.slot), train.start, rows, train.size)
        columns = self._shapes.get(key)
        if columns is None:
            if len(self._shapes) >= MAX_SHAPES:
                self._shapes.clear()
            packets = train.slot[train.start : train.start + rows * train.size]
            columns = self._shapes[key] = _Columns(packets.reshape(rows, train.size))
        return columns


def rewrite(packet: memoryview | bytearray, verdict: Verdict) -> None:
    """Make a packet that `verdict` forwards ready to leave."""
    assert verdict.header is not None
    packet[:HEADER_LEN] = verdict.header
    if verdict.reason is Reason.BRIDGED:
        return
    if packet[HEADER_LEN] == _IPV6:
        packet[HOP_LIMIT_AT] -= 1
        return
    packet[TTL_AT] -= 1
    (before,) = _U16.unpack_from(packet, CHECKSUM_AT)
    _U16.pack_into(packet, CHECKSUM_AT, checksum.after_ttl_decrement(before))
