"""Probers that wait for an owner's word: a few of each address, for a while, and not many."""

from __future__ import annotations

from leaf.conflict import MAX_PROBERS, MAX_WAITING, PATIENCE, Conflicts
from tests.frames import mac, v4
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni, Vtep

RED, BLUE = Vni(10), Vni(20)
A, B = Vtep("192.0.2.11"), Vtep("192.0.2.12")
M, N = Mac(mac(1)), Mac(mac(2))
ONE, TWO = v4("1.1.1.1"), v4("1.1.1.2")


def told(
    conflicts: Conflicts, at: float, address: bytes = ONE, segment: Vni = RED
) -> list[tuple[Vtep, Mac]]:
    """Who is to be told when the owner speaks."""
    return [(one.vtep, one.mac) for one in conflicts.owner_is_alive(segment, address, at)]


def test_a_waiting_prober_is_told_once() -> None:
    conflicts = Conflicts()
    conflicts.wait(RED, ONE, A, M, 10.0)
    assert told(conflicts, 10.5) == [(A, M)]
    assert told(conflicts, 10.5) == []


def test_only_the_owner_of_this_address_in_this_segment_counts() -> None:
    conflicts = Conflicts()
    conflicts.wait(RED, ONE, A, M, 10.0)
    assert told(conflicts, 10.5, TWO) == []
    assert told(conflicts, 10.5, segment=BLUE) == []
    assert told(conflicts, 10.5) == [(A, M)]


def test_all_probers_of_an_address_are_told() -> None:
    conflicts = Conflicts()
    conflicts.wait(RED, ONE, A, M, 10.0)
    conflicts.wait(RED, ONE, B, N, 10.1)
    assert told(conflicts, 10.2) == [(A, M), (B, N)]


def test_one_that_has_moved_is_told_once_where_it_is() -> None:
    conflicts = Conflicts()
    conflicts.wait(RED, ONE, A, M, 10.0)
    conflicts.wait(RED, ONE, B, M, 11.0)
    assert told(conflicts, 11.0 + PATIENCE) == [(B, M)]


def test_patience_ends() -> None:
    conflicts = Conflicts()
    conflicts.wait(RED, ONE, A, M, 10.0)
    assert told(conflicts, 10.0 + PATIENCE + 0.01) == []
    conflicts.wait(RED, ONE, A, M, 20.0)
    conflicts.wait(RED, ONE, B, N, 21.0)
    assert told(conflicts, 20.0 + PATIENCE + 0.01) == [(B, N)]


def test_so_many_wait_for_one_address() -> None:
    conflicts = Conflicts()
    macs = [Mac(mac(number)) for number in range(MAX_PROBERS + 2)]
    for prober in macs:
        conflicts.wait(RED, ONE, A, prober, 10.0)
    assert told(conflicts, 10.5) == [(A, prober) for prober in macs[2:]]


def test_so_many_wait_and_who_has_waited_longest_is_forgotten() -> None:
    conflicts = Conflicts()
    addresses = [number.to_bytes(4, "big") for number in range(MAX_WAITING + 1)]
    for address in addresses[:-1]:
        conflicts.wait(RED, address, A, M, 10.0)
    conflicts.wait(RED, addresses[0], A, M, 10.1)  # It has asked again, so it is not the oldest.
    conflicts.wait(RED, addresses[-1], A, M, 10.2)
    found = [told(conflicts, 10.5, address) != [] for address in addresses]
    assert found == [True, False] + [True] * (MAX_WAITING - 1)
