"""What the gateway says by ICMP and ICMPv6: echo replies, time exceeded, unreachable.

Pure: a packet in, the answer as a complete inner frame out, or None where nothing may be said.
The answer goes back the way the packet came: to its source MAC, behind the VTEP it came from. The
caller holds the rate limit. The leaf never sends redirects.
"""

from __future__ import annotations

from vswitch.wire import ethernet, icmp, icmp6, ipv4, ipv6, pmtu
from vswitch.wire.ethernet import Buffer, Mac
from vswitch.wire.vxlan import VXLAN_LEN

from .router import IP_AT, Reason
from .topology import Segment

_ERRORS = {
    Reason.EXPIRED: (icmp.TIME_EXCEEDED, 0),
    Reason.NO_ROUTE: (icmp.UNREACHABLE, icmp.NET_UNREACHABLE),
    Reason.GLEAN: (icmp.UNREACHABLE, icmp.HOST_UNREACHABLE),
}
"""GLEAN: nobody answered for the address."""
_ERRORS6 = {
    Reason.EXPIRED: (icmp6.TIME_EXCEEDED, 0),
    Reason.NO_ROUTE: (icmp6.UNREACHABLE, icmp6.NO_ROUTE),
    Reason.GLEAN: (icmp6.UNREACHABLE, icmp6.ADDRESS_UNREACHABLE),
}


def _is_ipv6(packet: Buffer) -> bool:
    return packet[IP_AT] >> 4 == 6


def _inner_packet(packet: Buffer) -> memoryview:
    """Return the IP packet without the padding of the frame."""
    inner = memoryview(packet)[IP_AT:]
    if _is_ipv6(packet):
        return inner[: ipv6.MIN_HEADER_LEN + (inner[4] << 8 | inner[5])]
    return inner[: inner[2] << 8 | inner[3]]


def _may_be_a_host(segment: Segment, source: bytes) -> bool:
    """Say whether a source may be answered: not our own address, nor one that is no host's."""
    if segment.is_gateway(source):
        return False
    return segment.gateway_for(source) is not None or not any(
        gateway.covers(source) for gateway in segment.gateways
    )


def _frame_back(packet: Buffer, shared_mac: Mac, source_ip: bytes, message: bytes) -> bytes:
    guest = bytes(packet[VXLAN_LEN + 6 : VXLAN_LEN + 12])
    if _is_ipv6(packet):
        guest_ip = bytes(packet[IP_AT + 8 : IP_AT + 24])
        answer = ipv6.build(source_ip, guest_ip, ipv6.ICMP, message)
        return ethernet.build(guest, shared_mac, ethernet.IPV6, answer)
    guest_ip = bytes(packet[IP_AT + 12 : IP_AT + 16])
    answer = ipv4.build(source_ip, guest_ip, ipv4.ICMP, message)
    return ethernet.build(guest, shared_mac, ethernet.IPV4, answer)


def error(reason: Reason, segment: Segment, shared_mac: Mac, packet: Buffer) -> bytes | None:
    """Build the error about a sound VXLAN `packet` of `segment` that could not be forwarded."""
    inner = _inner_packet(packet)
    is_ipv6 = _is_ipv6(packet)
    source = bytes(inner[8:24] if is_ipv6 else inner[12:16])
    may = icmp6.may_be_answered(inner) if is_ipv6 else icmp.may_be_answered(inner)
    if not may or not _may_be_a_host(segment, source):
        return None
    own = _source_for(segment, shared_mac, source)
    if own is None:
        return None
    if is_ipv6:
        kind, code = _ERRORS6[reason]
        message = icmp6.error(kind, code, bytes(4), inner, own, source)
    else:
        kind, code = _ERRORS[reason]
        message = icmp.error(kind, code, inner)
    return _frame_back(packet, shared_mac, own, message)


def _source_for(segment: Segment, shared_mac: Mac, guest: bytes) -> bytes | None:
    """Return the gateway address of the guest's subnet; the first of its family for a stranger."""
    if len(guest) == 16 and ipv6.is_link_local(guest):
        return ipv6.link_local(shared_mac)
    gateway = segment.gateway_for(guest)
    if gateway is not None:
        return gateway.address
    same = (one.address for one in segment.gateways if len(one.address) == len(guest))
    return next(same, None)


def too_big(segment: Segment, shared_mac: Mac, packet: Buffer, mtu: int) -> bytes | None:
    """Build the message about a sound VXLAN `packet` of which only `mtu` bytes of IP fit."""
    inner = _inner_packet(packet)
    source = bytes(inner[8:24] if _is_ipv6(packet) else inner[12:16])
    own = _source_for(segment, shared_mac, source)
    if own is None or not _may_be_a_host(segment, source):
        return None
    return pmtu.answer(memoryview(packet)[VXLAN_LEN:], shared_mac, mtu, (own,))


def answer(segment: Segment, shared_mac: Mac, packet: Buffer) -> bytes | None:
    """Build the answer to a sound VXLAN `packet` to a gateway address: to an echo, or None.

    Also for the gateway address of another segment of the VRF, as a router does.
    """
    inner = _inner_packet(packet)
    if _is_ipv6(packet):
        source, destination = bytes(inner[8:24]), bytes(inner[24:40])
        message = icmp6.echo_reply(inner)
    else:
        source, destination = bytes(inner[12:16]), bytes(inner[16:20])
        fragmented = (inner[6] << 8 | inner[7]) & ipv4.FRAGMENT_MASK
        if inner[9] != ipv4.ICMP or fragmented:
            return None
        message = icmp.echo_reply(inner[(inner[0] & 0x0F) * 4 :])
    if message is None or not _may_be_a_host(segment, source):
        return None
    return _frame_back(packet, shared_mac, destination, message)
