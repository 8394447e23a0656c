"""DHCP at the leaf for any messages of any clients, of both families; see `dhcp_world`."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frames import v4, v6
from tests.property.dhcp_world import (
    CLIENTS,
    GATEWAY,
    PLACES,
    SERVER6,
    DhcpWorld,
    frame4,
    frame6,
    message4,
    message6,
    packed,
)
from tests.unit.leaf_world import ONE
from vswitch.wire import dhcp, dhcp6
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vtep

WAITS = [0.0, 0.0, 0.1, 1.0, 31.0, 299.0, 601.0]
"""Among them more than an offer, half a lease and a lease last."""

HAVABLE = ("50", "100", "101", "102", "103")
addresses4 = st.sampled_from([v4(f"1.1.1.{last}") for last in HAVABLE])
addresses6 = st.sampled_from([v6(f"2001:db8:1::{last}") for last in HAVABLE])
any4 = addresses4 | st.sampled_from([v4("1.1.1.104"), v4("1.1.1.254"), v4("9.9.9.9"), bytes(4)])
any6 = addresses6 | st.sampled_from([v6("2001:db8:1::104"), v6("2001:db8:1::fe"), v6("::")])
DISCOVER, ASK, DECLINE, RELEASE = 1, 3, 4, 7
SOLICIT, REQUEST, RENEW, REBIND, RELEASE6, DECLINE6 = 1, 3, 5, 6, 8, 9

# What a client in its senses says: else hardly any history would have a lease in it.
sound4 = st.one_of(
    st.builds(message4, st.just(DISCOVER), wanted=st.none() | addresses4),
    *[st.builds(message4, st.just(ASK), server=st.just(GATEWAY), wanted=addresses4)] * 2,
    st.builds(message4, st.just(ASK), wanted=addresses4),
    st.builds(message4, st.just(ASK), ciaddr=addresses4),
    st.builds(message4, st.just(RELEASE), server=st.just(GATEWAY), ciaddr=addresses4),
    st.builds(message4, st.just(DECLINE), server=st.just(GATEWAY), wanted=addresses4),
)
one6 = addresses6.map(lambda one: [[one]])
sound6 = st.one_of(
    st.builds(message6, st.sampled_from([SOLICIT, REBIND]), wanted=one6),
    st.builds(
        message6,
        st.sampled_from([REQUEST, REQUEST, REQUEST, RENEW, RELEASE6, DECLINE6]),
        server=st.just(SERVER6),
        wanted=one6,
    ),
)
wild4 = st.builds(
    message4,
    st.integers(0, 10) | st.integers(0, 255),
    server=st.sampled_from([None, GATEWAY, v4("1.1.1.9"), b"\x01"]),
    wanted=st.none() | any4,
    ciaddr=any4,
    flags=st.sampled_from([0, 0x8000]),
    more=st.just(b"\xff") | st.binary(max_size=40),
)
wild6 = st.builds(
    message6,
    st.integers(0, 14) | st.integers(0, 255),
    server=st.sampled_from([None, SERVER6, b"\0\3\0\1other"]),
    client=st.sampled_from([b"\0\3\0\1me", b"\0\3\0\1it", None]),
    wanted=st.lists(st.lists(any6, max_size=3), max_size=3),
    more=st.just(b"") | st.binary(max_size=40),
)
messages = st.one_of(
    *[sound4.map(lambda one: (one, False)), sound6.map(lambda one: (one, True))] * 2,
    wild4.map(lambda one: (one, False)),
    wild6.map(lambda one: (one, True)),
)
steps = st.lists(
    st.tuples(st.sampled_from(CLIENTS), st.sampled_from(PLACES), messages, st.sampled_from(WAITS)),
    min_size=15,
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_no_promise_breaks_another(
    history: list[tuple[Mac, Vtep, tuple[bytes, bool], float]],
) -> None:
    world = DhcpWorld()
    for client, place, (payload, is_ipv6), passed in history:
        world.wait(passed)
        world.punt(place, packed(client, payload, is_ipv6))


def test_the_messages_of_these_tests_get_clients_online() -> None:
    """Otherwise the test above could not fail."""
    world = DhcpWorld()
    for number, client in enumerate(CLIENTS[:2], 100):
        address, address6 = v4(f"1.1.1.{number}"), v6(f"2001:db8:1::{number}")
        for payload in (message4(1), message4(3, server=GATEWAY, wanted=address)):
            assert world.punt(PLACES[0], packed(client, payload, False))
        wanted = [[address6]]
        for payload in (message6(1, wanted=wanted), message6(3, server=SERVER6, wanted=wanted)):
            assert world.punt(PLACES[0], packed(client, payload, True))
        for one in (address, address6):
            held = world.ledger.holder(ONE, one, world.now)
            assert held is not None and held[0] == client


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 255),
    st.none() | st.binary(min_size=4, max_size=4),
    st.binary(min_size=4, max_size=4),
    st.lists(st.tuples(st.integers(55, 254), st.binary(max_size=255)), max_size=6),
)
def test_what_a_client_says_is_what_is_read(
    kind: int, wanted: bytes | None, ciaddr: bytes, options: list[tuple[int, bytes]]
) -> None:
    """An option that stands twice is one that is longer (RFC 3396)."""
    more = b"".join(bytes((code, len(value))) + value for code, value in options) + b"\xff"
    payload = message4(kind, wanted=wanted, ciaddr=ciaddr, flags=0x8000, more=more)
    read = dhcp.parse(frame4(CLIENTS[0], payload, ciaddr))
    assert read is not None
    assert (read.op, read.kind, read.flags, read.ciaddr) == (1, kind, 0x8000, ciaddr)
    assert (read.chaddr, read.address(50)) == (CLIENTS[0], wanted)
    joined: dict[int, bytes] = {}
    for code, value in options:
        joined[code] = joined.get(code, b"") + value
    assert {code: read.options[code] for code in joined} == joined


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 255),
    st.none() | st.binary(min_size=3, max_size=130),
    st.none() | st.binary(min_size=3, max_size=130),
    st.lists(st.lists(st.binary(min_size=16, max_size=16), max_size=3), max_size=3),
)
def test_what_a_client_of_ipv6_says_is_what_is_read(
    kind: int, client: bytes | None, server: bytes | None, wanted: list[list[bytes]]
) -> None:
    payload = message6(kind, server=server, client=client, wanted=wanted)
    read = dhcp6.parse(frame6(CLIENTS[0], payload))
    assert read is not None
    assert (read.kind, read.transaction, read.source_port) == (kind, b"xid", 546)
    assert (read.client, read.server) == (client, server)
    assert [list(ia.addresses) for ia in read.ias] == wanted
