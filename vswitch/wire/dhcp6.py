"""DHCP for IPv6 (RFC 8415): reading what clients send, building what a server answers, and the
messages in which a relay carries both.

Only what a server of single addresses needs: IA_NA, and in it addresses. `parse` and its like
believe nothing; what is not sound is None. Options are at most as many as fit in a packet, and none
are nested deeper than an address inside an IA_NA.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from . import ipv6, udp
from .ethernet import Buffer, Mac
from .udp import Datagram

SERVER_PORT = 547
CLIENT_PORT = 546
SERVERS = b"\xff\x02" + bytes(11) + b"\x01\x00\x02"
"""ff02::1:2, All_DHCP_Relay_Agents_and_Servers (section 7.1)."""

# Message types (section 7.3).
SOLICIT, ADVERTISE, REQUEST, CONFIRM, RENEW, REBIND, REPLY, RELEASE, DECLINE = range(1, 10)
RECONFIGURE, INFORMATION_REQUEST, RELAY_FORWARD, RELAY_REPLY = range(10, 14)

# Options (section 21, RFC 3646).
CLIENT_ID = 1
SERVER_ID = 2
IA_NA = 3
IA_ADDRESS = 5
RELAY_MESSAGE = 9
STATUS = 13
INTERFACE_ID = 18
DNS = 23
DOMAINS = 24
VSS = 68
"""RFC 6607."""
CLIENT_LINK_LAYER = 79
"""RFC 6939."""

# Status codes (section 21.13).
SUCCESS = 0
NO_ADDRESSES = 2
NO_BINDING = 3
NOT_ON_LINK = 4

_RELAY_LEN = 34
"""Type, hop count, link address and peer address (section 9)."""
_ETHERNET = b"\0\1"
"""The hardware type, as ARP writes it."""

MAX_DUID = 130
"""Section 11.1: 128 bytes and a type of two."""


class Ia(NamedTuple):
    """An identity association: its number, and the addresses that the client names in it."""

    number: bytes
    addresses: tuple[bytes, ...]


class Message(NamedTuple):
    """What is read of a message."""

    kind: int
    transaction: bytes
    source: bytes
    """The client's link-local address."""
    source_port: int
    client: bytes | None
    server: bytes | None
    ias: tuple[Ia, ...]


class Relayed(NamedTuple):
    """What a server has answered to a relay (section 9.2)."""

    hops: int
    link: bytes
    peer: bytes
    interface: bytes
    """The Interface-Id that the relay had given (section 21.18)."""
    payload: bytes
    """The message inside."""


def parse(frame: Buffer) -> Message | None:
    """Read the message to servers in a frame; None where it is not a sound one."""
    datagram = udp.parse(frame)
    return None if datagram is None else read(datagram)


def read(datagram: Datagram) -> Message | None:
    """Read the message to servers in a datagram; None where it is not a sound one."""
    if len(datagram.source) != 16 or datagram.destination_port != SERVER_PORT:
        return None
    payload = datagram.payload
    if len(payload) < 4 or not ipv6.is_link_local(datagram.source):
        return None
    client = server = None
    ias = []
    try:
        for code, value in _options(payload[4:]):
            if code == CLIENT_ID:
                client = _duid(value)
            elif code == SERVER_ID:
                server = _duid(value)
            elif code == IA_NA:
                ias.append(_ia(value))
    except ValueError:
        return None
    return Message(
        payload[0],
        payload[1:4],
        datagram.source,
        datagram.source_port,
        client,
        server,
        tuple(ias),
    )


def given(payload: bytes) -> list[tuple[bytes, int]] | None:
    """Read a server's message for a client: the addresses in its IA_NAs, and for how many seconds
    each is valid (section 21.6); None where it is not sound."""
    if len(payload) < 4:
        return None
    found = []
    try:
        for code, value in _options(payload[4:]):
            if code == IA_NA:
                _ia(value)
                inside = [one for kind, one in _options(value[12:]) if kind == IA_ADDRESS]
                found += [(one[:16], int.from_bytes(one[20:24], "big")) for one in inside]
    except ValueError:
        return None
    return found


def relay_forward(link: bytes, peer: bytes, options: bytes, payload: bytes) -> bytes:
    """Build the message in which a relay passes on a client's (section 19.1.1)."""
    head = bytes((RELAY_FORWARD, 0)) + link + peer
    return head + options + option(RELAY_MESSAGE, payload)


def link_layer(mac: Mac) -> bytes:
    """Write the client's MAC, which its DUID does not tell (RFC 6939)."""
    return option(CLIENT_LINK_LAYER, _ETHERNET + mac)


def relay_reply(payload: bytes) -> Relayed | None:
    """Read a server's answer to a relay; None where it is not a sound one (section 19.2)."""
    if len(payload) < _RELAY_LEN or payload[0] != RELAY_REPLY:
        return None
    found: dict[int, bytes] = {}
    try:
        for code, value in _options(payload[_RELAY_LEN:]):
            if code in found and code in (INTERFACE_ID, RELAY_MESSAGE):
                return None  # Which of two counts is not said; a sound server writes one.
            found[code] = value
    except ValueError:
        return None
    if INTERFACE_ID not in found or RELAY_MESSAGE not in found:
        return None
    return Relayed(
        payload[1], payload[2:18], payload[18:34], found[INTERFACE_ID], found[RELAY_MESSAGE]
    )


def _options(area: bytes) -> Iterator[tuple[int, bytes]]:
    """Walk over options. Raises ValueError where one is cut off."""
    at = 0
    while at < len(area):
        end = at + 4 + int.from_bytes(area[at + 2 : at + 4], "big")
        if at + 4 > len(area) or end > len(area):
            raise ValueError("an option is cut off")
        yield int.from_bytes(area[at : at + 2], "big"), area[at + 4 : end]
        at = end


def _duid(value: bytes) -> bytes:
    if not 3 <= len(value) <= MAX_DUID:
        raise ValueError("no DUID is of this length")
    return value


def _ia(value: bytes) -> Ia:
    if len(value) < 12:
        raise ValueError("an IA_NA is cut off")
    inside = list(_options(value[12:]))
    if any(code == IA_ADDRESS and len(one) < 24 for code, one in inside):
        raise ValueError("an address is cut off")
    return Ia(value[:4], tuple(one[:16] for code, one in inside if code == IA_ADDRESS))


def duid(mac: Mac) -> bytes:
    """Return the DUID made of a MAC (DUID-LL, section 11.4)."""
    return b"\x00\x03\x00\x01" + mac


def option(code: int, value: bytes) -> bytes:
    """Write an option."""
    return code.to_bytes(2, "big") + len(value).to_bytes(2, "big") + value


def status(code: int) -> bytes:
    """Write a status without words."""
    return option(STATUS, code.to_bytes(2, "big"))


def ia(number: bytes, t1: int, t2: int, inside: bytes) -> bytes:
    """Write an IA_NA."""
    return option(IA_NA, number + t1.to_bytes(4, "big") + t2.to_bytes(4, "big") + inside)


def address(one: bytes, lifetime: int) -> bytes:
    """Write an address that is preferred for as long as it is valid; 0 takes it away."""
    return option(IA_ADDRESS, one + lifetime.to_bytes(4, "big") * 2)


def domains(name: str) -> bytes:
    """Write the domain to search (RFC 3646 section 4)."""
    labels = [label.encode() for label in name.split(".") if label]
    return option(DOMAINS, b"".join(bytes((len(one),)) + one for one in labels) + b"\0")


def reply(asked: Message, kind: int, guest: Mac, mac: Mac, options: bytes) -> bytes:
    """Build the frame that answers a client from the server whose MAC is `mac`."""
    said = option(SERVER_ID, duid(mac)) + options
    if asked.client is not None:
        said = option(CLIENT_ID, asked.client) + said
    payload = bytes((kind,)) + asked.transaction + said
    source = ipv6.link_local(mac)
    return udp.build(
        guest, mac, Datagram(source, asked.source, SERVER_PORT, asked.source_port, payload)
    )
