"""The topology file: what a fabric consists of.

A segment has an IPv4 subnet and may have an IPv6 one beside it, and so have its guests. Each family
has a key of its own, not a place in a list: there is one of each, and only IPv6 knows "auto". Where
a guest's address does not stand in the file, the same key says how the guest comes by it.
"""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from vswitch.service.settings import (
    MacField,
    Settings,
    VniField,
    VtepField,
    load,
    reject_twice,
)
from vswitch.wire import vxlan
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vtep

SEED = Path(__file__).with_name("seed.toml")
"""The fabric of the README's picture."""

NodeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,10}$")]
"""Part of a namespace's and a link's name, which has 15 characters."""

MIN_IPV6_MTU = 1280
"""RFC 8200 section 5; on a link with less, Linux has no IPv6 at all."""
SLAAC_PREFIX_LEN = 64
"""RFC 4862 section 5.5.3 (d): with it, an interface identifier of 64 bits makes an address."""


class Family(StrEnum):
    """An address family; the value is also its folder in /proc/sys/net."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"

    @property
    def label(self) -> str:
        """Its name as people write it."""
        return {"ipv4": "IPv4", "ipv6": "IPv6"}[self.value]


def _reader(
    kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address],
    family: Family,
    example: str,
    words: tuple[str, ...],
) -> BeforeValidator:
    """Say here what is wrong: of a union, pydantic would complain once for each of its members."""

    def read(value: Any) -> Any:
        if value is None or value in words or isinstance(value, kind):
            return value
        with suppress(ValueError):
            return kind(str(value))
        choices = " or ".join(f"'{word}'" for word in words)
        raise ValueError(f"write an {family.label} address such as '{example}', or {choices}")

    return BeforeValidator(read)


Address4Field = Annotated[
    ipaddress.IPv4Address | Literal["dhcp"] | None,
    _reader(ipaddress.IPv4Address, Family.IPV4, "1.1.1.1", ("dhcp",)),
]
"""An IPv4 address; or dhcp: a DHCP client in the guest gets it."""
Address6Field = Annotated[
    ipaddress.IPv6Address | Literal["auto", "dhcp"] | None,
    _reader(ipaddress.IPv6Address, Family.IPV6, "2001:db8:1::1", ("auto", "dhcp")),
]
"""An IPv6 address; or auto: the guest makes its own, of what the gateway advertises (SLAAC); or
dhcp: a DHCPv6 client in the guest gets it, and the gateway advertises the route."""


def _to_network(value: Any) -> Any:
    """As above, one complaint and not one for each family."""
    if not isinstance(value, str):
        raise ValueError("write a subnet as a string: '10.99.0.0/24' or '2001:db8:99::/64'")
    return ipaddress.ip_network(value)


NetworkField = Annotated[
    ipaddress.IPv4Network | ipaddress.IPv6Network, BeforeValidator(_to_network)
]


class Assigned(NamedTuple):
    """An address that the file gives to a guest, and the gateway of its subnet."""

    address: str
    gateway: str
    prefix_len: int


class Lab(Settings):
    """`[lab]`"""

    name: NodeName = "seed"
    vrf_vni: VniField = 5000  # type: ignore[assignment]
    shared_mac: MacField = Mac(bytes.fromhex("0000deadbeef"))
    offload: Literal["auto", "sockets", "off"] = "auto"


class Underlay(Settings):
    """`[underlay]`: one plain IP network, of one family."""

    subnet: NetworkField = ipaddress.IPv4Network("10.99.0.0/24")
    leaf: VtepField = Vtep("10.99.0.1")
    mtu: int = Field(1500, ge=576, le=9000)

    @model_validator(mode="after")
    def _has_room(self) -> Underlay:
        if self.subnet.version == 6 and self.mtu < MIN_IPV6_MTU:
            raise ValueError(f"{self.subnet} needs an mtu of {MIN_IPV6_MTU} or more, as all IPv6")
        self.check(self.leaf, "leaf")
        return self

    def check(self, vtep: Vtep, who: str) -> None:
        """Raise ValueError where the VTEP of `who` is not on this network."""
        address = ipaddress.ip_address(vtep)
        if address.version != self.subnet.version:
            raise ValueError(
                f"{who}: {vtep} and the underlay's subnet {self.subnet} are not of one address"
                " family"
            )
        if address not in self.subnet:
            raise ValueError(f"{who}: {vtep} is not in the underlay's subnet {self.subnet}")

    @property
    def overhead(self) -> int:
        """What a tunnel adds to a guest's packet."""
        return vxlan.OVERHEAD_IPV4 if self.subnet.version == 4 else vxlan.OVERHEAD_IPV6

    @property
    def guest_mtu(self) -> int:
        return self.mtu - self.overhead


class SegmentEntry(Settings):
    """`[[segment]]`"""

    name: NodeName
    vni: VniField
    gateway: ipaddress.IPv4Interface
    gateway6: ipaddress.IPv6Interface | None = None
    miss: Literal["rewrite", "flood", "drop"] = "rewrite"
    hop_neutral: bool = False
    dhcp: dict[str, Any] | None = None
    """`[segment.dhcp]` of the leaf, as it is."""

    @property
    def gateways(self) -> list[str]:
        """Its gateway addresses of both families, with their prefix lengths."""
        return [str(gateway) for gateway in (self.gateway, self.gateway6) if gateway is not None]


class HostEntry(Settings):
    """`[[host]]`"""

    name: NodeName
    address: VtepField


class GuestEntry(Settings):
    """`[[guest]]`"""

    name: NodeName
    host: NodeName
    segment: NodeName
    address: Address4Field = None
    """None leaves IPv4 to whoever is in the guest: `up` sets nothing and holds it to nothing."""
    address6: Address6Field = None
    """None is a guest without IPv6."""
    mac: MacField

    def way(self, family: Family) -> Literal["file", "auto", "dhcp"] | None:
        """Say how the guest comes by its address of a family."""
        address = self.address if family is Family.IPV4 else self.address6
        if isinstance(address, str) or address is None:
            return address
        return "file"


class Topology(Settings):
    """The whole file."""

    lab: Lab = Lab()
    underlay: Underlay = Underlay()
    segment: tuple[SegmentEntry, ...] = Field(min_length=1)
    host: tuple[HostEntry, ...] = Field(min_length=1)
    guest: tuple[GuestEntry, ...] = ()

    @model_validator(mode="after")
    def _is_consistent(self) -> Topology:
        nodes = [host.name for host in self.host] + [guest.name for guest in self.guest]
        reject_twice("name", [*nodes, "leaf", "spine"])
        reject_twice("segment", [segment.name for segment in self.segment])
        reject_twice("vtep", [self.underlay.leaf, *(host.address for host in self.host)])
        for host in self.host:
            self.underlay.check(host.address, f"host {host.name!r}")
        reject_twice("guest MAC", [guest.mac.hex(":") for guest in self.guest])
        hosts = {host.name for host in self.host}
        segments = {segment.name for segment in self.segment}
        for guest in self.guest:
            if guest.host not in hosts:
                raise ValueError(f"guest {guest.name!r}: no host {guest.host!r}")
            if guest.segment not in segments:
                raise ValueError(f"guest {guest.name!r}: no segment {guest.segment!r}")
            self._check_addresses(guest)
        for family in Family:
            reject_twice("guest address", self.addresses(family).values())
        return self

    def _check_addresses(self, guest: GuestEntry) -> None:
        segment = self.segment_of(guest)
        network = segment.gateway.network
        if guest.way(Family.IPV4) == "file" and guest.address not in network:
            raise ValueError(f"guest {guest.name!r}: {guest.address} is not in {network}")
        if "dhcp" in (guest.address, guest.address6) and segment.dhcp is None:
            raise ValueError(
                f"guest {guest.name!r} wants an address by DHCP, but segment {segment.name!r} has"
                ' no [segment.dhcp] (with mode = "off" where a guest is the server)'
            )
        if guest.address6 is None:
            return
        if self.underlay.guest_mtu < MIN_IPV6_MTU:
            least = MIN_IPV6_MTU + self.underlay.overhead
            raise ValueError(f"guest {guest.name!r}: IPv6 needs an underlay mtu of {least} or more")
        if segment.gateway6 is None:
            raise ValueError(
                f"guest {guest.name!r} has an address6, but segment {segment.name!r} no gateway6"
            )
        network6 = segment.gateway6.network
        if guest.way(Family.IPV6) == "file" and guest.address6 not in network6:
            raise ValueError(f"guest {guest.name!r}: {guest.address6} is not in {network6}")
        if guest.address6 == "auto" and network6.prefixlen != SLAAC_PREFIX_LEN:
            raise ValueError(
                f"guest {guest.name!r}: address6 = 'auto' needs a /{SLAAC_PREFIX_LEN}, and the"
                f" segment has {network6}"
            )

    def segment_of(self, guest: GuestEntry) -> SegmentEntry:
        return next(segment for segment in self.segment if segment.name == guest.segment)

    def assigned(self, guest: GuestEntry) -> dict[Family, Assigned]:
        """Return the addresses that the file gives to a guest; one that it makes itself or gets by
        DHCP is not among them."""
        segment = self.segment_of(guest)
        pairs = {
            Family.IPV4: (guest.address, segment.gateway),
            Family.IPV6: (guest.address6, segment.gateway6),
        }
        return {
            family: Assigned(str(address), str(gateway.ip), gateway.network.prefixlen)
            for family, (address, gateway) in pairs.items()
            if gateway is not None and guest.way(family) == "file"
        }

    def addresses(self, family: Family) -> dict[str, str]:
        """Return the addresses of one family that the file gives, by guest."""
        assigned = {guest.name: self.assigned(guest).get(family) for guest in self.guest}
        return {name: one.address for name, one in assigned.items() if one is not None}

    def with_miss(self, miss: str | None) -> Topology:
        """Return this topology with another miss policy in every segment."""
        if miss is None:
            return self
        segments = [{**s.model_dump(mode="json"), "miss": miss} for s in self.segment]
        return Topology.model_validate({**self.model_dump(mode="json"), "segment": segments})


def read(path: Path) -> Topology:
    """Read a topology file. Raises SettingsError."""
    return load(path, Topology)
