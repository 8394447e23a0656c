"""What a DHCP client says, built by scapy, and what it reads in an answer."""

from __future__ import annotations

from typing import Any

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from leaf.punt import Send
from tests.frames import BROADCAST, vxlan
from tests.unit.leaf_world import ONE, A, World
from vswitch.wire.vxlan import Vtep

GATEWAY = "1.1.1.254"
XID = 0x12345678


def message(
    client: bytes,
    kind: str,
    *options: tuple[Any, ...],
    ciaddr: str = "0.0.0.0",
    source: bytes | None = None,
    destination: bytes = BROADCAST,
    **fields: Any,
) -> bytes:
    """The frame of a client's message."""
    to = "255.255.255.255" if destination == BROADCAST else GATEWAY
    bootp = BOOTP(chaddr=client + bytes(10), xid=XID, ciaddr=ciaddr, **fields)
    return bytes(
        Ether(dst=destination.hex(":"), src=(source or client).hex(":"))
        / IP(src=ciaddr, dst=to)
        / UDP(sport=68, dport=67)
        / bootp
        / DHCP(options=[("message-type", kind), *options, "end"])
    )


class Answer:
    """What a client reads."""

    def __init__(self, send: Send) -> None:
        self.vtep = send.vtep
        self.frame = Ether(send.packet[8:])
        self.bootp = self.frame[BOOTP]
        self.options = {o[0]: o[1:] for o in self.frame[DHCP].options if isinstance(o, tuple)}

    @property
    def kind(self) -> int:
        found: int = self.options["message-type"][0]
        return found

    @property
    def address(self) -> str:
        found: str = self.bootp.yiaddr
        return found


OFFER, ACK, NAK = 2, 5, 6


class Client:
    """A client of segment ONE that does as it is told."""

    def __init__(self, world: World, mac: bytes, vtep: Vtep = A) -> None:
        self.world, self.mac, self.vtep = world, mac, vtep

    def say(
        self, kind: str, *options: tuple[Any, ...], now: float = 0.0, **fields: Any
    ) -> Answer | None:
        """Say something to the leaf; return its answer."""
        packet = vxlan(ONE, message(self.mac, kind, *options, **fields))
        sends = self.world.punt(self.vtep, packet, now)
        answers = [Answer(send) for send in sends if DHCP in Ether(send.packet[8:])]
        assert len(answers) <= 1
        return answers[0] if answers else None

    def discover(self, *options: tuple[Any, ...], now: float = 0.0) -> Answer | None:
        return self.say("discover", *options, now=now)

    def select(self, address: str, now: float = 0.0, server: str = GATEWAY) -> Answer | None:
        return self.say("request", ("server_id", server), ("requested_addr", address), now=now)

    def reboot(self, address: str, now: float = 0.0) -> Answer | None:
        return self.say("request", ("requested_addr", address), now=now)

    def renew(self, address: str, now: float = 0.0) -> Answer | None:
        return self.say("request", ciaddr=address, now=now)

    def release(self, address: str, now: float = 0.0) -> Answer | None:
        return self.say("release", ("server_id", GATEWAY), ciaddr=address, now=now)

    def decline(self, address: str, now: float = 0.0) -> Answer | None:
        return self.say("decline", ("server_id", GATEWAY), ("requested_addr", address), now=now)

    def get(self, now: float = 0.0) -> str:
        """Get an address as a new client does."""
        offered = self.discover(now=now)
        assert offered is not None and offered.kind == OFFER
        given = self.select(offered.address, now)
        assert given is not None and given.kind == ACK and given.address == offered.address
        return given.address
