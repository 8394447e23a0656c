"""The agents of all guests together: started, stopped, and what they saw made into figures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tools.fabric.lab import Lab
from tools.fabric.process import LabError
from tools.fabric.topology import Family

REPOSITORY = Path(__file__).resolve().parents[2]
INTERVAL = 0.001
"""Seconds between two probes of a flow; several families take turns. Twice as many would keep two
processors so busy that what is measured is their scheduler."""
FIRST_PORT = 7001


class ProbeResult(NamedTuple):
    """What became of the probes of one direction of a flow in a span of time."""

    sent: int
    lost: int
    blackout_ms: float
    """The longest interruption, see `blackout`."""


class Observed(NamedTuple):
    """The notes of every agent of one address family, by guest."""

    notes: dict[str, Any]

    def probes(self, sender: str, receiver: str, begin_ns: int, end_ns: int) -> ProbeResult:
        """Judge the probes that `sender` sent between two times."""
        sent: list[int] = self.notes[sender]["probes"][receiver]["sent"]
        received: list[tuple[int, int]] = self.notes[receiver]["probes"][sender]["received"]
        came = dict(reversed(received))
        wanted = [n for n, when in enumerate(sent) if begin_ns <= when < end_ns]
        lost = sum(1 for number in wanted if number not in came)
        return ProbeResult(len(wanted), lost, blackout(sent, came, wanted, end_ns) / 1e6)

    def stream_fault(self, client: str, server: str, moved_ns: int, quiet_ns: int) -> str | None:
        """Say why a TCP stream did not go on after `moved_ns` until at least `quiet_ns`, or None
        where it did."""
        stream = self.notes[client]["streams"][server]
        if stream["failure"] is not None:
            return str(stream["failure"])
        last = max(stream["echoed"], default=0)
        if last <= moved_ns:
            return "silent since the move"
        return None if last >= quiet_ns else "silent at the end"


def blackout(sent: list[int], came: dict[int, int], wanted: list[int], end_ns: int) -> float:
    """Return the longest interruption of a direction, in nanoseconds.

    Between two probes of which none in between was lost, it is what the way took longer for the
    second than for the first (a sender that was itself held up is no interruption). Over a run of
    lost probes it is the whole time from the last arrival before to the first one after.
    """
    worst = 0.0
    before: int | None = None
    for number in wanted:
        if number not in came:
            continue
        if before is None:
            first = wanted[0]
            gap = came[number] - sent[first] if number != first else 0
        elif number == before + 1:
            gap = (came[number] - came[before]) - (sent[number] - sent[before])
        else:
            gap = came[number] - came[before]
        worst = max(worst, gap)
        before = number
    if wanted and before != wanted[-1]:
        last = came[before] if before is not None else sent[wanted[0]]
        worst = max(worst, end_ns - last)
    return worst


class Flow(NamedTuple):
    """Two guests that talk: probes both ways, and a TCP stream from the first to the second."""

    client: str
    server: str


class Traffic:
    """All flows of a scenario, in each address family. An agent is one guest's in one family, so
    that none has more to do than with one family alone."""

    def __init__(self, lab: Lab, flows: list[Flow], families: Sequence[Family]) -> None:
        self._lab = lab
        self._flows = flows
        self._families = families
        self._agents: dict[tuple[Family, str], subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start every agent, wait until their sockets are open, and let them begin."""
        names = sorted({name for flow in self._flows for name in flow})
        for family in self._families:
            for name in names:
                self._agents[family, name] = self._lab.node(name).popen(
                    [sys.executable, "-m", "tools.scenario.agent", self._job(family, name)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    cwd=REPOSITORY,
                )
        for (family, name), agent in self._agents.items():
            assert agent.stdout is not None
            if agent.stdout.readline().strip() != b"ready":
                raise LabError(f"the {family.label} traffic of guest {name} did not start")
        for agent in self._agents.values():
            assert agent.stdin is not None
            agent.stdin.write(b"go\n")
            agent.stdin.flush()

    def _job(self, family: Family, name: str) -> str:
        address = self._lab.topology.addresses(family)
        probes = {}
        for port, flow in enumerate(self._flows, FIRST_PORT):
            if name in flow:
                peer = flow.server if name == flow.client else flow.client
                probes[peer] = [address[peer], port]
        return json.dumps(
            {
                "out": str(self._out(family, name)),
                "address": address[name],
                "probes": probes,
                "interval": INTERVAL * len(self._families),
                "streams": {f.server: address[f.server] for f in self._flows if f.client == name},
                "serve": any(flow.server == name for flow in self._flows),
            }
        )

    def stop(self) -> dict[Family, Observed]:
        """Stop every agent and collect its notes."""
        observed = {family: Observed({}) for family in self._families}
        clients = {flow.client for flow in self._flows}
        # A server that went before its client would be seen as the end of their stream.
        for is_client in (True, False):
            ending = {
                key: agent
                for key, agent in self._agents.items()
                if (key[1] in clients) == is_client
            }
            for agent in ending.values():
                assert agent.stdin is not None
                agent.stdin.close()
            for (family, name), agent in ending.items():
                if agent.wait(timeout=10) != 0:
                    raise LabError(
                        f"the {family.label} traffic of guest {name} ended with {agent.returncode}"
                    )
                observed[family].notes[name] = json.loads(self._out(family, name).read_text())
        self._agents = {}
        return observed

    def kill(self) -> None:
        """End what still runs, when the scenario has failed."""
        for agent in self._agents.values():
            agent.kill()
            agent.wait()

    def _out(self, family: Family, name: str) -> Path:
        return self._lab.directory / f"traffic-{name}-{family}.json"
