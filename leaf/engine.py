"""The leaf's engine: carries out the router's verdicts on what the tunnel has received.

It is told when the tunnel is readable and when a deadline has come; it never waits. The tunnel
comes in from outside, so a test runs the same engine on the memory twin and a virtual clock.

A train is decided once and edited in place: a packet that is forwarded is never copied or parsed.
"""

from __future__ import annotations

from collections.abc import Callable

from vswitch.phy.tunnel import BUDGET, Inbox, Train, Tunnel
from vswitch.service.policer import Policer
from vswitch.wire import vnet, vxlan
from vswitch.wire.vxlan import VXLAN_LEN, Vtep

from .bindings import Bindings, Timers
from .leases import Leases
from .limits import Limits
from .punt import Send
from .relay import Reason as Relayed
from .relayer import ToServer
from .rewrite import Rewriter
from .router import Reason, Router, Verdict
from .slowpath import SlowPath
from .topology import Topology

PUNTED = frozenset(
    {
        Reason.ARP,
        Reason.ND,
        Reason.RARP,
        Reason.DHCP,
        Reason.GATEWAY,
        Reason.EXPIRED,
        Reason.NO_ROUTE,
        Reason.GLEAN,
    }
)
"""The reasons that the slow path takes up."""


class Engine:
    """One leaf."""

    def __init__(
        self,
        topology: Topology,
        tunnel: Tunnel,
        clock: Callable[[], float],
        *,
        timers: Timers,
        limits: Limits,
        max_bindings: int,
        leases: Leases | None = None,
        fragments: bool = False,
        on_failure: Callable[[Exception], None] = lambda error: None,
        notice: Callable[[str], None] = lambda said: None,
    ) -> None:
        """`fragments`: IPv4 that does not fit and may be fragmented is, instead of being dropped.
        `notice` is told of the underlay what does not fit it, configured or taken for granted."""
        self.router = Router(topology)
        bindings = Bindings(timers, max_bindings)
        self.slowpath = SlowPath(
            topology, self.router, bindings, limits, on_failure, leases, fragments=fragments
        )
        self.tunnel = tunnel
        self.ask_server: Callable[[ToServer], bool] = lambda datagram: False
        """Sends a datagram to a DHCP server; False where that failed. The shell has the sockets."""
        self.counts = dict.fromkeys(Reason, 0)
        self.send_failed = self.multicast_policed = self.multicast_copies = 0
        self._multicast = Policer(limits.multicast, limits.multicast)
        self._clock = clock
        self._notice = notice
        self._inbox = Inbox()
        self._rewriter = Rewriter()

    def pump_tunnel(self, lane: int = 0, drain: bool = True) -> None:
        """Take what a lane of the tunnel has received, or only the first of it, and carry out its
        verdicts, a train at a time."""
        inbox = self._inbox
        self.tunnel.read(inbox, lane, BUDGET if drain else 1)
        now = self._clock()
        try:
            for train in inbox.trains:
                self._take(train, now)
        finally:
            # Whatever went wrong: what is held back lies in slots that the next read fills.
            self.send_failed += self.tunnel.flush()

    def _take(self, train: Train, now: float) -> None:
        """Decide on a train, and carry it out."""
        verdict = self.router.decide(train.source, train.data[: train.size])
        self.counts[verdict.reason] += train.datagrams
        if verdict.vtep is not None:
            self._forward(verdict, verdict.vtep, train, now)
        elif verdict.reason in PUNTED:
            self._punt(verdict, train, now)
        elif verdict.reason is Reason.MULTICAST_REPLICATED:
            self._replicate(verdict, train, now)

    def _punt(self, verdict: Verdict, train: Train, now: float) -> None:
        """Hand the slow path as many packets of a train as it lets in. A super-frame of which that
        is none is not even cut."""
        source = train.source
        admitted = self.slowpath.admit(verdict.reason, source, train.data, train.datagrams, now)
        if admitted:
            packets = self._complete(train)[:admitted]
            self.send(self.slowpath.handle(verdict, source, packets, now))
            self._ask_servers()

    def _forward(self, verdict: Verdict, vtep: Vtep, train: Train, now: float) -> None:
        room = self.tunnel.room.get(vtep, train.size)
        if train.size > room and not vnet.can_be_cut_to(train.header, room - VXLAN_LEN):
            packets = self._complete(train)
            if packets:
                self.send(self.slowpath.too_big(verdict, train.source, packets, room, now))
            return
        flow = vxlan.flow_hash(train.data[VXLAN_LEN : train.size])
        self._rewriter.rewrite(train, verdict)
        self._send_train(vtep, flow, train)

    def _complete(self, train: Train) -> list[memoryview]:
        """Return the packets of a train as the slow path sees them."""
        packets = train.complete_packets()
        if not packets:
            self.tunnel.faults["uncuttable"] += 1
        return packets

    def _send_train(self, vtep: Vtep, flow: int, train: Train) -> None:
        if train.header is vnet.PLAIN:
            sent = self.tunnel.send_train(vtep, flow, train.data, train.size)
        else:
            sent = self.tunnel.send(vtep, flow, train.data, train.header)
        if not sent:
            self.send_failed += 1

    def _replicate(self, verdict: Verdict, train: Train, now: float) -> None:
        """One copy to each other vswitch that has guests of the segment, as it is."""
        assert verdict.segment is not None
        vni = verdict.segment.vni
        datagrams = train.datagrams
        if not self._multicast.take(vni, now, datagrams):
            self.multicast_policed += datagrams
            return
        flow = vxlan.flow_hash(train.data[VXLAN_LEN : train.size])
        for vtep in self.slowpath.bindings.vteps(vni):
            if vtep == train.source:
                continue
            self.multicast_copies += datagrams
            self._send_train(vtep, flow, train)

    def _ask_servers(self) -> None:
        """Send what the relay has for its servers."""
        relayer = self.slowpath.relayer
        for datagram in relayer.outbox:
            if not self.ask_server(datagram):
                relayer.counts[Relayed.SEND_FAILED] += 1
        relayer.outbox.clear()

    def from_server(self, server: bytes, payload: bytes) -> None:
        """Take what a DHCP server has sent to our relay address."""
        now = self._clock()
        self.send(self.slowpath.from_server(server, payload, self.tunnel.room, now))

    def send(self, sends: list[Send]) -> None:
        """Send what the slow path has to say."""
        for vtep, packet in sends:
            if not self.tunnel.send(vtep, vxlan.flow_hash(packet[VXLAN_LEN:]), packet):
                self.send_failed += 1
        self.send_failed += self.tunnel.flush()

    def tick(self, now: float) -> None:
        """Do what is due by `now`."""
        self.send(self.slowpath.tick(now))
        self.send_failed += self.tunnel.flush()

    def deadline(self) -> float | None:
        """Say when `tick` wants to be called next."""
        return self.slowpath.deadline()

    def measure(self) -> None:
        """Look at the room on the way to all peers, which may change at any time; guests are told
        of it."""
        self.tunnel.measure(self.router.peers)
        self.slowpath.measured(self.tunnel.room, self._clock())
        for said in self.slowpath.mtus.complaints():
            self._notice(said)
