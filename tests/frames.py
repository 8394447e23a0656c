"""Frames for tests, built by scapy or by hand, never by `vswitch.wire`.

Code under test must not also make its own examination paper: a mistake in an offset would then be
made twice and cancel out. Addresses are bytes, as the switch sees them.
"""

from __future__ import annotations

import socket
from struct import pack, unpack

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

BROADCAST = b"\xff" * 6
MULTICAST = bytes.fromhex("01005e0000fb")
"""224.0.0.251, multicast DNS."""
BRIDGE_GROUP = bytes.fromhex("0180c2000000")
"""Where spanning tree speaks: the first of sixteen that a bridge keeps to itself."""
SHARED_MAC = bytes.fromhex("0000deadbeef")
OTHER_SHARED_MAC = bytes.fromhex("0000deadbe00")
"""The gateway of another group of leaves."""
ALL_NODES_MAC, ALL_ROUTERS_MAC = bytes.fromhex("333300000001"), bytes.fromhex("333300000002")
"""Where packets to ff02::1 and ff02::2 go (RFC 2464 section 7)."""


def mac(number: int) -> bytes:
    """A locally administered station address."""
    return b"\x02\x00\x00\x00" + pack("!H", number)


def v4(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET, text)


def v6(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, text)


def _ether(dst: bytes, src: bytes) -> Packet:
    return Ether(dst=dst.hex(":"), src=src.hex(":"))


def udp(
    dst: bytes,
    src: bytes,
    src_ip: str = "10.0.0.1",
    dst_ip: str = "10.0.0.2",
    sport: int = 4000,
    dport: int = 5000,
    payload: bytes = b"payload",
) -> bytes:
    """UDP over IPv4."""
    body = UDP(sport=sport, dport=dport) / Raw(payload)
    return bytes(_ether(dst, src) / IP(src=src_ip, dst=dst_ip) / body)


def tcp(
    dst: bytes, src: bytes, src_ip: str = "10.0.0.1", dst_ip: str = "10.0.0.2", seq: int = 0
) -> bytes:
    """A TCP segment over IPv4."""
    body = TCP(sport=4000, dport=80, seq=seq, flags="A")
    return bytes(_ether(dst, src) / IP(src=src_ip, dst=dst_ip) / body)


def echo(
    dst: bytes, src: bytes, src_ip: str = "10.0.0.1", dst_ip: str = "10.0.0.2", seq: int = 1
) -> bytes:
    """An ICMP echo request."""
    body = ICMP(type=8, id=7, seq=seq) / Raw(b"0123456789")
    return bytes(_ether(dst, src) / IP(src=src_ip, dst=dst_ip) / body)


def udp6(dst: bytes, src: bytes, src_ip: str = "2001:db8::1", dst_ip: str = "2001:db8::2") -> bytes:
    """UDP over IPv6."""
    body = UDP(sport=4000, dport=5000) / Raw(b"payload")
    return bytes(_ether(dst, src) / IPv6(src=src_ip, dst=dst_ip) / body)


def ip6(
    dst: bytes,
    src: bytes,
    src_ip: str,
    dst_ip: str,
    *,
    payload: bytes = b"payload",
    extensions: Packet | None = None,
    **fields: object,
) -> bytes:
    """UDP over IPv6 with any field of the IP header by its name in scapy: hlim, plen, tc, fl."""
    packet = IPv6(src=src_ip, dst=dst_ip, **fields)
    if extensions is not None:
        packet /= extensions
    return bytes(_ether(dst, src) / packet / UDP(sport=4000, dport=5000) / Raw(payload))


def echo6(dst: bytes, src: bytes, src_ip: str, dst_ip: str, **fields: object) -> bytes:
    """An ICMPv6 echo request."""
    body = ICMPv6EchoRequest(id=7, seq=3, data=b"0123456789")
    return bytes(_ether(dst, src) / IPv6(src=src_ip, dst=dst_ip, **fields) / body)


def link_local(station: bytes) -> str:
    """The link-local address that is made of a MAC (RFC 4291 appendix A)."""
    made = bytes([station[0] ^ 2]) + station[1:3] + b"\xff\xfe" + station[3:]
    return socket.inet_ntop(socket.AF_INET6, b"\xfe\x80" + bytes(6) + made)


def _solicited_node(target: str) -> tuple[bytes, str]:
    """The group that whoever has `target` listens to: its MAC and its address."""
    group = group_of(v6(target))
    return b"\x33\x33" + group[12:], socket.inet_ntop(socket.AF_INET6, group)


def ns(
    dst: bytes | None,
    src: bytes,
    sender_ip: str,
    target_ip: str,
    sender_mac: bytes | None = None,
    extensions: Packet | None = None,
    **fields: object,
) -> bytes:
    """A neighbour solicitation: to the group of its target where `dst` is None, else to a MAC.

    From :: it is duplicate address detection: without the option, and always to the group.
    """
    group_mac, group = _solicited_node(target_ip)
    probe = sender_ip == "::"
    packet = IPv6(
        src=sender_ip, dst=group if dst is None or probe else target_ip, **{"hlim": 255} | fields
    )
    if extensions is not None:
        packet /= extensions
    packet /= ICMPv6ND_NS(tgt=target_ip)
    if not probe or sender_mac is not None:
        packet /= ICMPv6NDOptSrcLLAddr(lladdr=(sender_mac or src).hex(":"))
    return bytes(_ether(group_mac if dst is None else dst, src) / packet)


def na(
    dst: bytes | None,
    src: bytes,
    address: str,
    to_ip: str = "ff02::1",
    sender_mac: bytes | None = None,
    extensions: Packet | None = None,
    sender_ip: str | None = None,
    **fields: object,
) -> bytes:
    """A neighbour advertisement that `address` is at `src`; to all nodes where `dst` is None."""
    solicited = int(to_ip != "ff02::1")
    packet = IPv6(src=sender_ip or address, dst=to_ip, **{"hlim": 255} | fields)
    if extensions is not None:
        packet /= extensions
    packet /= ICMPv6ND_NA(tgt=address, R=0, S=solicited, O=1)
    packet /= ICMPv6NDOptDstLLAddr(lladdr=(sender_mac or src).hex(":"))
    return bytes(_ether(ALL_NODES_MAC if dst is None else dst, src) / packet)


def rs(src: bytes, src_ip: str = "::", **fields: object) -> bytes:
    """A router solicitation; with the source's MAC where it has an address."""
    packet = IPv6(src=src_ip, dst="ff02::2", **{"hlim": 255} | fields) / ICMPv6ND_RS()
    if src_ip != "::":
        packet /= ICMPv6NDOptSrcLLAddr(lladdr=src.hex(":"))
    return bytes(_ether(ALL_ROUTERS_MAC, src) / packet)


def ra(src: bytes, src_ip: str, dst: bytes = ALL_NODES_MAC, dst_ip: str = "ff02::1") -> bytes:
    """A router advertisement of somebody who wants to be the default router."""
    packet = IPv6(src=src_ip, dst=dst_ip, hlim=255) / ICMPv6ND_RA(routerlifetime=1800)
    packet /= ICMPv6NDOptSrcLLAddr(lladdr=src.hex(":"))
    packet /= ICMPv6NDOptPrefixInfo(prefix="2001:db8:66::", prefixlen=64)
    return bytes(_ether(dst, src) / packet)


def redirect(dst: bytes, src: bytes, src_ip: str, dst_ip: str, about: str, better: str) -> bytes:
    """A redirect: `about` is to be sent to `better` from now on."""
    packet = IPv6(src=src_ip, dst=dst_ip, hlim=255)
    packet /= ICMPv6ND_Redirect(tgt=better, dst=about)
    packet /= ICMPv6NDOptDstLLAddr(lladdr=src.hex(":"))
    return bytes(_ether(dst, src) / packet)


def fragments(frame: bytes, size: int = 64) -> list[bytes]:
    """The IPv4 fragments of the packet in `frame`, each in a frame of its own."""
    ether = Ether(frame)
    header = frame[:14]
    return [header + bytes(part) for part in ether[IP].fragment(fragsize=size)]


def arp(
    dst: bytes,
    src: bytes,
    sender_ip: str = "10.0.0.1",
    target_ip: str = "10.0.0.2",
    sender_mac: bytes | None = None,
    op: int = 1,
) -> bytes:
    """An ARP message; `sender_mac` is the one inside it, by default the frame's source."""
    inside = ARP(
        op=op,
        hwsrc=(sender_mac or src).hex(":"),
        psrc=sender_ip,
        hwdst="00:00:00:00:00:00",
        pdst=target_ip,
    )
    return bytes(_ether(dst, src) / inside)


def rarp(src: bytes, sender_mac: bytes | None = None) -> bytes:
    """The RARP by which QEMU announces an arrival, byte for byte: broadcast, 60 bytes long."""
    sender = sender_mac or src
    head = BROADCAST + src + bytes.fromhex("8035") + bytes.fromhex("0001 0800 06 04 0003")
    return (head + sender + bytes(4) + sender + bytes(4)).ljust(60, b"\0")


def tagged(frame: bytes, vlan: int, *, provider: bool = False) -> bytes:
    """The same frame with an 802.1Q or an 802.1ad tag."""
    ether = Ether(frame)
    tag = Dot1AD(vlan=vlan, type=ether.type) if provider else Dot1Q(vlan=vlan, type=ether.type)
    return bytes(Ether(dst=ether.dst, src=ether.src) / tag / ether.payload)


def plain(dst: bytes, src: bytes, ethertype: int = 0x88B5, payload: bytes = b"\0" * 46) -> bytes:
    """A frame of any ethertype, by default one of IEEE's for local experiments: not routable."""
    return dst + src + pack("!H", ethertype) + payload


def vxlan(vni: int, inner: bytes) -> bytes:
    """A VXLAN header, written as RFC 7348 section 5 draws it, and the frame in it."""
    return b"\x08\0\0\0" + pack("!I", vni)[1:] + b"\0" + inner


def ip(
    dst: bytes,
    src: bytes,
    src_ip: str,
    dst_ip: str,
    *,
    payload: bytes = b"payload",
    **fields: object,
) -> bytes:
    """UDP over IPv4 with any field of the IP header by its name in scapy: ttl, frag, options."""
    body = UDP(sport=4000, dport=5000) / Raw(payload)
    return bytes(_ether(dst, src) / IP(src=src_ip, dst=dst_ip, **fields) / body)


def fast_arp(src: bytes, src_ip: str, target_ip: str) -> bytes:
    """Build an ARP request by hand, for tests that need ten thousand of them."""
    head = b"\xff" * 6 + src + b"\x08\x06" + bytes.fromhex("0001080006040001")
    return (head + src + v4(src_ip) + bytes(6) + v4(target_ip)).ljust(60, b"\0")


def checksum(data: bytes) -> bytes:
    """The internet checksum (RFC 1071 section 4.1); zero where `data` holds a right one already."""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return pack("!H", ~total & 0xFFFF)


def packet(
    src: bytes, dst: bytes, protocol: int, body: bytes, hops: int = 64, number: int = 1
) -> bytes:
    """Build an IP packet by hand, of the family of its addresses; `hops` is the TTL, `number` the
    identification, which IPv6 has not."""
    if len(src) == 16:
        return b"\x60\0\0\0" + pack("!HBB", len(body), protocol, hops) + src + dst + body
    start = pack("!BBHHHBB", 0x45, 0, 20 + len(body), number, 0, hops, protocol)
    return start + checksum(start + b"\0\0" + src + dst) + src + dst + body


def pseudo(src: bytes, dst: bytes, protocol: int, length: int) -> bytes:
    """What a checksum of the upper layer covers besides it (RFC 8200 section 8.1, RFC 768)."""
    if len(src) == 16:
        return src + dst + pack("!IHBB", length, 0, 0, protocol)
    return src + dst + pack("!BBH", 0, protocol, length)


def datagram(
    src: bytes, dst: bytes, sport: int, dport: int, payload: bytes, hops: int = 64
) -> bytes:
    """Build an IP packet with UDP by hand, for tests that need many."""
    header = pack("!HHH", sport, dport, 8 + len(payload))
    covered = pseudo(src, dst, 17, 8 + len(payload)) + header + b"\0\0" + payload
    found = checksum(covered)
    # Zero would say that there is none (RFC 768).
    return packet(src, dst, 17, header + (found if any(found) else b"\xff\xff") + payload, hops)


def open_datagram(
    src: bytes, dst: bytes, sport: int, dport: int, payload: bytes, number: int
) -> bytes:
    """Build one whose checksum somebody else is to fill in: where it belongs there is the sum of
    the pseudo-header."""
    length = 8 + len(payload)
    total = bytes(0xFF ^ byte for byte in checksum(pseudo(src, dst, 17, length)))
    body = pack("!HHH", sport, dport, length) + total + payload
    return packet(src, dst, 17, body, number=number)


def icmp6(src: bytes, dst: bytes, body: bytes, hops: int = 255) -> bytes:
    """Build an IPv6 packet with ICMPv6 by hand; `body` has a checksum of zero."""
    found = checksum(pseudo(src, dst, 58, len(body)) + body)
    return packet(src, dst, 58, body[:2] + found + body[4:], hops)


def group_of(target: bytes) -> bytes:
    """The solicited-node multicast address of an IPv6 address (RFC 4291 section 2.7.1)."""
    return b"\xff\x02" + bytes(9) + b"\x01\xff" + target[13:]


def solicitation(src: bytes, src_ip: str, target_ip: str) -> bytes:
    """Build a neighbour solicitation, as a guest asks for an address."""
    target = v6(target_ip)
    group = group_of(target)
    body = b"\x87" + bytes(7) + target + b"\x01\x01" + src
    return b"\x33\x33" + group[12:] + src + b"\x86\xdd" + icmp6(v6(src_ip), group, body)
