"""A decision does not get slower with more ports.

Verdicts are built when the topology changes and only looked up per frame. What is compared is the
best of several timings on the same machine in the same breath, and a factor of two is allowed:
a decision that walked the ports would be some fifty times slower, not twice.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter

import pytest

from tests.frames import BROADCAST, SHARED_MAC, arp, mac, udp, vxlan
from tests.unit.topology import FAR_MAC, LEAF, RED, attachment
from vswitch.phy.port import PortId
from vswitch.switch import Switch
from vswitch.wire.ethernet import Mac

ROUNDS, FRAMES, TRIES = 15, 2000, 3


def switch_with(ports: int) -> Switch:
    switch = Switch(Mac(SHARED_MAC), [LEAF])
    switch.add_segment(RED, "rewrite")
    for number in range(1, ports + 1):
        switch.place(attachment(f"g{number}", PortId(number), RED, mac(number)))
    return switch


def cost(switch: Switch, ingress: PortId | None, frame: bytes) -> float:
    """The time of `FRAMES` decisions on a frame."""
    start = perf_counter()
    if ingress is None:
        for _ in range(FRAMES):
            switch.decide_uplink(LEAF, frame)
    else:
        for _ in range(FRAMES):
            switch.decide(ingress, frame)
    return perf_counter() - start


@pytest.mark.parametrize(
    ("ingress", "frame"),
    [
        pytest.param(PortId(1), udp(mac(2), mac(1)), id="local"),
        pytest.param(PortId(1), udp(FAR_MAC, mac(1)), id="miss"),
        pytest.param(PortId(1), arp(BROADCAST, mac(1)), id="group"),
        pytest.param(None, vxlan(RED, udp(mac(2), FAR_MAC)), id="uplink_local"),
        pytest.param(None, vxlan(RED, arp(BROADCAST, FAR_MAC)), id="uplink_group"),
    ],
)
def test_a_thousand_ports_cost_as_much_as_ten(ingress: PortId | None, frame: bytes) -> None:
    few, many = switch_with(10), switch_with(1000)
    cost(few, ingress, frame), cost(many, ingress, frame)  # Build what is built at first use.
    ratios = []
    for _ in range(TRIES):
        # Alternating, so that a burst of other work on the machine hits both alike.
        pairs = [(cost(few, ingress, frame), cost(many, ingress, frame)) for _ in range(ROUNDS)]
        ratios.append(median(pair[1] for pair in pairs) / median(pair[0] for pair in pairs))
        if ratios[-1] <= 2.0:
            return
    pytest.fail(f"a decision among 1,000 ports costs {min(ratios):.1f} times one among 10")
