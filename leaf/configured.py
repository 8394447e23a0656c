"""What a checked configuration describes: the topology, what is advertised and given out in it.

It is built as a whole, at the start and at each reload, so that it never depends on what was
configured before.
"""

from __future__ import annotations

from collections.abc import Iterable

from vswitch.wire.nd import Advertisement, PrefixInfo

from . import dhcpconfig
from .config import Config
from .fib import Prefix
from .gateway import HOP_LIMIT
from .sections import BindingSettings, Identity, SegmentSettings, relays, router_mac
from .subnets import Network
from .topology import Gateway, Group, Relay, Route, Segment, Service, Topology, Vrf

ROUTER_LIFETIME, VALID_LIFETIME, PREFERRED_LIFETIME = 1800, 2_592_000, 604_800
"""Seconds: AdvDefaultLifetime, and those of a prefix (RFC 4861 section 6.2.1)."""


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
            return dhcpconfig.relay(entry.dhcp, relays(own))
    bound = [one.address for one in bindings if one.segment == entry.name]
    return dhcpconfig.service(entry.dhcp, entry.gateway, bound, entry.dns, entry.mtu)


def _prefix(network: Network) -> Prefix:
    return Prefix(int(network.network_address), network.prefixlen)


def relay_addresses(config: Config) -> set[bytes]:
    """Return the relay addresses that segments make use of."""
    own = relays(config.leaf)
    services = [dhcpconfig.relay(s.dhcp, own) for s in config.segment if s.dhcp.mode == "relay"]
    both = [address for one in services for address in (one.address, one.address6)]
    return {address for address in both if address is not None}
