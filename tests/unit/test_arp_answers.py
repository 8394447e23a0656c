"""What the leaf says by ARP, byte for byte as scapy reads it, and what it learns from a message.

Who is answered is the subject of `test_rules.py`; here the whole slow path is asked, so that
what leaves is seen: to which vswitch, in which VNI, from which MAC. A duplicate address is only
reported after its owner has proved to be alive.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from scapy.layers.l2 import ARP, Ether

from leaf.bindings import State, Timers
from leaf.neighbour import Reason
from leaf.punt import Send
from tests.frames import BROADCAST, OTHER_SHARED_MAC, SHARED_MAC, arp, mac, rarp, v4, vxlan
from tests.unit.leaf_world import (
    GUESTS,
    H1,
    H2,
    H3,
    H4,
    H5,
    H6,
    ONE,
    SHARED,
    TWO,
    A,
    B,
    C,
    Guest,
    World,
)
from vswitch.wire.vxlan import Vtep

NEWCOMER = mac(0x77)
GATEWAY = "1.1.1.254"


@pytest.fixture
def world() -> World:
    return World(*GUESTS)


def read(send: Send, vni: int = ONE) -> tuple[Ether, ARP]:
    """Read what was sent, and hold it to the rules for every frame of ours."""
    assert send.packet[:8] == b"\x08\0\0\0" + vni.to_bytes(3, "big") + b"\0"
    assert len(send.packet) >= 8 + 60
    frame = Ether(send.packet[8:])
    return frame, frame[ARP]


class Ask(NamedTuple):
    """A question that is answered."""

    what: str
    asker: Guest
    source: Vtep
    destination: bytes
    target: str


ASKS = (
    Ask("for_the_gateway", H1, A, BROADCAST, GATEWAY),
    Ask("for_a_remote_guest", H1, A, BROADCAST, H3.ip),
    Ask("from_the_other_group", H4, C, BROADCAST, H1.ip),
    Ask("for_a_guest_of_the_other_group", H1, A, BROADCAST, H4.ip),
    Ask("with_a_stale_cache", H1, A, SHARED_MAC, H3.ip),
    Ask("from_where_the_asker_has_moved_to", H1, C, BROADCAST, H2.ip),
    Ask("in_the_second_segment", H5, A, BROADCAST, H6.ip),
)


@pytest.mark.parametrize("ask", [pytest.param(ask, id=ask.what) for ask in ASKS])
def test_an_answer(world: World, ask: Ask) -> None:
    """Unicast to the asker, from the shared MAC of the group that the asker is in now."""
    asker, shared = ask.asker, SHARED[ask.source].hex(":")
    question = arp(ask.destination, asker.mac, asker.ip, ask.target)
    (send,) = world.punt(ask.source, vxlan(asker.segment, question))
    frame, answer = read(send, asker.segment)
    assert send.vtep == ask.source
    assert (frame.dst, frame.src, frame.type) == (asker.mac.hex(":"), shared, 0x0806)
    assert (answer.hwtype, answer.ptype, answer.hwlen, answer.plen) == (1, 0x0800, 6, 4)
    assert (answer.op, answer.hwsrc, answer.psrc) == (2, shared, ask.target)
    assert (answer.hwdst, answer.pdst) == (asker.mac.hex(":"), asker.ip)
    assert world.slowpath.events["arp_answers"] == 1


def test_a_probe_for_the_gateway_is_answered_at_once(world: World) -> None:
    """The gateway is always alive: whoever wants its address is told so."""
    (send,) = world.punt(A, vxlan(ONE, arp(BROADCAST, NEWCOMER, "0.0.0.0", GATEWAY)))
    _, answer = read(send)
    assert (answer.op, answer.psrc, answer.pdst) == (2, GATEWAY, "0.0.0.0")
    assert answer.hwsrc == SHARED_MAC.hex(":")


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(arp(BROADCAST, H1.mac, H1.ip, H2.ip), id="a_neighbour"),
        pytest.param(arp(SHARED_MAC, H1.mac, H1.ip, H2.ip), id="a_neighbour_unicast"),
        pytest.param(arp(BROADCAST, H1.mac, "0.0.0.0", H1.ip), id="own_probe"),
        pytest.param(arp(BROADCAST, H1.mac, H1.ip, H1.ip), id="announcement"),
        pytest.param(arp(BROADCAST, H1.mac, H1.ip, H1.ip, op=2), id="gratuitous_reply"),
        pytest.param(arp(BROADCAST, NEWCOMER, H3.ip, H3.ip), id="announcement_that_rebinds"),
        pytest.param(arp(BROADCAST, H1.mac, "1.1.1.88", "1.1.1.88"), id="announcement_of_news"),
        pytest.param(arp(SHARED_MAC, H1.mac, H1.ip, GATEWAY, op=2), id="reply"),
        pytest.param(arp(BROADCAST, H1.mac, GATEWAY, GATEWAY), id="claims_the_gateway"),
        pytest.param(rarp(H1.mac), id="rarp"),
    ],
)
def test_silence(world: World, frame: bytes) -> None:
    """Above all, nothing gratuitous ever leaves the leaf: every guest would hear of the MAC."""
    assert world.punt(A, vxlan(ONE, frame)) == []


@pytest.mark.parametrize("op", [1, 2])
def test_silence_to_a_gratuitous_arp_after_a_move(world: World, op: int) -> None:
    """Here it is news, and the leaf still passes it on to nobody."""
    assert world.punt(B, vxlan(ONE, arp(BROADCAST, H1.mac, H1.ip, H1.ip, op=op))) == []
    binding = world.bindings.get(ONE, H1.address)
    assert binding is not None and binding.vtep == B


def test_every_message_is_counted_by_its_reason(world: World) -> None:
    world.punt(A, vxlan(ONE, arp(BROADCAST, H1.mac, H1.ip, H2.ip)))
    world.punt(A, vxlan(ONE, arp(BROADCAST, H1.mac, H1.ip, H2.ip)))
    world.punt(A, vxlan(ONE, arp(BROADCAST, H1.mac, H1.ip, H3.ip, op=7)))
    counts = world.slowpath.discovery.arp_counts
    assert (counts[Reason.SAME_VTEP], counts[Reason.MALFORMED]) == (2, 1)
    assert sum(counts.values()) == 3


# What is learnt.


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(arp(BROADCAST, H1.mac, H1.ip, H2.ip), id="question"),
        pytest.param(arp(SHARED_MAC, H1.mac, H1.ip, H3.ip), id="unicast_question"),
        pytest.param(arp(BROADCAST, H1.mac, H1.ip, "9.9.9.9"), id="question_for_no_guest"),
        pytest.param(arp(BROADCAST, H1.mac, H1.ip, H1.ip), id="announcement"),
        pytest.param(arp(SHARED_MAC, H1.mac, H1.ip, GATEWAY, op=2), id="reply"),
        pytest.param(arp(BROADCAST, H1.mac, "0.0.0.0", H1.ip), id="probe"),
        pytest.param(rarp(H1.mac), id="rarp"),
    ],
)
def test_whatever_a_guest_says_tells_where_it_is(world: World, frame: bytes) -> None:
    """Every address of the MAC moves, whichever of them the message names."""
    second = v4("1.1.1.101")
    world.slowpath.discovery.learn(world.segment(ONE), second, H1.mac, A, 0.0)
    world.punt(C, vxlan(ONE, frame))
    for address in (H1.address, second):
        binding = world.bindings.get(ONE, address)
        assert binding is not None and binding.vtep == C
        assert world.router.fib("tenant").hosts[address].verdict.vtep == C


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(arp(BROADCAST, H1.mac, H1.ip, H3.ip, sender_mac=H2.mac), id="other_sender"),
        pytest.param(arp(BROADCAST, H1.mac, GATEWAY, H1.ip), id="claims_the_gateway"),
        pytest.param(arp(BROADCAST, H1.mac, "9.9.9.9", H1.ip), id="sender_outside"),
        pytest.param(arp(BROADCAST, H1.mac, H1.ip, H3.ip, op=5), id="malformed"),
        pytest.param(rarp(H1.mac, sender_mac=H2.mac), id="rarp_of_another"),
        pytest.param(rarp(H1.mac)[:40], id="rarp_cut_short"),
    ],
)
def test_nothing_is_learnt_from_what_is_not_believed(world: World, frame: bytes) -> None:
    before = [repr(binding) for binding in world.bindings.all()]
    assert world.punt(C, vxlan(ONE, frame)) == []
    assert [repr(binding) for binding in world.bindings.all()] == before


def test_a_rarp_of_an_unknown_mac_is_no_news(world: World) -> None:
    assert world.punt(A, vxlan(ONE, rarp(NEWCOMER))) == []
    assert world.bindings.of_mac(ONE, NEWCOMER) == []


def test_an_announcement_of_anothers_address_takes_it_over(world: World) -> None:
    world.punt(C, vxlan(ONE, arp(BROADCAST, NEWCOMER, H1.ip, H1.ip)))
    header = world.router.fib("tenant").hosts[H1.address].verdict.header
    assert header is not None and header[8:] == NEWCOMER + OTHER_SHARED_MAC
    assert world.bindings.of_mac(ONE, H1.mac) == []


# A duplicate address (RFC 5227 section 2.1.1).

PROBE = vxlan(ONE, arp(BROADCAST, NEWCOMER, "0.0.0.0", H3.ip))
OWNER_ANSWERS = vxlan(ONE, arp(SHARED_MAC, H3.mac, H3.ip, GATEWAY, op=2))


def test_a_duplicate_is_reported_after_the_owner_has_answered(world: World) -> None:
    assert world.punt(A, PROBE, 10.0) == []
    assert world.slowpath.deadline() == 10.0
    (question,) = world.slowpath.tick(10.0)
    frame, asked = read(question)
    assert question.vtep == B
    assert (frame.dst, frame.src) == (H3.mac.hex(":"), SHARED_MAC.hex(":"))
    assert (asked.op, asked.psrc, asked.pdst) == (1, GATEWAY, H3.ip)
    assert asked.hwsrc == SHARED_MAC.hex(":")

    (send,) = world.punt(B, OWNER_ANSWERS, 10.5)
    frame, told = read(send)
    assert send.vtep == A
    assert (frame.dst, told.hwdst) == (NEWCOMER.hex(":"), NEWCOMER.hex(":"))
    assert (told.op, told.hwsrc, told.psrc) == (2, SHARED_MAC.hex(":"), H3.ip)
    # It has been told; the owner's next word is not for it.
    assert world.punt(B, OWNER_ANSWERS, 10.6) == []


def test_the_prober_is_told_from_its_own_groups_shared_mac(world: World) -> None:
    world.punt(C, PROBE, 10.0)
    world.slowpath.tick(10.0)
    (send,) = world.punt(B, OWNER_ANSWERS, 10.1)
    _, told = read(send)
    assert (send.vtep, told.hwsrc) == (C, OTHER_SHARED_MAC.hex(":"))


def test_a_silent_owner_loses_its_address_without_a_word(world: World) -> None:
    """A guest whose address is bound to a MAC that has died is not refused it."""
    world.punt(A, PROBE, 10.0)
    asked = 0
    for step in range(6):
        for send in world.slowpath.tick(10.0 + step):
            _, question = read(send)
            assert question.op == 1
            asked += 1
    assert asked == 3
    assert world.bindings.get(ONE, H3.address) is None
    assert world.punt(A, vxlan(ONE, arp(BROADCAST, NEWCOMER, H3.ip, H3.ip)), 17.0) == []
    assert world.bindings.of_mac(ONE, NEWCOMER)[0].address == H3.address


def test_an_owner_that_answers_too_late_does_not_disturb_the_prober(world: World) -> None:
    """By then the prober has asked again, or has taken the address: that is another question."""
    world.punt(A, PROBE, 10.0)
    world.slowpath.tick(10.0)
    assert world.punt(B, OWNER_ANSWERS, 12.5) == []


def test_the_prober_that_has_taken_the_address_is_not_told_of_itself(world: World) -> None:
    world.punt(A, PROBE, 10.0)
    taken = vxlan(ONE, arp(BROADCAST, NEWCOMER, H3.ip, H3.ip))
    assert world.punt(A, taken, 10.5) == []


def test_repeated_probes_do_not_multiply_the_questions(world: World) -> None:
    for at in (10.0, 10.1, 10.2):
        world.punt(A, PROBE, at)
    assert len(world.slowpath.tick(10.2)) == 1


def test_a_configured_owner_is_asked_too() -> None:
    """Its binding never expires, but a duplicate of its address must be detected all the same."""
    world = World(timers=Timers(confirm_after=60.0))
    world.learn(H3, configured=True)
    world.punt(A, PROBE, 10.0)
    (question,) = world.slowpath.tick(10.0)
    assert read(question)[1].pdst == H3.ip
    (send,) = world.punt(B, OWNER_ANSWERS, 10.5)
    assert read(send)[1].hwdst == NEWCOMER.hex(":")


def test_a_configured_owner_that_is_silent_keeps_its_address() -> None:
    world = World()
    world.learn(H3, configured=True)
    world.punt(A, PROBE, 10.0)
    for step in range(10):
        world.slowpath.tick(10.0 + step)
    binding = world.bindings.get(ONE, H3.address)
    assert binding is not None and binding.state is State.CONFIGURED


# Questions of our own.


def test_a_question_to_a_segment_comes_from_each_groups_shared_mac(world: World) -> None:
    sends = world.punt(A, vxlan(ONE, arp(BROADCAST, H1.mac, H1.ip, "3.3.3.9")))
    assert {send.vtep for send in sends} == {A, B, C}
    for send in sends:
        frame, question = read(send)
        assert (frame.dst, frame.src) == ("ff:ff:ff:ff:ff:ff", SHARED[send.vtep].hex(":"))
        assert question.hwsrc == SHARED[send.vtep].hex(":")
        assert (question.op, question.psrc, question.pdst) == (1, "3.3.3.126", "3.3.3.9")


def test_a_silent_binding_is_asked_by_unicast_from_its_own_group(world: World) -> None:
    world.learn(H4, 100.0)
    world.learn(H6, 100.0)
    sends = world.slowpath.tick(160.0)
    asked = {send.vtep: send for send in sends if send.packet[8:14] in (H4.mac, H6.mac)}
    frame, question = read(asked[C])
    assert (frame.dst, question.hwsrc) == (H4.mac.hex(":"), OTHER_SHARED_MAC.hex(":"))
    frame, question = read(asked[B], TWO)
    assert (frame.dst, question.psrc, question.pdst) == (H6.mac.hex(":"), "2.2.2.254", H6.ip)
