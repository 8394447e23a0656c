"""THE rules for relaying DHCP (RFC 1542, RFC 3046): guests' messages to servers elsewhere.

The gateway address is on every leaf, so a server could not find its way back by it. The leaf has a
relay address of its own, the giaddr, and option 82 says what the giaddr otherwise would:

| sub-option | says |
|---|---|
| 1 circuit-id | the segment's VNI and the guest's VTEP, as text: `100/10.99.0.11` |
| 2 remote-id | the guest's MAC, which its vswitch guards |
| 5 link selection (RFC 3527) | the gateway address: of which subnet an address is wanted |
| 11 server identifier override (RFC 5107) | the same: what the server is to call itself |
| 151 VSS (RFC 6607) | the VRF's name, for servers that know of tenants |
| 152 VSS control | empty; a server that has gone by the VRF takes it out |

Since the server calls itself by the gateway address, a renewal comes to the leaf that the guest is
behind at the time, and goes on as anything else does. Nothing is remembered of a message: whatever
a reply needs is in the circuit. So leaves share nothing, and one that was restarted is as good as
before. Of a segment with several subnets the first is named; that others are beside it is for the
server to know (its shared network).

`ask` takes a guest's message and gives what goes to the servers, `answer` what one of them has said
and gives the guest's frame. Both change nothing. What is given to guests in passing, `snoop` keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import NamedTuple

from vswitch.wire import dhcp, udp
from vswitch.wire.dhcp import Message
from vswitch.wire.ethernet import Buffer, Mac, format_mac, parse_mac
from vswitch.wire.udp import Datagram
from vswitch.wire.vxlan import Vni, Vtep

from .topology import Relay, Segment


class Reason(StrEnum):
    """What became of a message. Closed: it names the counters and the tests."""

    # Of a guest.
    RELAYED = "relayed"
    """To all servers of its family."""
    MALFORMED = "malformed"
    """Not a sound message, or of a kind that no client sends."""
    FORGED = "forged"
    """Its chaddr is not the frame's source, or it has been through a relay of a guest's."""
    ROGUE = "rogue"
    """What only a server sends."""
    HOPS = "hops"
    """It has passed too many relays."""
    NO_SERVER = "no_server"
    """This segment has no server of this family."""
    POLICED = "policed"
    """Beyond the rate of its guest."""
    SEND_FAILED = "send_failed"
    """A datagram that did not leave for its server; the client asks again."""

    # Of a server.
    DELIVERED = "delivered"
    """To the guest."""
    NOT_A_SERVER = "not_a_server"
    """From an address that is not one of the segment's servers."""
    SERVER_POLICED = "server_policed"
    """Beyond the rate of its server."""
    BAD_REPLY = "bad_reply"
    """Not a sound message, or of a kind that no server sends."""
    NOT_OURS = "not_ours"
    """It does not give back what we had said: relay address, circuit, guest."""
    NO_PLACE = "no_place"
    """Its segment is not relayed any more, or not on that VTEP."""
    TOO_BIG = "too_big"
    """It does not fit into the tunnel, and IPv6 is not cut on its way."""


class Circuit(NamedTuple):
    """Whom a message is of, in words that its server gives back."""

    vni: Vni
    vtep: Vtep
    mac: Mac

    @property
    def place(self) -> bytes:
        """Where it came in, as an operator would write it in a rule of the server's."""
        return f"{self.vni}/{self.vtep}".encode()

    @property
    def interface(self) -> bytes:
        """The same with the guest's MAC."""
        return self.place + b"/" + format_mac(self.mac).encode()


def read_circuit(interface: bytes) -> Circuit | None:
    """Read what `Circuit.interface` has written; None for anything else."""
    vni, _, rest = interface.partition(b"/")
    vtep, _, mac = rest.partition(b"/")
    try:
        circuit = Circuit(Vni(int(vni)), Vtep(vtep.decode("ascii")), parse_mac(mac.decode("ascii")))
    except ValueError:
        return None
    return circuit if circuit.interface == interface else None


class Asked(NamedTuple):
    """What is to be done about a guest's message, and why."""

    reason: Reason
    payload: bytes | None = None
    """What goes to the servers."""
    returned: tuple[bytes, ...] = ()
    """Addresses that the guest gives back or must not use."""


class Answered(NamedTuple):
    """What is to be done about a server's message, and why."""

    reason: Reason
    segment: Segment | None = None
    vtep: Vtep = Vtep("")
    """Where the guest is."""
    mac: Mac = Mac(b"")
    frame: bytes = b""
    given: tuple[tuple[bytes, int], ...] = ()
    """Addresses that the guest has from now on, each for so many seconds; 0 takes it away."""


Place = Callable[[Vni, Mac], Vtep | None]
"""Says where a guest is known to be. It may have moved since it asked."""

_OF_CLIENTS = frozenset({dhcp.DISCOVER, dhcp.ASK, dhcp.DECLINE, dhcp.RELEASE, dhcp.INFORM})
_OF_SERVERS = frozenset({dhcp.OFFER, dhcp.ACK, dhcp.NAK})


def ask(segment: Segment, service: Relay, source: Vtep, frame: Buffer) -> Asked:
    """Say what becomes of a message that a guest behind `source` has sent in `frame`."""
    datagram = udp.parse(frame)
    if datagram is None or len(datagram.source) != 4:
        return Asked(Reason.MALFORMED)
    message = dhcp.parse_payload(datagram.payload)
    if message is None:
        return Asked(Reason.MALFORMED)
    if message.op != dhcp.REQUEST or message.kind in _OF_SERVERS:
        return Asked(Reason.ROGUE)
    if message.kind not in _OF_CLIENTS:
        return Asked(Reason.MALFORMED)
    mac = Mac(bytes(frame[6:12]))
    # RFC 3046 section 2.1: a circuit that a client names itself is not to be trusted.
    if message.chaddr != mac or any(message.giaddr) or dhcp.RELAY in message.options:
        return Asked(Reason.FORGED)
    if message.hops >= dhcp.MAX_HOPS:
        return Asked(Reason.HOPS)
    gateway = next((one.address for one in segment.gateways if len(one.address) == 4), None)
    if service.address is None or gateway is None:
        return Asked(Reason.NO_SERVER)
    circuit = Circuit(segment.vni, source, mac)
    information = (
        (dhcp.CIRCUIT_ID, circuit.place),
        (dhcp.REMOTE_ID, mac),
        (dhcp.LINK_SELECTION, gateway),
        (dhcp.SERVER_OVERRIDE, gateway),
        (dhcp.VSS, dhcp.VSS_NAME + segment.vrf.encode()),
        (dhcp.VSS_CONTROL, b""),
    )
    payload = dhcp.relayed(datagram.payload, service.address, information)
    return Asked(Reason.RELAYED, payload, _returned(message))


def _returned(message: Message) -> tuple[bytes, ...]:
    if message.kind == dhcp.RELEASE:
        return (message.ciaddr,)
    declined = message.address(dhcp.REQUESTED) if message.kind == dhcp.DECLINE else None
    return () if declined is None else (declined,)


def answer(
    segments: Mapping[Vni, Segment], server: bytes, payload: bytes, place: Place
) -> Answered:
    """Say what becomes of a message from the address `server`."""
    message = dhcp.parse_payload(payload)
    if message is None or message.op != dhcp.REPLY or message.kind not in _OF_SERVERS:
        return Answered(Reason.BAD_REPLY)
    said = dhcp.suboptions(message.options.get(dhcp.RELAY, b"")) or {}
    remote = said.get(dhcp.REMOTE_ID, b"")
    circuit = read_circuit(said.get(dhcp.CIRCUIT_ID, b"") + b"/" + format_mac(remote).encode())
    if circuit is None or circuit.mac != message.chaddr:
        return Answered(Reason.NOT_OURS)
    found = locate(segments, server, circuit, place)
    if isinstance(found, Reason):
        return Answered(found)
    segment, service, vtep = found
    plain = dhcp.stripped(payload)
    inside = dhcp.parse_payload(plain)
    # An option 82 that is still there stood where a server must not put it.
    if message.giaddr != service.address or inside is None or dhcp.RELAY in inside.options:
        return Answered(Reason.NOT_OURS)
    gateway = next((one.address for one in segment.gateways if len(one.address) == 4), None)
    if gateway is None:
        return Answered(Reason.NO_PLACE)
    datagram = Datagram(gateway, _destination(message), dhcp.SERVER_PORT, dhcp.CLIENT_PORT, plain)
    frame = udp.build(circuit.mac, segment.vteps[vtep].shared_mac, datagram)
    return Answered(Reason.DELIVERED, segment, vtep, circuit.mac, frame, _given(message))


def locate(
    segments: Mapping[Vni, Segment], server: bytes, circuit: Circuit, place: Place
) -> tuple[Segment, Relay, Vtep] | Reason:
    """Find the segment that a server's message is for, and where the guest is in it."""
    segment = segments.get(circuit.vni)
    if segment is None or not isinstance(segment.dhcp, Relay):
        return Reason.NO_PLACE
    if server not in segment.dhcp.servers:
        return Reason.NOT_A_SERVER
    # A guest that has moved since it asked is where it was last heard.
    vtep = place(circuit.vni, circuit.mac) or circuit.vtep
    if vtep not in segment.vteps:
        return Reason.NO_PLACE
    return segment, segment.dhcp, vtep


def _destination(message: Message) -> bytes:
    """Return the IP address that a reply goes to (RFC 1542 section 4.1.2). The frame is the guest's
    own in any case, so that nobody else has to see it."""
    if message.kind == dhcp.NAK or message.flags & dhcp.BROADCAST_FLAG:
        return dhcp.ALL
    if any(message.yiaddr):
        return message.yiaddr
    return message.ciaddr if any(message.ciaddr) else dhcp.ALL


def _given(message: Message) -> tuple[tuple[bytes, int], ...]:
    """Return the lease that a message gives; one that answers an INFORM has none."""
    seconds = message.address(dhcp.LEASE_TIME)
    if message.kind != dhcp.ACK or seconds is None or not any(message.yiaddr):
        return ()
    return ((message.yiaddr, int.from_bytes(seconds, "big")),)
