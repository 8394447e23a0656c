"""Probers that wait for an owner's word: the latest of each address, for a while, and not many."""

from __future__ import annotations

from leaf.conflict import MAX_WAITING, PATIENCE, Conflicts
from tests.frames import mac, v4
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni, Vtep

RED, BLUE = Vni(10), Vni(20)
A, B = Vtep("192.0.2.11"), Vtep("192.0.2.12")
M, N = Mac(mac(1)), Mac(mac(2))
ONE, TWO = v4("1.1.1.1"), v4("1.1.1.2")


def test_a_waiting_prober_is_told_once() -> None:
    conflicts = Conflicts()
    conflicts.wait(RED, ONE, A, M, 10.0)
    told = conflicts.owner_is_alive(RED, ONE, 10.5)
    assert told is not None
    assert (told.vtep, told.mac) == (A, M)
    assert conflicts.owner_is_alive(RED, ONE, 10.5) is None


def test_only_the_owner_of_this_address_in_this_segment_counts() -> None:
    conflicts = Conflicts()
    conflicts.wait(RED, ONE, A, M, 10.0)
    assert conflicts.owner_is_alive(RED, TWO, 10.5) is None
    assert conflicts.owner_is_alive(BLUE, ONE, 10.5) is None
    assert conflicts.owner_is_alive(RED, ONE, 10.5) is not None


def test_the_latest_prober_is_the_one_that_is_told() -> None:
    conflicts = Conflicts()
    conflicts.wait(RED, ONE, A, M, 10.0)
    conflicts.wait(RED, ONE, B, N, 11.0)
    told = conflicts.owner_is_alive(RED, ONE, 11.0 + PATIENCE)
    assert told is not None
    assert (told.vtep, told.mac) == (B, N)


def test_patience_ends() -> None:
    conflicts = Conflicts()
    conflicts.wait(RED, ONE, A, M, 10.0)
    assert conflicts.owner_is_alive(RED, ONE, 10.0 + PATIENCE + 0.01) is None


def test_so_many_wait_and_who_has_waited_longest_is_forgotten() -> None:
    conflicts = Conflicts()
    addresses = [number.to_bytes(4, "big") for number in range(MAX_WAITING + 1)]
    for address in addresses[:-1]:
        conflicts.wait(RED, address, A, M, 10.0)
    conflicts.wait(RED, addresses[0], A, M, 10.1)  # It has asked again, so it is not the oldest.
    conflicts.wait(RED, addresses[-1], A, M, 10.2)
    found = [conflicts.owner_is_alive(RED, address, 10.5) is not None for address in addresses]
    assert found == [True, False] + [True] * (MAX_WAITING - 1)
