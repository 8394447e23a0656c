"""The sockets of the tunnel: how they are opened, and what the kernel is asked for with each.

A *pool* of sockets sends, each bound to a source port of its own; the flow hash chooses one, so
that ECMP in the underlay spreads flows and keeps each in order (RFC 7348 section 5). The pool is
not connected: a leaf has hundreds of peers. `IP_PMTUDISC_DO` sets DF: a VTEP must not fragment
(RFC 7348 section 4.3). `IP_RECVERR` makes ICMP errors visible on such sockets (`source.py` tells
how).

*Lanes* receive: several sockets on the VXLAN port, over which the kernel spreads what comes by its
addresses and ports (SO_REUSEPORT), and which the daemon serves in turn. A flood of one guest fills
the buffer of its lane, where its packets wait in line; those of most others come by another lane
and pass it. A flow keeps to one lane, and so its order. The first socket is bound alone, so that a
second daemon on the same address is refused, and is opened to the others after that.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from ..wire.vxlan import Vtep

_IP_PMTUDISC_DO = 2
"""For both families (IPV6_PMTUDISC_DO)."""
_UDP_NO_CHECK6_RX, _UDP_GRO, _IPV6_AUTOFLOWLABEL = 102, 104, 70
LANES: Final = 8
_RECEIVE_BUFFER = 1 << 20
"""Of a lane. The kernel doubles it, and caps it at net.core.rmem_max. That is some ten milliseconds
of super-frames and a hundred of small packets; with half of it, TCP lost one packet in thirty."""


class TunnelError(Exception):
    """The tunnel could not be opened; the text says what to do."""


class Family(NamedTuple):
    """What differs between the families of the underlay."""

    number: socket.AddressFamily
    level: int
    """Of the options that follow (Linux in.h and in6.h)."""
    mtu_discover: int
    recverr: int
    mtu: int
    headers: int
    """Bytes of the outer IP and UDP headers."""


_FAMILIES = {
    4: Family(socket.AF_INET, socket.IPPROTO_IP, 10, 11, 14, 28),
    6: Family(socket.AF_INET6, socket.IPPROTO_IPV6, 23, 25, 24, 48),
}


def family_of(vtep: Vtep) -> Family:
    """Return the family of an address of the underlay."""
    return _FAMILIES[ipaddress.ip_address(vtep).version]


def open_lanes(local: Vtep, port: int) -> list[socket.socket]:
    """Open the sockets that receive. Raises TunnelError; then none is open."""
    with _all_or_none() as lanes:
        lanes.append(_bound(local, port))
        lanes[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        while len(lanes) < LANES:
            lanes.append(_bound(local, port, shared=True))
        for lane in lanes:
            lane.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            if lane.family == socket.AF_INET6:
                # A zero checksum must be taken (RFC 7348 section 5, RFC 6935); we send none.
                lane.setsockopt(socket.SOL_UDP, _UDP_NO_CHECK6_RX, 1)
    return lanes


def receive_trains(lanes: list[socket.socket]) -> bool:
    """Have the kernel hand over trains whole. False where it cannot."""
    try:
        for lane in lanes:
            lane.setsockopt(socket.SOL_UDP, _UDP_GRO, 1)
    except OSError:
        return False
    return True


def open_pool(local: Vtep, count: int, ports: Iterable[int]) -> list[socket.socket]:
    """Open the sockets that send, from the first of these ports that are free. Raises TunnelError;
    then none is open."""
    family, candidates = family_of(local), iter(ports)
    with _all_or_none() as pool:
        while len(pool) < count:
            port = next(candidates, None)
            if port is None:
                raise TunnelError(f"{count} source ports are not free at {local}: end who has them")
            try:
                pool.append(_bound(local, port))
            except TunnelError as error:
                cause = error.__cause__
                if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE:
                    continue  # Somebody's ephemeral port; the next one will do.
                raise
            pool[-1].setsockopt(family.level, family.mtu_discover, _IP_PMTUDISC_DO)
            pool[-1].setsockopt(family.level, family.recverr, 1)
            if pool[-1].family == socket.AF_INET6:
                # What goes by the shortcut has no flow label: one flow keeps to one way.
                pool[-1].setsockopt(family.level, _IPV6_AUTOFLOWLABEL, 0)
    return pool


@contextmanager
def _all_or_none() -> Iterator[list[socket.socket]]:
    """A list for sockets, which are closed where something goes wrong."""
    opened: list[socket.socket] = []
    try:
        yield opened
    except BaseException:
        for sock in opened:
            sock.close()
        raise


def _bound(local: Vtep, port: int, shared: bool = False) -> socket.socket:
    family = family_of(local)
    sock = socket.socket(family.number, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        sock.bind((local, port))
    except OSError as error:
        sock.close()
        hint = "; a new one of IPv6 is usable only after duplicate detection (a second)"
        remedy = {
            errno.EADDRINUSE: "another process (or a kernel VXLAN device) holds this port:"
            f" `ss -ulnp sport = :{port}` names it",
            errno.EADDRNOTAVAIL: "no interface has this address: add it, or change `vtep`"
            + (hint if family.number == socket.AF_INET6 else ""),
        }.get(error.errno or 0, "check the address and the rights of this process")
        raise TunnelError(
            f"cannot bind the tunnel to {local} port {port}: {error.strerror}; {remedy}"
        ) from error
    return sock
