"""A port that is a packet socket on a TAP whose descriptor somebody else holds: QEMU.

QEMU opens the TAP and the guest's frames arrive on the link as received packets, which the socket
sees; what the socket sends, the kernel queues towards QEMU. Frames that the host's own kernel
emits on the link are seen as outgoing packets and are not the guest's: they are not read.

The link itself must be up and needs no address. `PACKET_VNET_HDR` keeps the `virtio_net_hdr`, both
ways: a guest with `vnet_hdr=on` hands over super-frames and open checksums, and what we send as a
super-frame reaches QEMU as one if its guest takes such, else the kernel cuts it and completes the
checksums on the way into the TAP's queue. That queue holds as many frames as the link's
`txqueuelen`; what does not fit is counted by the link only, since the kernel does not tell us.

The kernel takes the outermost VLAN tag out of a frame and puts it beside it. It is put back, so
that the switch sees what the guest has sent, and drops it.

Rejected: `PACKET_QDISC_BYPASS`. Behind it nothing is cut: a super-frame of a kind that the guest
has not asked for is lost, with ENOBUFS.

Reference: packet(7).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from struct import Struct

from ..wire import vnet
from ..wire.ethernet import Buffer
from .delivery import Delivery
from .port import BUDGET, BUDGET_BYTES, Burst, PortGone
from .tap import inside
from .tunnel import Train

_SOL_PACKET = 263
_PACKET_AUXDATA, _PACKET_VNET_HDR, _PACKET_IGNORE_OUTGOING = 8, 15, 23
_ETH_P_ALL = 0x0003
_GONE = frozenset({errno.ENXIO, errno.ENODEV, errno.EBADF})
_AUXDATA = Struct("@IIIHHHH")
"""`struct tpacket_auxdata`: status, lengths and offsets, and the VLAN tag: TCI and TPID."""
_STATUS = Struct("@I")
_ANCILLARY_LEN = socket.CMSG_SPACE(_AUXDATA.size)
_VLAN_VALID = 0x10
"""TP_STATUS_VLAN_VALID: the frame had a tag."""
_TAG = Struct("!HH")
_TAG_AT = 12
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 1 << 20
"""The kernel doubles it. It then holds 32 super-frames or 2,700 small frames, which is some ten
milliseconds of what we can forward; by default it holds four super-frames."""


class PacketPort:
    """A packet socket bound to one link."""

    def __init__(
        self,
        name: str,
        netns: str | None = None,
        *,
        offload: bool = False,
        notice: Callable[[str], None] = lambda said: None,
    ) -> None:
        """`offload`: whether trains are handed over as super-frames. What the guest hands over is
        for it and QEMU to say, and is taken either way. `notice` is told what the kernel does not
        take. Raises OSError: ENODEV where there is no such link, EPERM without CAP_NET_RAW."""
        self._delivery = Delivery(self._put, offload=offload, notice=notice)
        with inside(netns):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self._socket.setblocking(False)
            for option in (_PACKET_VNET_HDR, _PACKET_AUXDATA, _PACKET_IGNORE_OUTGOING):
                self._socket.setsockopt(_SOL_PACKET, option, 1)
            self._enlarge_buffer()
            self._socket.bind((name, _ETH_P_ALL))
        except BaseException:
            self._socket.close()
            raise

    def _enlarge_buffer(self) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        except PermissionError:  # Without CAP_NET_ADMIN it is capped at net.core.rmem_max.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)

    def fileno(self) -> int:
        return self._socket.fileno()

    def park(self, parked: bool) -> None:
        """Nothing to do: the guest's first frame is what activates a staged port."""

    def read(self, burst: Burst, most: int = BUDGET) -> None:
        lengths, receive, size = burst.lengths, self._socket.recvmsg_into, 0
        lengths.clear()
        while len(lengths) < most and size <= BUDGET_BYTES:
            target = burst.targets[len(lengths)]
            try:
                length, control, _, _ = receive(target, _ANCILLARY_LEN)
            except BlockingIOError:
                return
            except OSError as error:
                # ENETDOWN: the link is down and may come back, or it was removed, and then the
                # socket is bound to nothing.
                if error.errno in _GONE or not self._socket.getsockname()[0]:
                    raise PortGone(*error.args) from error
                return
            length -= vnet.VNET_LEN
            auxiliary = control[0][2]
            if _STATUS.unpack_from(auxiliary)[0] & _VLAN_VALID:
                length = _put_tag_back(target[1], length, auxiliary)
            lengths.append(length)
            size += length

    def write(self, frame: Buffer, header: Buffer = vnet.PLAIN) -> bool:
        return self._delivery.write(frame, header)

    def write_train(self, train: Train) -> int:
        return self._delivery.write_train(train)

    def _put(self, frame: Buffer, header: Buffer) -> int:
        try:
            self._socket.sendmsg((header, frame))
        except OSError as error:
            if error.errno in _GONE:
                raise PortGone(*error.args) from error
            return error.errno or errno.EIO
        return 0

    def close(self) -> None:
        self._socket.close()


def _put_tag_back(frame: memoryview, length: int, auxiliary: bytes) -> int:
    """Make the frame of `length` bytes the tagged one that the guest has sent; return its length.

    What stands beside it stays as it is, though its offsets would have to grow: no tagged frame
    goes anywhere. For the same reason one that fills all of its room may lose its end.
    """
    *_, tci, tpid = _AUXDATA.unpack(auxiliary)
    length = min(length + _TAG.size, len(frame))
    end = _TAG_AT + _TAG.size
    frame[end:length] = bytes(frame[_TAG_AT : length - _TAG.size])
    _TAG.pack_into(frame, _TAG_AT, tpid, tci)
    return length
