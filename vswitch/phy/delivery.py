"""How a port hands trains and super-frames to the kernel, whatever its device.

A train from the tunnel is joined into one super-frame and put into the device by one call. The
kernel cuts it again where whoever reads the device has not asked for super-frames of its kind
(`TUNSETOFFLOAD`, which is QEMU's translation of what the guest's driver has negotiated).

Without offload no super-frame is put into a device: a train goes packet by packet, and what another
port has read as a super-frame is cut first. The same is done for kinds that the kernel itself
refuses with EINVAL, as it does UDP before Linux 6.2. That is found by trying: where a super-frame
was refused and each of its packets is then taken, it was the kind that the kernel did not like. The
kind is not tried again at this port, and the log says so. Any other refusal (a full queue, a link
that is down) would be that of the packets too, and they are not tried.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

from ..wire import vnet
from ..wire.coalescer import Coalescer
from ..wire.ethernet import Buffer
from ..wire.segmenter import Segmenter
from ..wire.vxlan import VXLAN_LEN
from .tunnel import Train

Put = Callable[[Buffer, Buffer], int]
"""Puts one frame, with the `virtio_net_hdr` beside it, into a device. Returns 0, or the errno of
its refusal. Raises PortGone."""

_coalescer, _segmenter = Coalescer(), Segmenter()
"""One for all ports: what they make is put into a device before anything else is made."""


class Delivery:
    """What one port does with trains and super-frames."""

    def __init__(
        self, put: Put, *, offload: bool, notice: Callable[[str], None] = lambda said: None
    ) -> None:
        """`notice` is told what the kernel does not take."""
        self._put = put
        self._kinds = frozenset(vnet.GSO_NAMES) if offload else frozenset[int]()
        self._notice = notice

    def write(self, frame: Buffer, header: Buffer) -> bool:
        """Hand over one frame, of any kind; say whether all of it was taken."""
        if vnet.is_super_frame(header):
            return self.write_super(frame, header)
        return not self._put(frame, header)

    def write_train(self, train: Train) -> int:
        """Hand over the frames of a train, in order; return how many were taken."""
        if train.header is not vnet.PLAIN:
            return int(self.write(train.data[VXLAN_LEN:], train.header))
        if self._kinds and train.length > train.size:
            joined = _coalescer.coalesce(
                train.slot, train.start, train.length, train.size, self._kinds
            )
            if joined is not None:
                frame, header = joined
                refusal = self._put(frame, header)
                if refusal != errno.EINVAL:
                    return 0 if refusal else train.count
                taken = self._put_each(train.packets())
                if taken == train.count:
                    self._give_up(header)
                return taken
        return self._put_each(train.packets())

    def write_super(self, frame: Buffer, header: Buffer) -> bool:
        """Hand over a super-frame that another port has read; say whether all of it was taken."""
        if vnet.gso_kind(header) in self._kinds:
            refusal = self._put(frame, header)
            if refusal != errno.EINVAL:
                return not refusal
        cut = _segmenter.segment(memoryview(bytes(VXLAN_LEN) + frame), header)
        if cut is None:
            return False
        train, size = cut
        packets = [train[at : at + size] for at in range(0, len(train), size)]
        if self._put_each(packets) < len(packets):
            return False
        if vnet.gso_kind(header) in self._kinds:
            self._give_up(header)
        return True

    def _put_each(self, packets: Sequence[memoryview]) -> int:
        """Put packets, which have room for a VXLAN header in front; return how many were taken."""
        return sum(not self._put(packet[VXLAN_LEN:], vnet.PLAIN) for packet in packets)

    def _give_up(self, header: Buffer) -> None:
        kind = vnet.gso_kind(header)
        self._kinds -= {kind}
        self._notice(
            f"the kernel takes no super-frames of {vnet.GSO_NAMES[kind]} here:"
            " their packets are handed over one by one"
        )
