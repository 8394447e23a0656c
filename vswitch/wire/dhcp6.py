"""DHCP for IPv6 (RFC 8415): reading what clients send, building what a server answers.

Only what a server of single addresses needs: IA_NA, and in it addresses. `parse` believes nothing;
what is not sound is None. Options are at most as many as fit in a packet, and none are nested
deeper than an address inside an IA_NA.
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
STATUS = 13
DNS = 23
DOMAINS = 24

# Status codes (section 21.13).
SUCCESS = 0
NO_ADDRESSES = 2
NO_BINDING = 3
NOT_ON_LINK = 4

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


def parse(frame: Buffer) -> Message | None:
    """Read the message to servers in a frame; None where it is not a sound one."""
    datagram = udp.parse(frame)
    if datagram is None or len(datagram.source) != 16 or datagram.destination_port != SERVER_PORT:
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
