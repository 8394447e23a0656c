"""The leaf's HTTP API: everything that `show` prints, and the verbs on bindings."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from fastapi import FastAPI, Query
from pydantic import Field

from vswitch.service import log, metrics
from vswitch.service.http import make_app, serve_reload
from vswitch.service.metrics import Sample
from vswitch.service.settings import AddressField, MacField, Settings, SettingsError, VtepField
from vswitch.wire.ethernet import format_mac, parse_mac
from vswitch.wire.vxlan import Vtep

from .bindings import Binding, Outcome
from .configured import relay_addresses
from .daemon import Daemon, UnknownName
from .router import Entry, Reason
from .sections import router_mac
from .slowpath import EVENTS
from .trace import TraceRequest, trace

MAX_ROWS = 1000
"""Bindings in one answer by default; a listing of 100,000 takes a second of the loop."""


class BindingRequest(Settings):
    """News of a binding from whoever orchestrates moves."""

    segment: str
    address: AddressField
    mac: MacField
    vtep: VtepField
    sequence: int | None = Field(None, ge=0, lt=1 << 63)


def make(daemon: Daemon) -> FastAPI:
    """Make the API of a running leaf."""
    engine = daemon.engine
    slowpath = engine.slowpath
    app = make_app(
        "leaf",
        {
            UnknownName: (404, "Not found"),
            SettingsError: (422, "Configuration"),
            ValueError: (422, "Invalid request"),
        },
    )

    def show(binding: Binding) -> dict[str, Any]:
        segment = engine.router.segment(binding.segment)
        return {
            "segment": segment.name if segment else str(binding.segment),
            "address": str(ipaddress.ip_address(binding.address)),
            "mac": format_mac(binding.mac),
            "vtep": binding.vtep,
            "vswitch": daemon.vswitch_name(binding.vtep),
            "state": binding.state,
            "sequence": binding.sequence,
            "heard_s_ago": round(time.monotonic() - binding.heard, 3),
        }

    @app.get("/v1/status")
    async def status() -> dict[str, Any]:
        own = daemon.config.leaf
        return {
            "name": own.name,
            "vtep": own.vtep,
            "udp_port": own.udp_port,
            "router_mac": format_mac(router_mac(own)),
            "relays_from": [str(ipaddress.ip_address(a)) for a in relay_addresses(daemon.config)],
            "vswitches": [f"{v.name}={v.vtep}" for v in daemon.config.vswitch],
            "bindings": len(slowpath.bindings),
            "gleaning": len(slowpath.asker.gleaner),
            "unanswered": slowpath.asker.gleaner.negative,
            "up_s": round(time.monotonic() - daemon.started, 1),
            "tunnel": daemon.tunnel.way,
            "tunnel_faults": engine.tunnel.faults,
            "log_lines_lost": log.stderr.lost,
        }

    @app.get("/v1/bindings")
    async def bindings(
        address: str | None = None,
        mac: str | None = None,
        limit: int = Query(MAX_ROWS, ge=1, le=1_000_000),
    ) -> list[dict[str, Any]]:
        wanted_ip = ipaddress.ip_address(address).packed if address else None
        wanted_mac = parse_mac(mac) if mac else None
        rows = []
        for binding in slowpath.bindings.all():
            if wanted_ip not in (None, binding.address) or wanted_mac not in (None, binding.mac):
                continue
            rows.append(show(binding))
            if len(rows) == limit:
                break
        return rows

    @app.get("/v1/leases")
    async def leases(limit: int = Query(MAX_ROWS, ge=1, le=1_000_000)) -> list[dict[str, Any]]:
        now = time.monotonic()
        rows = []
        own, seen = slowpath.responder.leases.all(), slowpath.relayer.snooped.all()
        for by, lease in islice(
            chain((("leaf", one) for one in own), (("server", one) for one in seen)), limit
        ):
            segment = engine.router.segment(lease.segment)
            rows.append(
                {
                    "segment": segment.name if segment else str(lease.segment),
                    "address": str(ipaddress.ip_address(lease.address)),
                    "mac": format_mac(lease.client.mac),
                    "state": lease.state,
                    "for_s": round(max(0.0, lease.expires - now), 1),
                    "given_by": by,
                }
            )
        return rows

    @app.get("/v1/segments")
    async def segments() -> list[dict[str, Any]]:
        return [
            {
                "segment": segment.name,
                "vni": segment.vni,
                "vrf": segment.vrf,
                "gateway": [str(gateway) for gateway in segment.gateway],
                "vswitches": segment.vswitches or [v.name for v in daemon.config.vswitch],
                "hop_neutral": segment.hop_neutral,
                "multicast": segment.multicast,
                "mtu": segment.mtu or slowpath.mtus.fitting(segment.vni),
                "dhcp": segment.dhcp.mode,
                "dhcp_servers": [str(ipaddress.ip_address(one)) for one in segment.dhcp.servers],
            }
            for segment in daemon.config.segment
        ]

    def route(vrf: str, prefix: str, entry: Entry) -> dict[str, Any]:
        verdict = entry.verdict
        via = entry.via or verdict.ask
        return {
            "vrf": vrf,
            "prefix": prefix,
            "action": verdict.reason,
            "vtep": verdict.vtep,
            "via": str(ipaddress.ip_address(via)) if via else None,
            "mac": format_mac(verdict.header[8:14]) if verdict.header else None,
        }

    def routes_of(
        vrf: str, kind: type[ipaddress.IPv4Address | ipaddress.IPv6Address], limit: int
    ) -> list[dict[str, Any]]:
        bits = kind(0).max_prefixlen
        fib = engine.router.fib(vrf, kind(0).version)
        rows = [
            route(vrf, f"{kind(network)}/{length}", entry)
            for (network, length), entry in sorted(fib.prefixes.items())
        ]
        hosts = islice(fib.hosts.items(), max(0, limit - len(rows)))
        return rows + [route(vrf, f"{kind(address)}/{bits}", entry) for address, entry in hosts]

    @app.get("/v1/routes")
    async def routes(limit: int = Query(MAX_ROWS, ge=1, le=1_000_000)) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for vrf in daemon.config.vrf:
            for kind in (ipaddress.IPv4Address, ipaddress.IPv6Address):
                rows += routes_of(vrf.name, kind, limit - len(rows))
        return rows

    @app.get("/v1/counters")
    async def counters() -> dict[str, Any]:
        return {
            "packets": {reason.value: engine.counts[reason] for reason in Reason},
            "arp": {reason.value: count for reason, count in slowpath.discovery.arp_counts.items()},
            "nd": {reason.value: count for reason, count in slowpath.discovery.nd_counts.items()},
            "dhcp": {reason.value: count for reason, count in slowpath.responder.counts.items()},
            "dhcp_relay": {name.value: n for name, n in slowpath.relayer.counts.items()},
            "dhcp_seen": {name.value: n for name, n in slowpath.relayer.lease_counts.items()},
            "bindings": {name.value: n for name, n in slowpath.routes.counts.items()},
            "glean": {name.value: n for name, n in slowpath.asker.counts.items()},
            "events": {
                **slowpath.events,
                "send_failed": engine.send_failed,
                "multicast_copies": engine.multicast_copies,
                "multicast_policed": engine.multicast_policed,
            },
            "tunnel_faults": engine.tunnel.faults,
        }

    @app.post("/v1/bindings")
    async def learn(body: BindingRequest) -> dict[str, Any]:
        segment = daemon.segment(body.segment)
        if body.vtep not in segment.vteps:
            raise UnknownName(f"segment {segment.name!r} is not on VTEP {body.vtep}")
        if segment.is_gateway(body.address) or segment.gateway_for(body.address) is None:
            raise ValueError("the address is not one of a guest of this segment")
        before = dict(slowpath.routes.counts)
        now = time.monotonic()
        sends = slowpath.discovery.learn(
            segment, body.address, body.mac, body.vtep, now, sequence=body.sequence
        )
        engine.send(sends)
        daemon.shell.rearm()
        outcome = next(o for o in Outcome if slowpath.routes.counts[o] != before[o])
        return {"outcome": outcome}

    @app.delete("/v1/bindings")
    async def withdraw(
        segment: str, mac: str, vtep: str, sequence: int | None = None
    ) -> dict[str, Any]:
        at = Vtep(str(ipaddress.ip_address(vtep)))
        news = slowpath.routes.withdraw(daemon.segment(segment), parse_mac(mac), at, sequence)
        return {"outcome": news.outcome, "removed": [show(binding) for binding in news.changed]}

    @app.post("/v1/trace")
    async def ask(body: TraceRequest) -> dict[str, Any]:
        return trace(engine.router, slowpath.bindings, body)

    serve_reload(app, daemon.reload)

    def samples() -> Iterator[Sample]:
        tables: tuple[tuple[str, str, dict[Any, int]], ...] = (
            ("packets", "Packets by the reason of their verdict.", engine.counts),
            ("arp", "ARP messages by the rule that applied.", slowpath.discovery.arp_counts),
            ("nd", "ND messages by the rule that applied.", slowpath.discovery.nd_counts),
            ("dhcp", "DHCP messages by what became of them.", slowpath.responder.counts),
            ("dhcp_relay", "Relayed DHCP by what became of it.", slowpath.relayer.counts),
            ("dhcp_seen", "Leases of other servers, as seen.", slowpath.relayer.lease_counts),
            ("binding_news", "News of bindings by outcome.", slowpath.routes.counts),
            ("glean", "Gleaning by outcome.", slowpath.asker.counts),
        )
        for name, said, counts in tables:
            yield from metrics.counters(f"leaf_{name}", said, "reason", counts)
        events = slowpath.events
        for name, said in EVENTS.items():
            yield Sample("counter", f"leaf_{name}", said, {}, events[name])
        for name, said, value in (
            ("multicast_copies", "Copies of replicated packets.", engine.multicast_copies),
            (
                "multicast_policed",
                "Packets beyond the rate of replication.",
                engine.multicast_policed,
            ),
        ):
            yield Sample("counter", f"leaf_{name}", said, {}, value)
        yield Sample("gauge", "leaf_bindings", "Bindings.", {}, len(slowpath.bindings))
        yield Sample(
            "gauge", "leaf_leases", "Addresses with a lease.", {}, len(slowpath.responder.leases)
        )
        seen = len(slowpath.relayer.snooped)
        yield Sample("gauge", "leaf_leases_seen", "Leases of other servers.", {}, seen)
        yield from metrics.common("leaf", engine.tunnel.faults)

    metrics.serve(app, samples)

    return app
