"""The tunnel interface: VXLAN packets in and out, a train at a time.

A *train* is one buffer with equal-sized packets of which only the last may be shorter; each packet
is a VXLAN header and a frame. All packets of a train have the same VNI, MACs, and IP addresses: who
reads from the kernel splits what does not belong together, so that one decision holds for all.
A read fills an `Inbox` with trains, whose buffers the next read reuses. A train may be edited in
place and sent on as it is.
"""

from __future__ import annotations

from typing import Protocol

from ..wire import vnet
from ..wire.ethernet import Buffer
from ..wire.vxlan import Vtep

MAX_TRAIN_LEN = 65_535
"""The longest UDP payload, which is what one GRO receive can hold."""
BUDGET = 32
"""Trains per read: as with bursts, bounded so that the event loop is not held."""


class Train:
    """One received train: `size` bytes a packet, `length` bytes in all, from the VTEP `source`."""

    __slots__ = ("length", "size", "source", "view")

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.length = 0
        self.size = 0
        self.source = Vtep("")

    def packets(self) -> list[memoryview]:
        """Return the packets, each with its VXLAN header."""
        if self.length <= self.size:
            return [self.view[: self.length]]
        view, length, size = self.view, self.length, self.size
        return [view[at : min(at + size, length)] for at in range(0, length, size)]


class Inbox:
    """The trains of one read; reused by the next one. Only the first `count` are filled."""

    __slots__ = ("count", "trains")

    def __init__(self) -> None:
        view = memoryview(bytearray(BUDGET * MAX_TRAIN_LEN))
        self.trains = [
            Train(view[i * MAX_TRAIN_LEN : (i + 1) * MAX_TRAIN_LEN]) for i in range(BUDGET)
        ]
        self.count = 0


class Tunnel(Protocol):
    """Our VTEP."""

    def fileno(self) -> int:
        """Return the descriptor to wait on, or -1 for a tunnel that has none."""

    def read(self, inbox: Inbox) -> None:
        """Fill `inbox` with what waits, up to its budget."""

    def send(self, vtep: Vtep, flow: int, packet: Buffer, header: Buffer = vnet.PLAIN) -> bool:
        """Send one packet: a VXLAN header and a frame with its `virtio_net_hdr` beside it.

        `flow` is a hash of the inner flow and chooses the outer source port.
        False where the packet could not be sent; `faults` then says why.
        """

    def send_train(self, vtep: Vtep, flow: int, train: Buffer, size: int) -> bool:
        """Send a whole train of packets of `size` bytes."""

    def flush(self) -> None:
        """Send what was held back to make longer trains. Called at the end of every burst."""

    @property
    def faults(self) -> dict[str, int]:
        """Count the sends that failed, by the name of the cause (closed set: `FAULTS`)."""

    def close(self) -> None:
        """Release the sockets."""


FAULTS = ("refused", "unreachable", "too_big", "no_buffers", "other")
"""refused: nobody listens at the VTEP. unreachable: no route to it. too_big: the packet exceeds the
path MTU; the outer packet is never fragmented (RFC 7348 section 4.3). no_buffers: the kernel's
queue is full."""
