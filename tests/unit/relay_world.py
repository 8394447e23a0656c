"""A leaf that relays for segment ONE, and the servers that it relays to, as scapy would write them.

ONE is relayed to two servers of IPv4 and one of IPv6. `ask` has a guest speak and returns what the
leaf has for its servers; `tell` hands it what a server says and returns what it sends.
"""

from __future__ import annotations

from typing import Any

from scapy.layers import dhcp6 as s
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from leaf.limits import Limits
from leaf.punt import Send
from leaf.relay import Reason
from leaf.relayer import ToServer
from leaf.snoop import Outcome
from leaf.topology import Relay
from tests.frames import link_local, v4, v6, vxlan
from tests.unit.dhcp_client import message
from tests.unit.leaf_world import DEFAULT_LIMITS, ONE, A, World, rebuilt
from vswitch.wire.vxlan import Vtep

SERVER, SECOND, SERVER6 = v4("10.0.0.53"), v4("10.0.0.54"), v6("fd00::53")
OWN, OWN6 = v4("192.0.2.1"), v6("fd00::1")
GATEWAY, GATEWAY6 = "1.1.1.254", "2001:db8:1::fe"
LEASE = 600


class RelayWorld(World):
    """A leaf whose segment ONE is relayed, with an outbox that a test reads."""

    def __init__(
        self,
        *guests: Any,
        own: bytes = OWN,
        own6: bytes = OWN6,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        super().__init__(limits=limits, ipv6=True)
        self.serve(Relay((SERVER, SECOND, SERVER6), own, own6))
        for guest in guests:
            self.learn(guest)
        self.failures: list[Exception] = []
        self.slowpath._on_failure = self.failures.append

    def serve(self, service: Relay | None) -> None:
        """Reload, with another service on ONE."""
        self.segment(ONE).dhcp = service
        self.slowpath.replace_topology(rebuilt(self.topology))

    def ask(self, vtep: Vtep, frame: bytes, now: float = 0.0) -> list[ToServer]:
        sent = self.punt(vtep, vxlan(ONE, frame), now)
        assert sent == []  # A guest is answered by its server and by nobody else.
        outbox = self.slowpath.relayer.outbox
        found = list(outbox)
        outbox.clear()
        return found

    def tell(
        self,
        payload: bytes,
        now: float = 0.0,
        *,
        server: bytes | None = None,
        room: dict[Vtep, int] | None = None,
    ) -> list[Send]:
        if server is None:
            server = SERVER6 if payload[:1] in (b"\x0c", b"\x0d") else SERVER
        return self.slowpath.from_server(server, payload, room or {}, now)

    def counted(self, reason: Reason | Outcome) -> int:
        relayer = self.slowpath.relayer
        if isinstance(reason, Reason):
            return relayer.counts[reason]
        return relayer.lease_counts[reason]

    def bound(self, address: str) -> tuple[bytes, Vtep] | None:
        """The MAC and the VTEP that an address is bound to."""
        found = self.bindings.get(ONE, v6(address) if ":" in address else v4(address))
        return None if found is None else (found.mac, found.vtep)


# IPv4.


def reply(asked: ToServer, kind: str, address: str = "0.0.0.0", **fields: Any) -> bytes:
    """What the server says to a relayed message: option 82 comes back as it was (RFC 3046)."""
    said = BOOTP(asked.payload)
    relay = next(o[1] for o in said[DHCP].options if o[0] == "relay_agent_information")
    options: list[Any] = [("message-type", kind), ("server_id", GATEWAY)]
    seconds = fields.pop("seconds", LEASE if kind == "ack" else None)
    if seconds is not None:
        options.append(("lease_time", seconds))
    options += fields.pop("options", [])
    relay = fields.pop("relay", relay)
    if relay is not None:
        options.append(("relay_agent_information", relay))
    made = {
        "op": 2,
        "xid": said.xid,
        "flags": said.flags,
        "giaddr": said.giaddr,
        "chaddr": said.chaddr,
        "yiaddr": address,
    }
    return bytes(BOOTP(**{**made, **fields}) / DHCP(options=[*options, "end"]))


def lease(
    world: RelayWorld,
    client: bytes,
    address: str,
    now: float = 0.0,
    vtep: Vtep = A,
    seconds: int = LEASE,
) -> list[Send]:
    """Let a guest ask for an address and the server give it."""
    asked = world.ask(vtep, message(client, "request", ("requested_addr", address)), now)
    return world.tell(reply(asked[0], "ack", address, seconds=seconds), now)


# IPv6.


def frame6(client: bytes, inside: Packet, source: str | None = None) -> bytes:
    """A guest's message to all servers."""
    return bytes(
        Ether(src=client.hex(":"), dst="33:33:00:01:00:02")
        / IPv6(src=source or link_local(client), dst="ff02::1:2")
        / UDP(sport=546, dport=547)
        / inside
    )


def message6(client: bytes, kind: type[Packet], *addresses: str, **fields: Any) -> bytes:
    """A guest's message, with its addresses in an IA_NA."""
    inside = kind(trid=0xABCDEF) / s.DHCP6OptClientId(duid=s.DUID_LL(lladdr=client.hex(":")))
    return frame6(client, inside / ia(*((one, 0) for one in addresses)), **fields)


def ia(*addresses: tuple[str, int]) -> Packet:
    return s.DHCP6OptIA_NA(
        iaid=7,
        ianaopts=[
            s.DHCP6OptIAAddress(addr=one, preflft=valid, validlft=valid) for one, valid in addresses
        ],
    )


def reply6(
    asked: ToServer, *addresses: tuple[str, int], kind: type[Packet] = s.DHCP6_Reply, **fields: Any
) -> bytes:
    """What the server says to a Relay-forward."""
    said = s.DHCP6_RelayForward(asked.payload)
    inside = fields.pop("inside", None)
    if inside is None:
        inside = bytes(kind(trid=0xABCDEF) / ia(*addresses))
    interface = fields.pop("interface", said[s.DHCP6OptIfaceId].ifaceid)
    made = {"hopcount": said.hopcount, "linkaddr": said.linkaddr, "peeraddr": said.peeraddr}
    head = bytes(s.DHCP6_RelayReply(**{**made, **fields}))
    options = bytes(s.DHCP6OptIfaceId(ifaceid=interface)) if interface is not None else b""
    # By hand, since scapy miscounts the length of this one when it is built.
    return head + options + b"\x00\x09" + len(inside).to_bytes(2, "big") + bytes(Raw(inside))


def lease6(
    world: RelayWorld,
    client: bytes,
    address: str,
    now: float = 0.0,
    vtep: Vtep = A,
    seconds: int = LEASE,
) -> list[Send]:
    """Let a guest ask for an address of IPv6 and the server give it."""
    asked = world.ask(vtep, message6(client, s.DHCP6_Request, address), now)
    return world.tell(reply6(asked[0], (address, seconds)), now)
