"""Asking by ARP and ND: for addresses that have no binding, and whether those that have one live.

`glean.py` keeps the addresses that are asked for and what is held for them; here the questions are
built and sent to every vswitch of the segment, what was held goes on or is told that nobody
answered, and the rates are kept. A guest may have so many new addresses asked for, and so may all
together. Since a question goes to each vswitch, questions are counted too, all three of an address
when the first is sent: so the second and third never fail for want of them.

A binding that has been silent is asked by unicast (`confirm`); there is one such question for each,
at times that `bindings.py` bounds, so it needs no rate.

No I/O; time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable

from vswitch.service.policer import Policer
from vswitch.wire import ethernet, ipv4, ipv6
from vswitch.wire.vxlan import VXLAN_LEN, Vtep

from . import gateway
from .bindings import Binding
from .gate import Common, Guest
from .glean import QUESTIONS, Failed, Gleaner, Key, Outcome
from .limits import Limits
from .punt import Punt, Send
from .rewrite import rewrite
from .router import Reason, Router, Verdict
from .teller import Teller
from .topology import Segment

EVENTS = {
    "arp_questions": "ARP questions sent, to glean and to confirm",
    "nd_questions": "neighbour solicitations sent, to glean and to confirm",
    "released": "held packets that went on",
}


class Asker:
    """What one leaf asks its segments."""

    def __init__(self, router: Router, teller: Teller, limits: Limits) -> None:
        self.gleaner = Gleaner()
        self.counts = dict.fromkeys(Outcome, 0)
        self.events = dict.fromkeys(EVENTS, 0)
        self._router = router
        self._teller = teller
        self._gleans = Common(limits.gleans)
        self._guest_gleans = Policer(limits.guest_gleans, limits.guest_gleans)
        self._questions = Common(limits.questions)
        self._guest_questions = Policer(limits.questions / 10, limits.questions / 10)

    # -- asking --------------------------------------------------------------------------------

    def glean(self, verdict: Verdict, punt: Punt, now: float) -> list[Send]:
        """Hold a packet whose next hop has no binding, and ask for it."""
        assert verdict.segment is not None
        key = verdict.segment.vni, verdict.ask or _destination(punt.packet)
        sends = self._want(key, punt, punt.kept(), now)
        if self.gleaner.is_negative(key, now):
            sends += self._teller.say(Reason.GLEAN, punt, now)
        return sends

    def want(self, key: Key, punt: Punt, now: float) -> list[Send]:
        """Ask for an address that a guest asks for; its question is not held."""
        return self._want(key, punt, None, now)

    def confirm(self, bindings: Iterable[Binding]) -> list[Send]:
        """Ask guests whether they are still there."""
        sends = []
        for binding in bindings:
            segment = self._router.segment(binding.segment)
            assert segment is not None
            group = segment.vteps[binding.vtep]
            frame = gateway.question(segment, group, binding.address, binding.mac)
            if frame is not None:
                sends.append(self._question(segment, binding.vtep, binding.address, frame))
        return sends

    def _want(self, key: Key, punt: Punt, held: Punt | None, now: float) -> list[Send]:
        outcome = self.gleaner.want(key, now, held, lambda: self._may_ask(key, punt.guest, now))
        self.counts[outcome] += 1
        return self._ask_segment(key) if outcome is Outcome.ASKED else []

    def _may_ask(self, key: Key, guest: Guest, now: float) -> bool:
        """Say whether a guest may have the segment asked for one more address."""
        segment = self._router.segment(key[0])
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
        segment = self._router.segment(vni)
        if segment is None:
            return []  # The topology has changed meanwhile.
        groups = set(segment.vteps.values())
        frames = {group: gateway.question(segment, group, address) for group in groups}
        asked = [(vtep, frames[group]) for vtep, group in segment.vteps.items()]
        return [
            self._question(segment, vtep, address, frame)
            for vtep, frame in asked
            if frame is not None
        ]

    def _question(self, segment: Segment, vtep: Vtep, address: bytes, frame: bytes) -> Send:
        self.events["arp_questions" if len(address) == 4 else "nd_questions"] += 1
        return Send.frame(vtep, segment.vni, frame)

    # -- what comes of it ----------------------------------------------------------------------

    def resolved(self, key: Key, now: float) -> list[Send]:
        """An address has a binding now: send on what was held for it."""
        held = self.gleaner.resolved(key)
        if held is None:
            return []
        self.counts[Outcome.RESOLVED] += 1
        sends: list[Send] = []
        for punt in held:
            sends += self._release(punt, now)
        return sends

    def _release(self, punt: Punt, now: float) -> list[Send]:
        """Decide a held packet again, now that there is a binding."""
        verdict = self._router.decide(punt.source, punt.packet)
        if verdict.vtep is not None:
            self.events["released"] += 1
            ready = bytearray(punt.packet)
            rewrite(ready, verdict)
            return [Send(verdict.vtep, bytes(ready))]
        if verdict.reason is Reason.EXPIRED:
            return self._teller.say(verdict.reason, punt, now)
        return []

    def _give_up(self, failed: Failed, now: float) -> list[Send]:
        self.counts[Outcome.UNANSWERED] += 1
        sends = []
        for punt in failed.held:
            sends += self._teller.say(Reason.GLEAN, punt, now)
        return sends

    # -- time ----------------------------------------------------------------------------------

    def due(self, now: float) -> list[Send]:
        """Ask again, and give up, what is due by `now`; call it at `deadline`."""
        sends: list[Send] = []
        due = self.gleaner.due(now)
        for key in due.ask:
            sends += self._ask_segment(key)
        for failed in due.failed:
            sends += self._give_up(failed, now)
        return sends

    def deadline(self) -> float | None:
        """Say when `due` has something to do."""
        return self.gleaner.deadline()


def _destination(packet: memoryview | bytes) -> bytes:
    """Return the IP destination of a sound packet."""
    if packet[VXLAN_LEN + 12] << 8 | packet[VXLAN_LEN + 13] == ethernet.IPV6:
        at = VXLAN_LEN + ipv6.DESTINATION_AT
        return bytes(packet[at : at + 16])
    at = VXLAN_LEN + ipv4.DESTINATION_AT
    return bytes(packet[at : at + 4])
