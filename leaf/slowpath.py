"""The slow path: all that the leaf answers, asks and learns.

The engine forwards; what the router only names (ARP, ND, RARP, DHCP, ICMP, gleaning) comes here,
behind token buckets for guests and VTEPs (`gate.py`), so that a guest that floods starves neither
forwarding nor other guests. What guests are known by (ARP, ND, RARP, DHCP) has buckets of its own:
no flood of other packets makes a guest lose its bindings.

This is a core without I/O (but for the leases, which their store commits): input with the time goes
in (`handle`, `from_server`, `tick`), packets to be sent come out, `deadline` says when it wants to
be woken. What DHCP servers are to be sent lies in the relayer's outbox. It alone changes bindings,
and carries every change over into the router's FIB.

Both families go the same way: only the reading and building of messages differs, in `gateway.py`.
What hostile input makes a parser raise is caught here and counted, and never ends more than the one
packet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from vswitch.service.policer import Policer
from vswitch.wire import arp, ethernet, ipv4, ipv6, nd, pmtu, vxlan
from vswitch.wire.ethernet import Mac
from vswitch.wire.neighbour import Message
from vswitch.wire.vxlan import VXLAN_LEN, Vni, Vtep

from . import dhcp, gateway, icmp, relay
from . import neighbour as rules
from .advertise import Advertiser, last_words
from .bindings import Binding, Bindings, News, Outcome, State
from .conflict import Conflicts
from .gate import Common, Entry, Gate, Guest
from .glean import QUESTIONS, Failed, Gleaner, Held, Key
from .glean import Outcome as GleanOutcome
from .leases import Lease, Leases
from .mtu import Mtus
from .relayer import Relayer
from .responder import Responder
from .rewrite import rewrite
from .router import Reason, Router, Verdict
from .topology import Relay, Segment, Topology

EVENTS = {
    "punts_policed": "packets for the slow path beyond the rate of their VTEP",
    "guests_policed": "packets for the slow path beyond the rate of their guest",
    "punts_failed": "packets on which the slow path failed",
    "rarp_malformed": "RARPs that are none, or of a sender that is not the frame's source",
    "icmp_sent": "ICMP answers and errors sent",
    "icmp_policed": "ICMP answers and errors beyond the rate of their VTEP or guest",
    "too_big": "packets that do not fit into the tunnel",
    "fragmented": "of these, those that went on in fragments",
    "fragments_policed": "of these, those that might have, beyond the rate of their VTEP",
    "icmp_silent": "packets about which no ICMP may be or could be sent",
    "arp_answers": "ARP answers sent",
    "arp_questions": "ARP questions sent, to glean and to confirm",
    "nd_answers": "neighbour advertisements sent",
    "nd_questions": "neighbour solicitations sent, to glean and to confirm",
    "router_advertisements": "router advertisements sent",
    "router_last_words": "router advertisements of what a reload has taken back",
    "router_malformed": "router solicitations that are not sound",
    "router_rogue": "router advertisements and redirects of guests, which end here",
    "released": "held packets that went on",
}


class Send(NamedTuple):
    """A packet to be sent."""

    vtep: Vtep
    packet: bytes


class Limits(NamedTuple):
    """Rates per second; each may also come at once, and half of what all segments share."""

    punts: float = 2000.0
    """Packets per VTEP, of ARP, ND, RARP and DHCP, and as many of all else. At 30 us each that is
    6 % of a core, twice."""
    icmp: float = 500.0
    """ICMP answers and errors per VTEP; a guest has as many of them as `guest_punts`."""
    gleans: float = 500.0
    """New addresses asked for, over all; and no more questions than `questions`. Of both, half is
    kept for segments that ask for little (`gate.py`)."""
    multicast: float = 1000.0
    """Packets to replicate, per segment, before they are copied."""
    guest_punts: float = 200.0
    """Packets per guest, of each of the two kinds. Ten guests that flood use up what is not kept
    for those that say little (`gate.py`)."""
    guest_gleans: float = 50.0
    """New addresses that one guest may have asked for; each keeps a place for three seconds, so
    that one that scans takes a seventh of what its segment may have."""
    guest_dhcp: float = 10.0
    """DHCP messages per guest; a client sends four, then two in every half lease time."""
    dhcp_commits: float = 25.0
    """Writes of the leases, over all; `responder.py` limits those of one guest. Each holds the loop
    for the time of a disk's sync, 4 ms where it was measured: a tenth of it. A rack whose guests
    all start at once takes that much longer; their clients ask again."""
    server_dhcp: float = 500.0
    """Messages of one DHCP server, where they are relayed; each that gives a lease makes a binding.
    A server answers a guest as often as it asks, so only one that fails sends more."""
    questions: float = 10_000.0
    """Questions to glean, over all: one for each vswitch of the segment, three times. At 10 us each
    that is 10 % of a core. A guest may cause a tenth of them."""


def _destination(packet: memoryview | bytes) -> bytes:
    """Return the IP destination of a sound packet."""
    if packet[VXLAN_LEN + 12] << 8 | packet[VXLAN_LEN + 13] == ethernet.IPV6:
        at = VXLAN_LEN + ipv6.DESTINATION_AT
        return bytes(packet[at : at + 16])
    at = VXLAN_LEN + ipv4.DESTINATION_AT
    return bytes(packet[at : at + 4])


def _sender(packet: memoryview | bytes) -> bytes:
    """Return the IP source of a sound packet; of others something, and raise nothing."""
    if int.from_bytes(packet[VXLAN_LEN + 12 : VXLAN_LEN + 14], "big") == ethernet.IPV6:
        return bytes(packet[VXLAN_LEN + ipv6.SOURCE_AT : VXLAN_LEN + ipv6.DESTINATION_AT])
    return bytes(packet[VXLAN_LEN + ipv4.SOURCE_AT : VXLAN_LEN + ipv4.DESTINATION_AT])


_ABOUT_GUESTS = frozenset({Reason.ARP, Reason.ND, Reason.RARP, Reason.DHCP})
"""What bindings and leases are learnt and kept by."""


class SlowPath:
    """What the leaf knows and says beyond forwarding."""

    def __init__(
        self,
        topology: Topology,
        router: Router,
        bindings: Bindings,
        limits: Limits,
        on_failure: Callable[[Exception], None] = lambda error: None,
        leases: Leases | None = None,
        *,
        fragments: bool = False,
    ) -> None:
        """`on_failure` is told of what a packet made us raise, before that is counted.
        `fragments`: IPv4 that does not fit and may be fragmented is, instead of being dropped."""
        self.bindings = bindings
        self.gleaner = Gleaner()
        self.arp_counts = dict.fromkeys(rules.Reason, 0)
        self.nd_counts = dict.fromkeys(rules.Reason, 0)
        self.binding_counts = dict.fromkeys(Outcome, 0)
        self.responder = Responder(
            Leases() if leases is None else leases, limits.dhcp_commits, on_failure
        )
        self.relayer = Relayer(limits.server_dhcp)
        self.relayer.set_segments(topology.segments)
        self.glean_counts = dict.fromkeys(GleanOutcome, 0)
        self.events = dict.fromkeys(EVENTS, 0)
        self._router = router
        self._topology = topology
        self._segments = {segment.vni: segment for segment in topology.segments}
        self._about_guests = Gate(limits.punts, limits.guest_punts)
        self._punts = Gate(limits.punts, limits.guest_punts)
        self._icmp = Gate(limits.icmp, limits.guest_punts)
        self._cuts = Policer(limits.punts, limits.punts)
        self._fragments = fragments
        self._gleans = Common(limits.gleans)
        self._guest_gleans = Policer(limits.guest_gleans, limits.guest_gleans)
        self._questions = Common(limits.questions)
        self._guest_questions = Policer(limits.questions / 10, limits.questions / 10)
        self._guest_dhcp = Policer(limits.guest_dhcp, limits.guest_dhcp)
        self._on_failure = on_failure
        self._conflicts = Conflicts()
        self._advertiser = Advertiser()
        self.mtus = Mtus(topology.segments)

    # -- packets -------------------------------------------------------------------------------

    def handle(
        self, verdict: Verdict, source: Vtep, packet: memoryview | bytes, now: float
    ) -> list[Send]:
        """Do what the router's verdict about a packet from `source` calls for."""
        gate = self._about_guests if verdict.reason in _ABOUT_GUESTS else self._punts
        entry = gate.enter(self._guest(source, packet), now)
        if entry is not Entry.GRANTED:
            self.events["guests_policed" if entry is Entry.GUEST else "punts_policed"] += 1
            return []
        try:
            return self._dispatch(verdict, source, packet, now)
        except Exception as error:
            # Whatever is raised on hostile input ends this packet and nothing else.
            self._on_failure(error)
            self.events["punts_failed"] += 1
            return []

    def _guest(self, source: Vtep, packet: memoryview | bytes) -> Guest:
        """Name the guest that sent a packet: its MAC behind its VTEP. What another leaf has routed
        has that leaf's MAC; there it is the IP address."""
        if source in self._topology.remote_leaves:
            return source, _sender(packet)
        return source, bytes(packet[VXLAN_LEN + 6 : VXLAN_LEN + 12])

    def _dispatch(
        self, verdict: Verdict, source: Vtep, packet: memoryview | bytes, now: float
    ) -> list[Send]:
        match verdict.reason:
            case Reason.ARP:
                assert verdict.segment is not None
                return self._on_neighbour(self.arp_counts, verdict.segment, source, packet, now)
            case Reason.ND:
                assert verdict.segment is not None
                return self._on_nd(verdict.segment, source, packet, now)
            case Reason.RARP:
                assert verdict.segment is not None
                return self._on_rarp(verdict.segment, source, packet, now)
            case Reason.DHCP:
                assert verdict.segment is not None
                return self._on_dhcp(verdict.segment, source, packet, now)
            case Reason.GATEWAY | Reason.EXPIRED | Reason.NO_ROUTE:
                return self._say(verdict.reason, source, packet, now)
            case Reason.GLEAN:
                return self._glean(verdict, source, packet, now)
        return []

    def _on_nd(
        self, segment: Segment, source: Vtep, packet: memoryview | bytes, now: float
    ) -> list[Send]:
        frame = packet[VXLAN_LEN:]
        kind = nd.kind_of(frame)
        if kind in (nd.SOLICITATION, nd.ADVERTISEMENT):
            return self._on_neighbour(self.nd_counts, segment, source, packet, now)
        if kind != nd.ROUTER_SOLICITATION:
            self.events["router_rogue"] += 1
            return []
        if not nd.is_sound_router_solicitation(frame):
            self.events["router_malformed"] += 1
            return []
        return self._advertise_to(segment, source, Mac(bytes(frame[6:12])))

    def _on_neighbour(
        self,
        counts: dict[rules.Reason, int],
        segment: Segment,
        source: Vtep,
        packet: memoryview | bytes,
        now: float,
    ) -> list[Send]:
        frame = packet[VXLAN_LEN:]
        message = gateway.read(frame)
        verdict = rules.decide(
            segment,
            source,
            Mac(bytes(frame[:6])),
            Mac(bytes(frame[6:12])),
            message,
            lambda address: self.bindings.get(segment.vni, address),
        )
        counts[verdict.reason] += 1
        if message is None or verdict.reason not in rules.BELIEVED:
            return []
        sends = self._learn_sender(segment, source, message, now)
        if verdict.reason in rules.ANSWERED:
            answer = gateway.answer(segment, segment.vteps[source], message, verdict.reason)
            sends.append(self._say_to(segment, source, message.target_ip, "answers", answer))
        elif verdict.reason is rules.Reason.UNKNOWN:
            sends += self._want((segment.vni, message.target_ip), source, packet, None, now)
        elif verdict.reason is rules.Reason.CONFLICT and verdict.bound is not None:
            self._conflicts.wait(segment.vni, message.target_ip, source, message.sender_mac, now)
            self.bindings.probe_now(verdict.bound, now)
        return sends

    def _learn_sender(
        self, segment: Segment, source: Vtep, message: Message, now: float
    ) -> list[Send]:
        """A believed sender is where it speaks from; so are all other addresses of its MAC."""
        mac, address = message.sender_mac, message.sender_ip
        if not any(address):
            self._apply(self.bindings.arrived(segment.vni, mac, source, now))
            return []
        if self.responder.is_anothers(segment, address, mac, now):
            self.binding_counts[Outcome.PINNED] += 1
            return []
        return self.learn(segment, address, mac, source, now)

    def _on_rarp(
        self, segment: Segment, source: Vtep, packet: memoryview | bytes, now: float
    ) -> list[Send]:
        frame = packet[VXLAN_LEN:]
        message = arp.parse(frame)
        if message is None or message.sender_mac != bytes(frame[6:12]):
            self.events["rarp_malformed"] += 1
            return []
        self._apply(self.bindings.arrived(segment.vni, message.sender_mac, source, now))
        # It has just become active: it need not wait for the next periodic advertisement.
        return self._advertise_to(segment, source, message.sender_mac)

    def _on_dhcp(
        self, segment: Segment, source: Vtep, packet: memoryview | bytes, now: float
    ) -> list[Send]:
        frame = packet[VXLAN_LEN:]
        mac = Mac(bytes(frame[6:12]))
        if isinstance(segment.dhcp, Relay):
            self._relay(segment, segment.dhcp, source, frame, now)
            return []
        if not self._guest_dhcp.take((source, mac), now):
            self.responder.counts[dhcp.Reason.POLICED] += 1
            return []

        def taken(address: bytes) -> bool:
            bound = self.bindings.get(segment.vni, address)
            return bound is not None and bound.mac != mac

        shared_mac, mtu = segment.vteps[source].shared_mac, self.mtus.leased(segment)
        answer = self.responder.answer(segment, shared_mac, frame, now, taken, mtu)
        if answer.ended is not None:
            self._end_lease(answer.ended)
        sends = []
        if answer.bound is not None:
            sends += self.learn(segment, answer.bound.address, mac, source, now)
        if answer.frame is not None:
            sends.append(Send(source, vxlan.header(segment.vni) + answer.frame))
        return sends

    def _relay(
        self,
        segment: Segment,
        service: Relay,
        source: Vtep,
        frame: memoryview | bytes,
        now: float,
    ) -> None:
        """Pass a guest's DHCP message on; what is to be sent lies in the relayer's outbox."""
        mac = Mac(bytes(frame[6:12]))
        if not self._guest_dhcp.take((source, mac), now):
            self.relayer.counts[relay.Reason.POLICED] += 1
            return
        returned = self.relayer.from_guest(segment, service, source, frame, now)
        if returned is None:
            return
        # The answer comes in its own time, and goes to where the guest is known to be by then.
        self._apply(self.bindings.arrived(segment.vni, mac, source, now))
        for lease in returned:
            self._end_lease(lease)

    def from_server(
        self, server: bytes, payload: bytes, room: Mapping[Vtep, int], now: float
    ) -> list[Send]:
        """Deliver what a DHCP server has sent to our relay address, and bind what it has given.

        `room` says how long a packet may be on the way to each VTEP, as far as that is known.
        """
        try:
            told = self.relayer.from_server(server, payload, room, now, self._place)
        except Exception as error:
            # As with packets: whatever is raised ends this datagram and nothing else.
            self._on_failure(error)
            self.events["punts_failed"] += 1
            return []
        if told is None:
            return []
        for lease in told.ended:
            self._end_lease(lease)
        sends = []
        for address in told.bound:
            sends += self.learn(told.segment, address, told.mac, told.vtep, now)
        header = vxlan.header(told.segment.vni)
        return sends + [Send(told.vtep, header + frame) for frame in told.frames]

    def _place(self, vni: Vni, mac: Mac) -> Vtep | None:
        """Say where a guest is, as far as its bindings tell."""
        known = self.bindings.of_mac(vni, mac)
        return known[0].vtep if known else None

    def _end_lease(self, lease: Lease) -> None:
        """The binding that a lease has made ends with it; whoever goes on using the address is
        learnt again when it next speaks."""
        bound = self.bindings.get(lease.segment, lease.address)
        if (
            bound is not None
            and bound.mac == lease.client.mac
            and bound.state is not State.CONFIGURED
        ):
            self.forget([bound])

    def _advertise_to(self, segment: Segment, vtep: Vtep, guest: Mac | None) -> list[Send]:
        """Advertise the gateway to the guests behind a VTEP, or to one of them."""
        said = self.mtus.advertised(segment)
        if said is None:
            return []
        self.events["router_advertisements"] += 1
        frame = gateway.advertisement(said, segment.vteps[vtep], guest)
        return [Send(vtep, vxlan.header(segment.vni) + frame)]

    def _say_to(
        self, segment: Segment, vtep: Vtep, address: bytes, what: str, frame: bytes
    ) -> Send:
        """Send an ARP or ND message about `address`, and count it."""
        self.events[f"{'arp' if len(address) == 4 else 'nd'}_{what}"] += 1
        return Send(vtep, vxlan.header(segment.vni) + frame)

    def _say(
        self, reason: Reason, source: Vtep, packet: memoryview | bytes, now: float
    ) -> list[Send]:
        """Answer a packet by ICMP: the echo, or the error that `reason` stands for."""

        def frame(segment: Segment, shared_mac: Mac) -> bytes | None:
            if reason is Reason.GATEWAY:
                return icmp.answer(segment, shared_mac, packet)
            return icmp.error(reason, segment, shared_mac, packet)

        return self._say_by_icmp(source, packet, now, frame)

    def _say_by_icmp(
        self,
        source: Vtep,
        packet: memoryview | bytes,
        now: float,
        frame: Callable[[Segment, Mac], bytes | None],
    ) -> list[Send]:
        """Send what `frame` makes, of a segment and its shared MAC, to the sender of a packet; it
        may find that nothing may be said."""
        segment = self._router.segment_of(packet)
        if segment is None or source not in segment.vteps:
            # From another leaf, where no gateway address is, or from a vswitch that a reload has
            # taken away while the packet was held.
            self.events["icmp_silent"] += 1
            return []
        if self._icmp.enter(self._guest(source, packet), now) is not Entry.GRANTED:
            self.events["icmp_policed"] += 1
            return []
        said = frame(segment, segment.vteps[source].shared_mac)
        if said is None:
            self.events["icmp_silent"] += 1
            return []
        self.events["icmp_sent"] += 1
        return [Send(source, vxlan.header(segment.vni) + said)]

    def too_big(
        self, verdict: Verdict, source: Vtep, packets: Sequence[memoryview], room: int, now: float
    ) -> list[Send]:
        """Cut packets of one flow, of which only `room` bytes fit into the tunnel that `verdict`
        sends them to; or tell their sender."""
        self.events["too_big"] += sum(len(packet) > room for packet in packets)
        mtu, packet = room - VXLAN_LEN - ethernet.HEADER_LEN, packets[0]
        if self._fragments and pmtu.may_be_cut(packet[VXLAN_LEN:], mtu):
            return self._cut(verdict, source, packets, mtu, now)

        def frame(segment: Segment, shared_mac: Mac) -> bytes | None:
            return icmp.too_big(segment, shared_mac, packet, mtu)

        return self._say_by_icmp(source, packet, now, frame)

    def _cut(
        self, verdict: Verdict, source: Vtep, packets: Sequence[memoryview], mtu: int, now: float
    ) -> list[Send]:
        """Forward packets in fragments, each with the new headers. This costs several times what
        forwarding does, hence the rate."""
        assert verdict.vtep is not None
        if not self._cuts.take(source, now, len(packets)):
            self.events["fragments_policed"] += len(packets)
            return []
        sends = []
        for packet in packets:
            frame = packet[VXLAN_LEN:]
            fits = len(frame) <= ethernet.HEADER_LEN + mtu  # As the last of a train may.
            parts = [bytes(frame)] if fits else pmtu.fragments(frame, mtu) or []
            self.events["fragmented"] += len(parts) > 1
            for part in parts:
                ready = bytearray(packet[:VXLAN_LEN]) + part
                rewrite(ready, verdict)
                sends.append(Send(verdict.vtep, bytes(ready)))
        return sends

    # -- gleaning ------------------------------------------------------------------------------

    def _glean(
        self, verdict: Verdict, source: Vtep, packet: memoryview | bytes, now: float
    ) -> list[Send]:
        assert verdict.segment is not None
        address = verdict.ask or _destination(packet)
        held = Held(source, bytes(packet))
        sends = self._want((verdict.segment.vni, address), source, packet, held, now)
        if self.gleaner.is_negative((verdict.segment.vni, address), now):
            sends += self._say(Reason.GLEAN, source, packet, now)
        return sends

    def _want(
        self, key: Key, source: Vtep, packet: memoryview | bytes, held: Held | None, now: float
    ) -> list[Send]:
        guest = self._guest(source, packet)
        outcome = self.gleaner.want(key, now, held, lambda: self._may_ask(key, guest, now))
        self.glean_counts[outcome] += 1
        return self._ask_segment(key) if outcome is GleanOutcome.ASKED else []

    def _may_ask(self, key: Key, guest: Guest, now: float) -> bool:
        """Say whether a guest may have the segment asked for one more address. All questions that
        this may take are counted now, so that the second and third never fail for want of them."""
        segment = self._segments.get(key[0])
        questions = QUESTIONS * len(segment.vteps) if segment else 0
        return (
            self._guest_gleans.take(guest, now)
            and self._guest_questions.take(guest, now, questions)
            and self._gleans.take(key[0], now)
            and self._questions.take(key[0], now, questions)
        )

    def _ask_segment(self, key: Key) -> list[Send]:
        """Ask for an address at every vswitch of its segment."""
        vni, address = key
        segment = self._segments.get(vni)
        if segment is None:
            return []  # The topology has changed meanwhile.
        groups = set(segment.vteps.values())
        frames = {group: gateway.question(segment, group, address) for group in groups}
        asked = [(vtep, frames[group]) for vtep, group in segment.vteps.items()]
        return [
            self._say_to(segment, vtep, address, "questions", frame)
            for vtep, frame in asked
            if frame is not None
        ]

    def _give_up(self, failed: Failed, now: float) -> list[Send]:
        self.glean_counts[GleanOutcome.UNANSWERED] += 1
        sends = []
        for held in failed.held:
            sends += self._say(Reason.GLEAN, held.source, held.packet, now)
        return sends

    def _release(self, held: list[Held], now: float) -> list[Send]:
        """Decide held packets again, now that there is a binding."""
        sends: list[Send] = []
        for source, packet in held:
            verdict = self._router.decide(source, packet)
            if verdict.vtep is not None:
                self.events["released"] += 1
                ready = bytearray(packet)
                rewrite(ready, verdict)
                sends.append(Send(verdict.vtep, bytes(ready)))
            elif verdict.reason is Reason.EXPIRED:
                sends += self._say(verdict.reason, source, packet, now)
        return sends

    # -- bindings ------------------------------------------------------------------------------

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
    ) -> list[Send]:
        """Take in where an address is; send on what waited for it."""
        news = self.bindings.learn(
            segment.vni, address, mac, vtep, now, sequence=sequence, configured=configured
        )
        self._apply(news)
        if news.outcome in (Outcome.STALE, Outcome.PINNED, Outcome.FULL):
            return []
        sends = []
        held = self.gleaner.resolved((segment.vni, address))
        if held is not None:
            self.glean_counts[GleanOutcome.RESOLVED] += 1
            sends += self._release(held, now)
        for prober in self._conflicts.owner_is_alive(segment.vni, address, now):
            if prober.mac != mac and prober.vtep in segment.vteps:
                frame = gateway.in_use(segment.vteps[prober.vtep], address, prober.mac)
                sends.append(self._say_to(segment, prober.vtep, address, "answers", frame))
        return sends

    def withdraw(self, segment: Segment, mac: Mac, vtep: Vtep, sequence: int | None = None) -> News:
        """Take in that a MAC has left a VTEP."""
        news = self.bindings.withdraw(segment.vni, mac, vtep, sequence=sequence)
        self.binding_counts[news.outcome] += 1
        for binding in news.changed:
            self._router.unbind(segment, binding.address)
        return news

    def _apply(self, news: News) -> None:
        self.binding_counts[news.outcome] += 1
        for binding in news.changed:
            self._router.bind(self._segments[binding.segment], binding)

    def advertise(self, now: float) -> None:
        """Advertise the gateways of the segments that there are now. Called after each change of
        the topology, with the time, which a change does not need otherwise."""
        said = {vni: self.mtus.advertised(segment) for vni, segment in self._segments.items()}
        self._advertiser.set_segments({vni: what for vni, what in said.items() if what}, now)

    def measured(self, room: Mapping[Vtep, int], now: float) -> None:
        """Take in what has room on the way to each VTEP; where that changes what guests are told
        fits, they are told at once."""
        if self.mtus.set_room(room):
            self.advertise(now)

    def last_words(self, topology: Topology) -> list[Send]:
        """Return what guests are to be told of what `topology`, which is to come, takes back. A
        vswitch that a segment is not on any more is told nothing: another leaf may serve it."""
        coming = {segment.vni: segment for segment in topology.segments}
        sends = []
        for vni, segment in self._segments.items():
            said, successor = segment.advertised, coming.get(vni)
            told = said and last_words(said, successor.advertised if successor else None)
            if told is None:
                continue
            for vtep, group in segment.vteps.items():
                if successor is None or vtep in successor.vteps:
                    self.events["router_last_words"] += 1
                    frame = gateway.advertisement(told, group)
                    sends.append(Send(vtep, vxlan.header(vni) + frame))
        return sends

    def replace_topology(self, topology: Topology) -> list[Binding]:
        """Serve a new topology; keep the bindings that have a place in it, return the others."""
        self._topology = topology
        self._segments = {segment.vni: segment for segment in topology.segments}
        self.mtus.set_segments(topology.segments)
        self._router.set_topology(topology)
        self.relayer.set_segments(topology.segments)
        lost = []
        for binding in self.bindings.all():
            segment = self._segments.get(binding.segment)
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

    def forget(self, bindings: Iterable[Binding]) -> None:
        """Remove bindings that are not wanted any more."""
        for binding in bindings:
            self.bindings.forget(binding)
            segment = self._segments.get(binding.segment)
            if segment is not None:
                self._router.unbind(segment, binding.address)

    def segment(self, vni: Vni) -> Segment | None:
        """Return a segment by its VNI."""
        return self._segments.get(vni)

    # -- time ----------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Send]:
        """Do what is due by `now`."""
        sends = []
        due = self.bindings.due(now)
        for binding in due.expired:
            self.binding_counts[Outcome.EXPIRED] += 1
            self._router.unbind(self._segments[binding.segment], binding.address)
        for binding in due.probe:
            segment = self._segments[binding.segment]
            group = segment.vteps[binding.vtep]
            frame = gateway.question(segment, group, binding.address, binding.mac)
            if frame is not None:
                sends.append(
                    self._say_to(segment, binding.vtep, binding.address, "questions", frame)
                )
        for lease in (*self.responder.leases.due(now), *self.relayer.due(now)):
            self._end_lease(lease)
        for vni in self._advertiser.due(now):
            for vtep in self._segments[vni].vteps:
                sends += self._advertise_to(self._segments[vni], vtep, None)
        asking = self.gleaner.due(now)
        for key in asking.ask:
            sends += self._ask_segment(key)
        for failed in asking.failed:
            sends += self._give_up(failed, now)
        return sends

    def deadline(self) -> float | None:
        """Say when `tick` wants to be called next."""
        times = (
            self.bindings.deadline(),
            self.gleaner.deadline(),
            self._advertiser.deadline(),
            self.responder.leases.deadline(),
            self.relayer.deadline(),
        )
        return min((t for t in times if t is not None), default=None)
