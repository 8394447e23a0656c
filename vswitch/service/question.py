"""A frame as a person describes it to `trace`: in hex, or by its addresses."""

from __future__ import annotations

import ipaddress

from pydantic import Field, model_validator

from ..wire import arp, ethernet, ipv4
from ..wire.ethernet import Mac
from .settings import MacField, Settings

LOCAL_EXPERIMENTAL = 0x88B5
"""The ethertype of a described frame that has no IP addresses (IEEE 802 clause 9.2.3)."""


class FrameQuestion(Settings):
    """The frame that a question is about."""

    hex: str | None = Field(None, max_length=20_000)
    src: MacField | None = None
    dst: str | None = None
    src_ip: ipaddress.IPv4Address | ipaddress.IPv6Address | None = None
    dst_ip: ipaddress.IPv4Address | ipaddress.IPv6Address | None = None
    ttl: int = Field(ipv4.DEFAULT_TTL, ge=0, le=255)
    arp: bool = False

    @model_validator(mode="after")
    def _describes_a_frame(self) -> FrameQuestion:
        if self.hex is None and self.dst is None:
            raise ValueError("give the frame as hex, or at least its destination MAC (dst)")
        versions = {address.version for address in (self.src_ip, self.dst_ip) if address}
        if len(versions) > 1 or (self.arp and 6 in versions):
            raise ValueError("src-ip and dst-ip must be of one family, and of IPv4 for ARP")
        return self

    def build(self, source: Mac) -> bytes:
        """Build the frame; `source` is its source MAC where the question names none.

        Raises ValueError where the hex or the destination cannot be read.
        """
        if self.hex is not None:
            try:
                return bytes.fromhex(self.hex.replace(":", " "))
            except ValueError as error:
                raise ValueError(
                    f"hex: {error}; give the whole frame, two digits a byte"
                ) from error
        assert self.dst is not None
        destination, source = ethernet.parse_mac(self.dst), self.src or source
        src_ip = self.src_ip.packed if self.src_ip else None
        dst_ip = self.dst_ip.packed if self.dst_ip else None
        if self.arp:
            sender, target = src_ip or bytes(4), dst_ip or bytes(4)
            message = arp.Message(arp.REQUEST, source, sender, ethernet.ZERO, target)
            return arp.build(destination, source, message)
        if dst_ip is None and src_ip is None:
            return ethernet.build(destination, source, LOCAL_EXPERIMENTAL, b"")
        if len(dst_ip or src_ip or b"") == 16:
            head = bytes((0x60, 0, 0, 0, 0, 0, 59, self.ttl))
            body = head + (src_ip or bytes(16)) + (dst_ip or bytes(16))
            return ethernet.build(destination, source, ethernet.IPV6, body)
        packet = ipv4.build(
            src_ip or bytes(4), dst_ip or bytes(4), ipv4.UDP, bytes(8), ttl=self.ttl
        )
        return ethernet.build(destination, source, ethernet.IPV4, packet)
