"""The port interface: guest frames in and out, a burst at a time.

A read fills a `Burst`: a frame to a slot, with eight bytes of headroom before it, so that the VXLAN
header can be written in front of a frame without copying it. Beside each frame stands its
`virtio_net_hdr`: a TSO super-frame of 64 kB is one frame.

Neighbours of one flow and one length are a *run*: what is decided for the first holds for all, so
that a flood of small packets costs one decision and a few calls for the whole run.

Whoever reads drains to the budget, handles the burst, and yields to the event loop.
"""

from __future__ import annotations

from typing import NewType, Protocol

import numpy as np

from ..wire import flows, vnet, vxlan
from ..wire.ethernet import Buffer
from .tunnel import Run, Train

PortId = NewType("PortId", int)
"""A port's number on its vswitch; 0 is the uplink."""

HEADROOM = vxlan.VXLAN_LEN
MAX_FRAME_LEN = 65_550
"""The longest frame a TAP hands over: 64 kB of GSO payload behind its headers."""
BUDGET = 128
"""Frames per burst: as many as `UDP_SEGMENT` takes (Linux UDP_MAX_SEGMENTS). At 4 us a frame, which
is what a flood costs, the loop is held for half a millisecond."""
BUDGET_BYTES = 1 << 18
"""Bytes after which a burst takes no more: four super-frames, for the same reason."""
_SLOT_LEN = 65_600
"""A multiple of a cache line and not of a page, so that the heads do not share cache sets."""
FEW = 6
"""Frames in which it does not pay to look for runs."""


class PortGone(OSError):
    """The device behind a port does not exist any more."""


class Burst:
    """The frames of one read; reused by the next one.

    Frame i lies in `slots[i]` from HEADROOM on and has `lengths[i]` bytes; `headers[i]` is its
    `virtio_net_hdr`. `targets[i]` is where to read it to.
    """

    __slots__ = ("_headers", "_table", "headers", "lengths", "slots", "targets")

    def __init__(self) -> None:
        self._table = np.zeros((BUDGET, _SLOT_LEN), dtype=np.uint8)
        self._headers = np.zeros((BUDGET, vnet.VNET_LEN), dtype=np.uint8)
        self.slots = [row.data for row in self._table]
        self.headers = [row.data for row in self._headers]
        targets = [slot[HEADROOM : HEADROOM + MAX_FRAME_LEN] for slot in self.slots]
        self.targets = list(zip(self.headers, targets, strict=True))
        self.lengths: list[int] = []

    def frame(self, index: int) -> memoryview:
        """Return a frame."""
        return self.slots[index][HEADROOM : HEADROOM + self.lengths[index]]

    def runs(self) -> list[tuple[int, int]]:
        """Return the runs, in order: index of the first frame, and index after the last."""
        lengths = self.lengths
        count = len(lengths)
        if count < FEW:
            return [(index, index + 1) for index in range(count)]
        heads = self._table[:count, HEADROOM : HEADROOM + flows.FLOW_LEN]
        found: list[tuple[int, int]] = []
        for first, end in flows.runs(heads, self._headers[:count], lengths):
            if vnet.is_super_frame(self.headers[first]):  # It is a train of its own.
                found += ((index, index + 1) for index in range(first, end))
            else:
                found.append((first, end))
        return found

    def run(self, first: int, end: int) -> Run:
        """Return the frames of a run, with their headroom."""
        size = HEADROOM + self.lengths[first]
        packets = [slot[:size] for slot in self.slots[first:end]]
        return Run(self._table[first:end, :size], self.headers[first:end], packets)


class Port(Protocol):
    """A guest's attachment to the switch."""

    def fileno(self) -> int:
        """Return the descriptor to wait on, or -1 for a port that has none."""

    def read(self, burst: Burst, most: int = BUDGET) -> None:
        """Fill `burst` with what waits, `most` frames of it. Raises PortGone."""

    def write(self, frame: Buffer, header: Buffer = vnet.PLAIN) -> bool:
        """Hand `frame` to the guest; False where it could not take it. Raises PortGone."""

    def write_train(self, train: Train) -> int:
        """Hand the frames of one train to the guest, in order; return how many it took."""

    def park(self, parked: bool) -> None:
        """Take the port out of service, or back into it, without the guest noticing."""

    def close(self) -> None:
        """Release the device."""
