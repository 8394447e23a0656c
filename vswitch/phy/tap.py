"""A port that is a queue of a TAP device whose descriptor we hold.

The device is opened with `IFF_VNET_HDR` (each frame carries a `virtio_net_hdr`) and, on request,
with `IFF_MULTI_QUEUE`. Several processes can then hold queues of the same device: a guest in a
namespace moves between two vswitches without its link ever losing carrier, because the second
queue is there before the first one goes. (With no queue left the kernel drops carrier, and a Linux
guest flushes its ARP cache.) While two queues are enabled the kernel spreads flows over both, so
a queue opened for a guest that still runs elsewhere is *parked* (TUNSETQUEUE) at once.

Opening, parking and closing may wait for the kernel's RTNL lock and an RCU grace period, tens of
milliseconds: the daemon does them in a thread. Reading and writing never block.

Reference: Linux Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fcntl import ioctl
from struct import Struct

from pyroute2 import netns as namespaces

from ..wire import vnet
from ..wire.ethernet import Buffer
from .delivery import Delivery
from .port import BUDGET, BUDGET_BYTES, Burst, PortGone
from .tunnel import Train

_TUNSETIFF = 0x400454CA
_TUNSETPERSIST = 0x400454CB
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_TUNSETQUEUE = 0x400454D9
_TUNSETVNETLE = 0x400454DC
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFF_MULTI_QUEUE = 0x0100
_IFF_ATTACH_QUEUE = 0x0200
_IFF_DETACH_QUEUE = 0x0400
_IFREQ = Struct("16sH22x")
_INT = Struct("i")

MAX_NAME_LEN = 15
"""IFNAMSIZ less the final zero."""

_GONE = frozenset({errno.EBADFD, errno.ENODEV, errno.EBADF, errno.EFAULT})
"""EBADFD: the device was removed. EFAULT: it is being removed."""
_RECOVERABLE = frozenset({errno.EIO, errno.EINVAL, errno.ENOBUFS, errno.EAGAIN, errno.ENOMEM})
"""EIO: the link is down. EINVAL: the kernel did not like this frame. The others: full."""

_entering = threading.Lock()


@contextmanager
def inside(netns: str | None) -> Iterator[None]:
    """Run the body with this thread in the named network namespace (needs CAP_SYS_ADMIN)."""
    if netns is None:
        yield
        return
    with _entering:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            namespaces.setns(netns, flags=0)
            try:
                yield
            finally:
                namespaces.setns(home)
        finally:
            os.close(home)


_OFFLOADS = (0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40, 0x01 | 0x02 | 0x04 | 0x08)
"""TUN_F_CSUM, TSO4, TSO6, TSO_ECN, and USO4 and USO6, which Linux has from 6.2 on: what we take as
super-frames, the most first. What the guest's kernel takes does not depend on it."""


def open_queue(name: str, netns: str | None, multi_queue: bool, offload: bool = False) -> int:
    """Open one queue of the TAP `name`, creating the device where it is missing.

    Raises OSError: EBUSY where another process holds the only queue, EPERM without rights,
    EINVAL where the device exists with other flags.
    """
    # The guest hands over super-frames with open checksums, of every kind that the kernel knows.
    offloads = (*(_OFFLOADS if offload else ()), 0)
    with inside(netns):
        fd, _ = open_device(name, vnet.VNET_LEN, offloads, multi_queue=multi_queue)
    return fd


def open_device(
    name: str, header_len: int, offloads: Sequence[int], *, multi_queue: bool
) -> tuple[int, str]:
    """Open a queue of a TAP of this thread's namespace; return it and the name of the device, in
    which the kernel has put a number for `%d`.

    `offloads` are sets of TUN_F flags, of which the first is used that the kernel knows; EINVAL
    where it knows none of them.
    """
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if multi_queue else 0)
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        made = ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), flags))
        ioctl(fd, _TUNSETVNETHDRSZ, _INT.pack(header_len))
        ioctl(fd, _TUNSETVNETLE, _INT.pack(1))
        _set_offloads(fd, offloads)
    except BaseException:
        os.close(fd)
        raise
    return fd, _IFREQ.unpack(made)[0].rstrip(b"\0").decode()


def _set_offloads(fd: int, offloads: Sequence[int]) -> None:
    for flags in offloads:
        try:
            ioctl(fd, _TUNSETOFFLOAD, flags)
            return
        except OSError as error:
            if error.errno != errno.EINVAL or flags == offloads[-1]:
                raise


def create_persistent(name: str, netns: str | None, multi_queue: bool = True) -> None:
    """Create the TAP `name` so that it outlives every descriptor."""
    fd = open_queue(name, netns, multi_queue)
    try:
        ioctl(fd, _TUNSETPERSIST, 1)
    finally:
        os.close(fd)


class TapPort:
    """One queue of a TAP."""

    def __init__(
        self,
        name: str,
        netns: str | None = None,
        *,
        multi_queue: bool = False,
        parked: bool = False,
        offload: bool = False,
        notice: Callable[[str], None] = lambda said: None,
    ) -> None:
        """`notice` is told what the kernel does not take. Raises OSError and ValueError."""
        if len(name.encode()) > MAX_NAME_LEN:
            raise ValueError(f"device name {name!r} is longer than {MAX_NAME_LEN} bytes")
        self._multi_queue = multi_queue
        self._delivery = Delivery(self._put, offload=offload, notice=notice)
        self._fd = open_queue(name, netns, multi_queue, offload)
        self._parked = self._parking = False
        if parked:
            self.park(True)

    def fileno(self) -> int:
        """Return -1 while parked: a disabled queue would only ever report an error."""
        return -1 if self._parked else self._fd

    def park(self, parked: bool) -> None:
        """Disable or enable our queue. A TAP with a single queue is left as it is: while another
        process held it, we could not have opened it."""
        if not self._multi_queue or parked == self._parked:
            return
        flags = _IFF_DETACH_QUEUE if parked else _IFF_ATTACH_QUEUE
        self._parking = parked
        try:
            ioctl(self._fd, _TUNSETQUEUE, _IFREQ.pack(b"", flags))
            self._parked = parked
        finally:
            self._parking = False

    def read(self, burst: Burst, most: int = BUDGET) -> None:
        lengths, fd, readv, size = burst.lengths, self._fd, os.readv, 0
        lengths.clear()
        if self._parked:
            return
        for target in burst.targets if most >= BUDGET else burst.targets[:most]:
            try:
                length = readv(fd, target) - vnet.VNET_LEN
            except BlockingIOError:
                return
            except OSError as error:
                # Between the kernel's parking and our noting it, a read finds no queue either.
                if error.errno in _GONE and not (self._parking or self._parked):
                    raise PortGone(*error.args) from error
                return
            lengths.append(length)
            size += length
            if size > BUDGET_BYTES:
                return

    def write(self, frame: Buffer, header: Buffer = vnet.PLAIN) -> bool:
        return self._delivery.write(frame, header)

    def write_train(self, train: Train) -> int:
        return self._delivery.write_train(train)

    def _put(self, frame: Buffer, header: Buffer) -> int:
        if self._parked:
            return errno.EAGAIN
        try:
            os.writev(self._fd, (header, frame))
        except OSError as error:
            if self._parking or self._parked:
                return errno.EAGAIN
            if error.errno in _GONE:
                raise PortGone(*error.args) from error
            if error.errno not in _RECOVERABLE:
                raise
            return error.errno
        return 0

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
