"""A port that is a packet socket on a TAP whose descriptor somebody else holds: QEMU.

QEMU opens the TAP and the guest's frames arrive on the link as received packets, which the socket
sees; what the socket sends, the kernel queues towards QEMU. Frames that the host's own kernel
emits on the link are seen as outgoing packets and are not the guest's: they are dropped here.

The link itself must be up and needs no address. `PACKET_VNET_HDR` keeps the `virtio_net_hdr`.
"""

from __future__ import annotations

import errno
import socket

from ..wire import vnet
from ..wire.ethernet import Buffer
from ..wire.vxlan import VXLAN_LEN
from .port import BUDGET, BUDGET_BYTES, Burst, PortGone
from .tap import inside
from .tunnel import Train

_SOL_PACKET = 263
_PACKET_VNET_HDR = 15
_ETH_P_ALL = 0x0003
_GONE = frozenset({errno.ENXIO, errno.ENODEV, errno.EBADF})
_OUTGOING = 4
"""PACKET_OUTGOING: what the host's own kernel sends on the link."""


class PacketPort:
    """A packet socket bound to one link."""

    def __init__(self, name: str, netns: str | None = None, *, parked: bool = False) -> None:
        with inside(netns):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
            self._socket.bind((name, _ETH_P_ALL))
        except BaseException:
            self._socket.close()
            raise
        self._parked = parked

    def fileno(self) -> int:
        return self._socket.fileno()

    def park(self, parked: bool) -> None:
        """Nothing to do: the guest's first frame is what activates a staged port."""

    def read(self, burst: Burst, most: int = BUDGET) -> None:
        lengths, receive, size = burst.lengths, self._socket.recvmsg_into, 0
        lengths.clear()
        while len(lengths) < most and size <= BUDGET_BYTES:
            try:
                length, _, _, origin = receive(burst.targets[len(lengths)])
            except BlockingIOError:
                return
            except OSError as error:
                # ENETDOWN: the link is down and may come back, or it was removed, and then the
                # socket is bound to nothing.
                if error.errno in _GONE or not self._socket.getsockname()[0]:
                    raise PortGone(*error.args) from error
                return
            if origin[2] != _OUTGOING:
                lengths.append(length - vnet.VNET_LEN)
                size += length

    def write(self, frame: Buffer, header: Buffer = vnet.PLAIN) -> bool:
        try:
            self._socket.sendmsg((header, frame))
        except OSError as error:
            if error.errno in _GONE:
                raise PortGone(*error.args) from error
            return False
        return True

    def write_train(self, train: Train) -> int:
        return sum(self.write(packet[VXLAN_LEN:]) for packet in train.packets())

    def close(self) -> None:
        self._socket.close()
