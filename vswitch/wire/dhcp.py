"""DHCP for IPv4 (RFC 2131, RFC 2132): reading what clients and servers send, building what a server
answers and what a relay makes of both.

`parse` believes nothing: lengths, the UDP checksum, the magic cookie and the layout of options are
checked, and what is not sound is None. Options are read with overloading (RFC 2132 section 9.3) and
concatenation (RFC 3396); where one stands twice its parts are joined.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import NamedTuple

from . import udp
from .ethernet import Buffer, Mac
from .udp import Datagram

SERVER_PORT = 67
CLIENT_PORT = 68
SERVER_PORT6 = 547
"""Of DHCPv6 (RFC 8415), which `dhcp6` reads."""

HEADER = Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
"""op, htype, hlen, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr, sname, file and
the magic cookie (RFC 2131 section 2)."""
HEADER_LEN = HEADER.size
COOKIE = b"\x63\x82\x53\x63"
REQUEST, REPLY = 1, 2
ETHERNET = 1
BROADCAST_FLAG = 0x8000
MIN_LEN = 300
"""What a BOOTP message had; some clients drop a shorter one (RFC 1542 section 2.1)."""

# Message types (RFC 2132 section 9.6).
DISCOVER, OFFER, ASK, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
"""ASK is DHCPREQUEST; REQUEST is the op."""

# Options (RFC 2132, RFC 3046, RFC 3442).
PAD = 0
MASK = 1
ROUTER = 3
DNS = 6
HOST_NAME = 12
DOMAIN = 15
MTU = 26
BROADCAST = 28
REQUESTED = 50
LEASE_TIME = 51
OVERLOAD = 52
TYPE = 53
SERVER = 54
RENEWAL_TIME = 58
REBINDING_TIME = 59
CLIENT_ID = 61
RELAY = 82
CLASSLESS_ROUTES = 121
END = 255

# What a relay says in option 82 (RFC 3046 section 2.0, RFC 3527, RFC 5107, RFC 6607).
CIRCUIT_ID = 1
REMOTE_ID = 2
LINK_SELECTION = 5
SERVER_OVERRIDE = 11
VSS = 151
VSS_CONTROL = 152
VSS_NAME = b"\0"
"""The type of a VPN that is named in plain text (RFC 6607)."""

MAX_HOPS = 16
"""A message that has passed so many relays goes no further (RFC 1542 section 4.1.1)."""
_HOPS_AT, _GIADDR_AT = 3, 24

ALL = b"\xff" * 4
UNSPECIFIED = bytes(4)
MAX_ECHOED = 64
"""A client identifier longer than that is not echoed (RFC 6842): an answer must fit into the 576
bytes that every client takes."""


class Message(NamedTuple):
    """What is read of a message."""

    op: int
    hops: int
    xid: int
    secs: int
    flags: int
    ciaddr: bytes
    yiaddr: bytes
    giaddr: bytes
    chaddr: Mac
    kind: int
    """Option 53."""
    options: dict[int, bytes]

    def address(self, option: int) -> bytes | None:
        """Return an option that holds one address; None where it is absent or malformed."""
        value = self.options.get(option)
        return value if value is not None and len(value) == 4 else None


def is_for_server(frame: Buffer) -> bool:
    """Say, for the forwarding path, whether a frame is for a DHCP server; nothing is validated."""
    port = udp.destination_port(frame)
    if port == SERVER_PORT:
        return frame[12] == 0x08  # Of the two ethertypes that have a port: 0800 and 86dd.
    return port == SERVER_PORT6 and frame[12] == 0x86


def parse(frame: Buffer) -> Message | None:
    """Read the message to a server in a frame; None where it is not a sound one."""
    datagram = udp.parse(frame)
    if datagram is None or len(datagram.source) != 4 or datagram.destination_port != SERVER_PORT:
        return None
    return parse_payload(datagram.payload)


def parse_payload(payload: bytes) -> Message | None:
    """Read a message as UDP carries it; None where it is not a sound one."""
    if len(payload) < HEADER_LEN:
        return None
    (op, hardware, length, hops, xid, secs, flags) = HEADER.unpack_from(payload)[:7]
    ciaddr, yiaddr, _, giaddr, chaddr, sname, file, cookie = HEADER.unpack_from(payload)[7:]
    if hardware != ETHERNET or length != 6 or cookie != COOKIE:
        return None
    options: dict[int, bytes] = {}
    if not _read(payload[HEADER_LEN:], options):
        return None
    overload = options.pop(OVERLOAD, b"\0")
    if len(overload) != 1:
        return None
    # The order in which parts of one option are joined (RFC 3396 section 5).
    if overload[0] & 1 and not _read(file, options):
        return None
    if overload[0] & 2 and not _read(sname, options):
        return None
    kind = options.get(TYPE, b"")
    if len(kind) != 1:
        return None  # BOOTP, which we do not speak.
    return Message(
        op, hops, xid, secs, flags, ciaddr, yiaddr, giaddr, Mac(chaddr[:6]), kind[0], options
    )


def _walk(area: bytes) -> Iterator[tuple[int, bytes]]:
    """Walk over one area of options. Raises ValueError where one is cut off."""
    at = 0
    while at < len(area) and area[at] != END:
        if area[at] == PAD:
            at += 1
            continue
        end = at + 2 + area[at + 1] if at + 2 <= len(area) else len(area) + 1
        if end > len(area):
            raise ValueError("an option is cut off")
        yield area[at], area[at + 2 : end]
        at = end


def _read(area: bytes, into: dict[int, bytes]) -> bool:
    """Read one area of options; False where one is cut off."""
    try:
        for code, value in _walk(area):
            into[code] = into.get(code, b"") + value
    except ValueError:
        return False
    return True


def suboptions(value: bytes) -> dict[int, bytes] | None:
    """Read what an option 82 holds (RFC 3046 section 2.0); None where one is cut off or twice.

    No code ends these early, and none is for padding.
    """
    found: dict[int, bytes] = {}
    at = 0
    while at < len(value):
        end = at + 2 + value[at + 1] if at + 2 <= len(value) else len(value) + 1
        if end > len(value) or value[at] in found:
            return None
        found[value[at]] = value[at + 2 : end]
        at = end
    return found


def relayed(payload: bytes, relay: bytes, information: Iterable[tuple[int, bytes]]) -> bytes:
    """Return the sound message of a client as `relay` passes it on, with its sub-options.

    Everything else stays as it was, byte by byte; option 82 comes last (RFC 3046 section 2.1).
    """
    said = option(RELAY, b"".join(option(*one) for one in information))
    head = bytearray(payload[:HEADER_LEN])
    head[_HOPS_AT] += 1
    head[_GIADDR_AT : _GIADDR_AT + 4] = relay
    return bytes(head) + _with_end(_without_relay(payload) + said)


def stripped(payload: bytes) -> bytes:
    """Return the sound message of a server as its client is to read it: without option 82."""
    return payload[:HEADER_LEN] + _with_end(_without_relay(payload))


def _without_relay(payload: bytes) -> bytes:
    options = _walk(payload[HEADER_LEN:])
    return b"".join(option(*one) for one in options if one[0] != RELAY)


def _with_end(options: bytes) -> bytes:
    return (options + bytes((END,))).ljust(MIN_LEN - HEADER_LEN, b"\0")


def reply(
    asked: Message,
    kind: int,
    address: bytes,
    server: bytes,
    mac: Mac,
    options: Iterable[tuple[int, bytes]] = (),
) -> bytes:
    """Build the frame that answers a client on the segment of `server`, whose MAC is `mac`.

    It goes to the client's own MAC in any case: a client without an address reads it by its packet
    socket, and nobody else has to see it. The IP destination is what RFC 2131 section 4.1 says.
    """
    is_nak = kind == NAK
    flags = asked.flags | (BROADCAST_FLAG if is_nak else 0)
    if is_nak:
        destination = ALL
    elif any(asked.ciaddr):
        destination = asked.ciaddr
    else:
        destination = ALL if asked.flags & BROADCAST_FLAG else address
    ciaddr = asked.ciaddr if kind == ACK else UNSPECIFIED
    head = HEADER.pack(
        REPLY,
        ETHERNET,
        6,
        0,
        asked.xid,
        0,
        flags,
        ciaddr,
        address,
        UNSPECIFIED,
        asked.giaddr,
        asked.chaddr,
        b"",
        b"",
        COOKIE,
    )
    said = [(TYPE, bytes((kind,))), (SERVER, server), *options]
    # RFC 6842 and RFC 3046 section 2.2: both are given back as they came.
    echoed = asked.options.get(CLIENT_ID)
    if echoed is not None and len(echoed) <= MAX_ECHOED:
        said.append((CLIENT_ID, echoed))
    if RELAY in asked.options:
        said.append((RELAY, asked.options[RELAY]))
    payload = (head + b"".join(option(*one) for one in said) + bytes((END,))).ljust(MIN_LEN, b"\0")
    datagram = Datagram(server, destination, SERVER_PORT, CLIENT_PORT, payload)
    return udp.build(asked.chaddr, mac, datagram)


def option(code: int, value: bytes) -> bytes:
    """Write an option, in parts where it is longer than 255 bytes (RFC 3396)."""
    parts = [value[at : at + 255] for at in range(0, len(value), 255)] or [b""]
    return b"".join(bytes((code, len(part))) + part for part in parts)


def classless_route(network: bytes, length: int, router: bytes) -> bytes:
    """Write one route of option 121: only the significant bytes of the network (RFC 3442)."""
    return bytes((length,)) + network[: (length + 7) // 8] + router
