"""A kernel VXLAN device as the far end: what we send is standard VXLAN, and we take theirs."""

from __future__ import annotations

import pytest

from tools.fabric.lab import UNDERLAY_LINK, Lab
from tools.fabric.topology import Topology

from .commands import iperf, ping
from .conftest import MakeLab

SHARED = "00:00:de:ad:be:ef"


@pytest.fixture(params=["auto", "off"])
def offload(request: pytest.FixtureRequest) -> str:
    """Trains cut from super-frames must be as good as single packets."""
    return str(request.param)


def _topology(name: str, offload: str) -> Topology:
    return Topology.model_validate(
        {
            "lab": {"name": name, "offload": offload},
            "segment": [{"name": "red", "vni": 100, "gateway": "1.1.1.254/24"}],
            "host": [
                {"name": "A", "address": "10.99.0.11"},
                {"name": "K", "address": "10.99.0.12"},
            ],
            "guest": [
                {
                    "name": "H1",
                    "host": "A",
                    "segment": "red",
                    "address": "1.1.1.1",
                    "mac": "00:00:01:01:01:01",
                }
            ],
        }
    )


def _add_vxlan(lab: Lab, node: str, remote: str, mac: str, address: str) -> None:
    """Put a kernel VXLAN device in the place of a node's daemon."""
    namespace = lab.node(node)
    namespace.complete_checksums(UNDERLAY_LINK)
    namespace.add_link("vx0", "vxlan", vxlan_id=100, vxlan_group=remote, vxlan_port=4789)
    namespace.link_up("vx0", address=mac, mtu=1450)
    namespace.add_address("vx0", address, 24)


@pytest.fixture
def kernel_leaf(make_lab: MakeLab, offload: str) -> Lab:
    """A vswitch whose leaf is a kernel VXLAN device with the gateway's address."""
    lab = make_lab(_topology("kleaf", offload))
    lab.leaf.down()
    _add_vxlan(lab, "leaf", "10.99.0.11", SHARED, "1.1.1.254")
    return lab


@pytest.fixture
def kernel_host(make_lab: MakeLab, offload: str) -> Lab:
    """A leaf one of whose hosts is a kernel VXLAN device with a guest's address."""
    lab = make_lab(_topology("khost", offload))
    lab.vswitches["K"].down()
    _add_vxlan(lab, "K", "10.99.0.1", "00:00:01:01:01:09", "1.1.1.9")
    return lab


def test_a_vswitch_talks_to_the_kernel(kernel_leaf: Lab) -> None:
    answer = ping(kernel_leaf, "H1", "1.1.1.254", "-s", "1422", "-M", "do")
    assert (answer.received, answer.ttl) == (3, 64), answer.text
    for client, server, address in (("H1", "leaf", "1.1.1.254"), ("leaf", "H1", "1.1.1.1")):
        end = iperf(kernel_leaf, client, server, address)
        assert end["sum_received"]["bits_per_second"] > 50e6


def test_a_leaf_talks_to_the_kernel(kernel_host: Lab) -> None:
    answer = ping(kernel_host, "H1", "1.1.1.9", "-s", "1422", "-M", "do", count=5)
    assert answer.received == 5, answer.text
    assert answer.ttl == 63
    for client, server, address in (("H1", "K", "1.1.1.9"), ("K", "H1", "1.1.1.1")):
        end = iperf(kernel_host, client, server, address)
        assert end["sum_received"]["bits_per_second"] > 50e6
