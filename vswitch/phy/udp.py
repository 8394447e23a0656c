"""The real tunnel: VXLAN over UDP sockets.

One socket receives on the VXLAN port. A pool of sockets sends, each bound to a source port of
49152-65535; the flow hash chooses one, so that ECMP in the underlay spreads flows and keeps each in
order (RFC 7348 section 5). The pool is not connected: a leaf has hundreds of peers.

`IP_RECVERR` makes ICMP errors visible on such sockets: they surface as an error of the *next* send,
which was then not made and is tried once more. The error queue is drained at that moment.
`IP_PMTUDISC_DO` sets DF: a VTEP must not fragment (RFC 7348 section 4.3).
"""

from __future__ import annotations

import errno
import ipaddress
import socket

from ..wire import vnet, vxlan
from ..wire.ethernet import Buffer
from ..wire.vxlan import Vtep
from .tunnel import BUDGET, FAULTS, Inbox

_IP_MTU_DISCOVER, _IP_PMTUDISC_DO, _IP_RECVERR = 10, 2, 11
_IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_DO, _IPV6_RECVERR = 23, 2, 25
_RECEIVE_BUFFER = 4 << 20
"""Holds 20 ms of full-size packets at 1.6 Gb/s, which covers one long turn of the event loop; the
kernel caps it at net.core.rmem_max."""
_FAULT_OF = {
    errno.ECONNREFUSED: "refused",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EMSGSIZE: "too_big",
    errno.ENOBUFS: "no_buffers",
    errno.EAGAIN: "no_buffers",
}
_OF_AN_EARLIER_SEND = frozenset({errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH})


class TunnelError(Exception):
    """The tunnel could not be opened; the text says what to do."""


class UdpTunnel:
    """Our VTEP on the underlay."""

    def __init__(self, local: Vtep, port: int = vxlan.PORT, source_ports: int = 16) -> None:
        """Bind to `local`. `source_ports` is the size of the sending pool, a power of two."""
        self._port = port
        self._version = ipaddress.ip_address(local).version
        self.faults = dict.fromkeys(FAULTS, 0)
        self._pool: list[socket.socket] = []
        self._receiver = self._bound(local, port)
        try:
            self._receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            candidates = iter(vxlan.SOURCE_PORTS)
            while len(self._pool) < source_ports:
                self._add_sender(local, next(candidates))
        except BaseException:
            self.close()
            raise
        self._mask = source_ports - 1

    def _bound(self, local: Vtep, port: int) -> socket.socket:
        family = socket.AF_INET if self._version == 4 else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind((local, port))
        except OSError as error:
            sock.close()
            remedy = {
                errno.EADDRINUSE: "another process (or a kernel VXLAN device) holds this port:"
                f" `ss -ulnp sport = :{port}` names it",
                errno.EADDRNOTAVAIL: "no interface has this address: add it, or change `vtep`",
            }.get(error.errno or 0, "check the address and the rights of this process")
            raise TunnelError(
                f"cannot bind the tunnel to {local} port {port}: {error.strerror}; {remedy}"
            ) from error
        return sock

    def _add_sender(self, local: Vtep, port: int) -> None:
        try:
            sock = self._bound(local, port)
        except TunnelError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE:
                return  # Somebody's ephemeral port; the next one will do.
            raise
        if self._version == 4:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _IPV6_PMTUDISC_DO)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        self._pool.append(sock)

    def fileno(self) -> int:
        return self._receiver.fileno()

    def read(self, inbox: Inbox) -> None:
        inbox.count = 0
        receive = self._receiver.recvfrom_into
        for train in inbox.trains[:BUDGET]:
            try:
                length, source = receive(train.view)
            except BlockingIOError:
                return
            except OSError:
                continue  # An ICMP error for this socket: nothing was received.
            train.length = train.size = length
            train.source = Vtep(source[0])
            inbox.count += 1

    def send(self, vtep: Vtep, flow: int, packet: Buffer, header: Buffer = vnet.PLAIN) -> bool:
        sock = self._pool[flow & self._mask]
        try:
            sock.sendto(packet, (vtep, self._port))
        except OSError as error:
            return self._recover(sock, error, vtep, packet)
        return True

    def send_train(self, vtep: Vtep, flow: int, train: Buffer, size: int) -> bool:
        if len(train) <= size:
            return self.send(vtep, flow, train)
        sent = [self.send(vtep, flow, train[at : at + size]) for at in range(0, len(train), size)]
        return all(sent)

    def flush(self) -> None:
        """Nothing is held back."""

    def _recover(self, sock: socket.socket, error: OSError, vtep: Vtep, packet: Buffer) -> bool:
        """Count a failed send; where it failed for an earlier packet's sake, send once more."""
        self._count(error)
        if error.errno not in _OF_AN_EARLIER_SEND:
            return False
        self._drain_errors(sock)
        try:
            sock.sendto(packet, (vtep, self._port))
        except OSError as second:
            self._count(second)
            return False
        return True

    def _count(self, error: OSError) -> None:
        self.faults[_FAULT_OF.get(error.errno or 0, "other")] += 1

    @staticmethod
    def _drain_errors(sock: socket.socket) -> None:
        for _ in range(BUDGET):
            try:
                sock.recvmsg(0, 512, socket.MSG_ERRQUEUE)
            except OSError:
                return

    def close(self) -> None:
        self._receiver.close()
        for sock in self._pool:
            sock.close()
