"""The seed scenario: what is done, in what order, and what is claimed of it.

H1 and H2 are neighbours on host A, H3 and H4 on host B, H5 and H6 sit in another subnet. H1 moves
to B while it talks to H2 and H4. Nothing is told to any guest: their neighbour tables stay as they
were, and what they send to stale MACs must arrive all the same.

Each claim is checked against what was seen (captures, neighbour tables, the probes' own notes), is
printed as it is decided, and counts towards the exit status. With another miss policy the scenario
shows what the rewriting is for, so there the claims about H1 and H2 are the opposite ones.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

from tools.fabric.lab import GUEST_LINK, Lab

from .traffic import Flow, Observed, Traffic
from .watch import Path, Watch

MAX_BLACKOUT_MS = 20.0
MAX_LOST = 20
WARM_UP = 1.5
"""Seconds of traffic before the move."""
AFTER = 3.0
"""Seconds of traffic after it: past Linux's first three unicast ARP probes."""
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

    def __init__(self, lab: Lab, miss: str, narrator: Narrator) -> None:
        self._lab = lab
        self._miss = miss
        self._narrator = narrator
        self._shared = lab.topology.lab.shared_mac.hex(":")
        self._mac = {guest.name: guest.mac.hex(":") for guest in lab.topology.guest}
        self._ip = {guest.name: str(guest.address) for guest in lab.topology.guest}
        self._flows: list[dict[str, Any]] = []
        self._moves: list[dict[str, Any]] = []
        self._bystanders = 0
        self._ok = True
        self._watch = Watch(lab)
        self._traffic = Traffic(lab, [Flow("H1", "H2"), Flow("H1", "H4")])

    def run(self) -> dict[str, Any]:
        """Run it and return the report. The lab must be up."""
        try:
            self._before()
            self._move()
            self._return_direction()
            observed, moved_ns = self._neighbours_now()
            self._judge(observed, moved_ns)
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

    def _follow(self, sender: str, receiver: str, phase: str, expected: list[str]) -> Path:
        """Send one marked frame, draw its way, and claim that it is the expected one."""
        switch = self._lab.places()[sender]
        path = self._watch.follow(sender, receiver)
        places = path.places(switch)
        arrived = bool(places) and places[-1] == receiver
        self._narrator.path(path, switch, arrived)
        ok = places == expected
        self._claim(f"{sender} to {receiver}: {' > '.join(expected)}", ok)
        self._flows.append(
            {"name": f"{sender}->{receiver}", "phase": phase, "ok": ok, "path": places}
        )
        return path

    def _neighbour(self, guest: str, address: str) -> str | None:
        table = self._lab.node(guest).neighbours(GUEST_LINK)
        return next((entry.mac for entry in table if entry.address == address), None)

    def _claim_neighbour(self, guest: str, name: str, address: str, mac: str) -> None:
        found = self._neighbour(guest, address)
        what = "the shared MAC" if mac == self._shared else "its real MAC"
        self._claim(f"{guest}'s neighbour table has {name} at {what} ({found})", found == mac)

    # -- the chapters --------------------------------------------------------------------------

    def _before(self) -> None:
        self._narrator.chapter("Before the move")
        for key, value in QUICK_NEIGHBOURS.items():
            self._lab.node("H1").sysctl(f"ipv4/neigh/{GUEST_LINK}/{key}", value)
        self._narrator.say("H1 speaks to everybody once; one marked frame each is followed.")
        self._follow("H1", "H2", "before", ["H1", "A", "H2"])
        self._follow("H1", "H3", "before", ["H1", "A", "leaf", "B", "H3"])
        self._follow("H1", "H4", "before", ["H1", "A", "leaf", "B", "H4"])
        self._follow("H1", "H6", "before", ["H1", "A", "leaf", "B", "H6"])
        gateway = str(self._lab.topology.segment_of(self._lab.guest("H1")).gateway.ip)
        self._claim_neighbour("H1", "H2", self._ip["H2"], self._mac["H2"])
        for name in ("H3", "H4"):
            self._claim_neighbour("H1", name, self._ip[name], self._shared)
        self._claim_neighbour("H1", "the gateway", gateway, self._shared)

    def _move(self) -> None:
        self._narrator.chapter("H1 moves from A to B while it talks")
        self._traffic.start()
        self._narrator.say("A TCP stream and 1 kHz probes run between H1 and H2, and H1 and H4.")
        time.sleep(WARM_UP)
        self._begin_ns = time.time_ns()
        move = self._lab.move("H1", "B")
        self._narrator.say(
            f"Moved: active on both hosts for {(move.detached_at - move.activated_at) * 1e3:.1f}"
            " ms, then only on B; its link kept its carrier, and nobody told the guests."
        )
        self._moved_ns = time.time_ns()
        if self._miss == "rewrite":
            path = self._follow("H1", "H2", "after", ["H1", "B", "leaf", "A", "H2"])
            self._claim_rewritten(path, "B", self._mac["H2"])
        else:
            # The vswitch drops the frame, or floods it up to the leaf, which drops it.
            expected = ["H1"] if self._miss == "drop" else None
            self._follow_lost("H1", "H2", expected)
        self._claim_neighbour("H1", "H2 still", self._ip["H2"], self._mac["H2"])

    def _return_direction(self) -> None:
        self._narrator.chapter("Back: H2 to H1")
        if self._miss == "rewrite":
            path = self._follow("H2", "H1", "after", ["H2", "A", "leaf", "B", "H1"])
            self._claim_rewritten(path, "A", self._mac["H1"])
            self._claim_neighbour("H2", "H1 still", self._ip["H1"], self._mac["H1"])
        else:
            self._follow_lost("H2", "H1", ["H2"] if self._miss == "drop" else None)

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

    def _follow_lost(self, sender: str, receiver: str, expected: list[str] | None) -> None:
        switch = self._lab.places()[sender]
        path = self._watch.follow(sender, receiver)
        places = path.places(switch)
        self._narrator.path(path, switch, receiver in places)
        ok = receiver not in places and (expected is None or places == expected)
        self._claim(f"{sender} to {receiver}: lost, as with any switch that does not rewrite", ok)
        self._flows.append(
            {"name": f"{sender}->{receiver}", "phase": "after", "ok": ok, "path": places}
        )

    def _neighbours_now(self) -> tuple[Observed, int]:
        self._narrator.chapter("H1 and H4 are neighbours now")
        self._follow("H1", "H4", "after", ["H1", "B", "leaf", "B", "H4"])
        left = AFTER - (time.time_ns() - self._moved_ns) / 1e9
        time.sleep(max(0.0, left))
        self._end_ns = time.time_ns()
        observed = self._traffic.stop()
        self._narrator.say(
            "The streams have ended, so nothing confirms H1's entry for H4 any more. Linux asks by"
            " unicast, hears silence, asks all, and hears H4 itself (its timers are shortened)."
        )
        began = time.monotonic()
        while self._neighbour("H1", self._ip["H4"]) != self._mac["H4"]:
            if time.monotonic() - began > REFRESH_TIMEOUT:
                break
            self._watch.follow("H1", "H4")  # Traffic is what makes Linux look at an entry.
        took = time.monotonic() - began
        self._narrator.say(f"After {took:.1f} s:")
        self._claim_neighbour("H1", "H4", self._ip["H4"], self._mac["H4"])
        self._follow("H1", "H4", "refreshed", ["H1", "B", "H4"])
        return observed, self._moved_ns

    # -- judging -------------------------------------------------------------------------------

    def _judge(self, observed: Observed, moved_ns: int) -> None:
        self._narrator.chapter("What the probes and streams say of the move")
        survived = {}
        total, lost, worst = 0, 0, 0.0
        for peer in ("H2", "H4"):
            survived[peer] = observed.stream_survived(
                "H1", peer, moved_ns, self._end_ns - STREAM_PAUSE_NS
            )
            expected = self._miss == "rewrite" or peer == "H4"
            verb = "survived" if survived[peer] else "died"
            self._claim(f"the TCP stream H1-{peer} {verb}", survived[peer] == expected)
            for sender, receiver in (("H1", peer), (peer, "H1")):
                result = observed.probes(sender, receiver, self._begin_ns, self._end_ns)
                total, lost = total + result.sent, lost + result.lost
                worst = max(worst, result.blackout_ms)
                text = (
                    f"probes {sender} to {receiver}: {result.lost} of {result.sent} lost,"
                    f" longest interruption {result.blackout_ms:.1f} ms"
                )
                if expected:
                    good = result.lost <= MAX_LOST and result.blackout_ms <= MAX_BLACKOUT_MS
                    self._claim(text, good)
                else:
                    self._claim(f"{text}: the flow died", result.lost > result.sent / 2)
        if self._miss == "rewrite":
            self._claim(
                f"all probes together: {lost} lost (at most {MAX_LOST}),"
                f" blackout {worst:.1f} ms (at most {MAX_BLACKOUT_MS:.0f})",
                lost <= MAX_LOST and worst <= MAX_BLACKOUT_MS,
            )
        self._moves.append(
            {
                "guest": "H1",
                "from": "A",
                "to": "B",
                "blackout_ms": round(worst, 3),
                "probes_sent": total,
                "probes_lost": lost,
                "tcp_survived": all(survived.values()),
            }
        )

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
