"""Frames for tests, built by scapy or by hand, never by `vswitch.wire`.

Code under test must not also make its own examination paper: a mistake in an offset would then be
made twice and cancel out. Addresses are bytes, as the switch sees them.
"""

from __future__ import annotations

import socket
from struct import pack

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
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
