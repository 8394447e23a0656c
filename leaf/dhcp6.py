"""THE rules for DHCPv6 (RFC 8415 section 18.3): those of `dhcp`, in the words of IPv6.

The server's DUID is made of the shared MAC (DUID-LL), and it speaks from the link-local address of
that MAC: both are the same on every leaf of a group. A guest is known by its MAC here too, and not
by its DUID; it gets one address, in its first IA_NA.
"""

from __future__ import annotations

from vswitch.wire import dhcp6
from vswitch.wire.dhcp6 import Ia, Message
from vswitch.wire.ethernet import Mac

from .dhcp import Answer, Reason
from .leases import Client, Lease, Leases, State, Taken
from .topology import Segment, Service

_NAMES_SERVER = frozenset({dhcp6.REQUEST, dhcp6.RENEW, dhcp6.RELEASE, dhcp6.DECLINE})
_NAMES_NO_SERVER = frozenset({dhcp6.SOLICIT, dhcp6.CONFIRM, dhcp6.REBIND})
_OF_SERVERS = frozenset(
    {dhcp6.ADVERTISE, dhcp6.REPLY, dhcp6.RECONFIGURE, dhcp6.RELAY_REPLY},
)


def answer(
    segment: Segment,
    shared_mac: Mac,
    guest: Mac,
    message: Message | None,
    leases: Leases,
    now: float,
    taken: Taken,
) -> Answer:
    """Answer a message of a guest of `segment`, as `dhcp.answer` does."""
    if message is None:
        return Answer(Reason.MALFORMED)
    if message.kind in _OF_SERVERS:
        return Answer(Reason.ROGUE)
    service = segment.dhcp
    if not isinstance(service, Service) or not segment.has_ipv6:
        return Answer(Reason.NO_POOL)
    # Section 16: who must name a server, who must not, and who must say who it is.
    if message.kind in _NAMES_SERVER and message.server is None:
        return Answer(Reason.MALFORMED)
    if message.kind in _NAMES_NO_SERVER and message.server is not None:
        return Answer(Reason.MALFORMED)
    if message.server not in (None, dhcp6.duid(shared_mac)):
        return Answer(Reason.OTHER_SERVER)
    if message.client is None and message.kind != dhcp6.INFORMATION_REQUEST:
        return Answer(Reason.MALFORMED)
    server = _Server(segment, service, shared_mac, guest, message, leases, now, taken)
    match message.kind:
        case dhcp6.INFORMATION_REQUEST:
            return server.say(Reason.INFORMED, b"")
        case dhcp6.CONFIRM:
            return server.confirm()
    if not service.pool6.ranges and not service.pool6.reservations:
        return Answer(Reason.NO_POOL)
    match message.kind:
        case dhcp6.SOLICIT:
            return server.solicit()
        case dhcp6.REQUEST | dhcp6.RENEW | dhcp6.REBIND:
            return server.request()
        case dhcp6.RELEASE | dhcp6.DECLINE:
            return server.give_back()
    return Answer(Reason.MALFORMED)


class _Server:
    """The server, for the time of one message."""

    def __init__(
        self,
        segment: Segment,
        service: Service,
        shared_mac: Mac,
        guest: Mac,
        message: Message,
        leases: Leases,
        now: float,
        taken: Taken,
    ) -> None:
        self._segment = segment
        self._service = service
        self._mac = shared_mac
        self._guest = guest
        self._message = message
        self._leases = leases
        self._now = now
        self._taken = taken
        self._client = Client(guest)

    def solicit(self) -> Answer:
        """Offer an address (section 18.3.1)."""
        if not self._message.ias:
            return Answer(Reason.MALFORMED)
        offered = self._offer(self._message.ias[0])
        if offered is None:
            # Section 18.3.9: said of each IA_NA, and not of the message as in RFC 3315, so that the
            # client may still take the other things that it is told.
            ias = self._message.ias[:4]
            nothing = b"".join(self._status(one, dhcp6.NO_ADDRESSES) for one in ias)
            return self.say(Reason.EXHAUSTED, nothing, kind=dhcp6.ADVERTISE)
        given = self._ias(offered.address, self._service.lease_time, dhcp6.NO_ADDRESSES)
        return self.say(Reason.OFFERED, given, kind=dhcp6.ADVERTISE)

    def request(self) -> Answer:
        """Give, give longer, or refuse (sections 18.3.2, 18.3.4 and 18.3.5)."""
        if not self._message.ias:
            return Answer(Reason.MALFORMED)
        first = self._message.ias[0]
        is_new = self._message.kind == dhcp6.REQUEST
        wanted = first.addresses[0] if first.addresses else None
        if is_new and (wanted is None or not self._service.pool6.has(wanted, self._client)):
            offered = self._offer(first)
            wanted = None if offered is None else offered.address
        grant = None
        if wanted is not None:
            grant = self._leases.grant(
                self._segment.vni,
                self._service.pool6,
                self._client,
                wanted,
                self._service.lease_time,
                self._now,
                self._taken,
            )
        if grant is None:
            return self._refuse(first, is_new)
        seconds = int(grant.lease.expires - self._now)
        others = dhcp6.NO_ADDRESSES if is_new else dhcp6.NO_BINDING
        given = self._ias(grant.lease.address, seconds, others)
        return self.say(Reason.ACKED, given, bound=grant.lease, ended=grant.ended)

    def _refuse(self, first: Ia, is_new: bool) -> Answer:
        """Take away what the client believes to have, so that it asks anew."""
        if is_new:
            return self.say(Reason.REFUSED, self._status(first, dhcp6.NO_ADDRESSES))
        if not first.addresses:
            return self.say(Reason.REFUSED, self._status(first, dhcp6.NO_BINDING))
        gone = b"".join(dhcp6.address(one, 0) for one in first.addresses)
        return self.say(Reason.REFUSED, dhcp6.ia(first.number, 0, 0, gone))

    def confirm(self) -> Answer:
        """Say whether addresses are of this link (section 18.3.3)."""
        named = [one for ia in self._message.ias for one in ia.addresses]
        if not named:
            return Answer(Reason.STRANGER)
        if all(self._segment.gateway_for(one) is not None for one in named):
            return self.say(Reason.INFORMED, dhcp6.status(dhcp6.SUCCESS))
        return self.say(Reason.REFUSED, dhcp6.status(dhcp6.NOT_ON_LINK))

    def give_back(self) -> Answer:
        """Take an address back, or out of use (sections 18.3.7 and 18.3.8)."""
        declines = self._message.kind == dhcp6.DECLINE
        said = dhcp6.status(dhcp6.SUCCESS)
        for one in self._message.ias:
            lease = self._own(one, (State.BOUND, State.OFFERED) if declines else (State.BOUND,))
            if lease is not None and declines:
                self._leases.decline(lease, self._now)
                return self.say(Reason.DECLINED, said, ended=lease)
            if lease is not None:
                self._leases.release(lease, self._now)
                return self.say(Reason.RELEASED, said, ended=lease)
        said += b"".join(self._status(one, dhcp6.NO_BINDING) for one in self._message.ias[:4])
        return self.say(Reason.NOT_ITS_OWN, said)

    def _own(self, ia: Ia, states: tuple[State, ...]) -> Lease | None:
        for address in ia.addresses:
            lease = self._leases.get(self._segment.vni, address)
            if lease is not None and lease.client == self._client and lease.state in states:
                return lease
        return None

    def _offer(self, ia: Ia) -> Lease | None:
        wanted = ia.addresses[0] if ia.addresses else None
        pool = self._service.pool6
        return self._leases.offer(
            self._segment.vni, pool, self._client, wanted, self._now, self._taken
        )

    def _ias(self, address: bytes, seconds: int, others: int) -> bytes:
        """Write the first IA_NA with its address, and the others with none; a few of them."""
        first, *more = self._message.ias[:4]
        inside = dhcp6.address(address, seconds)
        # What the client named instead, it is not to use (section 18.3.4).
        inside += b"".join(dhcp6.address(one, 0) for one in first.addresses[:4] if one != address)
        given = dhcp6.ia(first.number, seconds // 2, seconds * 4 // 5, inside)
        return given + b"".join(self._status(one, others) for one in more)

    @staticmethod
    def _status(ia: Ia, code: int) -> bytes:
        return dhcp6.ia(ia.number, 0, 0, dhcp6.status(code))

    def say(
        self,
        reason: Reason,
        options: bytes,
        *,
        kind: int = dhcp6.REPLY,
        bound: Lease | None = None,
        ended: Lease | None = None,
    ) -> Answer:
        """Answer with these options and what every client is told."""
        if self._service.dns6:
            options += dhcp6.option(dhcp6.DNS, b"".join(self._service.dns6))
        if self._service.domain:
            options += dhcp6.domains(self._service.domain)
        frame = dhcp6.reply(self._message, kind, self._guest, self._mac, options)
        return Answer(reason, frame, bound, ended)
