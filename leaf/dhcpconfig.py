"""`[segment.dhcp]`: its model, what must agree in it, and the service that it describes.

It is held against the rest of the file, of which it is given what matters: the segment's gateways,
the leaf's own MACs and relay addresses, and the configured bindings.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, PlainSerializer

from vswitch.service.settings import AddressField, MacField, Settings, reject_twice
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vtep

from .leases import Pool
from .subnets import Address, Interface, Network, check_guest_address, check_range
from .topology import Relay, Service

Relays = Mapping[int, bytes | None]
"""The leaf's own address towards DHCP servers of IPv4 (4) and IPv6 (6); None where it has none."""


class AddressRange(NamedTuple):
    """Addresses of one family, from the first to the last."""

    first: Address
    last: Address

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


def _to_range(value: Any) -> Any:
    if isinstance(value, AddressRange):
        return value
    if not isinstance(value, str):
        raise ValueError("write a range as a string: '192.0.2.100-192.0.2.199'")
    first, _, last = value.partition("-")
    ends = ipaddress.ip_address(first.strip()), ipaddress.ip_address((last or first).strip())
    if ends[0].version != ends[1].version or int(ends[0]) > int(ends[1]):
        raise ValueError(f"{value!r} is no range: write the lower address first, as in 'A-B'")
    return AddressRange(*ends)


RangeField = Annotated[
    AddressRange, BeforeValidator(_to_range), PlainSerializer(str, return_type=str)
]
MAX_POOL = 65_536
"""Addresses in the pools of a segment; a lease of each takes some 40 MB."""


class ReservationSettings(Settings):
    """`[[segment.dhcp.reservation]]`: an address that is one guest's."""

    mac: MacField
    address: AddressField


class DhcpRouteSettings(Settings):
    """`[[segment.dhcp.route]]`: a route that guests are told."""

    prefix: Network
    via: AddressField | None = None
    """The gateway by default."""


class DhcpSettings(Settings):
    """`[segment.dhcp]`"""

    mode: Literal["respond", "relay", "off"] = "off"
    servers: tuple[AddressField, ...] = Field((), max_length=8)
    """To whom `relay` passes messages on, of either family."""
    pool: tuple[RangeField, ...] = Field((), max_length=16)
    lease_time: int = Field(3600, ge=10, le=31_536_000, strict=True)
    """Seconds, at most a year."""
    domain: str | None = Field(None, pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?$")
    """As long as leaves room for the other options in a message that every client takes."""
    route: tuple[DhcpRouteSettings, ...] = Field((), max_length=8)
    reservation: tuple[ReservationSettings, ...] = Field((), max_length=MAX_POOL)


# -- what must agree ---------------------------------------------------------------------------


def check(
    who: str,
    dhcp: DhcpSettings,
    gateways: Sequence[Interface],
    own_macs: Container[Mac],
    bound: Mapping[bytes, Mac],
) -> None:
    """Raise ValueError where what the leaf is to give out cannot be given out in a segment with
    these gateways. `bound` is the segment's configured bindings."""
    if dhcp.mode == "respond" and not dhcp.pool and not dhcp.reservation:
        raise ValueError(f"{who}: `respond` needs a pool or a reservation")
    _check_pools(who, dhcp.pool, gateways)
    _check_reservations(who, dhcp.reservation, gateways, own_macs, bound)
    for route in dhcp.route:
        if route.prefix.version != 4:
            raise ValueError(f"{who}: route {route.prefix}: DHCP knows routes of IPv4 only")
        if route.via is not None:
            via = ipaddress.ip_address(route.via)
            if not any(via in gateway.network for gateway in gateways):
                raise ValueError(
                    f"{who}: route {route.prefix}: {via} is not in a subnet of the segment"
                )


def _check_pools(who: str, pools: Iterable[AddressRange], gateways: Sequence[Interface]) -> None:
    pools = sorted(pools, key=lambda one: (one.first.version, int(one.first)))
    for one in pools:
        check_range(f"{who}: pool {one}:", one.first, one.last, gateways)
    for one, two in pairwise(pools):
        if one.first.version == two.first.version and int(two.first) <= int(one.last):
            raise ValueError(f"{who}: pools {one} and {two} overlap")
    size = sum(int(one.last) - int(one.first) + 1 for one in pools)
    if size > MAX_POOL:
        raise ValueError(f"{who}: {size} addresses; a segment's pools hold {MAX_POOL}")


def _check_reservations(
    who: str,
    reservations: Sequence[ReservationSettings],
    gateways: Sequence[Interface],
    own_macs: Container[Mac],
    bound: Mapping[bytes, Mac],
) -> None:
    taken = [(one.mac.hex(":"), len(one.address)) for one in reservations]
    reject_twice(f"{who}: reservation of", (mac for mac, size in taken if size == 4))
    reject_twice(f"{who}: reservation of", (mac for mac, size in taken if size == 16))
    shown = [ipaddress.ip_address(one.address) for one in reservations]
    reject_twice(f"{who}: reservation of", map(str, shown))
    for entry, address in zip(reservations, shown, strict=True):
        name = f"{who}: reservation {address}:"
        if entry.mac in own_macs:
            raise ValueError(f"{name} {entry.mac.hex(':')} is one of our own MACs")
        if bound.get(entry.address, entry.mac) != entry.mac:
            raise ValueError(f"{name} there is a binding of it with another MAC")
        check_guest_address(name, address, gateways, "not in a subnet of the segment")


def check_relay(
    who: str, dhcp: DhcpSettings, gateways: Sequence[Interface], vtep: Vtep, relays: Relays
) -> None:
    """Raise ValueError where messages of a segment with these gateways cannot be relayed to the
    servers, or where servers are named and nothing is to be relayed."""
    if dhcp.mode != "relay":
        if dhcp.servers:
            raise ValueError(f"{who}: servers are for mode 'relay'; this is {dhcp.mode!r}")
        return
    if not dhcp.servers:
        raise ValueError(f"{who}: `relay` needs servers, one or more of either family")
    others = sorted(dhcp.model_fields_set - {"mode", "servers"})
    if others:
        raise ValueError(
            f"{who}: {', '.join(others).replace('_', '-')}: for mode 'respond' only; with"
            " 'relay' the servers say what guests get"
        )
    shown = [ipaddress.ip_address(one) for one in dhcp.servers]
    reject_twice(f"{who}: server", map(str, shown))
    for server in shown:
        if server.is_multicast or server.is_unspecified or server.is_link_local:
            raise ValueError(f"{who}: server {server} is not the address of a host elsewhere")
        own = relays[server.version]
        if own is None:
            key = "relay" if server.version == 4 else "relay6"
            raise ValueError(
                f"{who}: server {server}: our vtep {vtep} is not of its family; set"
                f" leaf.{key} to an address of this machine"
            )
        if own == server.packed:
            raise ValueError(f"{who}: server {server} is the leaf's own relay address")
        if all(gateway.version != server.version for gateway in gateways):
            raise ValueError(
                f"{who}: server {server}: the segment has no gateway of IPv{server.version}"
            )


# -- what it describes -------------------------------------------------------------------------


def relay(dhcp: DhcpSettings, relays: Relays) -> Relay:
    """Return to whom a segment's DHCP is relayed, and from where."""
    sizes = {len(one) for one in dhcp.servers}
    return Relay(
        dhcp.servers, relays[4] if 4 in sizes else None, relays[6] if 16 in sizes else None
    )


def service(
    dhcp: DhcpSettings,
    gateways: Sequence[Interface],
    bound: Iterable[bytes],
    dns: Sequence[bytes],
    mtu: int | None,
) -> Service:
    """Return what a segment with these gateways gives out; not what is `bound` by configuration."""
    excluded = frozenset(gateway.ip.packed for gateway in gateways) | frozenset(bound)
    routes = [(one.prefix.network_address.packed, one.prefix.prefixlen) for one in dhcp.route]
    return Service(
        _pool(dhcp, 4, excluded),
        dhcp.lease_time,
        tuple(address for address in dns if len(address) == 4),
        dhcp.domain,
        mtu,
        tuple((*r, one.via) for r, one in zip(routes, dhcp.route, strict=True)),
        _pool(dhcp, 16, excluded),
        tuple(address for address in dns if len(address) == 16),
    )


def _pool(dhcp: DhcpSettings, size: Literal[4, 16], excluded: frozenset[bytes]) -> Pool:
    """Return what a segment gives out of the family whose addresses have `size` bytes."""
    ranges = [one for one in dhcp.pool if len(one.first.packed) == size]
    return Pool(
        size,
        tuple((int(one.first), int(one.last)) for one in ranges),
        {one.mac: one.address for one in dhcp.reservation if len(one.address) == size},
        excluded,
    )
