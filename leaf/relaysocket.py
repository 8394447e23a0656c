"""The socket by which a relay reaches its servers: UDP, bound to a relay address.

One for each relay address, at the port of DHCP servers, to which servers answer a relay (RFC 2131
section 4.1; RFC 8415 section 7.2). Ours is an ordinary host's socket: a datagram that does not fit
the path is cut by the kernel.
"""

from __future__ import annotations

import errno
import ipaddress
import socket

from vswitch.service.settings import SettingsError
from vswitch.wire import dhcp

MAX_DATAGRAM = 65_535
_REMEDY = {
    errno.EACCES: "the port needs CAP_NET_BIND_SERVICE; systemd/leaf.service says how to give it",
    errno.EPERM: "the port needs CAP_NET_BIND_SERVICE; systemd/leaf.service says how to give it",
    errno.EADDRINUSE: "another DHCP server or relay is on this machine; stop it, or give the leaf a"
    " relay address of its own",
    errno.EADDRNOTAVAIL: "give this address to an interface, or name one that the machine has",
}


class RelayError(SettingsError):
    """The socket cannot be used; the text says why, and what to do."""


class RelaySocket:
    """An open socket to the servers of one family."""

    def __init__(self, address: bytes) -> None:
        """Open it at an address of 4 or 16 bytes. Raises RelayError."""
        self.address = address
        is_ipv4 = len(address) == 4
        self._port = dhcp.SERVER_PORT if is_ipv4 else dhcp.SERVER_PORT6
        shown = str(ipaddress.ip_address(address))
        self._socket = socket.socket(
            socket.AF_INET if is_ipv4 else socket.AF_INET6, socket.SOCK_DGRAM
        )
        try:
            self._socket.setblocking(False)
            self._socket.bind((shown, self._port))
        except OSError as error:
            self._socket.close()
            key = "leaf.relay" if is_ipv4 else "leaf.relay6"
            remedy = _REMEDY.get(error.errno or 0, "choose another relay address")
            raise RelayError(
                f"{key}: cannot relay DHCP from {shown} port {self._port}: {error.strerror};"
                f" {remedy}"
            ) from error

    def fileno(self) -> int:
        """Return the descriptor, to be watched."""
        return self._socket.fileno()

    def send(self, server: bytes, payload: bytes) -> bool:
        """Send a datagram to the DHCP port of `server`; False where the kernel does not take it."""
        try:
            self._socket.sendto(payload, (str(ipaddress.ip_address(server)), self._port))
        except OSError:
            return False
        return True

    def read(self, budget: int) -> list[tuple[bytes, bytes]]:
        """Return up to `budget` datagrams that have come, each with the address of its sender."""
        found = []
        for _ in range(budget):
            try:
                payload, sender = self._socket.recvfrom(MAX_DATAGRAM)
            except OSError:  # None is left, or the kernel tells of one that was lost.
                break
            host = str(sender[0]).partition("%")[0]
            found.append((ipaddress.ip_address(host).packed, payload))
        return found

    def close(self) -> None:
        """Close it."""
        self._socket.close()
