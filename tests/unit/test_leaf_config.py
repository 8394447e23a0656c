"""The leaf's configuration file: what must agree in it, and what is left out.

Every mistake is a row: a change to a file that is in order, and the words that the error must hold:
the name of the thing, and what to do or what there is instead. A file that passes must also be one
that a leaf can run with; `test_configured.py` holds the checks to that.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from leaf.bindings import MAX_BINDINGS
from leaf.config import Config
from leaf.fib import MAX_PREFIXES
from leaf.sections import router_mac
from tests.unit.leaf_file import (
    ONE_MAC,
    Table,
    binding,
    changed,
    dhcp,
    good,
    read,
    relay,
    route,
    segment,
    with_ipv6,
)
from vswitch.service.settings import SettingsError, load

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
