"""Path MTU: what to tell the sender of a packet that does not fit in the tunnel; how to cut it.

A tunnel never fragments (RFC 7348 section 4.3), so somebody has to tell the guest: ICMP
"fragmentation needed" (RFC 1191) or ICMPv6 "packet too big" (RFC 8201). IPv4 that may be fragmented
gets no message; it is cut inside the tunnel where that is wanted (RFC 791 section 3.2), or dropped.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import ethernet, icmp, icmp6, ipv4, ipv6, udp
from .ethernet import HEADER_LEN, Buffer, Mac
from .vxlan import VXLAN_LEN, Vtep

FRAGMENTATION_NEEDED = 4
"""Code of "unreachable" (RFC 792)."""
_DONT_FRAGMENT, _MORE_FRAGMENTS = 0x4000, 0x2000
MIN_IPV4_MTU = 68
"""RFC 791 section 3.2."""
_MAX_IPV4_LEN = 0xFFFF
"""Bytes of a whole packet, put together again: its length has 16 bits (RFC 791 section 3.1)."""


def answer(frame: Buffer, mac: Mac, mtu: int, gateways: Iterable[bytes]) -> bytes | None:
    """Build the frame that tells the sender of `frame` that only `mtu` bytes of IP fit.

    It comes from `mac` and the first of `gateways` of its family, or else from the address that the
    packet was for: hosts go by what is quoted. None where nothing may be said, as about what went
    to a group of stations (RFC 1122 section 3.2.2; RFC 4443 section 2.4(e), whose exception is for
    routers that route multicast).
    """
    if frame[0] & 1:
        return None
    ethertype = frame[12] << 8 | frame[13]
    inner = memoryview(frame)[HEADER_LEN:]
    if ethertype == ethernet.IPV4 and len(inner) >= ipv4.MIN_HEADER_LEN:
        flags = inner[6] << 8 | inner[7]
        if not flags & _DONT_FRAGMENT or mtu < MIN_IPV4_MTU or not icmp.may_be_answered(inner):
            return None
        source, guest = bytes(inner[16:20]), bytes(inner[12:16])
        source = next((one for one in gateways if len(one) == 4), source)
        rest = bytes(2) + mtu.to_bytes(2, "big")
        message = icmp.build(
            icmp.UNREACHABLE, FRAGMENTATION_NEEDED, rest, bytes(inner[: icmp.QUOTED])
        )
        packet = ipv4.build(source, guest, ipv4.ICMP, message)
    elif ethertype == ethernet.IPV6 and ipv6.is_sound(inner):
        if not icmp6.may_be_answered(inner):
            return None
        source, guest = bytes(inner[24:40]), bytes(inner[8:24])
        source = next((one for one in gateways if len(one) == 16), source)
        # Every link must carry 1280 bytes (RFC 8200 section 5), so less is never said.
        rest = max(mtu, icmp6.MIN_MTU).to_bytes(4, "big")
        message = icmp6.error(icmp6.TOO_BIG, 0, rest, inner, source, guest)
        packet = ipv6.build(source, guest, ipv6.ICMP, message)
    else:
        return None
    return ethernet.build(bytes(frame[6:12]), mac, ethertype, packet)


def complaint(vtep: Vtep, room: int) -> str | None:
    """Say of the tunnel to `vtep`, with `room` bytes for a packet with its VXLAN header, that it is
    too narrow for IPv6; None where it is not.

    Hosts take for granted that 1280 bytes get through (RFC 8200 section 5), and no message of ours
    can make them send less: what is longer than the tunnel takes vanishes.
    """
    fits = room - VXLAN_LEN - HEADER_LEN
    if fits >= icmp6.MIN_MTU:
        return None
    outer = (ipv6.MIN_HEADER_LEN if ":" in vtep else ipv4.MIN_HEADER_LEN) + udp.HEADER_LEN
    return (
        f"the tunnel to {vtep} takes {fits} bytes of IP, and guests of IPv6 rely on"
        f" {icmp6.MIN_MTU}: longer packets of theirs are lost, and they cannot be told; raise the"
        f" MTU of the underlay on the way there to {outer + room + icmp6.MIN_MTU - fits} or more"
    )


def may_be_cut(frame: Buffer, mtu: int) -> bool:
    """Say whether `fragments` can cut a frame. Not what is not IPv4, must not be cut, or has
    options (which would have to be sorted into those that go into every fragment and those that do
    not). Nor a fragment that ends beyond the longest packet there can be: no receiver can use it,
    and the offsets of its parts would run over into the flags and begin anew at zero."""
    if frame[12] << 8 | frame[13] != ethernet.IPV4 or not ipv4.is_sound(frame[HEADER_LEN:]):
        return False
    total = frame[HEADER_LEN + 2] << 8 | frame[HEADER_LEN + 3]
    flags = frame[HEADER_LEN + 6] << 8 | frame[HEADER_LEN + 7]
    return (
        frame[HEADER_LEN] == 0x45
        and not flags & _DONT_FRAGMENT
        and (flags & ipv4.OFFSET_MASK) * 8 + total <= _MAX_IPV4_LEN
        and mtu >= MIN_IPV4_MTU
    )


def fragments(frame: Buffer, mtu: int) -> list[bytes] | None:
    """Cut the IPv4 packet in a complete frame into fragments of at most `mtu` bytes; None where it
    may not be."""
    if not may_be_cut(frame, mtu):
        return None
    head = bytearray(frame[HEADER_LEN : HEADER_LEN + ipv4.MIN_HEADER_LEN])
    flags = head[6] << 8 | head[7]
    total = head[2] << 8 | head[3]
    payload = frame[HEADER_LEN + ipv4.MIN_HEADER_LEN : HEADER_LEN + total]
    step = (mtu - ipv4.MIN_HEADER_LEN) & ~7
    first, last_flag = flags & ipv4.OFFSET_MASK, flags & _MORE_FRAGMENTS
    ends = range(0, len(payload), step)
    return [
        bytes(frame[:HEADER_LEN])
        + ipv4.fragment(
            head,
            first + at // 8 | (last_flag if at + step >= len(payload) else _MORE_FRAGMENTS),
            bytes(payload[at : at + step]),
        )
        for at in ends
    ]
