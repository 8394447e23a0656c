"""Where every guest is: the bindings, and for each the host route that packets are forwarded by.

The bindings (`bindings.py`) are what is known, the router's FIB is what is looked up per packet.
They are two tables, and only here does either change, so that they always say the same: what news
binds has a host route, and what is withdrawn, forgotten or expired has none. Nothing is sent from
here; whoever brings the news also says what else comes of it (`discovery.py`).

No I/O; time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable

from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni, Vtep

from .bindings import Binding, Bindings, News, Outcome, State
from .leases import Lease
from .router import Router
from .topology import Segment, Topology


class HostRoutes:
    """The bindings of one leaf, and their host routes."""

    def __init__(self, router: Router, bindings: Bindings) -> None:
        self.bindings = bindings
        """For looking up. They are changed by the verbs below, except when to probe."""
        self.counts = dict.fromkeys(Outcome, 0)
        self._router = router

    # -- news ----------------------------------------------------------------------------------

    def learn(
        self,
        segment: Segment,
        address: bytes,
        mac: Mac,
        vtep: Vtep,
        now: float,
        *,
        sequence: int | None = None,
        configured: bool = False,
    ) -> News:
        """Take in that `address` is at `mac` behind `vtep`."""
        news = self.bindings.learn(
            segment.vni, address, mac, vtep, now, sequence=sequence, configured=configured
        )
        return self._bind(segment, news)

    def arrived(self, segment: Segment, mac: Mac, vtep: Vtep, now: float) -> News:
        """Take in that a MAC is behind `vtep` now, with all its addresses."""
        return self._bind(segment, self.bindings.arrived(segment.vni, mac, vtep, now))

    def refused(self) -> None:
        """Count news of an address that is, by DHCP, another guest's: it stays where it is, as a
        configured one does."""
        self.counts[Outcome.PINNED] += 1

    def _bind(self, segment: Segment, news: News) -> News:
        self.counts[news.outcome] += 1
        for binding in news.changed:
            self._router.bind(segment, binding)
        return news

    def withdraw(self, segment: Segment, mac: Mac, vtep: Vtep, sequence: int | None = None) -> News:
        """Take in that a MAC has left a VTEP."""
        news = self.bindings.withdraw(segment.vni, mac, vtep, sequence=sequence)
        self.counts[news.outcome] += 1
        for binding in news.changed:
            self._unbind(binding)
        return news

    def forget(self, bindings: Iterable[Binding]) -> None:
        """Remove bindings that are not wanted any more."""
        for binding in bindings:
            self.bindings.forget(binding)
            self._unbind(binding)

    def end_lease(self, lease: Lease) -> None:
        """The binding that a lease has made ends with it; whoever goes on using the address is
        learnt again when it next speaks."""
        bound = self.bindings.get(lease.segment, lease.address)
        if (
            bound is not None
            and bound.mac == lease.client.mac
            and bound.state is not State.CONFIGURED
        ):
            self.forget([bound])

    def _unbind(self, binding: Binding) -> None:
        segment = self._router.segment(binding.segment)
        if segment is not None:  # Else the host route has gone with the segment.
            self._router.unbind(segment, binding.address)

    # -- questions -----------------------------------------------------------------------------

    def place(self, vni: Vni, mac: Mac) -> Vtep | None:
        """Say where a guest is, as far as its bindings tell."""
        known = self.bindings.of_mac(vni, mac)
        return known[0].vtep if known else None

    # -- topology and time ---------------------------------------------------------------------

    def replace_topology(self, topology: Topology) -> list[Binding]:
        """Route by a new topology; keep the bindings that have a place in it, return the others."""
        self._router.set_topology(topology)
        lost = []
        for binding in self.bindings.all():
            segment = self._router.segment(binding.segment)
            if (
                segment is not None
                and binding.vtep in segment.vteps
                and segment.gateway_for(binding.address) is not None
                and not segment.is_gateway(binding.address)
            ):
                self._router.bind(segment, binding)
            else:
                self.bindings.forget(binding)
                lost.append(binding)
        return lost

    def due(self, now: float) -> list[Binding]:
        """Give up the bindings that have been silent for too long by `now`; return those that are
        to be asked whether they are still there. Call it at `deadline`."""
        due = self.bindings.due(now)
        for binding in due.expired:
            self.counts[Outcome.EXPIRED] += 1
            self._unbind(binding)
        return due.probe

    def deadline(self) -> float | None:
        """Say when `due` has something to do."""
        return self.bindings.deadline()
