"""What holds for every frame, and for every order in which guests come and go.

Frames are drawn to be nearly right, since a random one is a miss with a wrong source: their MACs
come from those that the world knows, their types from those that decisions look at.
"""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import assume, event, example, given
from hypothesis import strategies as st

from tests.frames import (
    BRIDGE_GROUP,
    BROADCAST,
    MULTICAST,
    OTHER_SHARED_MAC,
    SHARED_MAC,
    v4,
    v6,
    vxlan,
)
from tests.unit.engine_world import World
from tests.unit.topology import (
    ALICE_IP,
    ALICE_IP6,
    ALICE_MAC,
    BLUE,
    BOB_MAC,
    BOB_SECOND_MAC,
    CAROL_MAC,
    DAVE_MAC,
    ERIN_MAC,
    FAR_MAC,
    FRANK_MAC,
    GREEN,
    LEAF,
    OSCAR_MAC,
    RED,
    STRANGER,
    attachment,
    build,
    empty_switch,
    guests,
)
from vswitch.attachment import AttachmentError, State
from vswitch.phy.memory import MemoryPort
from vswitch.phy.port import PortId
from vswitch.service.steps import explain
from vswitch.switch import STEPS, UPLINK, UPLINK_STEPS, Reason, Switch, Verdict
from vswitch.wire import arp, icmp, ipv4
from vswitch.wire import vxlan as vxlan_format

GROUPS = (BROADCAST, MULTICAST, BRIDGE_GROUP, bytes.fromhex("333300000001"))
STATIONS = (
    *(ALICE_MAC, BOB_MAC, BOB_SECOND_MAC, CAROL_MAC, OSCAR_MAC, DAVE_MAC, ERIN_MAC, FRANK_MAC),
    *(FAR_MAC, SHARED_MAC, OTHER_SHARED_MAC, bytes(6)),
)
TYPES = (0x0800, 0x0806, 0x8035, 0x86DD, 0x8100, 0x88A8, 0x88B5, 0x0026)
OWNER = {one.port: one for one in guests().values()}

# Built once: deciding changes nothing, and another test holds it to that.
SWITCH = build()
SWITCH.learn(BLUE, FAR_MAC, 0.0)

ports = st.sampled_from([*OWNER] * 3 + [PortId(77)])
macs = st.sampled_from([*GROUPS, *STATIONS])
ethertypes = st.sampled_from(TYPES) | st.integers(0, 0xFFFF)
buffers = st.sampled_from([bytes, bytearray, memoryview])
IPS = tuple(v4(text) for text in (ALICE_IP, "0.0.0.0", "10.0.0.66"))
IPS6 = tuple(v6(text) for text in (ALICE_IP6, "::", "fe80::1", "2001:db8::66", "ff02::1"))


@st.composite
def packets6(draw: st.DrawFn, sender: bytes) -> bytes:
    """An IPv6 packet: ND that claims this and that, behind any number of extension headers."""
    kind = draw(st.sampled_from([*range(132, 139), 128]))
    target = draw(st.sampled_from(IPS6))
    claimed = draw(st.sampled_from([sender, sender, FAR_MAC]))
    option = bytes([draw(st.integers(0, 3)), draw(st.sampled_from([1, 1, 1, 0, 2, 255]))]) + claimed
    inside = bytes([kind, 0, 0, 0, 0, 0, 0, 0]) + target + option
    following = draw(st.sampled_from([58, 58, 17, 59]))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2, 9]))):
        inside = bytes([following, draw(st.sampled_from([0, 0, 0, 200]))]) + bytes(6) + inside
        following = draw(st.sampled_from([0, 43, 44, 60]))
    length = draw(st.sampled_from([len(inside)] * 4 + [0, 7, 0xFFFF]))
    head = b"\x60\0\0\0" + pack("!HBB", length, following, draw(st.sampled_from([255, 64])))
    packet = head + draw(st.sampled_from(IPS6)) + v6("2001:db8::2") + inside
    return packet[: draw(st.sampled_from([len(packet)] * 4 + [40, 41, 55, 63]))]


@st.composite
def frames(draw: st.DrawFn, source: bytes | None = None) -> bytes:
    """A frame between known MACs, with a body that the spoof guard has something to say about."""
    sender = draw(macs) if source is None else source
    ethertype = draw(ethertypes)
    body = draw(st.binary(max_size=60))
    if draw(st.integers(0, 3)):
        if ethertype == 0x0800:
            body = b"\x45" + bytes(11) + draw(st.sampled_from(IPS)) + v4("10.0.0.2") + body
        elif ethertype == 0x86DD:
            body = draw(packets6(sender))
        elif ethertype in (0x0806, 0x8035):
            claimed = draw(st.sampled_from([sender, sender, FAR_MAC]))
            ip = draw(st.sampled_from(IPS))
            body = bytes.fromhex("0001080006040001") + claimed + ip + bytes(10) + body
    return draw(macs) + sender + pack("!H", ethertype) + body


@st.composite
def offers(draw: st.DrawFn) -> tuple[PortId, bytes]:
    """A port and a frame for it, of which most are from the guest's own MAC."""
    port = draw(ports)
    own = sorted(OWNER[port].macs) if port in OWNER else [FAR_MAC]
    return port, draw(frames(draw(st.sampled_from([*own * 3, None]))))


def packets() -> st.SearchStrategy[bytes]:
    """A packet from the tunnel, mostly of a known segment."""
    vnis = st.sampled_from([RED] * 4 + [BLUE, GREEN, 99, (1 << 24) - 1])
    return st.builds(vxlan, vnis, frames())


@given(offer=offers())
def test_no_guest_under_guard_says_who_a_router_is(offer: tuple[PortId, bytes]) -> None:
    """Nor, right behind the IPv6 header, that an address is at a MAC that is not its own."""
    port, frame = offer
    verdict = SWITCH.decide(port, frame)
    own = OWNER.get(port)
    is_nd = len(frame) > 54 and frame[12:14] == b"\x86\xdd" and frame[20] == 58
    if own is None or not own.spoof_guard or not is_nd or not verdict.egress:
        return
    event("nd that passes")
    assert frame[54] not in (134, 137)
    if frame[54] in (135, 136):
        wanted = frame[54] - 134  # Source link-layer in a solicitation, target in the other.
        if frame[78] == wanted:
            assert frame[80:86] in own.macs
        if frame[54] == 136 and own.addresses:
            assert frame[62:78] in own.addresses or frame[62:64] == b"\xfe\x80"


def segment_members(port: PortId) -> set[PortId]:
    return {one.port for one in OWNER.values() if one.segment == OWNER[port].segment}


# One frame.


@given(offer=offers())
def test_what_a_verdict_on_a_guests_frame_may_be(offer: tuple[PortId, bytes]) -> None:
    port, frame = offer
    verdict = SWITCH.decide(port, frame)
    event(verdict.reason)
    # It never comes back to where it came from, and nobody gets it twice.
    assert port not in verdict.egress
    assert len(set(verdict.egress)) == len(verdict.egress)
    # It does not leave the segment, and no staged guest gets it.
    for egress in verdict.egress:
        if egress != UPLINK:
            assert egress in segment_members(port)
            assert OWNER[egress].state is State.ACTIVE
    # What is for many is as the guest wrote it, and a rewrite only ever goes up.
    if frame[0] & 1:
        assert verdict.rewrite is None
    if verdict.rewrite is not None:
        assert verdict == Verdict((UPLINK,), SHARED_MAC, Reason.MISS_REWRITTEN)


@given(source=st.sampled_from([LEAF, LEAF, LEAF, STRANGER]), packet=packets())
def test_what_a_verdict_on_a_packet_from_the_uplink_may_be(source: str, packet: bytes) -> None:
    verdict = SWITCH.decide_uplink(source, packet)  # type: ignore[arg-type]
    event(verdict.reason)
    assert UPLINK not in verdict.egress
    assert verdict.rewrite is None
    assert all(OWNER[egress].state is State.ACTIVE for egress in verdict.egress)
    if source != LEAF:
        assert verdict.egress == ()


@given(port=ports, junk=st.binary(max_size=120), kind=buffers)
def test_no_bytes_make_a_decision_raise(port: PortId, junk: bytes, kind: type) -> None:
    assert isinstance(SWITCH.decide(port, kind(junk)), Verdict)
    assert isinstance(SWITCH.decide_uplink(LEAF, kind(junk)), Verdict)


@given(offer=offers(), length=st.integers(0, 80), kind=buffers)
def test_no_cut_frame_makes_a_decision_raise(
    offer: tuple[PortId, bytes], length: int, kind: type
) -> None:
    port, frame = offer
    assert isinstance(SWITCH.decide(port, kind(frame[:length])), Verdict)
    assert isinstance(SWITCH.decide_uplink(LEAF, kind(vxlan(RED, frame)[:length])), Verdict)


@given(junk=st.binary(max_size=120), kind=buffers)
def test_no_bytes_make_a_parser_raise(junk: bytes, kind: type) -> None:
    data = kind(junk)
    assert isinstance(arp.parse(data), arp.Message | None)
    assert isinstance(vxlan_format.parse_vni(data), int | None)
    assert isinstance(icmp.echo_reply(data), bytes | None)
    if ipv4.is_sound(data):
        # The border is `is_sound`; whoever is behind it may trust the header.
        assert isinstance(icmp.may_be_answered(data), bool)
    if len(junk) >= 14:
        assert isinstance(vxlan_format.flow_hash(data), int)


@given(start=st.sampled_from([b"\x45", b"\x46", b"\x4f"]), rest=st.binary(min_size=59, max_size=80))
def test_no_sound_packet_makes_the_question_of_an_answer_raise(start: bytes, rest: bytes) -> None:
    packet = bytearray(start + rest)
    header_len = (packet[0] & 15) * 4
    packet[2:4] = pack("!H", len(packet))
    packet[10:12] = b"\0\0"
    total = sum(packet[at] << 8 | packet[at + 1] for at in range(0, header_len, 2))
    packet[10:12] = pack("!H", (-total) % 0xFFFF)
    assert ipv4.is_sound(packet)
    assert isinstance(icmp.may_be_answered(packet), bool)
    assert len(icmp.error(icmp.TIME_EXCEEDED, 0, packet)) == 8 + len(packet)


@given(offer=offers(), packet=packets())
def test_an_explanation_ends_at_the_reason(offer: tuple[PortId, bytes], packet: bytes) -> None:
    for steps, verdict in (
        (STEPS, SWITCH.decide(*offer)),
        (UPLINK_STEPS, SWITCH.decide_uplink(LEAF, packet)),
    ):
        told = explain(steps, verdict.reason)
        assert [step["finding"] for step in told[:-1]] == ["go on"] * (len(told) - 1)
        assert told[-1]["finding"] == verdict.reason
        assert [step["step"] for step in told] == [step.question for step in steps[: len(told)]]


@pytest.mark.parametrize("reason", list(Reason))
def test_an_explanation_of_every_reason_ends_at_it(reason: Reason) -> None:
    steps = UPLINK_STEPS if reason.startswith("uplink_") else STEPS
    assert explain(steps, reason)[-1]["finding"] == reason


# One burst through the engine: a rewrite changes six bytes and nothing else.


@given(burst=st.lists(frames(ALICE_MAC), min_size=1, max_size=5))
def test_what_arrives_is_what_was_sent_but_for_a_rewritten_destination(
    burst: list[bytes],
) -> None:
    world = World()
    world.attach("alice", 1)
    world.attach("bob", 2)
    alice = world.port_id("alice")
    verdicts = [(frame, world.engine.switch.decide(alice, frame)) for frame in burst]
    world.emit("alice", *burst)

    bob = world.port_id("bob")
    assert world.heard("bob") == [frame for frame, verdict in verdicts if bob in verdict.egress]
    assert world.heard("alice") == []
    expected = []
    for frame, verdict in verdicts:
        event(verdict.reason)
        if UPLINK in verdict.egress:
            rewritten = verdict.reason is Reason.MISS_REWRITTEN
            expected.append(vxlan(RED, SHARED_MAC + frame[6:] if rewritten else frame))
    # What the engine itself tells the leaf, when alice sends RARP, is not hers.
    own = [packet for packet in world.at_leaf() if packet[20:22] != b"\x80\x35"]
    assert own == expected


@given(
    destination=st.binary(min_size=6, max_size=6),
    ethertype=st.sampled_from([0x0800, 0x86DD, 0x0806]),
    rest=st.binary(max_size=200),
)
@example(destination=OTHER_SHARED_MAC, ethertype=0x0800, rest=b"")
@example(destination=bytes(6), ethertype=0x0806, rest=b"")
def test_every_unknown_station_is_reached_by_way_of_the_leaf(
    destination: bytes, ethertype: int, rest: bytes
) -> None:
    """Six bytes differ at the leaf, whatever the frame; its guest has no list of addresses."""
    destination = bytes([destination[0] & 0xFE]) + destination[1:]
    assume(destination not in (ALICE_MAC, BOB_MAC, SHARED_MAC))
    sender_in_arp = bytes.fromhex("0001080006040001") + ALICE_MAC
    no_next_header = b"\x60" + bytes(5) + b"\x3b" + bytes(7)  # RFC 8200 section 4.7.
    heads = {0x0806: sender_in_arp, 0x86DD: no_next_header}
    body = heads.get(ethertype, bytes(14)) + bytes(26) + rest
    frame = destination + ALICE_MAC + pack("!H", ethertype) + body
    world = World()
    world.attach("alice", 1)
    world.attach("bob", 2)
    world.emit("alice", frame)
    assert world.at_leaf() == [vxlan(RED, SHARED_MAC + frame[6:])]
    assert world.heard("bob") == []


# Guests that come and go.

NAMES = ("a", "b", "c", "d")
GUEST_MACS = tuple(b"\x02\0\0\0\0" + bytes([number]) for number in range(1, 4))
SEGMENTS = (RED, BLUE, GREEN)

verbs = st.one_of(
    st.tuples(
        st.sampled_from(["attach", "stage"]),
        st.sampled_from(NAMES),
        st.sampled_from(SEGMENTS),
        st.sets(st.sampled_from(GUEST_MACS), min_size=1, max_size=2),
    ),
    st.tuples(
        st.sampled_from(["activate", "suspend", "detach", "speak", "vanish"]),
        st.sampled_from(NAMES),
    ),
)


def carry_out(world: World, verb: tuple[object, ...]) -> None:
    """Do one thing. What is refused is refused; the tables must be right all the same."""
    what, name = str(verb[0]), str(verb[1])
    engine = world.engine
    try:
        if what in ("attach", "stage"):
            state = State.ACTIVE if what == "attach" else State.STAGED
            port = MemoryPort()
            engine.add(attachment(name, PortId(-1), verb[2], *verb[3], state=state), port)  # type: ignore[arg-type,misc]
            world.ports[name] = port
        elif what == "activate":
            engine.activate(name)
        elif what == "detach":
            engine.detach(name)
        elif what == "suspend":
            engine.suspend(name)
        elif what == "speak":
            own = min(engine.attachments.get(name).macs)
            world.emit(name, BROADCAST + own + b"\x88\xb5" + bytes(46))
        else:
            port_id = engine.attachments.get(name).port
            world.ports[name].gone = True
            engine.pump_port(port_id)
    except AttachmentError as error:
        event(f"{what} refused: {type(error).__name__}")


def unordered(verdict: Verdict) -> tuple[frozenset[PortId], bytes | None, Reason]:
    """A verdict without the order of its ports, which is that of their arrival."""
    assert len(set(verdict.egress)) == len(verdict.egress)
    return frozenset(verdict.egress), verdict.rewrite, verdict.reason


def contents(switch: Switch) -> list[object]:
    """All tables of a switch."""
    return [
        (
            segment.vni,
            segment.fdb.verdicts,
            segment.from_uplink,
            set(segment.members),
            unordered(segment.uplink_group),
        )
        for segment in switch.segments()
    ]


def answers(switch: Switch, asked: range) -> list[object]:
    """What a switch says to every probe from every port and from the uplink."""
    probes = [
        destination + source + b"\x08\0" + bytes(46)
        for destination in (*GUEST_MACS, SHARED_MAC, BROADCAST)
        for source in GUEST_MACS
    ]
    said: list[object] = [
        unordered(switch.decide(PortId(port), probe)) for port in asked for probe in probes
    ]
    said += [
        unordered(switch.decide_uplink(LEAF, vxlan(vni, probe)))
        for vni in SEGMENTS
        for probe in probes
    ]
    return said


@given(life=st.lists(verbs, min_size=5, max_size=30))
def test_the_tables_depend_on_who_is_here_and_not_on_how_they_came(
    life: list[tuple[object, ...]],
) -> None:
    world = World()
    for verb in life:
        carry_out(world, verb)
    left = world.engine.attachments.all()
    event(f"{len(left)} left")

    from_scratch = empty_switch()
    for one in left:
        from_scratch.place(one)
    assert contents(world.engine.switch) == contents(from_scratch)
    asked = range(1, len(life) + 2)
    assert answers(world.engine.switch, asked) == answers(from_scratch, asked)
    assert set(world.engine.ports()) == {one.port for one in left}
    for one in left:
        assert world.engine.attachments.of_port(one.port) is one
