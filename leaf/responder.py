"""The DHCP server of a leaf: the rules of both families, with what they need besides a message.

The counterpart of the relayer, for segments whose addresses the leaf gives out itself. A core
without I/O, but for the leases, which their store commits before a promise is made. Guests are
policed before they come here. What is policed here is how often the file of leases is written: in
all, with a part kept for segments that seldom have it written, and for one guest, so that none of
them takes what all have to share. Only a write counts: a message that changes no lease, such as a
request for another server's offer, delays nobody.
"""

from __future__ import annotations

from collections.abc import Callable

from vswitch.service.policer import Policer
from vswitch.wire import dhcp as wire_dhcp
from vswitch.wire import dhcp6 as wire_dhcp6
from vswitch.wire import ethernet
from vswitch.wire.ethernet import Buffer, Mac
from vswitch.wire.vxlan import Vni

from . import dhcp, dhcp6
from .dhcp import Answer, Reason
from .gate import Common
from .leases import Leases, Refused, State, Taken
from .topology import Segment, Service

GUEST_COMMITS, GUEST_COMMITS_AT_ONCE = 1.0, 4.0
"""Writes a second for one guest, and at once. One that starts takes one in each family, and two
more for each address that it finds in use; then one in every half lease time."""


class Responder:
    """One leaf's DHCP server."""

    def __init__(
        self, leases: Leases, commit_rate: float, on_failure: Callable[[Exception], None]
    ) -> None:
        """`commit_rate` is the writes of leases a second, over all guests (`gate.Common`).
        `on_failure` is told why leases could not be written."""
        self.leases = leases
        self.counts = dict.fromkeys(Reason, 0)
        self._commits = Common(commit_rate)
        self._guest_commits = Policer(GUEST_COMMITS, GUEST_COMMITS_AT_ONCE)
        leases.may_write = self._may_write
        self._on_failure = on_failure

    def answer(
        self,
        segment: Segment,
        shared_mac: Mac,
        frame: Buffer,
        now: float,
        taken: Taken,
        mtu: int | None,
    ) -> Answer:
        """Answer a guest's message. `taken` says whether an address is bound to another MAC than
        the guest's, `mtu` is what guests are told fits."""
        answer = self._answer(segment, shared_mac, frame, now, taken, mtu)
        self.counts[answer.reason] += 1
        return answer

    def is_anothers(self, segment: Segment, address: bytes, mac: Mac, now: float) -> bool:
        """Say whether an address is leased to, or reserved for, another guest than `mac`: whoever
        announces it by ARP or ND is not believed, or one frame would take it from its owner for as
        long as the announcer likes."""
        service = segment.dhcp
        if not isinstance(service, Service):
            return False
        lease = self.leases.get(segment.vni, address)
        if lease is not None and lease.state is State.BOUND and lease.expires > now:
            return lease.client.mac != mac
        pool = service.pool if len(address) == 4 else service.pool6
        return address in pool.reserved and pool.reservations.get(mac) != address

    def _answer(
        self,
        segment: Segment,
        shared_mac: Mac,
        frame: Buffer,
        now: float,
        taken: Taken,
        mtu: int | None,
    ) -> Answer:
        mac, leases = Mac(bytes(frame[6:12])), self.leases
        try:
            if frame[12] << 8 | frame[13] == ethernet.IPV4:
                message = wire_dhcp.parse(frame)
                return dhcp.answer(segment, shared_mac, mac, message, leases, now, taken, mtu)
            message6 = wire_dhcp6.parse(frame)
            return dhcp6.answer(segment, shared_mac, mac, message6, leases, now, taken)
        except Refused:
            # The client asks again; a lease that it meant to give back ends in its time.
            return Answer(Reason.POLICED)
        except Exception as error:
            # A full disk, most likely. Nothing has been promised, and the client asks again.
            self._on_failure(error)
            return Answer(Reason.FAILED)

    def _may_write(self, segment: Vni, mac: Mac, now: float) -> bool:
        """Say whether the leases of a guest may be written. It is known here by what its leases
        know it by, wherever it is: whoever can forge that can do worse than use up its rate."""
        return self._guest_commits.take((segment, mac), now) and self._commits.take(segment, now)
