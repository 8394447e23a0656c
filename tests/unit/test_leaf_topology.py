"""What the topology says of addresses: who may be a guest, and behind which gateway."""

from __future__ import annotations

import pytest

from leaf.fib import Prefix
from leaf.topology import Gateway
from tests.frames import OTHER_SHARED_MAC, SHARED_MAC, link_local, v4, v6
from tests.unit.leaf_world import gateway, packed, topology


@pytest.mark.parametrize(
    ("subnet", "served", "not_served"),
    [
        pytest.param(
            "1.1.1.0/24",
            ("1.1.1.1", "1.1.1.254"),
            ("1.1.0.255", "1.1.1.0", "1.1.1.255", "1.1.2.0"),
            id="24",
        ),
        pytest.param("1.1.1.4/30", ("1.1.1.5", "1.1.1.6"), ("1.1.1.4", "1.1.1.7"), id="30"),
        pytest.param("1.1.1.4/31", ("1.1.1.4", "1.1.1.5"), ("1.1.1.3", "1.1.1.6"), id="31"),
        pytest.param("1.1.1.4/32", ("1.1.1.4",), ("1.1.1.3", "1.1.1.5"), id="32"),
    ],
)
def test_who_may_be_a_guest(
    subnet: str, served: tuple[str, ...], not_served: tuple[str, ...]
) -> None:
    one = gateway("1.1.1.5", subnet)
    assert all(one.serves(v4(address)) for address in served)
    assert not any(one.serves(v4(address)) for address in not_served)


def test_in_ipv6_the_first_address_is_the_routers_and_the_last_like_others() -> None:
    """RFC 4291 section 2.6.1; there is no broadcast."""
    network = int.from_bytes(v6("2001:db8::"), "big")
    one = Gateway(v6("2001:db8::1"), Prefix(network, 64))
    assert not one.serves(v6("2001:db8::"))
    assert one.serves(v6("2001:db8::ffff:ffff:ffff:ffff"))
    assert not one.serves(v6("2001:db8:0:1::"))
    assert not one.serves(v6("2001:db7:ffff:ffff:ffff:ffff:ffff:ffff"))


def test_a_segment_finds_the_gateway_of_an_address() -> None:
    one = topology().segments[0]
    first, second = one.gateways
    assert one.gateway_for(v4("1.1.1.7")) is first
    assert one.gateway_for(v4("3.3.3.7")) is second
    assert one.gateway_for(v4("3.3.3.200")) is None
    assert one.gateway_for(v6("::101:107")) is None


def test_a_gateway_address_is_ours_in_its_own_segment_only() -> None:
    one, two, _ = topology().segments
    assert one.is_gateway(v4("1.1.1.254")) and one.is_gateway(v4("3.3.3.126"))
    assert not two.is_gateway(v4("1.1.1.254"))


def test_shared_macs_are_those_of_the_groups_in_use() -> None:
    one, two, _ = topology().segments
    assert one.shared_macs == {SHARED_MAC, OTHER_SHARED_MAC}
    assert two.shared_macs == {SHARED_MAC}
    assert topology().shared_macs == {SHARED_MAC, OTHER_SHARED_MAC}


def test_the_gateways_link_local_addresses_are_those_of_its_shared_macs() -> None:
    """In every segment with IPv6, and in no other."""
    one, two, same = topology(ipv6=True).segments
    for segment, macs in ((one, (SHARED_MAC, OTHER_SHARED_MAC)), (two, (SHARED_MAC,))):
        assert {g.address for g in segment.link_locals} == {v6(link_local(m)) for m in macs}
    assert same.is_gateway(v6(link_local(SHARED_MAC)))
    assert not same.is_gateway(v6(link_local(OTHER_SHARED_MAC)))
    assert one.gateway_for(v6("fe80::77")) is not None
    assert one.gateway_for(v6("fe80:0:0:1::77")) is None
    plain = topology().segments[0]
    assert (plain.has_ipv6, plain.link_locals, plain.gateway_for(v6("fe80::77"))) == (
        False,
        (),
        None,
    )


@pytest.mark.parametrize(
    ("subnet", "address", "covered"),
    [
        pytest.param("1.1.1.0/24", "1.1.1.255", True, id="broadcast"),
        pytest.param("1.1.1.0/24", "1.1.2.0", False, id="beyond"),
        pytest.param("1.1.1.0/24", "::1.1.1.7", False, id="the_other_family"),
        pytest.param("2001:db8::/64", "2001:db8::", True, id="anycast"),
        pytest.param("2001:db8::/64", "2001:db8:0:1::", False, id="beyond_ipv6"),
    ],
)
def test_what_a_subnet_covers(subnet: str, address: str, covered: bool) -> None:
    one = gateway("2001:db8::fe" if ":" in subnet else "1.1.1.254", subnet)
    assert one.covers(packed(address)) == covered
