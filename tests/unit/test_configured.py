"""What a configuration file describes: the topology, what is advertised and given out in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from leaf.configured import relay_addresses, topology
from leaf.router import Router
from leaf.sections import router_mac
from leaf.topology import Relay
from tests.frames import OTHER_SHARED_MAC, SHARED_MAC, mac, v4, v6
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
from tests.unit.leaf_world import prefix
from vswitch.service.settings import SettingsError


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
