"""The relay of a leaf: the rules of both families, with what they need besides a message.

A core without I/O: a guest's message goes in by `from_guest`, and what its servers are to be sent
lies in `outbox`, from which the engine takes it; a server's message goes in by `from_server`, and
the frames for the guest come out. What was given to guests is kept in `snooped`.

Guests are policed before they come here, with everything else that DHCP is; servers are here, each
by its address, since each lease that they give costs a binding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from vswitch.service.policer import Policer
from vswitch.wire import ethernet, pmtu
from vswitch.wire.ethernet import Buffer, Mac
from vswitch.wire.vxlan import VXLAN_LEN, Vni, Vtep

from . import relay, relay6
from .leases import Client, Lease, State
from .relay import Answered, Place, Reason
from .snoop import BELIEVED, Outcome, Snooped
from .topology import Relay, Segment


class ToServer(NamedTuple):
    """A datagram to be sent to a server, from the DHCP server port to the same."""

    relay: bytes
    """Our own address of the server's family."""
    server: bytes
    payload: bytes


class Delivery(NamedTuple):
    """What a server's message comes to."""

    segment: Segment
    vtep: Vtep
    mac: Mac
    frames: list[bytes]
    bound: list[bytes]
    """Addresses that are bindings from now on."""
    ended: list[Lease]
    """And those that are not any more."""


class Relayer:
    """One leaf's relay."""

    def __init__(self, server_rate: float) -> None:
        """`server_rate` is the messages a second of one server; as many may come at once."""
        self.counts = dict.fromkeys(Reason, 0)
        self.lease_counts = dict.fromkeys(Outcome, 0)
        self.snooped = Snooped()
        self.outbox: list[ToServer] = []
        self._policer = Policer(server_rate, server_rate)
        self._servers: frozenset[bytes] = frozenset()
        self._segments: dict[Vni, Segment] = {}

    def set_segments(self, segments: Iterable[Segment]) -> None:
        """Serve those of these segments that are relayed, and forget what was seen of others."""
        services = {one.vni: (one, one.dhcp) for one in segments if isinstance(one.dhcp, Relay)}
        self._segments = {vni: segment for vni, (segment, _) in services.items()}
        self._servers = frozenset(
            one for _, service in services.values() for one in service.servers
        )
        self.snooped.retain(self._segments)

    def from_guest(
        self, segment: Segment, service: Relay, source: Vtep, frame: Buffer, now: float
    ) -> list[Lease] | None:
        """Pass on a guest's message. Return what it has given back; None where it goes nowhere."""
        is_ipv4 = frame[12] << 8 | frame[13] == ethernet.IPV4
        asked = (relay if is_ipv4 else relay6).ask(segment, service, source, frame)
        self.counts[asked.reason] += 1
        own = service.address if is_ipv4 else service.address6
        if asked.payload is None or own is None:
            return None
        servers = (one for one in service.servers if len(one) == len(own))
        self.outbox += [ToServer(own, one, asked.payload) for one in servers]
        mac = Mac(bytes(frame[6:12]))
        # Whether we have seen the lease or not, perhaps because another leaf has: the guest says
        # that it does not use the address.
        for address in asked.returned:
            if self.snooped.returned(segment.vni, address, mac):
                self.lease_counts[Outcome.RETURNED] += 1
        return [Lease(segment.vni, one, Client(mac), State.FREE, now) for one in asked.returned]

    def from_server(
        self, server: bytes, payload: bytes, room: Mapping[Vtep, int], now: float, place: Place
    ) -> Delivery | None:
        """Take in a message from the address `server`. `room` says what fits into the tunnel to
        each VTEP, as far as that is known."""
        if server not in self._servers:
            self.counts[Reason.NOT_A_SERVER] += 1
            return None
        if not self._policer.take(server, now):
            self.counts[Reason.SERVER_POLICED] += 1
            return None
        rules = relay if len(server) == 4 else relay6
        answered = rules.answer(self._segments, server, payload, place)
        if answered.segment is None:
            self.counts[answered.reason] += 1
            return None
        frames = _fitting(answered.frame, room.get(answered.vtep))
        self.counts[answered.reason if frames else Reason.TOO_BIG] += 1
        # What does not reach the guest it does not have.
        bound, ended = self._snoop(answered.segment, answered, now) if frames else ([], [])
        return Delivery(answered.segment, answered.vtep, answered.mac, frames, bound, ended)

    def _snoop(
        self, segment: Segment, answered: Answered, now: float
    ) -> tuple[list[bytes], list[Lease]]:
        bound, ended = [], []
        for address, seconds in answered.given:
            outcome = self.snooped.given(segment, address, answered.mac, seconds, now)
            self.lease_counts[outcome] += 1
            if outcome in BELIEVED:
                bound.append(address)
            elif outcome is Outcome.TAKEN_AWAY:
                ended.append(Lease(segment.vni, address, Client(answered.mac), State.FREE, now))
        return bound, ended

    def due(self, now: float) -> list[Lease]:
        """Return leases that have expired by `now`; call it at `deadline`."""
        ended = self.snooped.due(now)
        self.lease_counts[Outcome.EXPIRED] += len(ended)
        return ended

    def deadline(self) -> float | None:
        """Say when `due` has something to do."""
        return self.snooped.deadline()


def _fitting(frame: bytes, room: int | None) -> list[bytes]:
    """Cut a frame to what fits into its tunnel; nothing where that may not be."""
    if room is None or len(frame) + VXLAN_LEN <= room:
        return [frame]
    return pmtu.fragments(frame, room - VXLAN_LEN - ethernet.HEADER_LEN) or []
