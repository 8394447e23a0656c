"""The seed scenario: what is done, in what order, and what is claimed of it.

H1 and H2 are neighbours on host A, H3 and H4 on host B, H5 and H6 sit in another subnet. H1 moves
to B while it talks to H2 and H4, over IPv4 and IPv6 at the same time. Nothing is told to any guest:
their neighbour tables stay as they were, and what they send to stale MACs must arrive all the same.

Each claim is checked against what was seen (captures, neighbour tables, the probes' own notes), is
printed as it is decided, and counts towards the exit status. With another miss policy the scenario
shows what the rewriting is for, so there the claims about H1 and H2 are the opposite ones.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Protocol

from tools.fabric.lab import GUEST_LINK, Lab
from tools.fabric.topology import Family

from .traffic import Flow, Observed, ProbeResult, Traffic
from .watch import Path, Watch

MAX_BLACKOUT_MS = 20.0
MAX_LOST = 20
WARM_UP = 1.5
"""Seconds of traffic before the move."""
AFTER = 3.0
"""Seconds of traffic after it: past Linux's first three unicast ARP probes."""
GRACE = 0.1
"""Seconds until what was sent last has arrived."""
STREAM_PAUSE_NS = 1_000_000_000
"""A TCP stream that lives may pause for so long at the end: two retransmission timeouts."""
REFRESH_TIMEOUT = 15.0
QUICK_NEIGHBOURS = {
    "base_reachable_time_ms": 4000,
    "delay_first_probe_time": 1,
    "retrans_time_ms": 200,
}
"""H1 looks after its neighbour table in 4 to 8 seconds instead of 23 to 53. It must not be quicker:
without the rewriting the flow to H2 is to be seen dead until H1 has asked anew, which takes at
least half the first value, the second and three times the third."""


class Narrator(Protocol):
    """Whoever tells the story."""

    def chapter(self, title: str) -> None: ...
    def say(self, text: str) -> None: ...
    def claim(self, text: str, holds: bool) -> None: ...
    def path(self, path: Path, switch: str, arrived: bool) -> None: ...


class Story:
    """One run of the scenario."""

    def __init__(self, lab: Lab, miss: str, families: Sequence[Family], narrator: Narrator) -> None:
        self._lab = lab
        self._miss = miss
        self._families = families
        self._narrator = narrator
        self._shared = lab.topology.lab.shared_mac.hex(":")
        self._mac = {guest.name: guest.mac.hex(":") for guest in lab.topology.guest}
        self._ip = {family: lab.topology.addresses(family) for family in families}
        self._flows: list[dict[str, Any]] = []
        self._moves: list[dict[str, Any]] = []
        self._bystanders = 0
        self._ok = True
        self._watch = Watch(lab)
        self._traffic = Traffic(lab, [Flow("H1", "H2"), Flow("H1", "H4")], families)

    def run(self) -> dict[str, Any]:
        """Run it and return the report. The lab must be up."""
        try:
            self._before()
            self._move()
            self._return_direction()
            observed = self._neighbours_now()
            self._judge(observed)
            self._judge_bystanders()
        finally:
            self._traffic.kill()
            self._watch.close()
        return {
            "scenario": "seed",
            "miss": self._miss,
            "moves": self._moves,
            "flows": self._flows,
            "frames_seen_by_bystanders": self._bystanders,
            "ok": self._ok,
        }

    # -- telling -------------------------------------------------------------------------------

    def _claim(self, text: str, holds: bool) -> None:
        self._ok = self._ok and holds
        self._narrator.claim(text, holds)

    def _follow(
        self, family: Family, sender: str, receiver: str, phase: str, expected: list[str]
    ) -> Path:
        """Send one marked frame, draw its way, and claim that it is the expected one."""
        path, places = self._draw(family, sender, receiver)
        ok = places == expected
        self._claim(f"{sender} to {receiver} over {family.label}: {' > '.join(expected)}", ok)
        self._note_flow(family, sender, receiver, phase, ok, places)
        return path

    def _follow_lost(self, family: Family, sender: str, receiver: str) -> None:
        """Send one marked frame, draw its way, and claim that it does not arrive."""
        _, places = self._draw(family, sender, receiver)
        # The vswitch drops the frame, or floods it up to the leaf as well, which drops it.
        ok = places == [sender] if self._miss == "drop" else receiver not in places
        self._claim(
            f"{sender} to {receiver} over {family.label}: lost, as with any switch that does not"
            " rewrite",
            ok,
        )
        self._note_flow(family, sender, receiver, "after", ok, places)

    def _draw(self, family: Family, sender: str, receiver: str) -> tuple[Path, list[str]]:
        switch = self._lab.places()[sender]
        path = self._watch.follow(family, sender, receiver)
        places = path.places(switch)
        self._narrator.path(path, switch, receiver in places)
        return path, places

    def _note_flow(
        self, family: Family, sender: str, receiver: str, phase: str, ok: bool, path: list[str]
    ) -> None:
        name = f"{sender}->{receiver}"
        self._flows.append(
            {"name": name, "family": str(family), "phase": phase, "ok": ok, "path": path}
        )

    def _neighbour(self, family: Family, guest: str, name: str) -> str | None:
        """Return the MAC at which a guest's kernel has another guest, or the gateway."""
        if name == "gateway":
            address = self._lab.topology.assigned(self._lab.guest(guest))[family].gateway
        else:
            address = self._ip[family][name]
        table = self._lab.node(guest).neighbours(GUEST_LINK)
        return next((entry.mac for entry in table if entry.address == address), None)

    def _claim_neighbour(
        self, family: Family, guest: str, name: str, mac: str, still: str = ""
    ) -> None:
        found = self._neighbour(family, guest, name)
        who = "the gateway" if name == "gateway" else name
        what = "the shared MAC" if mac == self._shared else "its real MAC"
        self._claim(
            f"{guest}'s {family.label} neighbour table{still} has {who} at {what} ({found})",
            found == mac,
        )

    # -- the chapters --------------------------------------------------------------------------

    def _before(self) -> None:
        self._narrator.chapter("Before the move")
        self._narrator.say("H1 speaks to everybody once; one marked frame each is followed.")
        for family in self._families:
            for key, value in QUICK_NEIGHBOURS.items():
                self._lab.node("H1").sysctl(f"{family}/neigh/{GUEST_LINK}/{key}", value)
            self._follow(family, "H1", "H2", "before", ["H1", "A", "H2"])
            for name in ("H3", "H4", "H6"):
                self._follow(family, "H1", name, "before", ["H1", "A", "leaf", "B", name])
            self._claim_neighbour(family, "H1", "H2", self._mac["H2"])
            for name in ("H3", "H4", "gateway"):
                self._claim_neighbour(family, "H1", name, self._shared)

    def _move(self) -> None:
        self._narrator.chapter("H1 moves from A to B while it talks")
        self._traffic.start()
        over = " and over ".join(family.label for family in self._families)
        self._narrator.say(
            f"TCP streams and 1 kHz probes run between H1 and H2, and H1 and H4, over {over}."
        )
        time.sleep(WARM_UP)
        self._begin_ns = time.time_ns()
        move = self._lab.move("H1", "B")
        self._narrator.say(
            f"Moved: active on both hosts for {(move.detached_at - move.activated_at) * 1e3:.1f}"
            " ms, then only on B; its link kept its carrier, and nobody told the guests."
        )
        self._moved_ns = time.time_ns()
        self._follow_stale("H1", "H2", ["H1", "B", "leaf", "A", "H2"])

    def _return_direction(self) -> None:
        self._narrator.chapter("Back: H2 to H1")
        self._follow_stale("H2", "H1", ["H2", "A", "leaf", "B", "H1"])

    def _follow_stale(self, sender: str, receiver: str, expected: list[str]) -> None:
        """Claim what becomes of frames that are sent to a MAC that is not there any more."""
        stale = self._mac[receiver]
        for family in self._families:
            if self._miss == "rewrite":
                path = self._follow(family, sender, receiver, "after", expected)
                self._claim_rewritten(path, expected[1], stale)
            else:
                self._follow_lost(family, sender, receiver)
            self._claim_neighbour(family, sender, receiver, stale, " still")

    def _claim_rewritten(self, path: Path, at: str, stale: str) -> None:
        left = next((s for s in path.sightings if s.place == path.sightings[0].place), None)
        rewritten = next((s for s in path.sightings if s.place == at), None)
        self._claim(
            f"the guest sent it to the stale {stale}, and {at} sent it on to the shared MAC",
            left is not None
            and rewritten is not None
            and left.destination_mac == stale
            and rewritten.destination_mac == self._shared,
        )

    def _neighbours_now(self) -> dict[Family, Observed]:
        self._narrator.chapter("H1 and H4 are neighbours now")
        for family in self._families:
            self._follow(family, "H1", "H4", "after", ["H1", "B", "leaf", "B", "H4"])
        left = AFTER - (time.time_ns() - self._moved_ns) / 1e9
        time.sleep(max(0.0, left))
        self._end_ns = time.time_ns()
        time.sleep(GRACE)
        observed = self._traffic.stop()
        self._narrator.say(
            "The streams have ended, so nothing confirms H1's entries for H4 any more. Linux asks"
            " by unicast, hears silence, asks all, and hears H4 itself (its timers are shortened)."
        )
        took = self._wait_for_refresh()
        self._narrator.say(f"After {took:.1f} s:")
        for family in self._families:
            self._claim_neighbour(family, "H1", "H4", self._mac["H4"])
            self._follow(family, "H1", "H4", "refreshed", ["H1", "B", "H4"])
        return observed

    def _wait_for_refresh(self) -> float:
        """Wait until H1 has H4 at its real MAC, in every family; return how long that took."""
        began = time.monotonic()
        while time.monotonic() - began < REFRESH_TIMEOUT:
            left = [f for f in self._families if self._neighbour(f, "H1", "H4") != self._mac["H4"]]
            if not left:
                break
            for family in left:  # Traffic is what makes Linux look at an entry.
                self._watch.follow(family, "H1", "H4")
        return time.monotonic() - began

    # -- judging -------------------------------------------------------------------------------

    def _judge(self, observed: dict[Family, Observed]) -> None:
        self._narrator.chapter("What the probes and streams say of the move")
        for family in self._families:
            self._judge_family(family, observed[family])

    def _judge_family(self, family: Family, observed: Observed) -> None:
        survived = {}
        total, lost, worst = 0, 0, 0.0
        for peer in ("H2", "H4"):
            fault = observed.stream_fault(
                "H1", peer, self._moved_ns, self._end_ns - STREAM_PAUSE_NS
            )
            survived[peer] = fault is None
            expected = self._miss == "rewrite" or peer == "H4"
            verb = "survived" if fault is None else f"died ({fault})"
            self._claim(
                f"the TCP stream H1-{peer} over {family.label} {verb}", survived[peer] == expected
            )
            for sender, receiver in (("H1", peer), (peer, "H1")):
                result = observed.probes(sender, receiver, self._begin_ns, self._end_ns)
                total, lost = total + result.sent, lost + result.lost
                worst = max(worst, result.blackout_ms)
                self._claim_probes(f"{sender} to {receiver} over {family.label}", result, expected)
        if self._miss == "rewrite":
            self._claim(
                f"all {family.label} probes together: {lost} lost (at most {MAX_LOST}),"
                f" blackout {worst:.1f} ms (at most {MAX_BLACKOUT_MS:.0f})",
                lost <= MAX_LOST and worst <= MAX_BLACKOUT_MS,
            )
        self._moves.append(
            {
                "guest": "H1",
                "family": str(family),
                "from": "A",
                "to": "B",
                "blackout_ms": round(worst, 3),
                "probes_sent": total,
                "probes_lost": lost,
                "tcp_survived": all(survived.values()),
            }
        )

    def _claim_probes(self, way: str, result: ProbeResult, alive: bool) -> None:
        text = (
            f"probes {way}: {result.lost} of {result.sent} lost,"
            f" longest interruption {result.blackout_ms:.1f} ms"
        )
        if alive:
            good = result.lost <= MAX_LOST and result.blackout_ms <= MAX_BLACKOUT_MS
            self._claim(text, good)
        else:
            self._claim(f"{text}: the flow died", result.lost > result.sent / 2)

    def _judge_bystanders(self) -> None:
        self._narrator.chapter("Bystanders")
        seen = self._watch.bystanders()
        self._bystanders = sum(seen.values())
        listed = ", ".join(f"{name} {count}" for name, count in seen.items())
        self._narrator.say(f"Frames seen that were addressed to somebody else: {listed}")
        if self._miss == "flood":
            self._claim("flooding has shown the flow to bystanders", self._bystanders > 0)
        else:
            self._claim("no guest saw a frame of somebody else's", self._bystanders == 0)
