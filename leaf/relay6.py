"""THE rules for relaying DHCPv6 (RFC 8415 section 19): those of `relay`, in the words of IPv6.

A message is carried whole: out in a Relay-forward, back in a Relay-reply. The link address is the
segment's gateway, by which the server chooses the subnet; the server answers to where the message
came from, the leaf's own relay address. The Interface-Id is the whole circuit, guest's MAC
included, since a Relay-reply names only the guest's link-local address, and it need not be known
whose that is. Beside it go the client's MAC (RFC 6939) and the VRF's name (RFC 6607).
"""

from __future__ import annotations

from collections.abc import Mapping

from vswitch.wire import dhcp, dhcp6, ipv6, udp
from vswitch.wire.ethernet import Buffer, Mac
from vswitch.wire.udp import Datagram
from vswitch.wire.vxlan import Vni, Vtep

from .relay import Answered, Asked, Circuit, Place, Reason, locate, read_circuit
from .topology import Relay, Segment

_OF_CLIENTS = frozenset(
    {
        *(dhcp6.SOLICIT, dhcp6.REQUEST, dhcp6.CONFIRM, dhcp6.RENEW, dhcp6.REBIND),
        *(dhcp6.RELEASE, dhcp6.DECLINE, dhcp6.INFORMATION_REQUEST),
    }
)
_OF_SERVERS = frozenset({dhcp6.ADVERTISE, dhcp6.REPLY, dhcp6.RECONFIGURE})


def ask(segment: Segment, service: Relay, source: Vtep, frame: Buffer) -> Asked:
    """Say what becomes of a message that a guest behind `source` has sent in `frame`."""
    datagram = udp.parse(frame)
    if datagram is None or not datagram.payload:
        return Asked(Reason.MALFORMED)
    kind = datagram.payload[0]
    if kind == dhcp6.RELAY_FORWARD:
        return Asked(Reason.FORGED)
    if kind in _OF_SERVERS or kind == dhcp6.RELAY_REPLY:
        return Asked(Reason.ROGUE)
    message = dhcp6.read(datagram)
    if message is None or kind not in _OF_CLIENTS:
        return Asked(Reason.MALFORMED)
    gateway = next((one.address for one in segment.gateways if len(one.address) == 16), None)
    if service.address6 is None or gateway is None:
        return Asked(Reason.NO_SERVER)
    mac = Mac(bytes(frame[6:12]))
    options = dhcp6.option(dhcp6.INTERFACE_ID, Circuit(segment.vni, source, mac).interface)
    options += dhcp6.link_layer(mac)
    options += dhcp6.option(dhcp6.VSS, dhcp.VSS_NAME + segment.vrf.encode())
    payload = dhcp6.relay_forward(gateway, message.source, options, datagram.payload)
    returned: tuple[bytes, ...] = ()
    if kind in (dhcp6.RELEASE, dhcp6.DECLINE):
        returned = tuple(address for ia in message.ias for address in ia.addresses)
    return Asked(Reason.RELAYED, payload, returned)


def answer(
    segments: Mapping[Vni, Segment], server: bytes, payload: bytes, place: Place
) -> Answered:
    """Say what becomes of a message from the address `server`."""
    reply = dhcp6.relay_reply(payload)
    if reply is None or not reply.payload or reply.payload[0] not in _OF_SERVERS:
        return Answered(Reason.BAD_REPLY)
    given = dhcp6.given(reply.payload)
    if given is None:
        return Answered(Reason.BAD_REPLY)
    circuit = read_circuit(reply.interface)
    if circuit is None or reply.hops or not ipv6.is_link_local(reply.peer):
        return Answered(Reason.NOT_OURS)
    found = locate(segments, server, circuit, place)
    if isinstance(found, Reason):
        return Answered(found)
    segment, _, vtep = found
    if not any(one.address == reply.link for one in segment.gateways):
        return Answered(Reason.NOT_OURS)
    mac = segment.vteps[vtep].shared_mac
    datagram = Datagram(
        ipv6.link_local(mac), reply.peer, dhcp6.SERVER_PORT, dhcp6.CLIENT_PORT, reply.payload
    )
    frame = udp.build(circuit.mac, mac, datagram)
    leases = tuple(given) if reply.payload[0] == dhcp6.REPLY else ()
    return Answered(Reason.DELIVERED, segment, vtep, circuit.mac, frame, leases)
