"""The relay's sockets, on loopback: what comes and goes, and what a start that fails says."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from leaf.relaysocket import RelayError, RelaySocket
from tests.frames import v4, v6

PORTS = {4: 67, 16: 547}
FAMILIES = {4: socket.AF_INET, 16: socket.AF_INET6}
pytestmark = pytest.mark.netns
"""Ports below 1024, which the sandbox of tools/test lets us have."""


@pytest.fixture(params=["127.0.0.1", "::1"])
def relay(request: pytest.FixtureRequest) -> Iterator[RelaySocket]:
    one = RelaySocket(v6(request.param) if ":" in request.param else v4(request.param))
    yield one
    one.close()


def test_datagrams_go_to_the_servers_port_and_come_back(relay: RelaySocket) -> None:
    host = {4: "127.0.0.53", 16: "::1"}[len(relay.address)]
    family, port = FAMILIES[len(relay.address)], PORTS[len(relay.address)]
    own = socket.inet_ntop(family, relay.address)
    with socket.socket(family, socket.SOCK_DGRAM) as server:
        if host != own:
            server.bind((host, port))
            server.settimeout(1.0)
            assert relay.send(socket.inet_pton(family, host), b"question")
            said, sender = server.recvfrom(100)
            assert (said, sender[:2]) == (b"question", (own, port))
        for number in range(3):
            server.sendto(bytes((number,)) * 2000, (own, port))
    assert [len(payload) for _, payload in relay.read(2)] == [2000, 2000]
    assert relay.read(2) == [(socket.inet_pton(family, host), b"\2" * 2000)]
    assert relay.read(2) == []


def test_what_the_kernel_does_not_take_is_told(relay: RelaySocket) -> None:
    unreachable = v4("203.0.113.1") if len(relay.address) == 4 else v6("2001:db8::1")
    assert not relay.send(unreachable, b"x")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("203.0.113.1", ("leaf.relay:", "203.0.113.1 port 67", "to an interface")),
        ("2001:db8::1", ("leaf.relay6:", "2001:db8::1 port 547", "to an interface")),
    ],
)
def test_an_address_that_the_machine_has_not(address: str, words: tuple[str, ...]) -> None:
    with pytest.raises(RelayError) as caught:
        RelaySocket(v6(address) if ":" in address else v4(address))
    for word in words:
        assert word in str(caught.value)


def test_a_port_that_is_taken(relay: RelaySocket) -> None:
    with pytest.raises(RelayError, match="another DHCP server or relay is on this machine"):
        RelaySocket(relay.address)
