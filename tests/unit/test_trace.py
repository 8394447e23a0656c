"""`trace`: the live switch's own answer, and the steps that led to it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether

from tests.frames import SHARED_MAC, arp, mac, rarp, udp
from tests.unit.engine_world import World
from tests.unit.topology import LEAF, RED, STRANGER
from vswitch.attachment import State, UnknownGuest
from vswitch.switch import STEPS, UPLINK_STEPS, Reason
from vswitch.trace import TraceRequest, trace

ALICE, BOB, FAR = mac(1), mac(2), mac(0x99)


@pytest.fixture
def world() -> World:
    made = World()
    made.attach("alice", 1)
    made.attach("bob", 2)
    made.attach("carol", 3, state=State.STAGED)
    return made


def ask(world: World, **question: Any) -> dict[str, Any]:
    request = TraceRequest(**question)
    return trace(world.engine.switch, world.engine.attachments, request)


def findings(answer: dict[str, Any]) -> list[str]:
    return [step["finding"] for step in answer["steps"]]


def test_a_local_frame_goes_through_the_steps_to_the_mac_table(world: World) -> None:
    answer = ask(world, guest="alice", hex=udp(BOB, ALICE).hex())
    assert answer["verdict"] == {"reason": Reason.LOCAL, "egress": ["bob"], "rewrite": None}
    assert findings(answer) == ["go on"] * 10 + [Reason.LOCAL]
    assert [step["step"] for step in answer["steps"]] == [step.question for step in STEPS[:11]]


def test_a_miss_names_the_uplink_and_the_rewrite(world: World) -> None:
    answer = ask(world, guest="alice", hex=udp(FAR, ALICE).hex(":"))
    assert answer["verdict"] == {
        "reason": Reason.MISS_REWRITTEN,
        "egress": ["uplink"],
        "rewrite": SHARED_MAC.hex(":"),
    }
    assert findings(answer)[-1] == Reason.MISS_REWRITTEN


def test_a_packet_from_the_uplink_has_steps_of_its_own(world: World) -> None:
    frame = udp(BOB, FAR).hex()
    answer = ask(world, vtep=LEAF, vni=RED, hex=frame)
    assert answer["verdict"]["egress"] == ["bob"]
    assert [step["step"] for step in answer["steps"]] == [step.question for step in UPLINK_STEPS]
    stranger = ask(world, vtep=STRANGER, vni=RED, hex=frame)
    assert findings(stranger) == [Reason.UPLINK_NOT_A_LEAF]


@pytest.mark.parametrize(
    ("question", "layer", "fields"),
    [
        pytest.param(
            {"src_ip": "10.0.0.1", "dst_ip": "10.0.0.2"},
            IP,
            {"src": "10.0.0.1", "dst": "10.0.0.2"},
            id="ipv4",
        ),
        pytest.param({"dst_ip": "10.0.0.2"}, IP, {"src": "0.0.0.0"}, id="ipv4_destination"),
        pytest.param(
            {"src_ip": "2001:db8::1", "dst_ip": "2001:db8::2"},
            IPv6,
            {"src": "2001:db8::1", "dst": "2001:db8::2"},
            id="ipv6",
        ),
        pytest.param({"src_ip": "2001:db8::1"}, IPv6, {"dst": "::"}, id="ipv6_source"),
        pytest.param(
            {"src_ip": "10.0.0.1", "dst_ip": "10.0.0.2", "arp": True},
            ARP,
            {"op": 1, "psrc": "10.0.0.1", "pdst": "10.0.0.2", "hwsrc": "02:00:00:00:00:01"},
            id="arp",
        ),
        pytest.param({"arp": True}, ARP, {"psrc": "0.0.0.0"}, id="arp_probe"),
    ],
)
def test_a_described_frame_is_built_as_described(
    world: World, question: dict[str, Any], layer: type, fields: dict[str, object]
) -> None:
    answer = ask(world, guest="alice", dst=FAR.hex(":"), **question)
    frame = Ether(bytes.fromhex(answer["frame"]))
    assert (frame.dst, frame.src) == (FAR.hex(":"), ALICE.hex(":"))
    assert {name: getattr(frame[layer], name) for name in fields} == fields
    assert answer["verdict"]["reason"] == Reason.MISS_REWRITTEN


def test_without_addresses_it_is_a_frame_that_cannot_be_routed(world: World) -> None:
    answer = ask(world, guest="alice", dst=FAR.hex(":"))
    assert answer["verdict"]["reason"] == Reason.MISS_UNROUTABLE


def test_a_source_may_be_named_to_ask_about_a_forgery(world: World) -> None:
    answer = ask(world, guest="alice", dst=FAR.hex(":"), src=BOB.hex(":"))
    assert answer["verdict"]["reason"] == Reason.SPOOFED_MAC


@pytest.mark.parametrize(
    "families",
    [
        pytest.param({"src_ip": "10.0.0.1", "dst_ip": "2001:db8::2"}, id="4_to_6"),
        pytest.param({"src_ip": "2001:db8::1", "dst_ip": "10.0.0.2"}, id="6_to_4"),
        pytest.param({"src_ip": "2001:db8::1", "arp": True}, id="arp_with_6"),
    ],
)
def test_a_question_that_mixes_families_is_refused(world: World, families: dict[str, Any]) -> None:
    """Else an address is cut off or misplaced, and the answer is about another frame."""
    with pytest.raises(ValueError):
        ask(world, guest="alice", dst=FAR.hex(":"), **families)


@pytest.mark.parametrize(
    ("question", "expectation"),
    [
        pytest.param({"dst": FAR.hex(":")}, "name a guest, or the vtep and the vni", id="who"),
        pytest.param(
            {"dst": FAR.hex(":"), "vni": 10}, "name a guest, or the vtep and the vni", id="vtep"
        ),
        pytest.param({"guest": "alice"}, "give the frame as hex, or at least", id="what"),
    ],
)
def test_an_incomplete_question_says_what_is_missing(
    question: dict[str, Any], expectation: str
) -> None:
    with pytest.raises(ValidationError, match=expectation):
        TraceRequest(**question)


@pytest.mark.parametrize("question", [{"hex": "no hex"}, {"hex": "0"}, {"dst": "nowhere"}], ids=str)
def test_what_cannot_be_read_is_a_value_error(world: World, question: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        ask(world, guest="alice", **question)


def test_an_unknown_guest_is_said_to_be_unknown(world: World) -> None:
    with pytest.raises(UnknownGuest):
        ask(world, guest="nobody", dst=FAR.hex(":"))


def test_asking_sends_counts_and_activates_nothing(world: World) -> None:
    for guest, frame in (
        ("alice", udp(FAR, ALICE)),
        ("alice", arp(b"\xff" * 6, ALICE)),
        ("carol", udp(BOB, mac(3))),
        ("bob", rarp(BOB)),
    ):
        ask(world, guest=guest, hex=frame.hex())
    assert sum(world.engine.counts.values()) == 0
    assert world.at_leaf() == world.heard("bob") == []
    assert world.engine.attachments.get("carol").state is State.STAGED
