"""Packets that do not fit into the tunnel that they are to leave by: cut, or their sender told.

The outer packet is never fragmented. Where the leaf is so configured, IPv4 that may be fragmented
goes on in fragments, each with the new headers. That costs several times what forwarding does,
hence a rate for each VTEP that such packets come from. The sender of all else is told by ICMP what
would have fit.

No I/O; time is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence

from vswitch.service.policer import Policer
from vswitch.wire import ethernet, pmtu
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import VXLAN_LEN

from . import icmp
from .limits import Limits
from .punt import Punt, Send
from .rewrite import rewrite
from .router import Verdict
from .teller import Teller
from .topology import Segment

EVENTS = {
    "too_big": "packets that do not fit into the tunnel",
    "fragmented": "of these, those that went on in fragments",
    "fragments_policed": "of these, those that might have, beyond the rate of their VTEP",
}


class Oversize:
    """What becomes of packets that are too big."""

    def __init__(self, teller: Teller, limits: Limits, fragments: bool) -> None:
        """`fragments`: IPv4 that may be fragmented is, instead of being dropped."""
        self.events = dict.fromkeys(EVENTS, 0)
        self._teller = teller
        self._fragments = fragments
        self._cuts = Policer(limits.punts, limits.punts)

    def handle(
        self, verdict: Verdict, punt: Punt, packets: Sequence[memoryview], room: int, now: float
    ) -> list[Send]:
        """Cut packets of one flow, of which only `room` bytes fit into the tunnel that `verdict`
        sends them to; or tell their sender. `punt` is the first of them."""
        self.events["too_big"] += sum(len(packet) > room for packet in packets)
        mtu = room - VXLAN_LEN - ethernet.HEADER_LEN
        if self._fragments and pmtu.may_be_cut(punt.frame, mtu):
            return self._cut(verdict, punt, packets, mtu, now)

        def message(segment: Segment, shared_mac: Mac) -> bytes | None:
            return icmp.too_big(segment, shared_mac, punt.packet, mtu)

        return self._teller.tell(punt, message, now)

    def _cut(
        self, verdict: Verdict, punt: Punt, packets: Sequence[memoryview], mtu: int, now: float
    ) -> list[Send]:
        """Forward packets in fragments."""
        assert verdict.vtep is not None
        if not self._cuts.take(punt.source, now, len(packets)):
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
