"""THE rules for DHCP (RFC 2131 section 4.3): what the leaf gives, refuses, and stays silent to.

The leaf is the one server of its segment, and the segment's gateway address its identifier: that
is the same on every leaf, so a guest that has moved renews where it is. A guest is known by its
MAC; a message whose chaddr is not the frame's source is nobody's.

`answer` takes a message and the time and gives the answer. It changes nothing but the leases, which
are committed when it returns; binding and sending is the slow path's.

| client is | server id | requested address | ciaddr | answer (RFC 2131 table 4) |
|---|---|---|---|---|
| SELECTING | ours | the offered one | 0 | ACK; NAK where it cannot have it |
| SELECTING | another's | | 0 | none: it has chosen another server |
| INIT-REBOOT | none | the one it had | 0 | ACK; NAK where that is wrong; none for a stranger |
| RENEWING, REBINDING | none | none | its own | ACK; NAK where it cannot have it |
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from vswitch.wire import dhcp
from vswitch.wire.dhcp import Message
from vswitch.wire.ethernet import Mac

from .leases import Client, Lease, Leases, State, Taken
from .topology import Gateway, Segment, Service


class Reason(StrEnum):
    """What became of a message. Closed: it names the counters and the tests."""

    MALFORMED = "malformed"
    """Not a sound message, or one without what its kind must have."""
    FORGED = "forged"
    """Its chaddr is not the frame's source, or it has been through a relay of a guest's."""
    ROGUE = "rogue"
    """What only a server sends."""
    NO_POOL = "no_pool"
    """This segment gives out no addresses of this family."""
    POLICED = "policed"
    """Beyond the rate of its guest, or it writes leases beyond that of its guest or of all; then
    nothing was changed."""
    FAILED = "failed"
    """The lease could not be written; nothing was changed, and the client will ask again."""
    OFFERED = "offered"
    EXHAUSTED = "exhausted"
    """No address is free for this client: silence."""
    ACKED = "acked"
    REFUSED = "refused"
    """It cannot have the address that it asks for: NAK."""
    OTHER_SERVER = "other_server"
    """It has chosen another server's offer: silence."""
    STRANGER = "stranger"
    """It asks for an address that it had, and we know nothing of that: silence."""
    INFORMED = "informed"
    """It has an address and gets the rest."""
    RELEASED = "released"
    DECLINED = "declined"
    """Somebody else uses the address, it says: it is not given out for a while."""
    NOT_ITS_OWN = "not_its_own"
    """It releases or declines what it does not have: silence."""


class Answer(NamedTuple):
    """What is to be done about a message, and why."""

    reason: Reason
    frame: bytes | None = None
    bound: Lease | None = None
    """This lease is a binding from now on."""
    ended: Lease | None = None
    """This one is not any more."""


def answer(
    segment: Segment,
    shared_mac: Mac,
    frame_source: Mac,
    message: Message | None,
    leases: Leases,
    now: float,
    taken: Taken,
    mtu: int | None = None,
) -> Answer:
    """Answer a message of a guest of `segment`; `taken` says whether an address is bound to another
    MAC than the guest's, `mtu` what the guest is told of it, if anything."""
    if message is None:
        return Answer(Reason.MALFORMED)
    if message.op != dhcp.REQUEST:
        return Answer(Reason.ROGUE)
    if message.chaddr != frame_source or any(message.giaddr) or message.hops:
        return Answer(Reason.FORGED)
    service = segment.dhcp
    if not isinstance(service, Service) or not _has_pool(service):
        return Answer(Reason.NO_POOL)
    server = _Server(segment, service, shared_mac, message, leases, now, taken, mtu)
    match message.kind:
        case dhcp.DISCOVER:
            return server.discover()
        case dhcp.ASK:
            return server.request()
        case dhcp.RELEASE:
            return server.release()
        case dhcp.DECLINE:
            return server.decline()
        case dhcp.INFORM:
            return server.inform()
        case dhcp.OFFER | dhcp.ACK | dhcp.NAK:
            return Answer(Reason.ROGUE)
    return Answer(Reason.MALFORMED)


def _has_pool(service: Service) -> bool:
    return bool(service.pool.ranges or service.pool.reservations)


class _Server:
    """The server, for the time of one message."""

    def __init__(
        self,
        segment: Segment,
        service: Service,
        shared_mac: Mac,
        message: Message,
        leases: Leases,
        now: float,
        taken: Taken,
        mtu: int | None,
    ) -> None:
        self._segment = segment
        self._service = service
        self._mac = shared_mac
        self._message = message
        self._leases = leases
        self._now = now
        self._taken = taken
        self._mtu = mtu
        self._client = Client(message.chaddr)
        self._gateways = [one for one in segment.gateways if len(one.address) == 4]

    def discover(self) -> Answer:
        """Offer an address: the reserved, the former, the wished for, or any (s4.3.1)."""
        wanted = self._message.address(dhcp.REQUESTED)
        offered = self._leases.offer(
            self._segment.vni, self._service.pool, self._client, wanted, self._now, self._taken
        )
        if offered is None:
            return Answer(Reason.EXHAUSTED)
        frame = self._say(dhcp.OFFER, offered.address, self._service.lease_time)
        return Answer(Reason.OFFERED, frame)

    def request(self) -> Answer:
        """Give, give longer, or refuse (section 4.3.2)."""
        message = self._message
        server, requested = message.options.get(dhcp.SERVER), message.address(dhcp.REQUESTED)
        if server is not None:
            if not any(one.address == server for one in self._gateways):
                return Answer(Reason.OTHER_SERVER)
            if requested is None or any(message.ciaddr):
                return Answer(Reason.MALFORMED)
            return self._grant(requested)
        if requested is not None:
            return self._reboot(requested)
        if any(message.ciaddr):
            return self._grant(message.ciaddr)
        return Answer(Reason.MALFORMED)

    def _reboot(self, requested: bytes) -> Answer:
        """Confirm an address from before a restart of the client, or tell it that it is wrong."""
        if any(self._message.ciaddr):
            return Answer(Reason.MALFORMED)
        if not any(one.serves(requested) for one in self._gateways):
            return self._refuse()  # It comes from another network.
        known = self._leases.of_client(self._segment.vni, 4, self._client)
        reserved = self._service.pool.reservations.get(self._client.mac)
        if known is None and reserved is None:
            return Answer(Reason.STRANGER)
        if requested not in (reserved, known.address if known else None):
            return self._refuse()
        return self._grant(requested)

    def _grant(self, address: bytes) -> Answer:
        grant = self._leases.grant(
            self._segment.vni,
            self._service.pool,
            self._client,
            address,
            self._service.lease_time,
            self._now,
            self._taken,
        )
        if grant is None:
            return self._refuse()
        frame = self._say(dhcp.ACK, address, grant.lease.expires - self._now)
        return Answer(Reason.ACKED, frame, grant.lease, grant.ended)

    def _refuse(self) -> Answer:
        server = self._gateways[0].address
        frame = dhcp.reply(self._message, dhcp.NAK, dhcp.UNSPECIFIED, server, self._mac)
        return Answer(Reason.REFUSED, frame)

    def inform(self) -> Answer:
        """Tell a client that has an address the rest (section 4.3.5)."""
        gateway = self._gateway(self._message.ciaddr)
        if gateway is None:
            return Answer(Reason.MALFORMED)
        return Answer(
            Reason.INFORMED,
            dhcp.reply(
                self._message,
                dhcp.ACK,
                dhcp.UNSPECIFIED,
                gateway.address,
                self._mac,
                options(self._service, gateway, self._mtu),
            ),
        )

    def release(self) -> Answer:
        """Take an address back (section 4.3.4)."""
        lease = self._own(self._message.ciaddr)
        if lease is None or lease.state is not State.BOUND:
            return Answer(Reason.NOT_ITS_OWN)
        self._leases.release(lease, self._now)
        return Answer(Reason.RELEASED, ended=lease)

    def decline(self) -> Answer:
        """Take in that an address is in use by somebody else (section 4.3.3)."""
        lease = self._own(self._message.address(dhcp.REQUESTED) or b"")
        # Of what is declined already there is nothing more to be said: taken as news, the one
        # message too many for MAX_DECLINED would free it.
        if lease is None or lease.state not in (State.BOUND, State.OFFERED):
            return Answer(Reason.NOT_ITS_OWN)
        self._leases.decline(lease, self._now)
        return Answer(Reason.DECLINED, ended=lease)

    def _own(self, address: bytes) -> Lease | None:
        """Return the client's record of `address`; None where it is not the client's, or where it
        speaks to another server."""
        server = self._message.options.get(dhcp.SERVER)
        if server is None or not any(one.address == server for one in self._gateways):
            return None
        lease = self._leases.get(self._segment.vni, address)
        return lease if lease is not None and lease.client == self._client else None

    def _gateway(self, address: bytes) -> Gateway | None:
        return next((one for one in self._gateways if one.serves(address)), None)

    def _say(self, kind: int, address: bytes, lease_time: float) -> bytes:
        gateway = self._gateway(address)
        assert gateway is not None  # A pool lies in a subnet; the configuration has been checked.
        seconds = int(lease_time)
        times = [
            (dhcp.LEASE_TIME, seconds.to_bytes(4, "big")),
            # T1 and T2, at their defaults (section 4.4.5): said, since some clients guess.
            (dhcp.RENEWAL_TIME, (seconds // 2).to_bytes(4, "big")),
            (dhcp.REBINDING_TIME, (seconds * 7 // 8).to_bytes(4, "big")),
        ]
        said = [*times, *options(self._service, gateway, self._mtu)]
        return dhcp.reply(self._message, kind, address, gateway.address, self._mac, said)


def options(service: Service, gateway: Gateway, mtu: int | None) -> list[tuple[int, bytes]]:
    """Return what a guest in the subnet of `gateway` is told besides its address."""
    length = gateway.prefix.length
    last = gateway.prefix.network | (1 << (32 - length)) - 1
    mask = 0xFFFFFFFF ^ (1 << (32 - length)) - 1
    said = [
        (dhcp.MASK, mask.to_bytes(4, "big")),
        (dhcp.ROUTER, gateway.address),
        (dhcp.BROADCAST, last.to_bytes(4, "big")),
    ]
    if service.dns:
        said.append((dhcp.DNS, b"".join(service.dns)))
    if service.domain:
        said.append((dhcp.DOMAIN, service.domain.encode()))
    if mtu is not None:
        said.append((dhcp.MTU, mtu.to_bytes(2, "big")))
    if service.routes:
        # Whoever reads this option ignores the router option, so the default route is in it too.
        routes = [(bytes(4), 0, gateway.address)]
        routes += [(net, bits, via or gateway.address) for net, bits, via in service.routes]
        said.append((dhcp.CLASSLESS_ROUTES, b"".join(dhcp.classless_route(*r) for r in routes)))
    return said
