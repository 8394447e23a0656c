"""The port interface: guest frames in and out, a burst at a time.

A read fills a `Burst`. Its frames lie one behind the other in a single buffer, each with eight
bytes of headroom, so that the VXLAN header can be written in front of a frame without copying it,
and so that equal-sized neighbours already form a train. Beside each frame stands its
`virtio_net_hdr`: a TSO super-frame of 64 kB is one frame.

Whoever reads drains to the budget, handles the burst, and yields to the event loop.
"""

from __future__ import annotations

from typing import NewType, Protocol

from ..wire import vnet, vxlan
from ..wire.ethernet import Buffer
from .tunnel import Train

PortId = NewType("PortId", int)
"""A port's number on its vswitch; 0 is the uplink."""

HEADROOM = vxlan.VXLAN_LEN
MAX_FRAME_LEN = 65_550
"""The longest frame a TAP hands over: 64 kB of GSO payload behind its headers."""
BUDGET = 64
"""Frames per burst: `UDP_SEGMENT` takes 64 at most (Linux UDP_MAX_SEGMENTS), and at 10 us a frame
the loop is held for under a millisecond."""


class PortGone(OSError):
    """The device behind a port does not exist any more."""


class Burst:
    """The frames of one read; reused by the next one.

    `spans[i]` is (start, end) of frame i in `view`; `headers[i]` its `virtio_net_hdr`.
    """

    __slots__ = ("headers", "spans", "view")

    def __init__(self) -> None:
        # Room for a budget of small frames and always for one more super-frame.
        self.view = memoryview(bytearray(1 << 20))
        headers = memoryview(bytearray(BUDGET * vnet.VNET_LEN))
        self.headers = [headers[i * vnet.VNET_LEN : (i + 1) * vnet.VNET_LEN] for i in range(BUDGET)]
        self.spans: list[tuple[int, int]] = []

    def room_at(self) -> int:
        """Return where the next frame may start, or -1 where the burst is full."""
        start = (self.spans[-1][1] if self.spans else 0) + HEADROOM
        full = len(self.spans) >= BUDGET or start + MAX_FRAME_LEN > len(self.view)
        return -1 if full else start


class Port(Protocol):
    """A guest's attachment to the switch."""

    def fileno(self) -> int:
        """Return the descriptor to wait on, or -1 for a port that has none."""

    def read(self, burst: Burst) -> None:
        """Fill `burst` with what waits, up to its budget. Raises PortGone."""

    def write(self, frame: Buffer, header: Buffer = vnet.PLAIN) -> bool:
        """Hand `frame` to the guest; False where it could not take it. Raises PortGone."""

    def write_train(self, train: Train) -> int:
        """Hand the frames of one train to the guest, in order; return how many it took."""

    def park(self, parked: bool) -> None:
        """Take the port out of service, or back into it, without the guest noticing."""

    def close(self) -> None:
        """Release the device."""
