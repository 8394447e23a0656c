"""`trace`: the answer is the verdict of the decision itself, and nothing is changed by asking."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from leaf import neighbour as rules
from leaf.router import STEPS
from leaf.trace import TraceRequest, trace
from tests.frames import OTHER_SHARED_MAC, SHARED_MAC, arp, ns, plain, rarp
from tests.unit.leaf_world import (
    FAR_LEAF,
    FAR_ROUTER_MAC,
    GUESTS,
    GUESTS6,
    H1,
    H2,
    H3,
    H4,
    ONE,
    ROUTER_MAC,
    STRANGER,
    A,
    B,
    C,
    World,
)


@pytest.fixture
def world() -> World:
    return World(*GUESTS)


def ask(world: World, **fields: Any) -> dict[str, Any]:
    question = {"vtep": A, "vni": ONE, "src": H1.mac.hex(":"), "dst": SHARED_MAC.hex(":")}
    request = TraceRequest.model_validate(question | fields)
    return trace(world.router, world.bindings, request)


def test_a_routed_packet_is_told_with_what_it_leaves_with(world: World) -> None:
    told = ask(world, src_ip=H1.ip, dst_ip=H3.ip)
    assert told["verdict"] == {
        "reason": "routed",
        "to_vtep": B,
        "vni": ONE,
        "destination_mac": H3.mac.hex(":"),
        "source_mac": SHARED_MAC.hex(":"),
    }
    assert [step["step"] for step in told["steps"]] == [step.question for step in STEPS]
    assert [step["finding"] for step in told["steps"]] == ["go on"] * (len(STEPS) - 1) + ["routed"]


def test_the_frame_that_was_asked_about_is_told_too(world: World) -> None:
    told = ask(world, src_ip=H1.ip, dst_ip=H3.ip, ttl=9)
    frame = Ether(bytes.fromhex(told["frame"]))
    assert (frame.src, frame.dst) == (H1.mac.hex(":"), SHARED_MAC.hex(":"))
    assert (frame[IP].src, frame[IP].dst, frame[IP].ttl) == (H1.ip, H3.ip, 9)


def test_the_way_to_another_leaf(world: World) -> None:
    verdict = ask(world, src_ip=H1.ip, dst_ip="10.20.0.1")["verdict"]
    assert (verdict["to_vtep"], verdict["vni"]) == (FAR_LEAF, 5000)
    assert verdict["destination_mac"] == FAR_ROUTER_MAC.hex(":")
    assert verdict["source_mac"] == ROUTER_MAC.hex(":")


@pytest.mark.parametrize(
    ("fields", "reason", "last"),
    [
        pytest.param({"vtep": STRANGER}, "not_a_peer", 0, id="not_a_peer"),
        pytest.param({"vni": 99}, "unknown_vni", 2, id="unknown_vni"),
        pytest.param({"dst": H3.mac.hex(":")}, "foreign_mac", 9, id="foreign_mac"),
        pytest.param({"dst_ip": "9.9.9.9"}, "no_route", 14, id="no_route"),
        pytest.param({"dst_ip": "1.1.1.77"}, "glean", 15, id="glean"),
        pytest.param({"ttl": 1}, "expired", 17, id="expired"),
        pytest.param({"dst_ip": "2001:db8::1", "src_ip": "2001:db8::2"}, "no_route", 14, id="ipv6"),
    ],
)
def test_a_drop_ends_at_its_step(
    world: World, fields: dict[str, Any], reason: str, last: int
) -> None:
    told = ask(world, **({"src_ip": H1.ip, "dst_ip": H3.ip} | fields))
    assert told["verdict"] == {"reason": reason, "to_vtep": None}
    assert len(told["steps"]) == last + 1
    assert told["steps"][-1] == {"step": STEPS[last].question, "finding": reason}
    assert reason in STEPS[last].reasons


def test_arp_goes_on_through_the_arp_rules(world: World) -> None:
    told = ask(world, arp=True, src_ip=H1.ip, dst_ip=H3.ip, dst="ff:ff:ff:ff:ff:ff")
    verdict = told["verdict"]
    assert (verdict["reason"], verdict["arp"]) == ("arp", "remote")
    assert verdict["answer"] == SHARED_MAC.hex(":")
    assert [step["step"] for step in told["steps"]] == [
        *(step.question for step in STEPS[:7]),
        *(step.question for step in rules.STEPS),
    ]


def test_the_answer_is_that_of_the_askers_group(world: World) -> None:
    told = ask(world, arp=True, src=H4.mac.hex(":"), src_ip=H4.ip, dst_ip=H1.ip, vtep=C)
    assert (told["verdict"]["arp"], told["verdict"]["answer"]) == (
        "healed",
        OTHER_SHARED_MAC.hex(":"),
    )


def test_silence_is_told_as_no_answer(world: World) -> None:
    told = ask(world, arp=True, src_ip=H1.ip, dst_ip=H2.ip)
    assert (told["verdict"]["arp"], told["verdict"]["answer"]) == ("same_vtep", None)


def test_a_frame_in_hex(world: World) -> None:
    frame = arp(SHARED_MAC, H1.mac, H1.ip, H3.ip)
    told = ask(world, hex=frame.hex(":"), dst=None)
    assert told["verdict"]["arp"] == "healed"
    assert told["frame"] == frame.hex()
    assert ask(world, hex=rarp(H1.mac).hex())["verdict"]["reason"] == "rarp"
    assert ask(world, hex="")["verdict"]["reason"] == "runt"


def test_what_is_no_ip_ends_before_the_ip_header(world: World) -> None:
    told = ask(world, hex=plain(SHARED_MAC, H1.mac).hex())
    assert told["verdict"] == {"reason": "not_ip", "to_vtep": None}
    assert told["steps"][-1] == {"step": STEPS[10].question, "finding": "not_ip"}


def test_nd_goes_on_through_the_same_rules_as_arp() -> None:
    world = World(*GUESTS, *GUESTS6, ipv6=True)
    for frame, reason, answer in (
        (ns(None, H1.mac, H1.six.ip, H3.six.ip), "remote", SHARED_MAC.hex(":")),
        (ns(None, H1.mac, H1.six.ip, H2.six.ip), "same_vtep", None),
        (ns(None, H1.mac, H1.six.ip, H3.six.ip, hlim=1), "malformed", None),
    ):
        told = ask(world, hex=frame.hex())
        verdict = told["verdict"]
        assert (verdict["reason"], verdict["nd"], verdict["answer"]) == ("nd", reason, answer)
        assert told["steps"][7]["step"] == rules.STEPS[0].question


def test_ipv6_is_told_like_ipv4() -> None:
    world = World(*GUESTS6, ipv6=True)
    told = ask(world, src_ip=H1.six.ip, dst_ip=H3.six.ip)["verdict"]
    assert (told["reason"], told["to_vtep"], told["destination_mac"]) == (
        "routed",
        B,
        H3.mac.hex(":"),
    )


def test_what_cannot_be_read_is_a_value_error(world: World) -> None:
    with pytest.raises(ValueError, match="hexadecimal"):
        ask(world, hex="zz")
    with pytest.raises(ValueError, match="six hex pairs"):
        ask(world, dst="nonsense")
    with pytest.raises(ValidationError, match="give the frame as hex"):
        TraceRequest.model_validate({"vtep": A, "vni": ONE})


def test_asking_changes_nothing(world: World) -> None:
    before = [repr(binding) for binding in world.bindings.all()]
    ask(world, arp=True, src_ip=H1.ip, dst_ip=H1.ip, vtep=B)
    ask(world, arp=True, src_ip=H1.ip, dst_ip="1.1.1.77")
    ask(world, src_ip=H1.ip, dst_ip="1.1.1.77")
    assert [repr(binding) for binding in world.bindings.all()] == before
    assert len(world.slowpath.asker.gleaner) == 0
    assert not any(world.slowpath.discovery.arp_counts.values())
