"""The vswitch's engine: carries out the switch's verdicts between ports and the tunnel.

It is told when a port or the tunnel is readable (`pump_port`, `pump_tunnel`) and when a deadline
has come (`tick`); it never waits. The devices come in from outside, so a test runs the same engine
on the memory twins and a virtual clock.

Frames of one flow that follow each other are decided on once. Of each it changes at most the six
bytes of the destination, and writes the VXLAN header into the eight bytes of headroom before it.

With several leaves a flow keeps to one of them, by the hash that also chooses its source port.
ARP and ND go to every leaf, since each must know the bindings; so do announcements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .attachment import Attachment, AttachmentError, Attachments, State
from .phy.port import BUDGET as FRAMES
from .phy.port import Burst, Port, PortGone, PortId
from .phy.tunnel import BUDGET as RECEIVES
from .phy.tunnel import Inbox, Train, Tunnel
from .service.log import Log
from .service.policer import TokenBucket
from .switch import Miss, Reason, Switch, Verdict
from .wire import arp, ethernet, flows, nd, pmtu, vnet, vxlan
from .wire.ethernet import Buffer, Mac
from .wire.train import MAX_SUPER_LEN as MAX_ROOM
from .wire.vxlan import VXLAN_LEN, Vni, Vtep

ACTIVATION_RATE, ACTIVATION_BURST = 2.0, 10.0
"""RARPs a second that a guest may have announced to the leaves. QEMU sends five in 0.8 seconds."""

NEIGHBOUR_RATE = 1000.0
"""ARP and ND messages a second that one port may send up, which may also come at once. A leaf takes
a fifth of that from a guest: this only keeps a flood off the underlay and off the leaf's socket."""

TOLD_RATE = 50.0
"""ICMP messages a second to one guest about packets that do not fit."""

EVENTS = {
    "activations": "guests that became active, or said so again",
    "activations_policed": "RARPs of an active guest beyond the permitted rate",
    "neighbour_policed": "ARP and ND of guests beyond the permitted rate",
    "announcements": "announcements sent to the leaves",
    "ports_gone": "ports whose device vanished",
    "port_full": "frames that a port could not take",
    "uplink_failed": "frames that could not be sent to a leaf",
    "too_big": "frames that do not fit into the tunnel",
    "too_big_told": "of these, those whose sender was told by ICMP",
    "fragmented": "of these, those that went on in fragments",
}


class PortStats(NamedTuple):
    """What went through one port, as the guest sees it.

    A super-frame is one frame, whether the guest has sent it or is given it as it came; so it is
    where a port cannot take it (`port_full`). What comes in packets is counted in packets, although
    the port may join them.
    """

    sent_frames: int
    sent_bytes: int
    received_frames: int
    received_bytes: int


class _Live:
    """A port in service."""

    __slots__ = (
        "activations",
        "attachment",
        "header",
        "neighbour",
        "port",
        "received",
        "received_bytes",
        "sent",
        "sent_bytes",
        "told",
    )

    def __init__(self, port: Port, attachment: Attachment) -> None:
        self.port = port
        self.attachment = attachment
        self.header = vxlan.header(attachment.segment)
        self.activations = TokenBucket(ACTIVATION_RATE, ACTIVATION_BURST)
        self.neighbour = TokenBucket(NEIGHBOUR_RATE, NEIGHBOUR_RATE)
        self.told = TokenBucket(TOLD_RATE, TOLD_RATE)
        self.sent = self.sent_bytes = self.received = self.received_bytes = 0


class Engine:
    """One vswitch."""

    def __init__(
        self,
        shared_mac: Mac,
        leaves: tuple[Vtep, ...],
        tunnel: Tunnel,
        *,
        clock: Callable[[], float],
        log: Log,
        on_gone: Callable[[PortId, Port], None],
        fragments: bool = False,
    ) -> None:
        """`on_gone` is called for a port that left by itself, after it is out of all tables.
        `fragments`: IPv4 that does not fit and may be fragmented is, instead of being dropped."""
        self.switch = Switch(shared_mac, leaves)
        self.attachments = Attachments()
        self.counts = dict.fromkeys(Reason, 0)
        self.events = dict.fromkeys(EVENTS, 0)
        self.tunnel = tunnel
        self._shared_mac = shared_mac
        self._leaves = leaves
        self._gateways: dict[Vni, tuple[bytes, ...]] = {}
        self._narrow: set[Vtep] = set()
        """The leaves of whose tunnels was said that they are too narrow for IPv6."""
        self._fragments = fragments
        self._clock = clock
        self._log = log
        self._on_gone = on_gone
        self._ports: dict[PortId, _Live] = {}
        self._next_port = 1
        self._burst = Burst()
        self._inbox = Inbox()

    # -- frames --------------------------------------------------------------------------------

    def pump_port(self, port_id: PortId, drain: bool = True) -> None:
        """Take one burst from a port, or only one frame, and carry out its verdicts."""
        live = self._ports.get(port_id)
        if live is None:
            return
        burst = self._burst
        try:
            live.port.read(burst, FRAMES if drain else 1)
        except PortGone as error:
            self._gone(port_id, error)
            return
        live.sent += len(burst.lengths)
        live.sent_bytes += sum(burst.lengths)
        try:
            for first, end in burst.runs():
                if end - first == 1:
                    self._take(live, burst, first)
                else:
                    self._take_run(live, burst, first, end)
        finally:
            # Whatever went wrong: what is held back lies in slots that the next burst is read into,
            # and would leave as that guest's frames under this one's VNI.
            self.events["uplink_failed"] += self.tunnel.flush()

    def _take(self, live: _Live, burst: Burst, index: int) -> None:
        """Decide on one frame, and carry it out."""
        frame, header = burst.frame(index), burst.headers[index]
        verdict = self.switch.decide(live.attachment.port, frame)
        self.counts[verdict.reason] += 1
        if verdict.reason is Reason.ACTIVATION:
            verdict = self._on_activation(live, frame, verdict)
        if verdict.rewrite is not None:
            frame[:6] = verdict.rewrite
        for egress in verdict.egress:
            if egress:
                self._deliver(egress, frame, header)
            else:
                slot = burst.slots[index]
                slot[:VXLAN_LEN] = live.header
                self._send_up(live, frame, slot[: VXLAN_LEN + len(frame)], header)

    def _take_run(self, live: _Live, burst: Burst, first: int, end: int) -> None:
        """Decide on frames of one flow, once, and carry it out for all."""
        frame = burst.frame(first)
        verdict = self.switch.decide(live.attachment.port, frame)
        if verdict.reason is Reason.ACTIVATION:
            for index in range(first, end):  # The first of them changes what holds for the others.
                self._take(live, burst, index)
            return
        self.counts[verdict.reason] += end - first
        if not verdict.egress:
            return
        run = burst.run(first, end)
        flows.address_to(run.table, live.header, verdict.rewrite)
        for egress in verdict.egress:
            if egress:
                for packet, header in zip(run.packets, run.headers, strict=True):
                    self._deliver(egress, packet[VXLAN_LEN:], header)
            else:
                flow = vxlan.flow_hash(frame)
                leaf = self._leaves[flow % len(self._leaves)]
                if run.table.shape[1] > self.tunnel.room.get(leaf, MAX_ROOM):
                    for packet, header in zip(run.packets, run.headers, strict=True):
                        self._send_up(live, packet[VXLAN_LEN:], packet, header)
                    continue
                sent = self.tunnel.send_run(leaf, flow, run)
                self.events["uplink_failed"] += end - first - sent

    def pump_tunnel(self, lane: int = 0, drain: bool = True) -> None:
        """Take what a lane of the tunnel has received, or only the first of it, and carry out its
        verdicts, a train at a time."""
        inbox = self._inbox
        self.tunnel.read(inbox, lane, RECEIVES if drain else 1)
        for train in inbox.trains:
            first = train.data[: train.size]
            verdict = self.switch.decide_uplink(train.source, first)
            packets = train.count
            # As the leaf has counted it, for which a super-frame is the packets that it stands for.
            is_plain = train.header is vnet.PLAIN
            self.counts[verdict.reason] += packets if is_plain else train.datagrams
            if verdict.egress:
                vni = Vni(first[4] << 16 | first[5] << 8 | first[6])
                self.switch.learn(vni, Mac(bytes(first[14:20])), self._clock())
                for egress in verdict.egress:
                    self._deliver_train(egress, train, packets)

    def _deliver(self, port_id: PortId, frame: Buffer, header: Buffer) -> None:
        live = self._ports.get(port_id)
        if live is None:
            return  # It has gone while a run was being delivered to it.
        try:
            taken = live.port.write(frame, header)
        except PortGone as error:
            # It leaves the tables now, so that the next frame of the burst is decided without it.
            self._gone(port_id, error)
            return
        if taken:
            live.received += 1
            live.received_bytes += len(frame)
        else:
            self.events["port_full"] += 1

    def _deliver_train(self, port_id: PortId, train: Train, packets: int) -> None:
        live = self._ports[port_id]
        try:
            taken = live.port.write_train(train)
        except PortGone as error:
            self._gone(port_id, error)
            return
        live.received += taken
        live.received_bytes += min(taken * train.size, train.length) - taken * VXLAN_LEN
        self.events["port_full"] += packets - taken

    def _send_up(self, live: _Live, frame: memoryview, packet: memoryview, header: Buffer) -> None:
        flow = vxlan.flow_hash(frame)
        if (frame[12] == 0x08 and frame[13] == 0x06) or nd.kind_of(frame) is not None:
            if not live.neighbour.take(self._clock()):
                self.events["neighbour_policed"] += 1
                return
            for leaf in self._leaves:
                if not self.tunnel.send(leaf, flow, packet, header):
                    self.events["uplink_failed"] += 1
            return
        leaf = self._leaves[flow % len(self._leaves)]
        room = self.tunnel.room.get(leaf, MAX_ROOM)
        if len(packet) > room and not vnet.can_be_cut_to(header, room - VXLAN_LEN):
            self._too_big(live, leaf, frame, header)
        elif not self.tunnel.send(leaf, flow, packet, header):
            self.events["uplink_failed"] += 1

    def _too_big(self, live: _Live, leaf: Vtep, frame: memoryview, header: Buffer) -> None:
        """Tell a guest that its packet does not fit, or cut it."""
        self.events["too_big"] += 1
        mtu = self.tunnel.room.get(leaf, MAX_ROOM) - VXLAN_LEN - ethernet.HEADER_LEN
        if self._fragments and vnet.complete(frame, header):
            parts = pmtu.fragments(frame, mtu)
            if parts is not None:
                self.events["fragmented"] += 1
                flow = vxlan.flow_hash(frame)
                for part in parts:
                    if not self.tunnel.send(leaf, flow, live.header + part):
                        self.events["uplink_failed"] += 1
                return
        gateways = self._gateways.get(live.attachment.segment, ())
        said = pmtu.answer(frame, self._shared_mac, mtu, gateways)
        if said is not None and live.told.take(self._clock()):
            self.events["too_big_told"] += 1
            self._deliver(live.attachment.port, said, vnet.PLAIN)

    # -- guests --------------------------------------------------------------------------------

    def add(self, attachment: Attachment, port: Port, sequence: int | None = None) -> Attachment:
        """Take a guest in with its opened port. Raises AttachmentError; then nothing changed."""
        attachment.port = PortId(self._next_port)
        now = self._clock()
        if not self.switch.has_segment(attachment.segment):
            raise AttachmentError(f"guest {attachment.guest!r}: its segment has been removed")
        self.attachments.add(attachment, now, sequence)
        self._next_port += 1
        self._ports[attachment.port] = _Live(port, attachment)
        if attachment.state is State.ACTIVE:
            self._arrive(attachment)
        else:
            self.switch.place(attachment)
        return attachment

    def activate(self, guest: str, sequence: int | None = None) -> Attachment:
        """Make a staged guest active: in the MAC table, and known to the leaves, at once."""
        # Checked first: a port that is put into service takes flows of a guest that may still run
        # elsewhere.
        self._unpark(self.attachments.check_activate(guest, sequence))
        attachment = self.attachments.activate(guest, self._clock(), sequence)
        self._arrive(attachment)
        return attachment

    def _unpark(self, attachment: Attachment) -> None:
        """Put a port into service. Raises AttachmentError where it has vanished."""
        try:
            self._ports[attachment.port].port.park(False)
        except OSError as error:
            self._gone(attachment.port, PortGone(*error.args))
            raise AttachmentError(
                f"guest {attachment.guest!r}: its device has vanished; attach it anew"
            ) from error

    def suspend(self, guest: str, sequence: int | None = None) -> Port:
        """Deliver nothing more to a guest that is leaving; what it sends still goes its way."""
        attachment = self.attachments.suspend(guest, self._clock(), sequence)
        self.switch.place(attachment)
        return self._ports[attachment.port].port

    def detach(self, guest: str, sequence: int | None = None) -> tuple[Attachment, Port]:
        """Let a guest go; the caller closes its port."""
        attachment = self.attachments.detach(guest, sequence)
        self.switch.remove(attachment)
        live = self._ports.pop(attachment.port)
        self._log.info("detached", guest=guest, sequence=attachment.sequence)
        return attachment, live.port

    def stats(self, port_id: PortId) -> PortStats:
        """Return the counters of one port."""
        live = self._ports[port_id]
        return PortStats(live.sent, live.sent_bytes, live.received, live.received_bytes)

    def ports(self) -> dict[PortId, Port]:
        """Return the open ports."""
        return {port_id: live.port for port_id, live in self._ports.items()}

    def set_leaves(self, leaves: tuple[Vtep, ...]) -> None:
        """Change the leaves; every active guest is announced to the new ones."""
        self._leaves = leaves
        self.tunnel.measure(leaves)
        self.switch.set_leaves(leaves)
        for attachment in self.attachments.all():
            if attachment.state is State.ACTIVE:
                self._announce(attachment)

    def set_guard(self, vni: Vni, spoof_guard: bool) -> None:
        """Turn the spoof guard of a segment's guests on or off."""
        for attachment in self.attachments.all():
            if attachment.segment == vni:
                attachment.spoof_guard = spoof_guard
                self.switch.place(attachment)

    def set_gateways(self, vni: Vni, addresses: tuple[bytes, ...]) -> None:
        """Say by which addresses a segment's guests know their gateway, and may not use."""
        self._gateways[vni] = addresses
        self.switch.set_gateways(vni, addresses)

    def measure(self) -> None:
        """Look at the room on the way to the leaves, which may change at any time. Where a gateway
        is of IPv6, it is said once of a leaf that its tunnel is too narrow for that."""
        self.tunnel.measure(self._leaves)
        self._narrow &= set(self._leaves)
        if all(len(one) == 4 for gateways in self._gateways.values() for one in gateways):
            return
        for leaf in self._leaves:
            said = pmtu.complaint(leaf, self.tunnel.room.get(leaf, MAX_ROOM))
            if said is not None and leaf not in self._narrow:
                self._narrow.add(leaf)
                self._log.warning(said)

    def set_miss(self, vni: Vni, miss: Miss) -> None:
        """Change what a unicast miss does in a segment."""
        self.switch.set_miss(vni, miss)

    def _on_activation(self, live: _Live, frame: Buffer, verdict: Verdict) -> Verdict:
        """A guest said that it runs here. Data that said so is decided again, and so not lost."""
        attachment = live.attachment
        if attachment.state is State.DEPARTING:
            return verdict  # It was on its way when the guest left; only `activate` resumes.
        if not live.activations.take(self._clock()):
            self.events["activations_policed"] += 1
            return verdict
        try:
            self._unpark(self.attachments.check_activate(attachment.guest))
            self._arrive(self.attachments.heard(attachment.guest, self._clock()))
        except AttachmentError as error:
            self._log.warning("not activated", guest=attachment.guest, why=str(error))
            return verdict
        if frame[12] << 8 | frame[13] == ethernet.RARP:
            return verdict
        again = self.switch.decide(attachment.port, frame)
        self.counts[again.reason] += 1
        return again

    def _arrive(self, attachment: Attachment) -> None:
        """Enter an active attachment into the tables, and tell the leaves."""
        self.switch.place(attachment)
        self.events["activations"] += 1
        self._log.info(
            "active",
            guest=attachment.guest,
            sequence=attachment.sequence,
            macs=[mac.hex(":") for mac in sorted(attachment.macs)],
        )
        self._announce(attachment)

    def _announce(self, attachment: Attachment) -> None:
        """Tell the leaves where the guest is: a RARP for each MAC, and what addresses it has."""
        frames = [arp.reverse_announcement(mac) for mac in sorted(attachment.macs)]
        if len(attachment.macs) == 1:  # With several, only the guest knows which has which.
            (mac,) = attachment.macs
            frames += [
                arp.announcement(mac, address)
                if len(address) == 4
                else nd.announcement(mac, address)
                for address in sorted(attachment.addresses)
            ]
        header = vxlan.header(attachment.segment)
        for frame in frames:
            self.events["announcements"] += 1
            for leaf in self._leaves:
                if not self.tunnel.send(leaf, vxlan.flow_hash(frame), header + frame):
                    self.events["uplink_failed"] += 1
        self.events["uplink_failed"] += self.tunnel.flush()

    def _gone(self, port_id: PortId, error: PortGone) -> None:
        live = self._ports.pop(port_id)
        self.attachments.detach(live.attachment.guest)
        self.switch.remove(live.attachment)
        self.events["ports_gone"] += 1
        self._log.warning("port gone", guest=live.attachment.guest, why=str(error))
        self._on_gone(port_id, live.port)

    # -- time ----------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Repeat announcements and forget what is old."""
        for attachment in self.attachments.due_announcements(now):
            self._announce(attachment)
        self.switch.expire(now)
        self.events["uplink_failed"] += self.tunnel.flush()

    def deadline(self) -> float | None:
        """Say when `tick` wants to be called next."""
        times = (self.attachments.deadline(), self.switch.deadline())
        return min((t for t in times if t is not None), default=None)
