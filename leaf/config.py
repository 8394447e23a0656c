"""The leaf's configuration file: its model, what must agree in it, and the topology it describes.

`plan` says as data what a reload changes; the daemon then builds the new topology as a whole and
keeps every binding that has a place in it, so the state after a reload does not depend on what was
configured before.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from vswitch.service.settings import (
    AddressField,
    Flag,
    LogSettings,
    MacField,
    Name,
    Settings,
    VniField,
    VtepField,
    reject_twice,
)
from vswitch.wire import vxlan
from vswitch.wire.ethernet import Mac
from vswitch.wire.nd import Advertisement, PrefixInfo

from . import dhcpconfig
from .bindings import MAX_BINDINGS
from .dhcpconfig import DhcpSettings
from .fib import MAX_PREFIXES, Prefix
from .gateway import HOP_LIMIT
from .router import MARTIANS, MARTIANS6
from .subnets import Interface, Network, check_guest_address, nobodys
from .topology import Gateway, Group, Relay, Route, Segment, Service, Topology, Vrf

_MARTIANS = {4: MARTIANS, 6: MARTIANS6}


class Identity(Settings):
    """`[leaf]`"""

    name: Name = "leaf"
    vtep: VtepField
    """Our address on the underlay."""
    udp_port: int = Field(vxlan.PORT, ge=1, le=65535, strict=True)
    router_mac: MacField | None = None
    """Our own MAC, towards other leaves; by default 02:00 and the last four bytes of the VTEP."""
    source_ports: Literal[1, 2, 4, 8, 16, 32, 64] = 16
    offload: Literal["auto", "sockets", "off"] = "auto"
    """auto: trains, and super-frames whole, where the kernel has them. sockets: trains only."""
    too_big: Literal["drop", "fragment"] = "drop"
    """What becomes of IPv4 that does not fit into the tunnel and may be fragmented. (The sender of
    all else is told by ICMP.)"""
    state: Path = Path("/var/lib/tapestry/leaf.db")
    """Where leases are kept; opened only where a segment gives out addresses."""
    relay: AddressField | None = None
    """Our own address of IPv4 towards DHCP servers, where a segment relays; by default the VTEP."""
    relay6: AddressField | None = None
    """The same of IPv6."""

    @model_validator(mode="after")
    def _has_relay_addresses_of_hosts(self) -> Identity:
        for key, size, family in (("relay", 4, "IPv4"), ("relay6", 16, "IPv6")):
            packed = getattr(self, key)
            if packed is None:
                continue
            address = ipaddress.ip_address(packed)
            if len(packed) != size:
                raise ValueError(f"{key}: {address} is not an address of {family}")
            if address.is_multicast or address.is_unspecified or address.is_link_local:
                raise ValueError(f"{key}: {address} is not an address that servers can answer to")
        return self


class Api(Settings):
    """`[api]`"""

    socket: Path = Path("/run/tapestry/leaf.sock")


class LimitSettings(Settings):
    """`[limits]`"""

    bindings: int = Field(MAX_BINDINGS, ge=1, le=1_000_000, strict=True)
    punts_per_second: float = Field(2000.0, gt=0)
    icmp_per_second: float = Field(500.0, gt=0)
    gleans_per_second: float = Field(500.0, gt=0)
    multicast_per_second: float = Field(1000.0, gt=0)
    guest_punts_per_second: float = Field(200.0, gt=0)
    guest_gleans_per_second: float = Field(50.0, gt=0)
    questions_per_second: float = Field(10_000.0, gt=0)
    guest_dhcp_per_second: float = Field(10.0, gt=0)
    dhcp_commits_per_second: float = Field(25.0, gt=0)
    server_dhcp_per_second: float = Field(500.0, gt=0)


class TimerSettings(Settings):
    """`[timers]`, in seconds."""

    confirm_after: float = Field(60.0, ge=0.1)
    probe_interval: float = Field(1.0, ge=0.01)
    probes: int = Field(3, ge=1, le=10, strict=True)


class GroupSettings(Settings):
    """`[[group]]`: vswitches with one shared MAC."""

    name: Name
    shared_mac: MacField


class VswitchSettings(Settings):
    """`[[vswitch]]`"""

    name: Name
    vtep: VtepField
    group: Name


class RemoteLeafSettings(Settings):
    """`[[remote-leaf]]`"""

    name: Name
    vtep: VtepField
    router_mac: MacField


class VrfSettings(Settings):
    """`[[vrf]]`"""

    name: Name
    vni: VniField
    """The L3VNI, between leaves."""


class SegmentSettings(Settings):
    """`[[segment]]`"""

    name: Name
    vni: VniField
    vrf: Name
    gateway: tuple[Interface, ...] = Field(min_length=1, max_length=16)
    """Gateway addresses with their prefix length, such as 1.1.1.254/24 or 2001:db8:1::fe/64."""
    vswitches: tuple[Name, ...] | None = None
    """The vswitches that this segment is on; all by default."""
    hop_neutral: Flag = False
    multicast: Literal["drop", "replicate"] = "drop"
    mtu: int | None = Field(None, ge=1280, le=65535, strict=True)
    """The guests' MTU, for router advertisements and DHCP; by default what fits the underlay."""
    router_advertisements: Flag = True
    """Advertise the IPv6 gateway and its subnets; without a gateway of IPv6 there is nothing to."""
    autonomous: Flag = True
    """Guests make themselves addresses in a /64 (SLAAC, RFC 4862)."""
    on_link: Flag = True
    """Guests ask for each other; with false they send everything to the gateway."""
    dns: tuple[AddressField, ...] = Field((), max_length=8)
    """Name servers: those of IPv6 for router advertisements (RFC 8106), of IPv4 for DHCP."""
    dhcp: DhcpSettings = DhcpSettings()


class RouteSettings(Settings):
    """`[[route]]`"""

    vrf: Name
    prefix: Network
    via: AddressField | None = None
    """The address of a guest that routes."""
    remote_leaf: Name | None = None

    @model_validator(mode="after")
    def _has_one_next_hop(self) -> RouteSettings:
        if (self.via is None) == (self.remote_leaf is None):
            raise ValueError("give either `via` or `remote-leaf`")
        if self.via is not None and len(self.via) * 8 != self.prefix.max_prefixlen:
            raise ValueError("`via` and `prefix` are not of one address family")
        return self


class BindingSettings(Settings):
    """`[[binding]]`"""

    segment: Name
    address: AddressField
    mac: MacField
    vswitch: Name


class Config(Settings):
    """The whole file."""

    leaf: Identity
    api: Api = Api()
    log: LogSettings = LogSettings()
    limits: LimitSettings = LimitSettings()
    timers: TimerSettings = TimerSettings()
    group: tuple[GroupSettings, ...] = Field(min_length=1)
    vswitch: tuple[VswitchSettings, ...] = ()
    remote_leaf: tuple[RemoteLeafSettings, ...] = ()
    vrf: tuple[VrfSettings, ...] = Field(min_length=1)
    segment: tuple[SegmentSettings, ...] = Field(min_length=1)
    route: tuple[RouteSettings, ...] = ()
    binding: tuple[BindingSettings, ...] = ()

    @model_validator(mode="after")
    def _is_consistent(self) -> Config:
        reject_twice("group name", [group.name for group in self.group])
        reject_twice("vswitch name", [vswitch.name for vswitch in self.vswitch])
        reject_twice("remote-leaf name", [remote.name for remote in self.remote_leaf])
        reject_twice("vrf name", [vrf.name for vrf in self.vrf])
        reject_twice("segment name", [segment.name for segment in self.segment])
        reject_twice("vni", [vrf.vni for vrf in self.vrf] + [one.vni for one in self.segment])
        vteps = [vswitch.vtep for vswitch in self.vswitch]
        vteps += [remote.vtep for remote in self.remote_leaf]
        reject_twice("vtep", [self.leaf.vtep, *vteps])
        self._check_families()
        self._check_own_macs()
        for vswitch in self.vswitch:
            self._need("group", vswitch.group, f"vswitch {vswitch.name!r}")
        for segment in self.segment:
            self._check_segment(segment)
            self._check_dhcp(segment)
        self._check_subnets()
        self._check_martians()
        reject_twice("route", [f"{route.vrf} {route.prefix}" for route in self.route])
        for route in self.route:
            self._check_route(route)
        self._check_prefixes()
        self._check_bindings()
        return self

    def _check_families(self) -> None:
        own = ipaddress.ip_address(self.leaf.vtep)
        peers = [(f"vswitch {one.name!r}", one.vtep) for one in self.vswitch]
        peers += [(f"remote-leaf {one.name!r}", one.vtep) for one in self.remote_leaf]
        for who, vtep in peers:
            if ipaddress.ip_address(vtep).version != own.version:
                raise ValueError(
                    f"{who}: vtep {vtep} and our own {own} are not of one address family"
                )

    def _check_own_macs(self) -> None:
        """Our own MACs are different from each other and from every guest's."""
        shared = {group.shared_mac: f"group {group.name!r}" for group in self.group}
        reject_twice("shared-mac", [group.shared_mac.hex(":") for group in self.group])
        own = router_mac(self.leaf)
        if own in shared:
            raise ValueError(f"router-mac {own.hex(':')} is the shared MAC of {shared[own]}")
        for remote in self.remote_leaf:
            if remote.router_mac == own:
                # The default is made of the last four bytes, and ::1 ends many a leaf's VTEP.
                raise ValueError(
                    f"remote-leaf {remote.name!r}: router-mac {own.hex(':')} is our own; give"
                    " each leaf its own `router-mac`"
                )
        places: dict[tuple[str, Mac], str] = {}
        for binding in self.binding:
            shown = binding.mac.hex(":")
            if binding.mac in (*shared, own):
                raise ValueError(f"binding of {shown}: this MAC is one of our own")
            place = places.setdefault((binding.segment, binding.mac), binding.vswitch)
            if place != binding.vswitch:
                raise ValueError(
                    f"bindings of {shown} in segment {binding.segment!r} are at vswitches"
                    f" {place!r} and {binding.vswitch!r}; a guest has one place"
                )

    def _need(self, table: str, name: str, who: str) -> None:
        known = [one.name for one in getattr(self, table.replace("-", "_"))]
        if name not in known:
            there = ", ".join(known) or "none"
            raise ValueError(f"{who}: no {table} {name!r}; there are: {there}")

    def _check_segment(self, segment: SegmentSettings) -> None:
        who = f"segment {segment.name!r}"
        self._need("vrf", segment.vrf, who)
        for name in segment.vswitches or ():
            self._need("vswitch", name, who)
        for gateway in segment.gateway:
            network = gateway.network
            longest = network.max_prefixlen - 2
            if network.prefixlen > longest:
                raise ValueError(
                    f"{who}: {gateway} leaves no room for guests; use /{longest} or larger"
                )
            if gateway.ip in nobodys(network):
                raise ValueError(f"{who}: {gateway.ip} is not a host address of {network}")

    def _check_dhcp(self, segment: SegmentSettings) -> None:
        who = f"segment {segment.name!r}: dhcp"
        relays = _relays(self.leaf)
        dhcpconfig.check_relay(who, segment.dhcp, segment.gateway, self.leaf.vtep, relays)
        own = {group.shared_mac for group in self.group} | {router_mac(self.leaf)}
        bound = {one.address: one.mac for one in self.binding if one.segment == segment.name}
        dhcpconfig.check(who, segment.dhcp, segment.gateway, own, bound)

    def _check_subnets(self) -> None:
        for vrf in self.vrf:
            subnets = sorted(
                (
                    (gateway.network, segment.name)
                    for segment in self.segment
                    if segment.vrf == vrf.name
                    for gateway in segment.gateway
                ),
                key=lambda subnet: (
                    subnet[0].version,
                    int(subnet[0].network_address),
                    subnet[0].prefixlen,
                ),
            )
            for (one, of_one), (two, of_two) in pairwise(subnets):
                if one.version == two.version and one.overlaps(two):
                    raise ValueError(
                        f"vrf {vrf.name!r}: subnets {one} of segment {of_one!r} and {two} of"
                        f" segment {of_two!r} overlap; put them into different VRFs"
                    )

    def _check_martians(self) -> None:
        for segment in self.segment:
            for network in (gateway.network for gateway in segment.gateway):
                martians = _MARTIANS[network.version]
                if any(network.overlaps(ipaddress.ip_network(text)) for text in martians):
                    raise ValueError(
                        f"segment {segment.name!r}: {network} holds addresses that no router may"
                        f" forward to ({', '.join(martians)})"
                    )

    def _check_route(self, route: RouteSettings) -> None:
        who = f"route {route.prefix}"
        self._need("vrf", route.vrf, who)
        if route.remote_leaf is not None:
            self._need("remote-leaf", route.remote_leaf, who)
        segments = [segment for segment in self.segment if segment.vrf == route.vrf]
        for segment in segments:
            if any(route.prefix == gateway.network for gateway in segment.gateway):
                raise ValueError(f"{who}: this is a subnet of segment {segment.name!r} already")
        if route.via is None:
            return
        shown = ipaddress.ip_address(route.via)
        gateways = [gateway for segment in segments for gateway in segment.gateway]
        check_guest_address(
            f"{who}: via {shown}", shown, gateways, f"is in no subnet of vrf {route.vrf!r}"
        )

    def _check_prefixes(self) -> None:
        for vrf in self.vrf:
            subnets = sum(len(s.gateway) for s in self.segment if s.vrf == vrf.name)
            routes = sum(1 for route in self.route if route.vrf == vrf.name)
            fixed = len(MARTIANS) + len(MARTIANS6)
            count = routes + 3 * subnets + fixed
            if count > MAX_PREFIXES:
                raise ValueError(
                    f"vrf {vrf.name!r}: {count} prefixes, with three for each subnet and"
                    f" {fixed} fixed ones; the table holds {MAX_PREFIXES}"
                )

    def _check_bindings(self) -> None:
        segments = {segment.name: segment for segment in self.segment}
        reject_twice(
            "binding", [f"{b.segment} {ipaddress.ip_address(b.address)}" for b in self.binding]
        )
        for binding in self.binding:
            shown = ipaddress.ip_address(binding.address)
            who = f"binding {shown}"
            self._need("segment", binding.segment, who)
            self._need("vswitch", binding.vswitch, who)
            segment = segments[binding.segment]
            if segment.vswitches is not None and binding.vswitch not in segment.vswitches:
                raise ValueError(
                    f"{who}: segment {segment.name!r} is not on vswitch {binding.vswitch!r}"
                )
            check_guest_address(
                f"{who}:", shown, segment.gateway, f"not in a subnet of segment {segment.name!r}"
            )


def _prefix(network: Network) -> Prefix:
    return Prefix(int(network.network_address), network.prefixlen)


def router_mac(own: Identity) -> Mac:
    """Return the leaf's own MAC, as configured or made from its VTEP (locally administered)."""
    made = b"\x02\x00" + ipaddress.ip_address(own.vtep).packed[-4:]
    return own.router_mac or Mac(made)


def _relays(own: Identity) -> dhcpconfig.Relays:
    """Return the leaf's own address towards DHCP servers of each family."""
    vtep = ipaddress.ip_address(own.vtep)
    return {
        version: configured or (vtep.packed if vtep.version == version else None)
        for version, configured in ((4, own.relay), (6, own.relay6))
    }


def relay_addresses(config: Config) -> set[bytes]:
    """Return the relay addresses that segments make use of."""
    own = _relays(config.leaf)
    services = [dhcpconfig.relay(s.dhcp, own) for s in config.segment if s.dhcp.mode == "relay"]
    both = [address for one in services for address in (one.address, one.address6)]
    return {address for address in both if address is not None}


ROUTER_LIFETIME, VALID_LIFETIME, PREFERRED_LIFETIME = 1800, 2_592_000, 604_800
"""Seconds: AdvDefaultLifetime, and those of a prefix (RFC 4861 section 6.2.1)."""


def _advertised(entry: SegmentSettings) -> Advertisement | None:
    """Return what a segment's router advertisements say; None where there are none."""
    networks = [gateway.network for gateway in entry.gateway if gateway.version == 6]
    if not networks or not entry.router_advertisements:
        return None
    prefixes = tuple(
        PrefixInfo(
            network.network_address.packed,
            network.prefixlen,
            entry.on_link,
            entry.autonomous and network.prefixlen == 64,
            VALID_LIFETIME,
            PREFERRED_LIFETIME,
        )
        for network in networks
    )
    dns = tuple(address for address in entry.dns if len(address) == 16)
    # With DHCPv6, guests are to ask for an address where there are any, and for the rest anyway.
    # What a server elsewhere gives out is not known; that there is one means: ask it.
    relays = any(len(one) == 16 for one in entry.dhcp.servers)
    responds = relays or entry.dhcp.mode == "respond"
    managed = relays or (
        responds
        and (
            any(one.first.version == 6 for one in entry.dhcp.pool)
            or any(len(one.address) == 16 for one in entry.dhcp.reservation)
        )
    )
    return Advertisement(
        HOP_LIMIT, managed, responds, ROUTER_LIFETIME, entry.mtu, prefixes, dns, ROUTER_LIFETIME
    )


def _service(
    own: Identity, entry: SegmentSettings, bindings: Iterable[BindingSettings]
) -> Service | Relay | None:
    """Return what DHCP does on a segment."""
    match entry.dhcp.mode:
        case "off":
            return None
        case "relay":
            return dhcpconfig.relay(entry.dhcp, _relays(own))
    bound = [one.address for one in bindings if one.segment == entry.name]
    return dhcpconfig.service(entry.dhcp, entry.gateway, bound, entry.dns, entry.mtu)


def topology(config: Config) -> Topology:
    """Build the topology that a checked configuration describes."""
    groups = {group.name: Group(group.name, group.shared_mac) for group in config.group}
    vswitches = {vswitch.name: vswitch for vswitch in config.vswitch}
    remote = {leaf.name: leaf for leaf in config.remote_leaf}
    vrfs = {vrf.name: Vrf(vrf.name, vrf.vni) for vrf in config.vrf}
    for entry in config.segment:
        names = entry.vswitches if entry.vswitches is not None else vswitches
        vteps = {vswitches[name].vtep: groups[vswitches[name].group] for name in names}
        gateways = tuple(Gateway(g.ip.packed, _prefix(g.network)) for g in entry.gateway)
        segment = Segment(
            entry.name,
            entry.vni,
            entry.vrf,
            gateways,
            vteps,
            entry.hop_neutral,
            entry.multicast,
            _advertised(entry),
            _service(config.leaf, entry, config.binding),
        )
        vrfs[entry.vrf].segments.append(segment)
    for route in config.route:
        vtep = remote[route.remote_leaf].vtep if route.remote_leaf else None
        bits = route.prefix.max_prefixlen
        vrfs[route.vrf].routes.append(Route(_prefix(route.prefix), route.via, vtep, bits))
    return Topology(
        router_mac(config.leaf),
        list(vrfs.values()),
        {leaf.vtep: leaf.router_mac for leaf in config.remote_leaf},
    )


class Change(NamedTuple):
    """One difference between two configurations."""

    verb: Literal["add", "remove", "change"]
    kind: str
    name: str


class Plan(NamedTuple):
    """What a reload changes, and what it cannot change."""

    changes: list[Change]
    needs_restart: list[str]


def plan(old: Config, new: Config) -> Plan:
    """Compute the difference between two configurations."""
    needs_restart = [
        f"leaf.{key.replace('_', '-')}"
        for key in ("name", "vtep", "udp_port", "source_ports", "offload", "too_big", "state")
        if getattr(old.leaf, key) != getattr(new.leaf, key)
    ]
    needs_restart += [
        name for name in ("api", "limits", "timers") if getattr(old, name) != getattr(new, name)
    ]
    changes: list[Change] = []
    if router_mac(old.leaf) != router_mac(new.leaf):
        changes.append(Change("change", "router-mac", router_mac(new.leaf).hex(":")))
    for key in ("relay", "relay6"):
        before, after = getattr(old.leaf, key), getattr(new.leaf, key)
        if before != after:
            shown = "the vtep" if after is None else str(ipaddress.ip_address(after))
            changes.append(Change("change", key, shown))
    if old.log != new.log:
        changes.append(Change("change", "log level", new.log.level))
    for table in ("group", "vswitch", "remote_leaf", "vrf", "segment", "route", "binding"):
        kind = table.replace("_", "-")
        gone, come = _named(getattr(old, table)), _named(getattr(new, table))
        changes += [Change("remove", kind, name) for name in gone if name not in come]
        changes += [Change("add", kind, name) for name in come if name not in gone]
        changes += [
            Change("change", kind, name)
            for name in gone
            if name in come and gone[name] != come[name]
        ]
    return Plan(changes, needs_restart)


def _named(entries: Sequence[Settings]) -> dict[str, Settings]:
    """Key entries by name; routes and bindings have none and are keyed by what they are for."""
    named: dict[str, Settings] = {}
    for entry in entries:
        if isinstance(entry, RouteSettings):
            named[f"{entry.vrf} {entry.prefix}"] = entry
        elif isinstance(entry, BindingSettings):
            named[f"{entry.segment} {ipaddress.ip_address(entry.address)}"] = entry
        else:
            named[str(getattr(entry, "name"))] = entry  # noqa: B009 - Settings has no name.
    return named
