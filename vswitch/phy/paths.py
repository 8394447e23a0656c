"""What is known of the ways to other VTEPs: what has failed on them, and what has room.

What the kernel knows of the path MTU (of the device, the route, and from ICMP) it tells a connected
socket: `measure` asks for it, from time to time and whenever a packet was too big.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from ..wire.vxlan import Vtep
from .sockets import family_of
from .tunnel import FAULTS

_FAULT_OF = {
    errno.ECONNREFUSED: "refused",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EACCES: "unreachable",
    errno.EMSGSIZE: "too_big",
    errno.ENOBUFS: "no_buffers",
    errno.EAGAIN: "no_buffers",
}


class Paths:
    """The ways from our VTEP `local` to all others, which listen on `port`."""

    def __init__(self, local: Vtep, port: int) -> None:
        self._family, self._port = family_of(local), port
        self.faults = dict.fromkeys(FAULTS, 0)
        """How often each has happened."""
        self.room: dict[Vtep, int] = {}
        """The longest packet that reaches a VTEP in one piece, as far as it is known."""

    def count(self, number: int | None) -> None:
        """Count a failure, by its errno."""
        self.faults[_FAULT_OF.get(number or 0, "other")] += 1

    def measure(self, vteps: Iterable[Vtep]) -> None:
        """Find out anew what has room on the way to some VTEPs."""
        family = self._family
        for vtep in vteps:
            with socket.socket(family.number, socket.SOCK_DGRAM) as asking:
                try:
                    asking.connect((vtep, self._port))
                    mtu = asking.getsockopt(family.level, family.mtu)
                    self.room[vtep] = mtu - family.headers
                except OSError:
                    self.room.pop(vtep, None)  # No route at the moment; sending will say so.
