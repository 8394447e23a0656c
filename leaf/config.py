"""The leaf's configuration file as a whole: its tables, and what must agree between them.

A mistake is refused when the file is read, with the name of the thing and what to do or what there
is instead. What passes can be served: `configured.py` turns it into a topology and checks nothing.
"""

from __future__ import annotations

import ipaddress
from itertools import pairwise

from pydantic import Field, model_validator

from vswitch.service.settings import LogSettings, Settings, reject_twice
from vswitch.wire.ethernet import Mac

from . import dhcpconfig
from .fib import MAX_PREFIXES
from .router import MARTIANS, MARTIANS6
from .sections import (
    Api,
    BindingSettings,
    GroupSettings,
    Identity,
    LimitSettings,
    RemoteLeafSettings,
    RouteSettings,
    SegmentSettings,
    TimerSettings,
    VrfSettings,
    VswitchSettings,
    relays,
    router_mac,
)
from .subnets import check_guest_address, nobodys

_MARTIANS = {4: MARTIANS, 6: MARTIANS6}


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
        own_relays = relays(self.leaf)
        dhcpconfig.check_relay(who, segment.dhcp, segment.gateway, self.leaf.vtep, own_relays)
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
