"""The leaf's configuration: what must agree in it, what it describes, and what a reload changes.

Every mistake is a row: a change to a file that is in order, and the words that the error must hold:
the name of the thing, and what to do or what there is instead. A file that passes must also be one
that a leaf can run with; `test_what_passes_can_be_served` holds the checks to that.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leaf.bindings import MAX_BINDINGS
from leaf.config import Change, Config, plan, relay_addresses, router_mac, topology
from leaf.fib import MAX_PREFIXES
from leaf.router import Router
from leaf.topology import Relay
from tests.frames import OTHER_SHARED_MAC, SHARED_MAC, mac, v4, v6
from tests.unit.leaf_world import prefix
from vswitch.service.settings import SettingsError, check, load

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


MISTAKES: dict[str, tuple[Callable[[Table], object], tuple[str, ...]]] = {
    # The same thing twice.
    "group_name_twice": (
        lambda t: t["group"].append(t["group"][0]),
        ("group name 'one'", "unique"),
    ),
    "vswitch_name_twice": (
        lambda t: t["vswitch"].append({"name": "a", "vtep": "192.0.2.77", "group": "one"}),
        ("vswitch name 'a'", "unique"),
    ),
    "remote_leaf_name_twice": (
        lambda t: t["remote-leaf"].append(t["remote-leaf"][0] | {"vtep": "192.0.2.77"}),
        ("remote-leaf name 'far'", "unique"),
    ),
    "vrf_name_twice": (
        lambda t: t["vrf"].append({"name": "tenant", "vni": 7000}),
        ("vrf name 'tenant'", "unique"),
    ),
    "segment_name_twice": (segment(name="red"), ("segment name 'red'", "unique")),
    "vni_twice_among_segments": (segment(vni=100), ("vni 100", "unique")),
    "vni_of_a_vrf_and_a_segment": (segment(vni=5000), ("vni 5000", "unique")),
    "vtep_of_two_vswitches": (
        lambda t: t["vswitch"].append({"name": "d", "vtep": "192.0.2.11", "group": "one"}),
        ("vtep '192.0.2.11'", "unique"),
    ),
    "vtep_of_a_vswitch_and_a_leaf": (
        lambda t: t["vswitch"].append({"name": "d", "vtep": "192.0.2.2", "group": "one"}),
        ("vtep '192.0.2.2'", "unique"),
    ),
    "vtep_of_a_vswitch_and_ourselves": (
        lambda t: t["vswitch"].append({"name": "d", "vtep": "192.0.2.1", "group": "one"}),
        ("vtep '192.0.2.1'", "unique"),
    ),
    "vtep_twice_in_another_spelling": (
        lambda t: t["vswitch"].extend(
            {"name": n, "vtep": v, "group": "one"}
            for n, v in (("d", "2001:db8::1"), ("e", "2001:DB8:0::1"))
        ),
        ("vtep '2001:db8::1'", "unique"),
    ),
    "binding_twice": (binding(address="1.1.1.1", vswitch="b"), ("1.1.1.1", "unique")),
    "route_twice": (
        route(prefix="10.10.0.0/16", via="1.1.1.8"),
        ("10.10.0.0/16", "unique"),
    ),
    # A name of nothing.
    "unknown_group": (
        lambda t: t["vswitch"][0].update(group="three"),
        ("vswitch 'a'", "no group 'three'", "there are: one, two"),
    ),
    "unknown_vrf_of_a_segment": (
        segment(vrf="nobody"),
        ("segment 'new'", "no vrf 'nobody'", "there are: tenant, other"),
    ),
    "unknown_vswitch_of_a_segment": (
        segment(vswitches=["a", "z"]),
        ("segment 'new'", "no vswitch 'z'", "there are: a, b, c"),
    ),
    "unknown_vrf_of_a_route": (
        route(vrf="nobody", via="1.1.1.9"),
        ("route 10.99.0.0/16", "no vrf 'nobody'", "there are: tenant, other"),
    ),
    "unknown_remote_leaf": (
        route(**{"remote-leaf": "farther"}),
        ("route 10.99.0.0/16", "no remote-leaf 'farther'", "there are: far"),
    ),
    "unknown_segment_of_a_binding": (
        binding(segment="green"),
        ("binding 1.1.1.7", "no segment 'green'", "there are: red, blue, same"),
    ),
    "unknown_vswitch_of_a_binding": (
        binding(vswitch="z"),
        ("binding 1.1.1.7", "no vswitch 'z'", "there are: a, b, c"),
    ),
    # DHCP.
    "dhcp_without_anything_to_give": (dhcp(pool=[]), ("segment 'red'", "a pool or a reservation")),
    "dhcp_pool_outside": (dhcp(pool=["1.1.2.1-1.1.2.9"]), ("1.1.2.1-1.1.2.9", "one subnet")),
    "dhcp_pool_backwards": (dhcp(pool=["1.1.1.9-1.1.1.1"]), ("lower address first",)),
    "dhcp_pool_of_a_number": (dhcp(pool=[7]), ("segment[0].dhcp.pool[0]", "range as a string")),
    "dhcp_pool_with_the_network": (dhcp(pool=["1.1.1.0-1.1.1.9"]), ("1.1.1.0 is no host",)),
    "dhcp_pools_overlap": (
        dhcp(pool=["1.1.1.1-1.1.1.9", "1.1.1.9-1.1.1.12"]),
        ("1.1.1.1-1.1.1.9 and 1.1.1.9-1.1.1.12 overlap",),
    ),
    "dhcp_mode": (dhcp(mode="on"), ("segment[0].dhcp.mode", "'respond'")),
    "dhcp_reservation_of_one_mac_twice": (
        dhcp(reservation=[{"mac": ONE_MAC, "address": f"1.1.1.{n}"} for n in (5, 6)]),
        ("02:00:00:00:00:05", "unique"),
    ),
    "dhcp_reservation_of_one_address_twice": (
        dhcp(reservation=[{"mac": f"02:00:00:00:00:0{n}", "address": "1.1.1.5"} for n in (5, 6)]),
        ("1.1.1.5", "unique"),
    ),
    "dhcp_reservation_of_the_gateway": (
        dhcp(reservation=[{"mac": ONE_MAC, "address": "1.1.1.254"}]),
        ("reservation 1.1.1.254", "gateway's own"),
    ),
    "dhcp_reservation_for_the_shared_mac": (
        dhcp(reservation=[{"mac": "00:00:de:ad:be:ef", "address": "1.1.1.5"}]),
        ("reservation 1.1.1.5", "our own MACs"),
    ),
    "dhcp_reservation_of_what_is_bound": (
        dhcp(reservation=[{"mac": ONE_MAC, "address": "1.1.1.1"}]),
        ("reservation 1.1.1.1", "binding of it with another MAC"),
    ),
    "dhcp_route_to_nowhere": (
        dhcp(route=[{"prefix": "10.0.0.0/8", "via": "2.2.2.2"}]),
        ("route 10.0.0.0/8", "2.2.2.2 is not in a subnet"),
    ),
    "dhcp_relay_to_nobody": (relay(servers=[]), ("segment 'red'", "`relay` needs servers")),
    "dhcp_servers_without_relay": (
        dhcp(servers=["10.0.0.53"]),
        ("segment 'red'", "servers are for mode 'relay'", "'respond'"),
    ),
    "dhcp_relay_with_a_pool": (
        relay(pool=["1.1.1.100-1.1.1.199"], domain="example.org"),
        ("domain, pool: for mode 'respond'", "the servers say"),
    ),
    "dhcp_relay_with_a_lease_time": (relay(**{"lease-time": 60}), ("lease-time: for mode",)),
    "dhcp_server_twice": (relay("10.0.0.53", "10.0.0.53"), ("'10.0.0.53' stands twice",)),
    "dhcp_server_of_all": (relay("224.0.0.1"), ("224.0.0.1 is not the address of a host",)),
    "dhcp_server_is_us": (relay("192.0.2.1"), ("192.0.2.1 is the leaf's own relay address",)),
    "dhcp_server_without_a_subnet": (
        lambda t: (relay("fd00::53")(t), t["leaf"].update(relay6="fd00::1")),
        ("server fd00::53", "no gateway of IPv6"),
    ),
    "dhcp_server_and_no_address_to_ask_from": (
        with_ipv6(relay("fd00::53")),
        ("server fd00::53", "vtep 192.0.2.1 is not of its family", "set leaf.relay6"),
    ),
    "leaf_relay_of_ipv6": (
        lambda t: t["leaf"].update(relay="fd00::1"),
        ("not an address of IPv4",),
    ),
    "leaf_relay6_of_ipv4": (
        lambda t: t["leaf"].update(relay6="10.0.0.1"),
        ("not an address of IPv6",),
    ),
    "leaf_relay6_of_a_link": (
        lambda t: t["leaf"].update(relay6="fe80::1"),
        ("relay6: fe80::1", "servers can answer"),
    ),
    "dhcp_route_of_ipv6": (
        dhcp(route=[{"prefix": "2001:db8::/32"}]),
        ("2001:db8::/32", "IPv4 only"),
    ),
    # Addresses.
    "subnets_overlap": (
        segment(gateway=["1.1.1.129/25"]),
        ("vrf 'tenant'", "1.1.1.0/24", "'red'", "1.1.1.128/25", "'new'", "different VRFs"),
    ),
    "subnets_overlap_with_others_between": (
        segment(gateway=["0.0.0.1/1"]),
        ("vrf 'tenant'", "0.0.0.0/1", "'new'", "overlap"),
    ),
    "the_same_subnet_twice": (segment(gateway=["1.1.1.1/24"]), ("'red'", "'new'", "overlap")),
    "gateway_is_the_network": (
        segment(gateway=["9.9.9.0/24"]),
        ("segment 'new'", "9.9.9.0 is not a host address of 9.9.9.0/24"),
    ),
    "gateway_is_the_broadcast_address": (
        segment(gateway=["9.9.9.255/24"]),
        ("segment 'new'", "9.9.9.255 is not a host address"),
    ),
    "subnet_without_room": (
        segment(gateway=["9.9.9.2/31"]),
        ("segment 'new'", "9.9.9.2/31", "use /30 or larger"),
    ),
    "via_in_no_subnet": (
        route(via="9.9.9.9"),
        ("route 10.99.0.0/16", "via 9.9.9.9", "no subnet of vrf 'tenant'"),
    ),
    "via_in_another_vrfs_subnet": (
        route(vrf="other", via="2.2.2.5"),
        ("route 10.99.0.0/16", "via 2.2.2.5", "no subnet of vrf 'other'"),
    ),
    "via_of_the_other_family": (
        route(via="2001:db8::1"),
        ("`via` and `prefix` are not of one address family",),
    ),
    "via_of_the_other_family_for_an_ipv6_prefix": (
        route(prefix="2001:db8:99::/48", via="1.1.1.9"),
        ("`via` and `prefix` are not of one address family",),
    ),
    "via_the_network_address": (route(via="1.1.1.0"), ("route 10.99.0.0/16", "via 1.1.1.0")),
    "via_the_broadcast_address": (route(via="1.1.1.255"), ("route 10.99.0.0/16", "via 1.1.1.255")),
    "via_the_gateway_itself": (
        route(via="1.1.1.254"),
        ("route 10.99.0.0/16", "via 1.1.1.254", "gateway"),
    ),
    "route_without_a_next_hop": (route(), ("either `via` or `remote-leaf`",)),
    "route_with_two_next_hops": (
        route(via="1.1.1.9", **{"remote-leaf": "far"}),
        ("either `via` or `remote-leaf`",),
    ),
    "route_to_a_connected_subnet": (
        route(prefix="1.1.1.0/24", **{"remote-leaf": "far"}),
        ("route 1.1.1.0/24", "'red'"),
    ),
    "binding_outside": (
        binding(address="9.9.9.9"),
        ("binding 9.9.9.9", "not in a subnet of segment 'red'"),
    ),
    "binding_of_the_gateway": (
        binding(address="1.1.1.254"),
        ("binding 1.1.1.254", "the gateway's own address"),
    ),
    "binding_of_the_network_address": (binding(address="1.1.1.0"), ("binding 1.1.1.0",)),
    "binding_of_the_broadcast_address": (binding(address="1.1.1.255"), ("binding 1.1.1.255",)),
    "binding_at_a_vswitch_without_the_segment": (
        binding(segment="blue", address="2.2.2.5", vswitch="c"),
        ("binding 2.2.2.5", "segment 'blue' is not on vswitch 'c'"),
    ),
    "more_prefixes_than_the_table_holds": (
        lambda t: t["route"].extend(
            {"vrf": "other", "prefix": f"20.{n >> 8}.{n & 255}.0/24", "remote-leaf": "far"}
            for n in range(MAX_PREFIXES)
        ),
        ("vrf 'other'", str(MAX_PREFIXES)),
    ),
    "subnet_that_no_router_serves": (
        segment(gateway=["127.1.0.1/16"]),
        ("segment 'new'", "127.1.0.0/16", "no router may forward"),
    ),
    # The same of IPv6.
    "ipv6_subnets_overlap": (
        segment(gateway=["2001:db8:1::fe/64", "2001:db8:1:0:8000::1/65"]),
        ("vrf 'tenant'", "2001:db8:1::/64", "2001:db8:1:0:8000::/65", "'new'", "overlap"),
    ),
    "ipv6_gateway_is_the_routers_anycast": (
        segment(gateway=["2001:db8:9::/64"]),
        ("segment 'new'", "2001:db8:9:: is not a host address of 2001:db8:9::/64"),
    ),
    "ipv6_subnet_without_room": (
        segment(gateway=["2001:db8:9::2/127"]),
        ("segment 'new'", "2001:db8:9::2/127", "use /126 or larger"),
    ),
    "ipv6_host_as_a_subnet": (
        segment(gateway=["2001:db8:9::2/128"]),
        ("segment 'new'", "2001:db8:9::2/128", "use /126 or larger"),
    ),
    **{
        f"ipv6_subnet_that_no_router_serves_{name}": (
            segment(gateway=[subnet]),
            ("segment 'new'", "no router may forward", "fe80::/10"),
        )
        for name, subnet in (
            ("all", "2001:db8::1/0"),
            ("loopback", "::2/64"),
            ("mapped", "::ffff:1.2.3.4/120"),
            ("link_local", "fe80::1/64"),
            ("multicast", "ff05::1/64"),
        )
    },
    "ipv6_via_in_no_subnet": (
        route(prefix="2001:db8:99::/48", via="2001:db8:9::9"),
        ("route 2001:db8:99::/48", "via 2001:db8:9::9", "no subnet of vrf 'tenant'"),
    ),
    "ipv6_via_link_local": (
        route(prefix="2001:db8:99::/48", via="fe80::9"),
        ("via fe80::9", "no subnet of vrf 'tenant'"),
    ),
    "ipv6_route_with_host_bits": (
        route(prefix="2001:db8:99::1/48", **{"remote-leaf": "far"}),
        ("route[2].prefix",),
    ),
    "ipv6_binding_outside": (
        binding(address="2001:db8:1::7"),
        ("binding 2001:db8:1::7", "not in a subnet of segment 'red'"),
    ),
    "mtu_below_what_ipv6_needs": (segment(mtu=1279), ("segment[3].mtu", "1280")),
    "autonomous_as_text": (segment(autonomous="yes"), ("segment[3].autonomous",)),
    # Addresses of our own.
    "shared_mac_of_two_groups": (
        lambda t: t["group"].append({"name": "z", "shared-mac": t["group"][0]["shared-mac"]}),
        ("shared-mac", "unique"),
    ),
    "router_mac_is_a_shared_mac": (
        lambda t: t["leaf"].update({"router-mac": t["group"][0]["shared-mac"]}),
        ("router-mac", "group 'one'"),
    ),
    "binding_of_a_shared_mac": (
        binding(mac="00:00:de:ad:be:ef"),
        ("binding of 00:00:de:ad:be:ef", "one of our own"),
    ),
    "vtep_of_the_other_family": (
        lambda t: t["vswitch"].append({"name": "d", "vtep": "2001:db8::1", "group": "one"}),
        ("vswitch 'd': vtep 2001:db8::1", "one address family"),
    ),
    "vtep_of_a_remote_leaf_of_the_other_family": (
        lambda t: t["remote-leaf"][0].update(vtep="2001:db8::2"),
        ("remote-leaf 'far': vtep 2001:db8::2", "one address family"),
    ),
    "router_mac_of_a_remote_leaf_is_our_own": (
        lambda t: t["remote-leaf"][0].update({"router-mac": "02:00:c0:00:02:01"}),
        ("remote-leaf 'far'", "02:00:c0:00:02:01 is our own"),
    ),
    "vtep_that_is_link_local": (
        lambda t: t["leaf"].update(vtep="fe80::1"),
        ("leaf.vtep", "holds on one link only"),
    ),
    "vtep_that_is_a_group": (
        lambda t: t["vswitch"].append({"name": "d", "vtep": "224.0.0.9", "group": "one"}),
        ("vswitch[3].vtep", "not the address of one host"),
    ),
    "probes_as_text": (lambda t: t.update(timers={"probes": "3"}), ("timers.probes", "integer")),
    # Single values.
    "no_groups": (lambda t: t.update(group=[]), ("group", "at least 1")),
    "unknown_key": (lambda t: t["leaf"].update(vtap="192.0.2.1"), ("leaf.vtap", "unknown key")),
    "bad_mac": (
        lambda t: t["group"][0].update({"shared-mac": "zz"}),
        ("group[0].shared-mac", "six hex pairs"),
    ),
    "group_address_as_shared_mac": (
        lambda t: t["group"][0].update({"shared-mac": "01:00:5e:00:00:01"}),
        ("group[0].shared-mac", "not the address of one station"),
    ),
    "route_with_host_bits": (route(prefix="10.1.1.1/16", via="1.1.1.9"), ("route[2].prefix",)),
    "vni_too_large": (segment(vni=1 << 24), ("segment[3].vni",)),
    "vni_zero": (segment(vni=0), ("segment[3].vni",)),
}


def test_the_file_that_all_mistakes_are_made_in_is_in_order() -> None:
    read(good())


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_remedy(name: str) -> None:
    change, words = MISTAKES[name]
    with pytest.raises(SettingsError) as caught:
        changed(change)
    text = str(caught.value)
    assert text.startswith("leaf.toml: ")
    for word in words:
        assert word in text


def test_other_tenants_may_have_the_same_subnet() -> None:
    assert changed(segment(vrf="other", vni=901, gateway=["2.2.2.1/24"])).segment[-1].name == "new"


def test_neighbouring_subnets_do_not_overlap() -> None:
    config = changed(segment(gateway=["1.1.0.254/24", "1.1.2.1/23"]))
    assert len(config.segment) == 4


def test_a_subnet_of_four_addresses_has_room() -> None:
    made = topology(changed(segment(gateway=["9.9.9.1/30"]))).segments[2]
    assert made.gateway_for(v4("9.9.9.2")) is not None
    assert made.gateway_for(v4("9.9.9.0")) is None
    assert made.gateway_for(v4("9.9.9.3")) is None


def test_a_subnet_of_four_ipv6_addresses_has_room() -> None:
    """Also for its last address, which in IPv6 is one like others."""
    made = topology(changed(segment(gateway=["2001:db8:9::1/126"]))).segments[2]
    assert made.gateway_for(v6("2001:db8:9::2")) is not None
    assert made.gateway_for(v6("2001:db8:9::3")) is not None
    assert made.gateway_for(v6("2001:db8:9::")) is None
    assert made.gateway_for(v6("2001:db8:9::4")) is None


def ipv6_of_red(**fields: object) -> Callable[[Table], object]:
    """Give the first segment IPv6 too, with a route and a binding."""

    def change(table: Table) -> None:
        red = table["segment"][0]
        red["gateway"] = ["1.1.1.254/24", "2001:db8:1::fe/64", "2001:db8:4::fe/80"]
        red.update(fields)
        route(prefix="2001:db8:10::/48", via="2001:db8:1::9")(table)
        route(prefix="2001:db8:20::/48", **{"remote-leaf": "far"})(table)
        binding(address="2001:db8:1::7")(table)

    return change


def test_a_segment_may_have_both_families() -> None:
    made = topology(changed(ipv6_of_red()))
    red = made.segments[0]
    assert [(g.address, g.prefix) for g in red.gateways[1:]] == [
        (v6("2001:db8:1::fe"), prefix("2001:db8:1::/64")),
        (v6("2001:db8:4::fe"), prefix("2001:db8:4::/80")),
    ]
    assert [g.address for g in red.link_locals] == [
        v6("fe80::200:deff:fead:be00"),
        v6("fe80::200:deff:fead:beef"),
    ]
    via, far = made.vrfs[0].routes[2:]
    assert (via.prefix, via.via, via.bits) == (
        prefix("2001:db8:10::/48"),
        v6("2001:db8:1::9"),
        128,
    )
    assert (far.prefix, far.vtep, far.bits) == (prefix("2001:db8:20::/48"), "192.0.2.2", 128)
    Router(made)


def test_what_is_advertised_by_default() -> None:
    """A /80 is on the link, and nobody can make himself an address in it (RFC 4862)."""
    said = topology(changed(ipv6_of_red())).segments[0].advertised
    assert said is not None
    assert (said.hop_limit, said.managed, said.other, said.lifetime) == (64, False, False, 1800)
    assert (said.mtu, said.dns) == (None, ())
    assert [tuple(one) for one in said.prefixes] == [
        (v6("2001:db8:1::"), 64, True, True, 2592000, 604800),
        (v6("2001:db8:4::"), 80, True, False, 2592000, 604800),
    ]


def test_what_is_advertised_as_configured() -> None:
    dns = ["9.9.9.9", "2620:fe::fe", "2620:fe::9"]
    change = ipv6_of_red(mtu=1450, dns=dns, autonomous=False, **{"on-link": False})
    said = topology(changed(change)).segments[0].advertised
    assert said is not None
    assert (said.mtu, said.dns) == (1450, (v6("2620:fe::fe"), v6("2620:fe::9")))
    assert {(one.on_link, one.autonomous) for one in said.prefixes} == {(False, False)}


def test_nothing_is_advertised_where_it_is_turned_off_or_there_is_nothing() -> None:
    off = changed(ipv6_of_red(**{"router-advertisements": False}))
    assert [one.advertised for one in topology(off).segments] == [None] * 3


def test_what_is_left_out_has_a_default() -> None:
    config = read(
        {
            "leaf": {"vtep": "192.0.2.1"},
            "group": [{"name": "one", "shared-mac": "00:00:de:ad:be:ef"}],
            "vrf": [{"name": "tenant", "vni": 5000}],
            "segment": [{"name": "red", "vni": 100, "vrf": "tenant", "gateway": ["1.1.1.254/24"]}],
        }
    )
    assert (config.leaf.name, config.leaf.udp_port, config.leaf.source_ports) == ("leaf", 4789, 16)
    assert config.api.socket == Path("/run/tapestry/leaf.sock")
    assert config.log.level == "info"
    assert config.limits.bindings == MAX_BINDINGS
    limits = config.limits
    assert (limits.punts_per_second, limits.icmp_per_second, limits.gleans_per_second) == (
        2000.0,
        500.0,
        500.0,
    )
    timers = config.timers
    assert (timers.confirm_after, timers.probe_interval, timers.probes) == (60.0, 1.0, 3)
    assert (config.vswitch, config.remote_leaf, config.route, config.binding) == ((), (), (), ())
    (red,) = config.segment
    assert (red.vswitches, red.hop_neutral, red.multicast) == (None, False, "drop")


def test_a_file_is_read_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "leaf.toml"
    path.write_text(
        """
        [leaf]
        vtep = "192.0.2.1"
        router-mac = "02:00:00:00:00:99"
        [[group]]
        name = "one"
        shared-mac = "00:00:de:ad:be:ef"
        [[vrf]]
        name = "tenant"
        vni = 5000
        [[segment]]
        name = "red"
        vni = 100
        vrf = "tenant"
        gateway = ["1.1.1.254/24"]
        hop-neutral = true
        """
    )
    config = load(path, Config)
    assert config.segment[0].hop_neutral
    assert router_mac(config.leaf) == bytes.fromhex("020000000099")


# The topology.


def test_the_router_mac_is_made_of_the_vtep() -> None:
    assert router_mac(read(good()).leaf) == b"\x02\x00" + v4("192.0.2.1")


def test_the_topology_is_what_the_file_says() -> None:
    made = topology(read(good()))
    tenant, other = made.vrfs
    assert (tenant.name, tenant.vni, other.name, other.vni) == ("tenant", 5000, "other", 6000)
    red, blue = tenant.segments
    (same,) = other.segments
    assert (red.name, red.vni, red.vrf) == ("red", 100, "tenant")
    assert [(v, g.name, g.shared_mac) for v, g in red.vteps.items()] == [
        ("192.0.2.11", "one", SHARED_MAC),
        ("192.0.2.12", "one", SHARED_MAC),
        ("192.0.2.13", "two", OTHER_SHARED_MAC),
    ]
    assert list(blue.vteps) == ["192.0.2.11", "192.0.2.12"]
    assert (red.hop_neutral, blue.hop_neutral) == (False, True)
    assert (red.multicast, blue.multicast) == ("drop", "replicate")
    assert [(g.address, g.prefix) for g in blue.gateways] == [
        (v4("2.2.2.254"), prefix("2.2.2.0/24")),
        (v4("3.3.3.126"), prefix("3.3.3.0/25")),
    ]
    assert same.gateways == red.gateways
    via, far = tenant.routes
    assert (via.prefix, via.via, via.vtep) == (prefix("10.10.0.0/16"), v4("1.1.1.9"), None)
    assert (far.prefix, far.via, far.vtep) == (prefix("10.20.0.0/16"), None, "192.0.2.2")
    assert made.remote_leaves == {"192.0.2.2": mac(2)}
    assert made.shared_macs == {SHARED_MAC, OTHER_SHARED_MAC}


def test_what_dhcp_gives_out() -> None:
    made = topology(
        changed(
            lambda t: (
                dhcp(
                    pool=["1.1.1.100-1.1.1.101", "1.1.1.9"],
                    reservation=[{"mac": ONE_MAC, "address": "1.1.1.50"}],
                    route=[{"prefix": "10.0.0.0/8"}],
                    domain="example.org",
                )(t),
                t["segment"][0].update(dns=["9.9.9.9", "2001:db8::1"], mtu=1450),
            )
        )
    )
    red, blue, _ = made.segments
    assert blue.dhcp is None and red.dhcp is not None
    service, pool = red.dhcp, red.dhcp.pool
    assert [pool.at(n) for n in range(len(pool))] == [
        v4("1.1.1.100"),
        v4("1.1.1.101"),
        v4("1.1.1.9"),
    ]
    assert pool.reservations == {mac(5): v4("1.1.1.50")}
    assert pool.excluded == {v4("1.1.1.254"), v4("1.1.1.1")}
    assert (service.lease_time, service.domain, service.mtu) == (3600, "example.org", 1450)
    assert service.dns == (v4("9.9.9.9"),)
    assert service.routes == ((v4("10.0.0.0"), 8, None),)


def test_to_whom_dhcp_is_relayed_and_from_where() -> None:
    made = changed(relay())
    assert topology(made).segments[0].dhcp == Relay((v4("10.0.0.53"),), v4("192.0.2.1"), None)
    assert relay_addresses(made) == {v4("192.0.2.1")}

    both = changed(
        lambda t: (
            with_ipv6(relay("10.0.0.53", "fd00::53"))(t),
            t["leaf"].update(relay="10.0.0.1", relay6="fd00::1"),
        )
    )
    servers = (v4("10.0.0.53"), v6("fd00::53"))
    assert topology(both).segments[0].dhcp == Relay(servers, v4("10.0.0.1"), v6("fd00::1"))
    assert relay_addresses(both) == {v4("10.0.0.1"), v6("fd00::1")}

    # An address that no segment makes use of is not opened.
    assert relay_addresses(changed(lambda t: t["leaf"].update(relay6="fd00::1"))) == set()


def test_a_segment_on_no_vswitch_is_on_none() -> None:
    """Not the same as one that names none, which is on all."""
    table = good() | {"binding": []}
    table["segment"][0]["vswitches"] = []
    made = topology(read(table))
    assert made.segments[0].vteps == {}
    assert len(made.segments[2].vteps) == 3


@pytest.mark.parametrize("address", [0, 1, 9, 127, 128, 253, 254, 255])
def test_what_passes_can_be_served(address: int) -> None:
    """Whatever `via` the check lets pass, the router can be built with, and reaches."""
    via = f"1.1.1.{address}"
    try:
        config = changed(route(via=via))
    except SettingsError:
        assert address in (0, 254, 255)
        return
    fib = Router(topology(config)).fib("tenant")
    entry = fib.lookup(v4("10.99.0.1"))
    assert entry is not None and entry.verdict.ask == v4(via)
    assert fib.hosts.get(v4(via)) is None


# The plan of a reload.


def planned(change: Callable[[Table], object]) -> tuple[list[tuple[str, str, str]], list[str]]:
    made = plan(read(good()), changed(change))
    return [tuple(one) for one in made.changes], made.needs_restart


PLANS: dict[str, tuple[Callable[[Table], object], list[tuple[str, str, str]]]] = {
    "nothing": (lambda t: None, []),
    "a_group_changes": (
        lambda t: t["group"][1].update({"shared-mac": "00:00:de:ad:be:01"}),
        [("change", "group", "two")],
    ),
    "a_vswitch_comes": (
        lambda t: t["vswitch"].append({"name": "d", "vtep": "192.0.2.14", "group": "one"}),
        [("add", "vswitch", "d")],
    ),
    "a_vswitch_goes": (lambda t: t["vswitch"].pop(2), [("remove", "vswitch", "c")]),
    "a_remote_leaf_moves": (
        lambda t: t["remote-leaf"][0].update(vtep="192.0.2.3"),
        [("change", "remote-leaf", "far")],
    ),
    "a_vrf_comes": (
        lambda t: t["vrf"].append({"name": "third", "vni": 7000}),
        [("add", "vrf", "third")],
    ),
    "a_segment_is_replaced": (
        lambda t: t["segment"][2].update(name="different", vni=301),
        [("remove", "segment", "same"), ("add", "segment", "different")],
    ),
    "a_segments_option_changes": (
        lambda t: t["segment"][0].update({"hop-neutral": True}),
        [("change", "segment", "red")],
    ),
    "a_segment_is_relayed": (relay(), [("change", "segment", "red")]),
    "the_relay_address_changes": (
        lambda t: t["leaf"].update(relay="10.0.0.1"),
        [("change", "relay", "10.0.0.1")],
    ),
    "a_pool_changes": (dhcp(), [("change", "segment", "red")]),
    "a_route_comes": (route(via="1.1.1.9"), [("add", "route", "tenant 10.99.0.0/16")]),
    "a_route_turns": (
        lambda t: t["route"][0].update(via="1.1.1.8"),
        [("change", "route", "tenant 10.10.0.0/16")],
    ),
    "a_binding_comes": (binding(), [("add", "binding", "red 1.1.1.7")]),
    "a_binding_goes": (lambda t: t["binding"].pop(), [("remove", "binding", "red 1.1.1.1")]),
    "a_binding_changes": (
        lambda t: t["binding"][0].update(vswitch="b"),
        [("change", "binding", "red 1.1.1.1")],
    ),
    "the_log_level": (
        lambda t: t.update(log={"level": "debug"}),
        [("change", "log level", "debug")],
    ),
    "the_router_mac": (
        lambda t: t["leaf"].update({"router-mac": "02:00:00:00:00:99"}),
        [("change", "router-mac", "02:00:00:00:00:99")],
    ),
    "the_order_only": (lambda t: t["vswitch"].reverse(), []),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan(name: str) -> None:
    change, expected = PLANS[name]
    assert planned(change) == (expected, [])


@pytest.mark.parametrize(
    ("change", "key"),
    [
        pytest.param(lambda t: t["leaf"].update(name="other"), "leaf.name", id="name"),
        pytest.param(lambda t: t["leaf"].update({"udp-port": 4790}), "leaf.udp-port", id="port"),
        pytest.param(
            lambda t: t["leaf"].update({"source-ports": 4}), "leaf.source-ports", id="source_ports"
        ),
        pytest.param(
            lambda t: t["leaf"].update({"too-big": "fragment"}), "leaf.too-big", id="too_big"
        ),
        pytest.param(lambda t: t["leaf"].update(state="/run/x"), "leaf.state", id="state"),
        pytest.param(lambda t: t.update(api={"socket": "/run/x"}), "api", id="api"),
        pytest.param(lambda t: t.update(limits={"bindings": 7}), "limits", id="limits"),
        pytest.param(lambda t: t.update(timers={"probes": 7}), "timers", id="timers"),
    ],
)
def test_what_a_reload_cannot_change_is_said(change: Callable[[Table], object], key: str) -> None:
    assert planned(change) == ([], [key])


def test_a_new_vtep_needs_a_restart() -> None:
    changes, needs_restart = planned(
        lambda t: t["leaf"].update({"vtep": "192.0.2.99", "router-mac": "02:00:c0:00:02:01"})
    )
    assert (changes, needs_restart) == ([], ["leaf.vtep"])


def test_a_plan_can_be_undone() -> None:
    """The way back removes what was added and adds what was removed."""
    old = read(good())
    for change, _ in PLANS.values():
        new = changed(change)
        opposite = {"add": "remove", "remove": "add", "change": "change"}
        there = {(opposite[c.verb], c.kind) for c in plan(old, new).changes}
        assert {(c.verb, c.kind) for c in plan(new, old).changes} == there
        assert all(isinstance(c, Change) for c in plan(old, new).changes)
