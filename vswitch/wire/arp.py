"""ARP and RARP over Ethernet for IPv4 (RFC 826, RFC 903, RFC 5227).

On the slow path a message is the record of `neighbour`, read and written by dpkt. The spoof guard
of the forwarding path needs only the two sender fields and takes them from the frame at fixed
offsets.
"""

from __future__ import annotations

import dpkt

from . import ethernet, neighbour
from .ethernet import HEADER_LEN, Buffer, Mac

Message = neighbour.Message
REQUEST = neighbour.REQUEST
REPLY = neighbour.REPLY
REVERSE_REQUEST = 3
"""RFC 903: what QEMU broadcasts for a guest that has arrived (with both addresses zero)."""
MESSAGE_LEN = 28
MIN_FRAME_LEN = HEADER_LEN + MESSAGE_LEN

# Offsets from the start of an Ethernet frame (RFC 826 "Packet format").
SENDER_MAC_AT = HEADER_LEN + 8
SENDER_IP_AT = HEADER_LEN + 14
FIXED_PART = b"\x00\x01\x08\x00\x06\x04"
"""Hardware Ethernet, protocol IPv4, lengths 6 and 4: the only kind that we take."""


def parse(frame: Buffer) -> Message | None:
    """Read the message in an Ethernet frame; None where it is not Ethernet/IPv4 ARP."""
    if len(frame) < MIN_FRAME_LEN or bytes(frame[HEADER_LEN : HEADER_LEN + 6]) != FIXED_PART:
        return None
    raw = dpkt.arp.ARP(bytes(frame[HEADER_LEN:MIN_FRAME_LEN]))
    return Message(raw.op, Mac(raw.sha), raw.spa, Mac(raw.tha), raw.tpa)


def build(destination: bytes, source: bytes, message: Message) -> bytes:
    """Build the Ethernet frame that carries `message`."""
    raw = dpkt.arp.ARP(
        op=message.op,
        sha=message.sender_mac,
        spa=message.sender_ip,
        tha=message.target_mac,
        tpa=message.target_ip,
    )
    reverse = message.op == REVERSE_REQUEST
    ethertype = ethernet.RARP if reverse else ethernet.ARP
    return ethernet.build(destination, source, ethertype, bytes(raw))


def request(
    sender_mac: Mac, sender_ip: bytes, target_ip: bytes, destination: Mac = ethernet.BROADCAST
) -> bytes:
    """Build a request; with `destination` given it is a unicast poll (RFC 1122 section 2.3.2.1)."""
    message = Message(REQUEST, sender_mac, sender_ip, ethernet.ZERO, target_ip)
    return build(destination, sender_mac, message)


def reply(sender_mac: Mac, sender_ip: bytes, target_mac: Mac, target_ip: bytes) -> bytes:
    """Build the answer that tells `target` that `sender_ip` is at `sender_mac`."""
    message = Message(REPLY, sender_mac, sender_ip, target_mac, target_ip)
    return build(target_mac, sender_mac, message)


def announcement(mac: Mac, address: bytes) -> bytes:
    """Build an ARP announcement (RFC 5227 section 2.3)."""
    return build(ethernet.BROADCAST, mac, Message(REQUEST, mac, address, ethernet.ZERO, address))


def reverse_announcement(mac: Mac) -> bytes:
    """Build the RARP by which QEMU, and our vswitch, make an arrival known."""
    message = Message(REVERSE_REQUEST, mac, bytes(4), mac, bytes(4))
    return build(ethernet.BROADCAST, mac, message)
