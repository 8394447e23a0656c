"""A source port: one socket of the pool that sends, and what to do where that fails.

A train is sent by one call (`UDP_SEGMENT`, Linux 4.18). Whether the kernel can do it is found by
trying: where it refuses a train whose packets it takes one by one, it cannot, or not one so long.

With `IP_RECVERR`, an ICMP error surfaces as an error of the *next* send by that socket, to whomever
it is, which was then not made and is tried once more. The error queue is drained at that moment.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from struct import Struct

from ..wire.ethernet import Buffer
from ..wire.vxlan import WHOLE_PORTS, Vtep
from .paths import Paths
from .tunnel import BUDGET

_SOL_UDP, _UDP_SEGMENT = socket.SOL_UDP, 103
_SEGMENT_SIZE = Struct("@H")
MAX_ROWS, OLD_MAX_ROWS = 128, 64
"""UDP_SEGMENT takes no more (Linux UDP_MAX_SEGMENTS), and in older kernels."""
MAX_SEND = 65_507
"""The longest payload of an IPv4 datagram, which a train is until the kernel cuts it; IPv6 would
take 20 bytes more."""
_CANNOT_SEGMENT = frozenset({errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.ENOPROTOOPT})
"""What a train can fail with where its packets, one by one, may still go. Of these EMSGSIZE says
nothing of the kernel: it may be news of an earlier packet, that the path has become narrower."""
_OF_AN_EARLIER_SEND = frozenset(
    {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES}
)
"""EACCES is what ICMPv6 "prohibited" and "reject route" become (RFC 4443 section 3.1)."""

Address = tuple[Vtep, int]
"""A VTEP and its port."""


class SourcePort:
    """One socket that sends."""

    __slots__ = ("_paths", "_refused", "_sendmsg", "_sendto", "_socket", "claims_whole", "number")

    def __init__(self, sock: socket.socket, paths: Paths, refused: Callable[[int], None]) -> None:
        """`paths` is told what fails; `refused` is told the packets of a train that the kernel
        has refused and of which it has then taken each."""
        self._socket, self._paths, self._refused = sock, paths, refused
        # Bound once, since they are called for every packet.
        self._sendto, self._sendmsg = sock.sendto, sock.sendmsg
        self.number: int = sock.getsockname()[1]
        self.claims_whole = self.number in WHOLE_PORTS
        """Whether it tells others that we take whole super-frames."""

    def send(self, address: Address, packet: Buffer) -> bool:
        """Send one packet. False where that failed."""
        try:
            self._sendto(packet, address)
        except OSError as error:
            return self._recover(error, address, packet)
        return True

    def send_each(self, address: Address, packets: Sequence[Buffer]) -> int:
        """Send packets one by one. Return how many could not be sent."""
        return sum([not self.send(address, packet) for packet in packets])

    def send_train(self, address: Address, parts: list[Buffer], size: int) -> int:
        """Send packets of `size` bytes, which `parts` hold one behind the other, by one call: up to
        `MAX_ROWS` of them and `MAX_SEND` bytes. Return how many could not be sent."""
        control = [(_SOL_UDP, _UDP_SEGMENT, _SEGMENT_SIZE.pack(size))]
        try:
            self._sendmsg(parts, control, 0, address)
            return 0
        except OSError as error:
            if error.errno in _OF_AN_EARLIER_SEND:
                self._paths.count(error.errno)
                self._drain_errors()
            elif error.errno not in _CANNOT_SEGMENT:
                self._paths.count(error.errno)
                return sum(-(-len(part) // size) for part in parts)
            refusal = error
        rows = [part[at : at + size] for part in parts for at in range(0, len(part), size)]
        lost = self.send_each(address, rows)
        if not lost and refusal.errno in _CANNOT_SEGMENT - {errno.EMSGSIZE}:
            # Each of them went, so it was the train that the kernel did not like.
            self._refused(len(rows))
        return lost

    def _recover(self, error: OSError, address: Address, packet: Buffer) -> bool:
        """Count a failed send; where it failed for an earlier packet's sake, send once more."""
        paths, vtep = self._paths, address[0]
        paths.count(error.errno)
        if error.errno == errno.EMSGSIZE:
            paths.measure((vtep,))
            if len(packet) > paths.room.get(vtep, 0):
                return False
        elif error.errno not in _OF_AN_EARLIER_SEND:
            return False
        self._drain_errors()
        try:
            self._sendto(packet, address)
        except OSError as second:
            paths.count(second.errno)
            return False
        return True

    def _drain_errors(self) -> None:
        for _ in range(BUDGET):
            try:
                self._socket.recvmsg(0, 512, socket.MSG_ERRQUEUE)
            except OSError:
                return

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
