"""The vswitch's HTTP API: everything that `show` prints, and the verbs on guests."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import Field

from .attachment import Attachment, AttachmentError, StaleSequence, State, UnknownGuest
from .config import GuestSettings
from .daemon import Daemon, DeviceError
from .engine import EVENTS
from .service import log, metrics
from .service.http import make_app, serve_reload
from .service.metrics import Sample
from .service.settings import Settings, SettingsError
from .switch import Reason
from .trace import TraceRequest, trace
from .wire.ethernet import format_mac

Sequence = Annotated[int | None, Field(ge=0, lt=1 << 63)]


class AttachRequest(GuestSettings):
    """A guest to attach or to stage."""

    state: Literal[State.ACTIVE, State.STAGED] = State.ACTIVE
    sequence: Sequence = None


class SequenceRequest(Settings):
    """The body of a verb that only has a sequence."""

    sequence: Sequence = None


def make(daemon: Daemon) -> FastAPI:
    """Make the API of a running vswitch."""
    engine = daemon.engine
    app = make_app(
        "vswitch",
        {
            UnknownGuest: (404, "No such guest"),
            StaleSequence: (409, "Stale sequence"),
            AttachmentError: (409, "Conflict"),
            DeviceError: (409, "Device"),
            SettingsError: (422, "Configuration"),
            ValueError: (422, "Invalid request"),
        },
    )

    def segment_name(vni: int) -> str:
        return next((s.name for s in daemon.config.segment if s.vni == vni), str(vni))

    def show(attachment: Attachment) -> dict[str, Any]:
        stats = engine.stats(attachment.port)
        return {
            "guest": attachment.guest,
            "port": attachment.port,
            "segment": segment_name(attachment.segment),
            "state": attachment.state,
            "sequence": attachment.sequence,
            "macs": [format_mac(mac) for mac in sorted(attachment.macs)],
            "addresses": [str(ipaddress.ip_address(a)) for a in sorted(attachment.addresses)],
            "for_s": round(time.monotonic() - attachment.since, 3),
            **stats._asdict(),
        }

    @app.get("/v1/status")
    async def status() -> dict[str, Any]:
        own = daemon.config.vswitch
        return {
            "name": own.name,
            "vtep": own.vtep,
            "udp_port": own.udp_port,
            "shared_mac": format_mac(own.shared_mac),
            "leaves": own.leaves,
            "guests": len(engine.attachments),
            "up_s": round(time.monotonic() - daemon.started, 1),
            "tunnel": daemon.tunnel.way,
            "tunnel_faults": engine.tunnel.faults,
            "log_lines_lost": log.stderr.lost,
        }

    @app.get("/v1/guests")
    async def guests() -> list[dict[str, Any]]:
        return [show(attachment) for attachment in engine.attachments.all()]

    @app.get("/v1/segments")
    async def segments() -> list[dict[str, Any]]:
        return [
            {
                "segment": segment_name(segment.vni),
                "vni": segment.vni,
                "miss": segment.miss,
                "active_ports": len(segment.members),
                "macs": len(segment.fdb),
                "learnt_macs": len(segment.fdb.learnt),
                "learning_refused": segment.fdb.refused,
            }
            for segment in engine.switch.segments()
        ]

    @app.get("/v1/macs")
    async def macs() -> list[dict[str, Any]]:
        rows = []
        for segment in engine.switch.segments():
            for mac, verdict in segment.fdb.verdicts.items():
                behind = engine.attachments.of_port(verdict.egress[0])
                rows.append(
                    {
                        "segment": segment_name(segment.vni),
                        "mac": format_mac(mac),
                        "kind": verdict.reason,
                        "guest": behind.guest if behind else "uplink",
                    }
                )
        return rows

    @app.get("/v1/counters")
    async def counters() -> dict[str, dict[str, int]]:
        return {
            "frames": {reason.value: engine.counts[reason] for reason in Reason},
            "events": engine.events,
            "tunnel_faults": engine.tunnel.faults,
        }

    @app.post("/v1/guests", status_code=201)
    async def attach(body: AttachRequest) -> dict[str, Any]:
        return show(await daemon.attach(body, body.state, body.sequence))

    @app.post("/v1/guests/{guest}/activate")
    async def activate(guest: str, body: SequenceRequest | None = None) -> dict[str, Any]:
        return show(await daemon.activate(guest, body.sequence if body else None))

    @app.delete("/v1/guests/{guest}")
    async def detach(guest: str, sequence: Sequence = None) -> dict[str, Any]:
        gone = await daemon.detach(guest, sequence)
        return {"guest": gone.guest, "state": "absent"}

    @app.post("/v1/trace")
    async def ask(body: TraceRequest) -> dict[str, Any]:
        return trace(engine.switch, engine.attachments, body)

    serve_reload(app, daemon.reload)

    def samples() -> Iterator[Sample]:
        said = "Frames by the reason of their verdict."
        yield from metrics.counters("vswitch_frames", said, "reason", engine.counts)
        for name, said in EVENTS.items():
            yield Sample("counter", f"vswitch_{name}", said, {}, engine.events[name])
        yield Sample("gauge", "vswitch_guests", "Attached guests.", {}, len(engine.attachments))
        yield from metrics.common("vswitch", engine.tunnel.faults)

    metrics.serve(app, samples)

    return app
