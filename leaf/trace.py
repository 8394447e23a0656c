"""`trace`: ask a live leaf what it would do with a packet, and why. Nothing is sent or learnt.

Where the router's verdict is "to the ARP or ND rules", the rules are asked too.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from vswitch.service.question import FrameQuestion
from vswitch.service.settings import VtepField
from vswitch.service.steps import explain
from vswitch.wire import ethernet, nd, vxlan
from vswitch.wire.ethernet import Mac

from . import gateway
from . import neighbour as rules
from .bindings import Bindings
from .router import STEPS, Reason, Router

_OF_ROUTERS = {
    nd.ROUTER_SOLICITATION: "router solicitation: answered by an advertisement",
    nd.ROUTER_ADVERTISEMENT: "router advertisement of a guest: ends here",
    nd.REDIRECT: "redirect of a guest: ends here",
}
"""The messages that the rules for neighbours are not for."""


class TraceRequest(FrameQuestion):
    """A question: a frame in the VNI `vni` from the VTEP `vtep`."""

    vtep: VtepField
    vni: int = Field(ge=0, le=vxlan.MAX_VNI)


def trace(router: Router, bindings: Bindings, ask: TraceRequest) -> dict[str, Any]:
    """Answer a question. Raises ValueError."""
    frame = ask.build(ethernet.ZERO)
    verdict = router.decide(ask.vtep, vxlan.header(ask.vni) + frame)
    told: dict[str, Any] = {"reason": verdict.reason, "to_vtep": verdict.vtep}
    steps = explain(STEPS, verdict.reason)
    if verdict.header is not None:
        told["vni"] = vxlan.parse_vni(verdict.header)
        told["destination_mac"] = ethernet.format_mac(verdict.header[8:14])
        told["source_mac"] = ethernet.format_mac(verdict.header[14:20])
    segment = verdict.segment
    kind = nd.kind_of(frame)
    if segment is not None and kind in _OF_ROUTERS:
        told["nd"] = _OF_ROUTERS[kind]
        told["answer"] = None
        if kind == nd.ROUTER_SOLICITATION and segment.advertised is not None:
            told["answer"] = ethernet.format_mac(segment.vteps[ask.vtep].shared_mac)
    elif verdict.reason in (Reason.ARP, Reason.ND) and segment is not None:
        rule = rules.decide(
            segment,
            ask.vtep,
            Mac(frame[:6]),
            Mac(frame[6:12]),
            gateway.read(frame),
            lambda address: bindings.get(segment.vni, address),
        )
        steps += explain(rules.STEPS, rule.reason)
        told[verdict.reason.value] = rule.reason
        answered = rule.reason in rules.ANSWERED
        shared = segment.vteps[ask.vtep].shared_mac
        told["answer"] = ethernet.format_mac(shared) if answered else None
    return {"frame": frame.hex(), "steps": steps, "verdict": told}
