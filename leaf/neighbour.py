"""THE rules for ARP and ND at the leaf: what it answers, what it stays silent to, what it learns.

The two protocols ask the same questions, so there is one set of rules: a neighbour solicitation is
a request, an advertisement a reply, one that nobody asked for an announcement, and DAD a probe.

The leaf answers for hosts elsewhere with the shared MAC, so that guests send it what it must route.
It stays silent where the vswitch has already delivered the question to its owner: an answer would
draw the flow of two neighbours through the leaf. That silence also covers *unicast* questions: a
guest whose cache names the shared MAC for a neighbour gets no confirmation, falls back to asking
all (RFC 1122 section 2.3.2.1, RFC 4861 section 7.3.3), hears the true MAC, and leaves the hairpin
by itself.

`decide` is pure; it says what is to be done, and the slow path does it. A reply is never sent for a
message whose sender cannot be right. None of this is ever flooded into the fabric.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final, NamedTuple

from vswitch.service.steps import Step
from vswitch.wire import ethernet
from vswitch.wire.ethernet import Mac
from vswitch.wire.neighbour import REPLY, REQUEST, Message
from vswitch.wire.vxlan import Vtep

from .bindings import Binding
from .topology import Segment


class Reason(StrEnum):
    """Why a message was answered or not. Closed: it names the counters, the tests and `trace`."""

    MALFORMED = "malformed"
    """Neither a sound question nor a sound answer of its protocol."""
    SENDER_MISMATCH = "sender_mismatch"
    """The sender MAC is not the frame's source, or is no station's."""
    CLAIMS_GATEWAY = "claims_gateway"
    """The sender uses a gateway address or a shared MAC."""
    SENDER_OUTSIDE = "sender_outside"
    """The sender's address is not one of a guest of this segment."""
    REPLY = "reply"
    """An answer to a question of ours (or a gratuitous reply): learnt."""
    ANNOUNCED = "announced"
    """Sender is target: learnt; it never leaves the leaf."""
    GATEWAY = "gateway"
    """Target is the gateway: the shared MAC."""
    TARGET_OUTSIDE = "target_outside"
    """Target is not an address of this segment: silence."""
    UNKNOWN = "unknown"
    """Target has no binding: silence, and the segment is asked (glean)."""
    OWN = "own"
    """Target is bound to the asker's own MAC (its own probe): silence."""
    SAME_VTEP = "same_vtep"
    """Target is behind the asker's vswitch, which has delivered the question: silence."""
    CONFLICT = "conflict"
    """A probe for an address that another MAC elsewhere has: the shared MAC, so that the duplicate
    is detected (RFC 5227 section 2.1.1, RFC 4862 section 5.4.4), once the owner has proved to be
    alive."""
    HEALED = "healed"
    """A unicast question that was rewritten to the shared MAC, the asker's entry being stale after
    a move: the shared MAC, which heals the entry in one round trip."""
    REMOTE = "remote"
    """Target is behind another vswitch or leaf: the shared MAC."""


STEPS: Final = (
    Step("is it a sound question or answer", (Reason.MALFORMED,)),
    Step("is the sender MAC the frame's source", (Reason.SENDER_MISMATCH,)),
    Step("does the sender claim to be the gateway", (Reason.CLAIMS_GATEWAY,)),
    Step("is the sender's address one of this segment", (Reason.SENDER_OUTSIDE,)),
    Step("is it news instead of a question", (Reason.ANNOUNCED, Reason.REPLY)),
    Step("is the target the gateway", (Reason.GATEWAY,)),
    Step("is the target an address of this segment", (Reason.TARGET_OUTSIDE,)),
    Step("is the target bound", (Reason.UNKNOWN,)),
    Step("is the target the asker itself", (Reason.OWN,)),
    Step("is the target behind the asker's vswitch", (Reason.SAME_VTEP,)),
    Step("is it a probe for somebody else's address", (Reason.CONFLICT,)),
    Step("the target is elsewhere", (Reason.HEALED, Reason.REMOTE)),
)

ANSWERED: Final = frozenset({Reason.GATEWAY, Reason.HEALED, Reason.REMOTE})
"""Answered at once, with the shared MAC of the asker's group."""
BELIEVED: Final = frozenset(Reason) - {
    Reason.MALFORMED,
    Reason.SENDER_MISMATCH,
    Reason.CLAIMS_GATEWAY,
    Reason.SENDER_OUTSIDE,
}
"""The sender is what it says, so where it is may be learnt."""


class Verdict(NamedTuple):
    """What to do with a message, and why."""

    reason: Reason
    bound: Binding | None = None
    """The target's binding, where the reason speaks of one."""


def decide(
    segment: Segment,
    source: Vtep,
    frame_destination: Mac,
    frame_source: Mac,
    message: Message | None,
    lookup: Callable[[bytes], Binding | None],
) -> Verdict:
    """Decide on a message that came from `source`; `lookup` finds bindings of this segment."""
    if message is None or message.op not in (REQUEST, REPLY):
        return Verdict(Reason.MALFORMED)
    if message.sender_mac != frame_source or not ethernet.is_station(frame_source):
        return Verdict(Reason.SENDER_MISMATCH)
    if message.sender_mac in segment.shared_macs or segment.is_gateway(message.sender_ip):
        return Verdict(Reason.CLAIMS_GATEWAY)
    has_sender = any(message.sender_ip)
    if has_sender and segment.gateway_for(message.sender_ip) is None:
        return Verdict(Reason.SENDER_OUTSIDE)
    if message.is_gratuitous:
        return Verdict(Reason.ANNOUNCED)
    if message.op == REPLY:
        return Verdict(Reason.REPLY if has_sender else Reason.SENDER_OUTSIDE)

    if segment.is_gateway(message.target_ip):
        return Verdict(Reason.GATEWAY)
    if segment.gateway_for(message.target_ip) is None:
        return Verdict(Reason.TARGET_OUTSIDE)
    bound = lookup(message.target_ip)
    if bound is None:
        return Verdict(Reason.UNKNOWN)
    if bound.mac == message.sender_mac:
        return Verdict(Reason.OWN, bound)
    if bound.vtep == source:
        return Verdict(Reason.SAME_VTEP, bound)
    if message.is_probe:
        return Verdict(Reason.CONFLICT, bound)
    if not ethernet.is_group(frame_destination):
        return Verdict(Reason.HEALED, bound)
    return Verdict(Reason.REMOTE, bound)
