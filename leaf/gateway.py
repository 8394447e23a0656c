"""What the gateway says of itself and asks: ARP and ND messages, router advertisements.

Pure: each function builds a whole frame, in the protocol of the address's family. The rules that
say when are in `neighbour.py` and `advertise.py`; the slow path sends.

The gateway's IPv6 messages come from its link-local address, which is made of the shared MAC and
therefore the same on every leaf.
"""

from __future__ import annotations

from vswitch.wire import arp, ethernet, ipv6, nd
from vswitch.wire.ethernet import Buffer, Mac
from vswitch.wire.nd import Advertisement
from vswitch.wire.neighbour import Message

from .neighbour import Reason
from .topology import Group, Segment

HOP_LIMIT = 64
"""What hosts are told to send with."""


def read(frame: Buffer) -> Message | None:
    """Read the ARP or ND message in a frame; None where it is not a sound one."""
    is_arp = frame[12] << 8 | frame[13] == ethernet.ARP
    return arp.parse(frame) if is_arp else nd.parse(frame)


def question(
    segment: Segment, group: Group, address: bytes, guest: Mac | None = None
) -> bytes | None:
    """Ask the segment for `address`, or only `guest`; None where no subnet holds it any more."""
    gateway = segment.gateway_for(address)
    if gateway is None:
        return None
    mac = group.shared_mac
    if len(address) == 16:
        return nd.solicitation(mac, ipv6.link_local(mac), address, guest)
    return arp.request(mac, gateway.address, address, guest or ethernet.BROADCAST)


def answer(segment: Segment, group: Group, asked: Message, reason: Reason) -> bytes:
    """Tell the asker that its target is at the shared MAC.

    "Override" is set where the asker's own entry is known to be stale, and for the gateway itself;
    a proxy does not set it otherwise (RFC 4861 section 7.2.8).
    """
    if len(asked.target_ip) == 16:
        is_gateway = reason is Reason.GATEWAY
        return nd.advertisement(
            group.shared_mac,
            asked.target_ip,
            asked.sender_mac,
            asked.sender_ip,
            router=is_gateway,
            override=is_gateway or reason is Reason.HEALED,
        )
    return arp.reply(group.shared_mac, asked.target_ip, asked.sender_mac, asked.sender_ip)


def in_use(group: Group, address: bytes, prober: Mac) -> bytes:
    """Tell a prober that somebody else has `address`."""
    if len(address) == 16:
        return nd.advertisement(
            group.shared_mac, address, prober, ipv6.UNSPECIFIED, router=False, override=True
        )
    return arp.reply(group.shared_mac, address, prober, bytes(4))


def advertisement(said: Advertisement, group: Group, guest: Mac | None = None) -> bytes:
    """Advertise the gateway, and what else is `said`, to a whole segment, or only to `guest`.

    To one guest it goes in a frame of its own, with the group of all nodes inside (RFC 6085): its
    link-local address need not be known.
    """
    mac = group.shared_mac
    to = ipv6.group_mac(ipv6.ALL_NODES) if guest is None else guest
    return nd.router_advertisement(mac, ipv6.link_local(mac), to, ipv6.ALL_NODES, said)
