"""Super-frames between real kernels, with offloads on and off; a busy port beside a quiet one."""

from __future__ import annotations

import subprocess
import time
from typing import NamedTuple

import pytest

from tools.fabric.lab import Lab

from .commands import check_tcp, counters, first_good, flooded_p99_ms, iperf, iperf_server, p99_ms
from .conftest import MakeLab, seed

MAX_ASKED_S = 0.2


@pytest.fixture(params=["auto", "off"])
def either(request: pytest.FixtureRequest, make_lab: MakeLab) -> Lab:
    """A lab with offloads, and one without."""
    name = f"off{request.param}"
    return make_lab(seed(name, lab={"name": name, "offload": request.param}))


def _retransmitted(lab: Lab, guest: str) -> float:
    """Return the share of segments that a guest has sent again."""
    table = lab.node(guest).run(["cat", "/proc/net/snmp"]).stdout.splitlines()
    names, values = (line.split() for line in table if line.startswith("Tcp:"))
    return int(values[names.index("RetransSegs")]) / int(values[names.index("OutSegs")])


def _bad_checksums(lab: Lab, guest: str) -> int:
    table = lab.node(guest).run(["cat", "/proc/net/snmp"]).stdout.splitlines()
    names, values = (line.split() for line in table if line.startswith("Tcp:"))
    return int(values[names.index("InCsumErrors")])


@pytest.mark.parametrize(("client", "server"), [("H1", "H2"), ("H1", "H4"), ("H4", "H6")])
def test_tcp_flows_both_ways_without_a_bad_checksum(either: Lab, client: str, server: str) -> None:
    address = {guest.name: str(guest.address) for guest in either.topology.guest}[server]
    for direction in ((), ("-R",), ("-P", "4")):
        check_tcp(either, client, server, address, *direction)
    for guest in (client, server):
        assert _bad_checksums(either, guest) == 0
        assert _retransmitted(either, guest) < 0.05


def test_a_super_frame_is_one_frame_at_the_switch(lab: Lab) -> None:
    """Else the test above would say nothing about super-frames."""
    before = counters(lab, "A")["frames"]["local"]
    end = iperf(lab, "H1", "H2", "1.1.1.2")
    frames = counters(lab, "A")["frames"]["local"] - before
    segments = end["sum_sent"]["bytes"] / 1398
    assert frames < segments / 4


def test_the_kernel_takes_our_trains(lab: Lab) -> None:
    """A train that the kernel refuses is sent packet by packet, and the log says so."""
    iperf(lab, "H1", "H4", "1.1.1.4")
    for daemon in ("A", "B", "leaf"):
        faults = counters(lab, daemon)["tunnel_faults"]
        assert (faults["too_big"], faults["uncuttable"], faults["other"]) == (0, 0, 0)
    for name in ("A", "leaf", "B"):
        daemon = lab.leaf if name == "leaf" else lab.vswitches[name]
        assert "one by one" not in daemon.log.read_text()


class Beside(NamedTuple):
    """What others see of a flood: the 99th percentile of a ping, and how long `show` takes."""

    p99_ms: float
    asked_s: float


def _beside_a_flood(lab: Lab, payload: str) -> Beside:
    """H1 sends as fast as it can; H5 and H6 talk through the same switches and the same leaf."""
    with iperf_server(lab, "H4"):
        flood = lab.node("H1").popen(
            ["iperf3", "-c", "1.1.1.4", "-u", "-b", "0", "-l", payload, "-t", "6"],
            stdout=subprocess.DEVNULL,
        )
        try:
            time.sleep(1.0)  # The outside world: iperf3 needs a moment to connect and begin.
            p99 = p99_ms(lab, "H5", "2.2.2.6", count=200)
            began = time.monotonic()
            client = lab.vswitches["A"].client()
            client.get("/v1/guests")
            asked = time.monotonic() - began
            client.close()
        finally:
            flood.kill()
            flood.wait()
    return Beside(p99, asked)


@pytest.mark.parametrize("payload", ["18", "1400"])
def test_a_port_that_floods_starves_neither_others_nor_the_api(lab: Lab, payload: str) -> None:
    bounds = Beside(flooded_p99_ms(lab), MAX_ASKED_S)

    def are_met(measured: Beside) -> bool:
        return measured.p99_ms < bounds.p99_ms and measured.asked_s < bounds.asked_s

    measured = first_good(lambda: _beside_a_flood(lab, payload), are_met)
    assert are_met(measured), (measured, bounds)
