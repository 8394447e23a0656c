"""`trace`: ask a live vswitch what it would do with a frame, and why.

The answer is the verdict of the very decision that forwards frames. Nothing is sent or learnt.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from .attachment import Attachments
from .service.question import FrameQuestion
from .service.settings import VtepField
from .service.steps import explain
from .switch import STEPS, UPLINK, UPLINK_STEPS, Switch
from .wire import ethernet, vxlan


class TraceRequest(FrameQuestion):
    """A question: a frame from `guest`, or from the uplink where `guest` is absent."""

    guest: str | None = None
    vtep: VtepField | None = None
    """From the uplink: the outer source address."""
    vni: int | None = Field(None, ge=0, le=vxlan.MAX_VNI)

    @model_validator(mode="after")
    def _names_an_ingress(self) -> TraceRequest:
        if self.guest is None and (self.vtep is None or self.vni is None):
            raise ValueError("name a guest, or the vtep and the vni of a frame from the uplink")
        return self


def trace(switch: Switch, attachments: Attachments, ask: TraceRequest) -> dict[str, Any]:
    """Answer a question. Raises UnknownGuest or ValueError."""
    if ask.guest is not None:
        attachment = attachments.get(ask.guest)
        frame = ask.build(min(attachment.macs))
        verdict = switch.decide(attachment.port, frame)
        steps = explain(STEPS, verdict.reason)
    else:
        assert ask.vtep is not None and ask.vni is not None
        frame = ask.build(ethernet.ZERO)
        verdict = switch.decide_uplink(ask.vtep, vxlan.header(ask.vni) + frame)
        steps = explain(UPLINK_STEPS, verdict.reason)
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
