"""A kernel VXLAN device as the far end: what we send is standard VXLAN, and we take theirs."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tools.fabric.lab import UNDERLAY_LINK, Lab
from tools.fabric.topology import Topology

from .commands import check_tcp, ping
from .conftest import MakeLab

SHARED = "00:00:de:ad:be:ef"


class Vteps(NamedTuple):
    """The tunnel ends of a fabric."""

    subnet: str
    leaf: str
    a: str
    k: str


VTEPS = {
    "ipv4": Vteps("10.99.0.0/24", "10.99.0.1", "10.99.0.11", "10.99.0.12"),
    "ipv6": Vteps("2001:db8:99::/64", "2001:db8:99::1", "2001:db8:99::a", "2001:db8:99::c"),
}


@pytest.fixture(params=["auto", "sockets", "off"])
def offload(request: pytest.FixtureRequest) -> str:
    """Super-frames, trains cut from them, and single packets must be as good as each other."""
    return str(request.param)


@pytest.fixture(params=["ipv4", "ipv6"])
def vteps(request: pytest.FixtureRequest) -> Vteps:
    """The underlay's family."""
    return VTEPS[request.param]


def _topology(name: str, offload: str, vteps: Vteps) -> Topology:
    return Topology.model_validate(
        {
            "lab": {"name": name, "offload": offload},
            "underlay": {"subnet": vteps.subnet, "leaf": vteps.leaf},
            "segment": [{"name": "red", "vni": 100, "gateway": "1.1.1.254/24"}],
            "host": [
                {"name": "A", "address": vteps.a},
                {"name": "K", "address": vteps.k},
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
    if lab.topology.lab.offload != "auto":
        # Otherwise the kernel hands over whole super-frames with open checksums, which only the
        # shortcut can tell.
        namespace.complete_checksums(UNDERLAY_LINK)
    group = {"vxlan_group6" if ":" in remote else "vxlan_group": remote}
    namespace.add_link("vx0", "vxlan", vxlan_id=100, vxlan_port=4789, **group)
    namespace.link_up("vx0", address=mac, mtu=lab.topology.underlay.guest_mtu)
    namespace.add_address("vx0", address, 24)


@pytest.fixture
def kernel_leaf(make_lab: MakeLab, offload: str, vteps: Vteps) -> Lab:
    """A vswitch whose leaf is a kernel VXLAN device with the gateway's address."""
    lab = make_lab(_topology("kleaf", offload, vteps))
    lab.leaf.down()
    _add_vxlan(lab, "leaf", vteps.a, SHARED, "1.1.1.254")
    return lab


@pytest.fixture
def kernel_host(make_lab: MakeLab, offload: str, vteps: Vteps) -> Lab:
    """A leaf one of whose hosts is a kernel VXLAN device with a guest's address."""
    lab = make_lab(_topology("khost", offload, vteps))
    lab.vswitches["K"].down()
    _add_vxlan(lab, "K", vteps.leaf, "00:00:01:01:01:09", "1.1.1.9")
    return lab


def _largest(lab: Lab) -> str:
    """The payload of the largest ping."""
    return str(lab.topology.underlay.guest_mtu - 28)


def test_a_vswitch_talks_to_the_kernel(kernel_leaf: Lab) -> None:
    answer = ping(kernel_leaf, "H1", "1.1.1.254", "-s", _largest(kernel_leaf), "-M", "do")
    assert (answer.received, answer.ttl) == (3, 64), answer.text
    for client, server, address in (("H1", "leaf", "1.1.1.254"), ("leaf", "H1", "1.1.1.1")):
        check_tcp(kernel_leaf, client, server, address)


def test_a_leaf_talks_to_the_kernel(kernel_host: Lab) -> None:
    answer = ping(kernel_host, "H1", "1.1.1.9", "-s", _largest(kernel_host), "-M", "do", count=5)
    assert answer.received == 5, answer.text
    assert answer.ttl == 63
    for client, server, address in (("H1", "K", "1.1.1.9"), ("K", "H1", "1.1.1.1")):
        check_tcp(kernel_host, client, server, address)
