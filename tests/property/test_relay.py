"""Relaying, for every input: hostile bytes from either side, and what a round trip keeps."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from leaf.relay import Circuit, Reason, read_circuit
from tests.frames import mac, udp, vxlan
from tests.unit.dhcp_client import message
from tests.unit.leaf_world import ONE, A, B, C
from tests.unit.relay_world import (
    OWN,
    SERVER,
    SERVER6,
    RelayWorld,
    frame6,
    message6,
    reply,
    reply6,
    s,
)
from vswitch.wire import dhcp, dhcp6
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni, Vtep

ONE_MAC = mac(7)
VTEPS = [A, B, C]
_world = RelayWorld()
ASKED = _world.ask(A, message(ONE_MAC, "request", ("requested_addr", "1.1.1.100")))[0]
ASKED6 = _world.ask(A, message6(ONE_MAC, s.DHCP6_Request, "2001:db8:1::100"))[0]
REPLIES = [
    reply(ASKED, "ack", "1.1.1.100"),
    reply6(ASKED6, ("2001:db8:1::100", 600)),
]
QUESTIONS = [
    message(ONE_MAC, "request", ("requested_addr", "1.1.1.100")),
    message6(ONE_MAC, s.DHCP6_Request, "2001:db8:1::100"),
]
"""Sound ones, to be bent: bytes at random hardly ever come past the first check."""

bends = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6)


def bent(whole: bytes, changes: list[tuple[int, int]], length: int) -> bytes:
    made = bytearray(whole)
    for at, value in changes:
        made[at % len(made)] = value
    return bytes(made[:length])


def check(world: RelayWorld) -> None:
    """Nothing was raised, and only what may be bound is bound."""
    assert world.failures == []
    segment = world.segment(ONE)
    for lease in world.slowpath.relayer.snooped.all():
        assert segment.gateway_for(lease.address) is not None
        assert not segment.is_gateway(lease.address)
    assert {binding.vtep for binding in world.bindings.all()} <= set(segment.vteps)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600), st.sampled_from([SERVER, SERVER6]))
def test_hostile_bytes_of_a_server_are_never_an_error(data: bytes, server: bytes) -> None:
    world = RelayWorld()
    world.tell(data, server=server)
    check(world)
    assert sum(world.slowpath.relayer.counts.values()) == 1


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(REPLIES), bends, st.integers(0, 700))
def test_bent_replies_are_never_an_error(
    whole: bytes, changes: list[tuple[int, int]], length: int
) -> None:
    world = RelayWorld()
    server = SERVER if whole is REPLIES[0] else SERVER6
    sends = world.tell(bent(whole, changes, length), server=server)
    check(world)
    assert sum(world.slowpath.relayer.counts.values()) == 1
    for send in sends:
        assert send.vtep in world.segment(ONE).vteps


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(QUESTIONS), bends, st.integers(0, 700), st.booleans())
def test_bent_questions_are_never_an_error(
    whole: bytes, changes: list[tuple[int, int]], length: int, repaired: bool
) -> None:
    frame = bent(whole, changes, length)
    world = RelayWorld()
    if repaired:
        frame = _with_checksums(frame)
    world.punt(A, vxlan(ONE, frame))
    check(world)
    for asked in world.slowpath.relayer.outbox:
        assert len(asked.relay) == len(asked.server)


def _with_checksums(frame: bytes) -> bytes:
    """Hand the bent payload over in sound headers."""
    if frame[12:14] == b"\x08\x00":
        return udp(frame[:6], ONE_MAC, "0.0.0.0", "255.255.255.255", 68, 67, frame[42:])
    return frame6(ONE_MAC, Raw(frame[62:]))


options = st.lists(
    st.tuples(st.integers(1, 254), st.binary(max_size=80)).filter(
        lambda one: one[0] not in (dhcp.OVERLOAD, dhcp.TYPE, dhcp.RELAY)
    ),
    max_size=8,
)


@settings(max_examples=200, deadline=None)
@given(options, st.binary(max_size=40), st.sampled_from(VTEPS))
def test_what_a_relay_adds_is_all_that_it_adds(
    said: list[tuple[int, bytes]], padding: bytes, vtep: Vtep
) -> None:
    """The client's options reach the server, and the server's the client, in their order."""
    body = b"\x35\x01\x01" + b"".join(dhcp.option(*one) for one in said) + b"\xff"
    head = bytes(BOOTP(chaddr=ONE_MAC + bytes(10)))[:236] + dhcp.COOKIE
    payload = head + body + bytes(len(padding))
    world = RelayWorld()
    asked = world.ask(
        vtep, udp(b"\xff" * 6, ONE_MAC, "0.0.0.0", "255.255.255.255", 68, 67, payload)
    )
    read = dhcp.parse_payload(asked[0].payload)
    before = dhcp.parse_payload(payload)
    assert read is not None and before is not None
    del read.options[dhcp.RELAY]
    assert list(read.options.items()) == list(before.options.items())
    assert (read.hops, read.giaddr) == (before.hops + 1, OWN)
    # The server answers with the same options.
    back = bytearray(asked[0].payload)
    back[0] = 2
    back[242] = dhcp.OFFER
    (sent,) = world.tell(bytes(back))
    assert sent.vtep == vtep
    plain = dhcp.parse_payload(bytes(Ether(sent.packet[8:])[BOOTP]))
    assert plain is not None and plain.kind == dhcp.OFFER
    assert {**plain.options, dhcp.TYPE: b""} == {**before.options, dhcp.TYPE: b""}
    assert world.counted(Reason.DELIVERED) == 1


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, (1 << 24) - 1),
    st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)),
    st.binary(min_size=6, max_size=6),
)
def test_a_circuit_is_read_as_it_was_written(vni: int, vtep: object, guest: bytes) -> None:
    circuit = Circuit(Vni(vni), Vtep(str(vtep)), Mac(guest))
    assert read_circuit(circuit.interface) == circuit


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text(alphabet="0123456789abcdef:./ +_", max_size=40)))
def test_only_what_was_written_is_read(data: bytes | str) -> None:
    raw = data.encode() if isinstance(data, str) else data
    circuit = read_circuit(raw)
    assert circuit is None or circuit.interface == raw


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=300))
def test_the_readers_take_anything(data: bytes) -> None:
    """Also deep in a message, where bytes at random hardly come by way of the leaf."""
    dhcp.suboptions(data)
    dhcp6.given(data)
    dhcp6.relay_reply(data)
    dhcp6.relay_reply(b"\x0d\0" + bytes(32) + data)
