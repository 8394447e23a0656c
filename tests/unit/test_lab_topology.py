"""The lab's topology file: both address families, what must agree in it, and what daemons get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leaf.config import Config as LeafConfig
from tools.fabric import daemons, lab, topology
from tools.fabric.process import LabError
from tools.fabric.topology import Assigned, Family, Topology
from vswitch.config import Config as VswitchConfig
from vswitch.service import settings
from vswitch.service.settings import SettingsError

ONE_FAMILY = """
[[segment]]
name = "red"
vni = 100
gateway = "1.1.1.254/24"

[[host]]
name = "A"
address = "10.99.0.11"

[[guest]]
name = "H1"
host = "A"
segment = "red"
address = "1.1.1.1"
mac = "00:00:01:01:01:01"
"""


def table(**of_guest: object) -> dict[str, Any]:
    """The seed with its first guest alone, and with other values where given."""
    seed = topology.read(topology.SEED).model_dump(mode="json")
    return {**seed, "guest": [{**seed["guest"][0], **of_guest}]}


def test_the_seed_has_both_families() -> None:
    seed = topology.read(topology.SEED)
    assert seed.addresses(Family.IPV4) == {
        "H1": "1.1.1.1",
        "H2": "1.1.1.2",
        "H3": "1.1.1.3",
        "H4": "1.1.1.4",
        "H5": "2.2.2.5",
        "H6": "2.2.2.6",
    }
    assert seed.addresses(Family.IPV6) == {
        "H1": "2001:db8:1::1",
        "H2": "2001:db8:1::2",
        "H3": "2001:db8:1::3",
        "H4": "2001:db8:1::4",
        "H5": "2001:db8:2::5",
        "H6": "2001:db8:2::6",
    }
    assert seed.assigned(seed.guest[4]) == {
        Family.IPV4: Assigned("2.2.2.5", "2.2.2.254", 24),
        Family.IPV6: Assigned("2001:db8:2::5", "2001:db8:2::fe", 64),
    }


def test_a_file_without_ipv6_is_still_good(tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text(ONE_FAMILY)
    read = topology.read(file)
    assert list(read.assigned(read.guest[0])) == [Family.IPV4]
    assert read.addresses(Family.IPV6) == {}
    assert read.segment[0].gateways == ["1.1.1.254/24"]


def test_a_guest_that_makes_its_own_address_is_assigned_none() -> None:
    read = Topology.model_validate(table(address6="auto"))
    assert list(read.assigned(read.guest[0])) == [Family.IPV4]


def with_dhcp(**of_guest: object) -> dict[str, Any]:
    """The same with DHCP in the segment."""
    given = table(**of_guest)
    given["segment"][0]["dhcp"] = {"mode": "respond", "pool": ["1.1.1.100-1.1.1.109"]}
    return given


@pytest.mark.parametrize(
    ("address", "address6", "ways"),
    [
        ("1.1.1.1", "2001:db8:1::1", ("file", "file")),
        ("dhcp", "auto", ("dhcp", "auto")),
        ("dhcp", "dhcp", ("dhcp", "dhcp")),
        (None, None, (None, None)),
    ],
)
def test_a_guest_comes_by_its_addresses_in_the_way_that_the_file_says(
    address: str | None, address6: str | None, ways: tuple[str | None, str | None]
) -> None:
    read = Topology.model_validate(with_dhcp(address=address, address6=address6))
    guest = read.guest[0]
    assert (guest.way(Family.IPV4), guest.way(Family.IPV6)) == ways
    from_file = [family for family in Family if guest.way(family) == "file"]
    assert list(read.assigned(guest)) == from_file


def test_without_a_client_a_lab_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it has made anything."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(lab, "STATE", tmp_path / "state")
    with pytest.raises(LabError, match="apt-get install isc-dhcp-client"):
        lab.Lab(Topology.model_validate(with_dhcp(address6="dhcp"))).up()
    assert not (tmp_path / "state").exists()


def test_another_miss_policy_leaves_the_addresses_as_they_are() -> None:
    for address6 in ("auto", "dhcp", "2001:db8:1::1", None):
        read = Topology.model_validate(with_dhcp(address6=address6))
        assert read.with_miss("drop").guest == read.guest
        assert read.with_miss("drop").segment[0].gateways == read.segment[0].gateways


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(
            {"address6": "nonsense"},
            "guest[0].address6: write an IPv6 address such as '2001:db8:1::1', or 'auto' or 'dhcp'"
            " (here: 'nonsense')",
            id="no_address",
        ),
        pytest.param(
            {"address6": "1.1.1.1"},
            "guest[0].address6: write an IPv6 address such as '2001:db8:1::1', or 'auto' or 'dhcp'"
            " (here: '1.1.1.1')",
            id="the_other_family",
        ),
        pytest.param(
            {"address": "auto"},
            "guest[0].address: write an IPv4 address such as '1.1.1.1', or 'dhcp' (here: 'auto')",
            id="auto_is_only_of_ipv6",
        ),
        pytest.param(
            {"address": "dhcp"},
            "guest 'H1' wants an address by DHCP, but segment 'red' has no [segment.dhcp] (with"
            ' mode = "off" where a guest is the server)',
            id="nobody_serves_it",
        ),
        pytest.param(
            {"address6": "2001:db8:2::1"},
            "guest 'H1': 2001:db8:2::1 is not in 2001:db8:1::/64",
            id="outside_of_the_subnet",
        ),
        pytest.param(
            {"address": "2.2.2.1"}, "guest 'H1': 2.2.2.1 is not in 1.1.1.0/24", id="so_in_ipv4"
        ),
    ],
)
def test_a_guests_mistake_is_named(change: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError) as raised:
        settings.check(table(**change), Topology, "lab.toml")
    assert str(raised.value) == f"lab.toml: {said}"


def test_two_guests_cannot_have_one_address() -> None:
    twins = table()
    twins["guest"].append(
        {**twins["guest"][0], "name": "H2", "address": "1.1.1.2", "mac": "00:00:01:01:01:02"}
    )
    with pytest.raises(SettingsError, match="guest address '2001:db8:1::1' stands twice"):
        settings.check(twins, Topology, "lab.toml")


@pytest.mark.parametrize("address6", ["auto", "2001:db8:1::1"])
def test_a_segment_without_ipv6_has_no_guest_with_it(address6: str) -> None:
    given = table(address6=address6)
    given["segment"][0]["gateway6"] = None
    with pytest.raises(SettingsError, match="address6, but segment 'red' no gateway6"):
        settings.check(given, Topology, "lab.toml")


def test_only_a_64_lets_guests_make_their_own_addresses() -> None:
    given = table(address6="auto")
    given["segment"][0]["gateway6"] = "2001:db8:1::fe/80"
    with pytest.raises(SettingsError, match="'auto' needs a /64"):
        settings.check(given, Topology, "lab.toml")
    given["guest"][0]["address6"] = "2001:db8:1::1"
    settings.check(given, Topology, "lab.toml")


@pytest.mark.parametrize(("mtu", "good"), [(1330, True), (1329, False)])
def test_ipv6_needs_a_link_of_1280_bytes(mtu: int, good: bool) -> None:
    given = {**table(), "underlay": {"mtu": mtu}}
    if good:
        settings.check(given, Topology, "lab.toml")
        return
    with pytest.raises(SettingsError, match="an underlay mtu of 1330 or more"):
        settings.check(given, Topology, "lab.toml")


UNDERLAY6 = {"subnet": "2001:db8:99::/64", "leaf": "2001:DB8:99:0::1"}


def over_ipv6(**of_underlay: object) -> dict[str, Any]:
    """The seed with its first guest alone, on an underlay of IPv6."""
    hosts = [{"name": name, "address": f"2001:db8:99::{name}"} for name in ("A", "B")]
    return {**table(), "underlay": {**UNDERLAY6, **of_underlay}, "host": hosts}


def test_the_underlay_may_be_of_ipv6() -> None:
    read = settings.check(over_ipv6(), Topology, "lab.toml")
    assert (read.underlay.leaf, read.host[0].address) == ("2001:db8:99::1", "2001:db8:99::a")
    assert (read.underlay.overhead, read.underlay.guest_mtu) == (70, 1430)
    assert read.with_miss("drop").underlay == read.underlay


def _host_a(address: str) -> dict[str, Any]:
    return {"host": [{"name": "A", "address": address}]}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param(_host_a("10.99.0.11"), "host 'A': 10.99.0.11 and .* one address family"),
        pytest.param(_host_a("2001:db8:98::a"), "host 'A': .* not in the underlay's subnet"),
        pytest.param(_host_a("2001:DB8:99:0::1"), "vtep '2001:db8:99::1' stands twice"),
        pytest.param(_host_a("fe80::a"), r"host\[0\].address: .* holds on one link only"),
        pytest.param(
            over_ipv6(leaf="10.99.0.1"), "underlay: leaf: 10.99.0.1 .* not of one address family"
        ),
        pytest.param(over_ipv6(leaf="2001:db8:98::1"), "underlay: leaf: .* not in .* subnet"),
        pytest.param(over_ipv6(mtu=1279), "underlay: .* needs an mtu of 1280"),
        pytest.param(over_ipv6(mtu=1349), "IPv6 needs an underlay mtu of 1350 or more"),
        pytest.param(over_ipv6(subnet="2001:db8:99::1/64"), "underlay.subnet: .* host bits set"),
    ],
    ids=str,
)
def test_a_mistake_in_the_underlay_is_named(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as raised:
        settings.check({**over_ipv6(), **changed}, Topology, "lab.toml")
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("underlay", ["ipv4", "ipv6"])
def test_the_daemons_take_what_the_lab_writes_for_them(tmp_path: Path, underlay: str) -> None:
    seed = topology.read(topology.SEED)
    if underlay == "ipv6":
        seed = settings.check(over_ipv6(), Topology, "lab.toml")
    leaf = settings.check(daemons.leaf_config(seed, tmp_path), LeafConfig, "leaf.toml")
    gateways = {segment.name: [str(one) for one in segment.gateway] for segment in leaf.segment}
    assert gateways == {
        "red": ["1.1.1.254/24", "2001:db8:1::fe/64"],
        "blue": ["2.2.2.254/24", "2001:db8:2::fe/64"],
    }
    for host in seed.host:
        settings.check(
            daemons.vswitch_config(seed, host, tmp_path), VswitchConfig, f"{host.name}.toml"
        )
