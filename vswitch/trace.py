"""`trace`: ask a live vswitch what it would do with a frame, and why.

The answer is the verdict of the very decision that forwards frames; the steps are those of its
documented order, up to the one whose reason the verdict gives. Nothing is sent or learnt.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from pydantic import Field, model_validator

from .attachment import Attachments
from .service.settings import MacField, Settings, VtepField
from .switch import STEPS, UPLINK, UPLINK_STEPS, Step, Switch, Verdict
from .wire import arp, ethernet, ipv4, vxlan
from .wire.ethernet import Mac


class TraceRequest(Settings):
    """A question: a frame from `guest`, or from the uplink where `guest` is absent."""

    guest: str | None = None
    vtep: VtepField | None = None
    """From the uplink: the outer source address."""
    vni: int | None = Field(None, ge=0, le=vxlan.MAX_VNI)
    hex: str | None = Field(None, max_length=20_000)
    src: MacField | None = None
    dst: str | None = None
    src_ip: ipaddress.IPv4Address | ipaddress.IPv6Address | None = None
    dst_ip: ipaddress.IPv4Address | ipaddress.IPv6Address | None = None
    arp: bool = False

    @model_validator(mode="after")
    def _is_complete(self) -> TraceRequest:
        if self.guest is None and (self.vtep is None or self.vni is None):
            raise ValueError("name a guest, or the vtep and the vni of a frame from the uplink")
        if self.hex is None and self.dst is None:
            raise ValueError("give the frame as hex, or at least its destination MAC (dst)")
        return self


def build_frame(ask: TraceRequest, source: Mac) -> bytes:
    """Build the frame that a question describes. Raises ValueError."""
    if ask.hex is not None:
        return bytes.fromhex(ask.hex.replace(":", " "))
    assert ask.dst is not None
    destination, source = ethernet.parse_mac(ask.dst), ask.src or source
    src_ip = ask.src_ip.packed if ask.src_ip else None
    dst_ip = ask.dst_ip.packed if ask.dst_ip else None
    if ask.arp:
        message = arp.Message(
            arp.REQUEST, source, src_ip or bytes(4), ethernet.ZERO, dst_ip or bytes(4)
        )
        return arp.build(destination, source, message)
    if dst_ip is None and src_ip is None:
        return ethernet.build(destination, source, 0x88B5, b"")  # IEEE 802 local experimental.
    if len(dst_ip or src_ip or b"") == 16:
        body = bytes((0x60, 0, 0, 0, 0, 0, 59, 64)) + (src_ip or bytes(16)) + (dst_ip or bytes(16))
        return ethernet.build(destination, source, ethernet.IPV6, body)
    packet = ipv4.build(src_ip or bytes(4), dst_ip or bytes(4), ipv4.UDP, bytes(8))
    return ethernet.build(destination, source, ethernet.IPV4, packet)


def explain(steps: tuple[Step, ...], verdict: Verdict) -> list[dict[str, str]]:
    """Tell the way through `steps` to the one that gave the verdict."""
    told = []
    for step in steps:
        decided = verdict.reason in step.reasons
        told.append({"step": step.question, "finding": verdict.reason if decided else "go on"})
        if decided:
            break
    return told


def trace(switch: Switch, attachments: Attachments, ask: TraceRequest) -> dict[str, Any]:
    """Answer a question. Raises UnknownGuest or ValueError."""
    if ask.guest is not None:
        attachment = attachments.get(ask.guest)
        frame = build_frame(ask, min(attachment.macs))
        verdict = switch.decide(attachment.port, frame)
        steps = explain(STEPS, verdict)
    else:
        assert ask.vtep is not None and ask.vni is not None
        frame = build_frame(ask, ask.src or ethernet.ZERO)
        verdict = switch.decide_uplink(ask.vtep, vxlan.header(ask.vni) + frame)
        steps = explain(UPLINK_STEPS, verdict)
    egress = []
    for port in verdict.egress:
        behind = attachments.of_port(port)
        egress.append("uplink" if port == UPLINK else behind.guest if behind else str(port))
    return {
        "frame": frame.hex(),
        "steps": steps,
        "verdict": {
            "reason": verdict.reason,
            "egress": egress,
            "rewrite": verdict.rewrite.hex(":") if verdict.rewrite else None,
        },
    }
