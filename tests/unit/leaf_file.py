"""A leaf's configuration file that is in order, and changes to it for tests to make."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from leaf.config import Config
from vswitch.service.settings import check

Table = dict[str, Any]

GOOD: Table = {
    "leaf": {"vtep": "192.0.2.1"},
    "group": [
        {"name": "one", "shared-mac": "00:00:de:ad:be:ef"},
        {"name": "two", "shared-mac": "00:00:de:ad:be:00"},
    ],
    "vswitch": [
        {"name": "a", "vtep": "192.0.2.11", "group": "one"},
        {"name": "b", "vtep": "192.0.2.12", "group": "one"},
        {"name": "c", "vtep": "192.0.2.13", "group": "two"},
    ],
    "remote-leaf": [{"name": "far", "vtep": "192.0.2.2", "router-mac": "02:00:00:00:00:02"}],
    "vrf": [{"name": "tenant", "vni": 5000}, {"name": "other", "vni": 6000}],
    "segment": [
        {"name": "red", "vni": 100, "vrf": "tenant", "gateway": ["1.1.1.254/24"]},
        {
            "name": "blue",
            "vni": 200,
            "vrf": "tenant",
            "gateway": ["2.2.2.254/24", "3.3.3.126/25"],
            "vswitches": ["a", "b"],
            "hop-neutral": True,
            "multicast": "replicate",
        },
        {"name": "same", "vni": 300, "vrf": "other", "gateway": ["1.1.1.254/24"]},
    ],
    "route": [
        {"vrf": "tenant", "prefix": "10.10.0.0/16", "via": "1.1.1.9"},
        {"vrf": "tenant", "prefix": "10.20.0.0/16", "remote-leaf": "far"},
    ],
    "binding": [
        {"segment": "red", "address": "1.1.1.1", "mac": "02:00:00:00:00:01", "vswitch": "a"},
    ],
}


def good() -> Table:
    return copy.deepcopy(GOOD)


def read(table: Table) -> Config:
    return check(table, Config, "leaf.toml")


def changed(change: Callable[[Table], object]) -> Config:
    table = good()
    change(table)
    return read(table)


def route(**fields: object) -> Callable[[Table], object]:
    """Add a route to the table."""
    return lambda t: t["route"].append({"vrf": "tenant", "prefix": "10.99.0.0/16", **fields})


def binding(**fields: object) -> Callable[[Table], object]:
    """Add a binding to the table."""
    one = {"segment": "red", "address": "1.1.1.7", "mac": "02:00:00:00:00:07", "vswitch": "a"}
    return lambda t: t["binding"].append(one | fields)


def segment(**fields: object) -> Callable[[Table], object]:
    """Add a segment to the table."""
    one = {"name": "new", "vni": 900, "vrf": "tenant", "gateway": ["9.9.9.1/24"]}
    return lambda t: t["segment"].append(one | fields)


ONE_MAC = "02:00:00:00:00:05"


def dhcp(**fields: object) -> Callable[[Table], object]:
    """Have the segment red give out addresses."""
    one = {"mode": "respond", "pool": ["1.1.1.100-1.1.1.199"]}
    return lambda t: t["segment"][0].update(dhcp=one | fields)


def relay(*servers: str, **fields: object) -> Callable[[Table], object]:
    """Have the segment red relay."""
    one = {"mode": "relay", "servers": list(servers) or ["10.0.0.53"]}
    return lambda t: t["segment"][0].update(dhcp=one | fields)


def with_ipv6(change: Callable[[Table], object]) -> Callable[[Table], object]:
    """Give the segment red a subnet of IPv6 besides."""

    def both(t: Table) -> None:
        t["segment"][0]["gateway"] = ["1.1.1.254/24", "2001:db8:1::fe/64"]
        change(t)

    return both
