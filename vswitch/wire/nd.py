"""Neighbour Discovery over Ethernet (RFC 4861, RFC 4862, RFC 8106).

On the slow path a solicitation or advertisement is the record of `neighbour`, as an ARP message is,
so that one set of rules serves both families. The forwarding path needs to know only that a frame
is ND, and what it claims; it takes that from the frame at fixed offsets and verifies no checksum.

An extension header in front of the message is allowed by RFC 4861, and no host sends one. Nothing
here looks behind it: `kind_of` and the parsers answer None. Whoever guards against forged messages
must therefore treat ICMPv6 behind extension headers (`ipv6.upper_layer`) as forged (RFC 7113).
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from . import ethernet, icmp6, ipv6
from .ethernet import HEADER_LEN, Buffer, Mac
from .neighbour import REPLY, REQUEST, Message

ROUTER_SOLICITATION = 133
ROUTER_ADVERTISEMENT = 134
SOLICITATION = 135
ADVERTISEMENT = 136
REDIRECT = icmp6.REDIRECT

HOP_LIMIT = 255
"""What no router has let through (RFC 4861 section 3.1)."""

# Offsets from the start of an Ethernet frame (RFC 4861 sections 4.3 and 4.4).
TYPE_AT = ipv6.MIN_FRAME_LEN
FLAGS_AT = TYPE_AT + 4
TARGET_AT = TYPE_AT + 8
OPTIONS_AT = TYPE_AT + 24
"""Where options begin in a solicitation or an advertisement."""
PAYLOAD_LENGTH_AT = HEADER_LEN + 4

# Flags of an advertisement (RFC 4861 section 4.4).
ROUTER = 0x80
SOLICITED = 0x40
OVERRIDE = 0x20

# Flags of a router advertisement (section 4.2) and of its prefixes (section 4.6.2).
MANAGED = 0x80
OTHER = 0x40
ON_LINK = 0x80
AUTONOMOUS = 0x40

# Options (section 4.6; RFC 8106 section 5.1 for the last). The unit of their length is 8 bytes.
SOURCE_LINK_LAYER = 1
TARGET_LINK_LAYER = 2
PREFIX = 3
MTU = 5
RDNSS = 25

_FIXED_LEN = {ROUTER_SOLICITATION: 8, SOLICITATION: 24, ADVERTISEMENT: 24}
"""The length of a message up to its options (sections 4.1, 4.3 and 4.4)."""
_PREFIX = Struct("!BBBBIII16s")
_MTU = Struct("!BBHI")
_RDNSS = Struct("!BBHI")


class PrefixInfo(NamedTuple):
    """A prefix of a router advertisement (RFC 4861 section 4.6.2); lifetimes in seconds."""

    network: bytes
    length: int
    on_link: bool
    autonomous: bool
    valid: int
    preferred: int


class Advertisement(NamedTuple):
    """What a router advertisement says (RFC 4861 section 4.2, RFC 8106 section 5.1).

    `hop_limit` and `lifetime` 0 mean "unspecified" and "no default router"; lifetimes in seconds.
    """

    hop_limit: int
    managed: bool
    other: bool
    lifetime: int
    mtu: int | None
    prefixes: tuple[PrefixInfo, ...]
    dns: tuple[bytes, ...]
    dns_lifetime: int


# What the forwarding path asks.


def kind_of(frame: Buffer) -> int | None:
    """Return the type of the ND message right behind the IPv6 header of a frame, None if none.

    That is all it says: nothing has been validated.
    """
    if len(frame) <= TYPE_AT or frame[ipv6.NEXT_HEADER_AT] != ipv6.ICMP:
        return None
    kind = frame[TYPE_AT]
    if not ROUTER_SOLICITATION <= kind <= REDIRECT:
        return None
    return kind if frame[12] << 8 | frame[13] == ethernet.IPV6 else None


def may_be_hidden(frame: Buffer) -> bool:
    """Say whether ND stands behind the extension headers of an IPv6 frame, or may.

    A chain that is too long or cut off hides what it ends in, and no honest host sends one (RFC
    7112, RFC 6980). A later fragment is harmless without its first, which is looked at, too.
    """
    if frame[ipv6.NEXT_HEADER_AT] not in ipv6.EXTENSIONS:
        return False
    packet = frame[HEADER_LEN:]
    if not ipv6.is_sound(packet):
        return True
    found = ipv6.upper_layer(packet)
    if found is None:
        return not ipv6.is_later_fragment(packet)
    protocol, at = found
    if protocol != ipv6.ICMP:
        return False
    return at >= len(packet) or ROUTER_SOLICITATION <= packet[at] <= REDIRECT


def claims(frame: Buffer) -> tuple[bytes, Mac | None] | None:
    """Return the target of a solicitation or advertisement, and the MAC address in its option.

    For the spoof guard: which address a receiver would read in the message, and which MAC address
    it would file. The option is the one that counts in this kind of message: source link-layer in
    a solicitation, target link-layer in an advertisement; None where it is absent. Two hints:

    - an advertisement claims its *target*; a solicitation claims its IPv6 *source*, and its target
      only where that source is :: (duplicate address detection);
    - without the option, what a receiver files is the Ethernet source, or nothing.

    None for what is neither message, and for one that is too short or whose options are malformed;
    after `kind_of` has said that it is one, None means that the frame is to be dropped. The
    checksum is not verified: receivers do that, and a wrong one claims nothing.
    """
    kind = kind_of(frame)
    if kind not in (SOLICITATION, ADVERTISEMENT):
        return None
    end = TYPE_AT + (frame[PAYLOAD_LENGTH_AT] << 8 | frame[PAYLOAD_LENGTH_AT + 1])
    if not OPTIONS_AT <= end <= len(frame):
        return None
    wanted = SOURCE_LINK_LAYER if kind == SOLICITATION else TARGET_LINK_LAYER
    address = _link_layer(frame[OPTIONS_AT:end], wanted)
    if address is None:
        return None
    return bytes(frame[TARGET_AT:OPTIONS_AT]), Mac(address) if address else None


# Reading.


def parse(frame: Buffer) -> Message | None:
    """Read a solicitation or an advertisement; None for anything else and for what is not valid.

    Valid is what RFC 4861 sections 7.1.1 and 7.1.2 let a host act on. An unsolicited advertisement
    has its sender as its target, which makes it gratuitous, as in ARP. Whether a MAC address is one
    station's is for the rules to say; here it may come from the option or from the Ethernet header.
    """
    kind = kind_of(frame)
    if kind == SOLICITATION:
        return _parse_solicitation(frame)
    return _parse_advertisement(frame) if kind == ADVERTISEMENT else None


def _parse_solicitation(frame: Buffer) -> Message | None:
    packet = _sound_packet(frame)
    if packet is None:
        return None
    source, destination, target = packet[8:24], packet[24:40], packet[48:64]
    address = _link_layer(packet[64:], SOURCE_LINK_LAYER)
    if address is None or ipv6.is_multicast(target):
        return None
    if source == ipv6.UNSPECIFIED and (address or not destination.startswith(ipv6.SOLICITED_NODE)):
        return None
    return Message(REQUEST, Mac(address or bytes(frame[6:12])), source, ethernet.ZERO, target)


def _parse_advertisement(frame: Buffer) -> Message | None:
    packet = _sound_packet(frame)
    if packet is None:
        return None
    destination, target = packet[24:40], packet[48:64]
    address = _link_layer(packet[64:], TARGET_LINK_LAYER)
    if address is None or ipv6.is_multicast(target):
        return None
    solicited = packet[44] & SOLICITED
    if solicited and ipv6.is_multicast(destination):
        return None
    sender_mac, target_mac = Mac(address or bytes(frame[6:12])), Mac(bytes(frame[:6]))
    return Message(REPLY, sender_mac, target, target_mac, destination if solicited else target)


def is_sound_router_solicitation(frame: Buffer) -> bool:
    """Say whether a router may answer this frame (RFC 4861 section 6.1.1)."""
    if kind_of(frame) != ROUTER_SOLICITATION:
        return False
    packet = _sound_packet(frame)
    if packet is None:
        return False
    address = _link_layer(packet[48:], SOURCE_LINK_LAYER)
    return address is not None and not (address and packet[8:24] == ipv6.UNSPECIFIED)


def _sound_packet(frame: Buffer) -> bytes | None:
    """Return the packet in a frame of a kind that we read, if it is what every such one must be.

    Hop limit 255, code 0, the checksum, and the length: the rules that open each of RFC 4861
    sections 6.1.1, 7.1.1 and 7.1.2. And a source that is no group (RFC 4291 section 2.7).
    """
    packet = bytes(frame[HEADER_LEN:])
    if not ipv6.is_sound(packet) or packet[7] != HOP_LIMIT or ipv6.is_multicast(packet[8:24]):
        return None
    packet = packet[: ipv6.MIN_HEADER_LEN + (packet[4] << 8 | packet[5])]
    # The type stands in the frame, but behind a payload of length zero it is only padding.
    if len(packet) < ipv6.MIN_HEADER_LEN + _FIXED_LEN[frame[TYPE_AT]]:
        return None
    if packet[icmp6.MESSAGE_AT + 1] != 0 or not icmp6.verifies(packet):
        return None
    return packet


def _link_layer(options: Buffer, wanted: int) -> bytes | None:
    """Return the MAC address in the option `wanted`, empty without one; None if malformed.

    Malformed are a length of zero and an option that does not end inside the message (RFC 4861
    section 4.6), a link-layer address that is not Ethernet's six bytes, and a second one:
    receivers differ in which of the two they take, so a guard could not tell what it lets pass.
    """
    address, at, end = b"", 0, len(options)
    while at < end:
        if at + 2 > end:
            return None
        length = options[at + 1] * 8
        if length == 0 or at + length > end:
            return None
        if options[at] == wanted:
            if length != 8 or address:
                return None
            address = bytes(options[at + 2 : at + 8])
        at += length
    return address


# Building.


def solicitation(
    sender_mac: Mac, sender_ip: bytes, target_ip: bytes, destination: Mac | None = None
) -> bytes:
    """Build the frame that asks who has `target_ip`, by default of whoever listens to its group.

    With `destination` it is a unicast probe (RFC 4861 section 7.3.3). From :: it is duplicate
    address detection, without the option and always to the group (section 4.3), which then may
    lie in a unicast frame (RFC 6085).
    """
    group = ipv6.solicited_node(target_ip)
    probe = sender_ip == ipv6.UNSPECIFIED
    return _frame(
        ipv6.group_mac(group) if destination is None else destination,
        sender_mac,
        sender_ip,
        group if destination is None or probe else target_ip,
        (SOLICITATION, bytes(4)),
        target_ip + (b"" if probe else _link_layer_option(SOURCE_LINK_LAYER, sender_mac)),
    )


def advertisement(
    sender_mac: Mac,
    address: bytes,
    target_mac: Mac,
    target_ip: bytes,
    *,
    router: bool,
    override: bool,
) -> bytes:
    """Build the answer that tells `target` that `address` is at `sender_mac`.

    To duplicate address detection, whose source is ::, the answer goes to all nodes and is not
    "solicited" (RFC 4861 section 7.2.4); it still travels in a frame to the asker alone, which
    RFC 6085 allows.
    """
    flags = (ROUTER if router else 0) | (OVERRIDE if override else 0)
    if target_ip == ipv6.UNSPECIFIED:
        target_ip = ipv6.ALL_NODES
    else:
        flags |= SOLICITED
    return _advertise(target_mac, target_ip, sender_mac, address, flags)


def announcement(mac: Mac, address: bytes, *, router: bool = False) -> bytes:
    """Build an unsolicited advertisement to all nodes (RFC 4861 section 7.2.6).

    A gateway must set `router` for its own address: hosts forget a default router that says
    that it is none (section 7.2.5).
    """
    flags = (ROUTER if router else 0) | OVERRIDE
    return _advertise(ipv6.group_mac(ipv6.ALL_NODES), ipv6.ALL_NODES, mac, address, flags)


def router_advertisement(
    sender_mac: Mac,
    sender_ip: bytes,
    destination_mac: Mac,
    destination_ip: bytes,
    said: Advertisement,
) -> bytes:
    """Build a router advertisement; `sender_ip` must be link-local (RFC 4861 section 4.2).

    Reachable time and retransmission timer are left unspecified.
    """
    flags = (MANAGED if said.managed else 0) | (OTHER if said.other else 0)
    options = [_link_layer_option(SOURCE_LINK_LAYER, sender_mac)]
    if said.mtu is not None:
        options.append(_MTU.pack(MTU, 1, 0, said.mtu))
    options += [_prefix_option(prefix) for prefix in said.prefixes]
    if said.dns:
        units = 1 + 2 * len(said.dns)
        options.append(_RDNSS.pack(RDNSS, units, 0, said.dns_lifetime) + b"".join(said.dns))
    return _frame(
        destination_mac,
        sender_mac,
        sender_ip,
        destination_ip,
        (ROUTER_ADVERTISEMENT, bytes((said.hop_limit, flags)) + said.lifetime.to_bytes(2, "big")),
        bytes(8) + b"".join(options),
    )


def _advertise(to_mac: Mac, to_ip: bytes, mac: Mac, address: bytes, flags: int) -> bytes:
    start = (ADVERTISEMENT, bytes((flags, 0, 0, 0)))
    body = address + _link_layer_option(TARGET_LINK_LAYER, mac)
    return _frame(to_mac, mac, address, to_ip, start, body)


def _link_layer_option(kind: int, mac: Mac) -> bytes:
    return bytes((kind, 1)) + mac


def _prefix_option(said: PrefixInfo) -> bytes:
    flags = (ON_LINK if said.on_link else 0) | (AUTONOMOUS if said.autonomous else 0)
    return _PREFIX.pack(PREFIX, 4, said.length, flags, said.valid, said.preferred, 0, said.network)


def _frame(
    to_mac: Mac,
    from_mac: Mac,
    source: bytes,
    destination: bytes,
    start: tuple[int, bytes],
    body: bytes,
) -> bytes:
    """Wrap a message; `start` is its type and its second word."""
    kind, rest = start
    message = icmp6.build(kind, 0, rest, body, source, destination)
    packet = ipv6.build(source, destination, ipv6.ICMP, message, hop_limit=HOP_LIMIT)
    return ethernet.build(to_mac, from_mac, ethernet.IPV6, packet)
