"""What the gateway says by ICMP: echo replies, time exceeded, unreachable.

Pure: a packet in, the answer as a complete inner frame out, or None where nothing may be said.
The answer goes back the way the packet came: to its source MAC, behind the VTEP it came from. The
caller holds the rate limit. The leaf never sends redirects.
"""

from __future__ import annotations

from vswitch.wire import ethernet, icmp, ipv4
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


def _inner_packet(packet: Buffer) -> memoryview:
    """Return the IPv4 packet without the padding of the frame."""
    inner = memoryview(packet)[IP_AT:]
    return inner[: inner[2] << 8 | inner[3]]


def _may_be_a_host(segment: Segment, source: bytes) -> bool:
    """Say whether a source may be answered: not our own address, nor a subnet's first or last."""
    if segment.is_gateway(source):
        return False
    return segment.gateway_for(source) is not None or not any(
        gateway.covers(source) for gateway in segment.gateways
    )


def _frame_back(packet: Buffer, shared_mac: Mac, source_ip: bytes, message: bytes) -> bytes:
    guest = bytes(packet[VXLAN_LEN + 6 : VXLAN_LEN + 12])
    guest_ip = bytes(packet[IP_AT + 12 : IP_AT + 16])
    answer = ipv4.build(source_ip, guest_ip, ipv4.ICMP, message)
    return ethernet.build(guest, shared_mac, ethernet.IPV4, answer)


def error(reason: Reason, segment: Segment, shared_mac: Mac, packet: Buffer) -> bytes | None:
    """Build the error about a sound VXLAN `packet` of `segment` that could not be forwarded."""
    inner = _inner_packet(packet)
    source = bytes(inner[12:16])
    if not icmp.may_be_answered(inner) or not _may_be_a_host(segment, source):
        return None
    # From the gateway address of the sender's subnet; of the first one for a stranger.
    gateway = segment.gateway_for(source) or segment.gateways[0]
    kind, code = _ERRORS[reason]
    return _frame_back(packet, shared_mac, gateway.address, icmp.error(kind, code, inner))


def answer(segment: Segment, shared_mac: Mac, packet: Buffer) -> bytes | None:
    """Build the answer to a sound VXLAN `packet` to a gateway address: ICMP echo, or None.

    Also for the gateway address of another segment of the VRF, as a router does.
    """
    inner = _inner_packet(packet)
    header_len = (inner[0] & 0x0F) * 4
    fragmented = (inner[6] << 8 | inner[7]) & ipv4.FRAGMENT_MASK
    if inner[9] != ipv4.ICMP or fragmented or not _may_be_a_host(segment, bytes(inner[12:16])):
        return None
    message = icmp.echo_reply(inner[header_len:])
    if message is None:
        return None
    return _frame_back(packet, shared_mac, bytes(inner[16:20]), message)
