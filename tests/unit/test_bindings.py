"""Bindings: how the leaf comes to know where an address is, and what old news may not undo.

The life in time of a binding (probes, expiry) is the subject of `test_bindings_time.py`.
"""

from __future__ import annotations

import pytest

from leaf.bindings import MAX_PER_MAC, MAX_REMEMBERED, Bindings, Outcome, State
from tests.frames import mac, v4
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni, Vtep

RED, BLUE = Vni(10), Vni(20)
A, B, C = Vtep("192.0.2.11"), Vtep("192.0.2.12"), Vtep("192.0.2.13")
M, N = Mac(mac(1)), Mac(mac(2))
ONE, TWO, THREE = v4("1.1.1.1"), v4("1.1.1.2"), v4("1.1.1.3")


@pytest.fixture
def bindings() -> Bindings:
    return Bindings(capacity=10)


def places(bindings: Bindings) -> dict[tuple[int, bytes], tuple[bytes, str]]:
    return {(b.segment, b.address): (b.mac, b.vtep) for b in bindings.all()}


# Learning.


def test_a_new_address_is_learnt(bindings: Bindings) -> None:
    news = bindings.learn(RED, ONE, M, A, 5.0)
    assert news.outcome is Outcome.LEARNT
    (binding,) = news.changed
    assert binding is bindings.get(RED, ONE)
    assert (binding.segment, binding.address, binding.mac, binding.vtep) == (RED, ONE, M, A)
    assert (binding.state, binding.heard) == (State.REACHABLE, 5.0)
    assert bindings.of_mac(RED, M) == [binding]
    assert len(bindings) == 1


def test_the_same_again_is_confirmed_and_changes_nothing(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 5.0)
    news = bindings.learn(RED, ONE, M, A, 6.0)
    assert news == (Outcome.CONFIRMED, [])
    (binding,) = bindings.all()
    assert binding.heard == 6.0
    assert binding.sequence == 0


def test_a_second_address_of_a_mac_is_learnt_beside_the_first(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 5.0)
    news = bindings.learn(RED, TWO, M, A, 6.0)
    assert news.outcome is Outcome.LEARNT
    assert [binding.address for binding in news.changed] == [TWO]
    assert {binding.address for binding in bindings.of_mac(RED, M)} == {ONE, TWO}


def test_segments_are_apart(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 5.0)
    bindings.learn(BLUE, ONE, M, B, 6.0)
    assert places(bindings) == {(RED, ONE): (M, A), (BLUE, ONE): (M, B)}
    bindings.arrived(BLUE, M, C, 7.0)
    assert places(bindings) == {(RED, ONE): (M, A), (BLUE, ONE): (M, C)}


def test_what_is_not_bound_is_none(bindings: Bindings) -> None:
    assert bindings.get(RED, ONE) is None
    assert bindings.of_mac(RED, M) == []
    assert bindings.all() == []


# Moving: a guest moves as a whole.


def test_one_address_at_another_vtep_moves_all_of_its_mac(bindings: Bindings) -> None:
    for address in (ONE, TWO):
        bindings.learn(RED, address, M, A, 5.0)
    bindings.learn(RED, THREE, N, A, 5.0)
    news = bindings.learn(RED, ONE, M, B, 9.0)
    assert news.outcome is Outcome.MOVED
    assert {binding.address for binding in news.changed} == {ONE, TWO}
    assert places(bindings) == {(RED, ONE): (M, B), (RED, TWO): (M, B), (RED, THREE): (N, A)}
    assert {binding.heard for binding in bindings.of_mac(RED, M)} == {9.0}
    assert {binding.sequence for binding in bindings.of_mac(RED, M)} == {1}


def test_a_new_address_at_another_vtep_moves_the_old_ones_too(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 5.0)
    news = bindings.learn(RED, TWO, M, B, 9.0)
    assert news.outcome is Outcome.MOVED
    assert {binding.address for binding in news.changed} == {ONE, TWO}
    assert places(bindings) == {(RED, ONE): (M, B), (RED, TWO): (M, B)}
    assert {binding.sequence for binding in bindings.all()} == {1}


def test_a_rarp_moves_all_addresses_without_naming_one(bindings: Bindings) -> None:
    for address in (ONE, TWO):
        bindings.learn(RED, address, M, A, 5.0)
    news = bindings.arrived(RED, M, B, 9.0)
    assert news.outcome is Outcome.MOVED
    assert {binding.address for binding in news.changed} == {ONE, TWO}
    assert {vtep for _, vtep in places(bindings).values()} == {B}
    assert bindings.arrived(RED, M, B, 9.1) == (Outcome.CONFIRMED, [])


def test_a_rarp_of_an_unknown_mac_is_no_binding(bindings: Bindings) -> None:
    assert bindings.arrived(RED, M, B, 9.0) == (Outcome.UNKNOWN, [])
    assert len(bindings) == 0


def test_a_guests_own_moves_count_the_sequence_up_once(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 0.0)
    for vtep in (B, A, C, A):
        assert bindings.learn(RED, ONE, M, vtep, 1.0).outcome is Outcome.MOVED
        assert bindings.all()[0].sequence == 1


# An address that changes hands.


def test_an_address_goes_over_to_another_mac(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 5.0)
    news = bindings.learn(RED, ONE, N, B, 6.0)
    assert news.outcome is Outcome.REBOUND
    assert [(b.address, b.mac, b.vtep) for b in news.changed] == [(ONE, N, B)]
    assert places(bindings) == {(RED, ONE): (N, B)}
    assert bindings.of_mac(RED, M) == []


def test_a_rebound_address_leaves_the_others_of_the_old_mac(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 5.0)
    bindings.learn(RED, TWO, M, A, 5.0)
    bindings.learn(RED, ONE, N, B, 6.0)
    assert places(bindings) == {(RED, ONE): (N, B), (RED, TWO): (M, A)}
    assert [binding.address for binding in bindings.of_mac(RED, M)] == [TWO]


def test_taking_over_an_address_and_moving_happens_in_one_go(bindings: Bindings) -> None:
    """The MAC was known at A; at B it speaks of an address that was another's."""
    bindings.learn(RED, ONE, M, A, 5.0)
    bindings.learn(RED, TWO, N, A, 5.0)
    news = bindings.learn(RED, TWO, M, B, 6.0)
    assert news.outcome is Outcome.REBOUND
    assert {binding.address for binding in news.changed} == {ONE, TWO}
    assert places(bindings) == {(RED, ONE): (M, B), (RED, TWO): (M, B)}


# Configured bindings.


def test_a_configured_address_is_nobody_elses(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 5.0, configured=True)
    assert bindings.learn(RED, ONE, N, B, 6.0) == (Outcome.PINNED, [])
    assert places(bindings) == {(RED, ONE): (M, A)}


def test_a_pinned_address_moves_nothing_of_the_mac_that_claims_it(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 5.0, configured=True)
    bindings.learn(RED, TWO, N, A, 5.0)
    assert bindings.learn(RED, ONE, N, B, 6.0).outcome is Outcome.PINNED
    assert places(bindings) == {(RED, ONE): (M, A), (RED, TWO): (N, A)}


def test_a_configured_binding_moves_like_others_and_stays_configured(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 5.0, configured=True)
    assert bindings.arrived(RED, M, B, 6.0).outcome is Outcome.MOVED
    (binding,) = bindings.all()
    assert (binding.vtep, binding.state) == (B, State.CONFIGURED)


def test_a_new_configuration_may_take_a_configured_address(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 5.0, configured=True)
    assert bindings.learn(RED, ONE, N, B, 6.0, configured=True).outcome is Outcome.REBOUND
    (binding,) = bindings.all()
    assert (binding.mac, binding.state) == (N, State.CONFIGURED)


def test_configuring_what_was_learnt_makes_it_configured(bindings: Bindings) -> None:
    """Which came first, the guest's own word or the file, must make no difference."""
    bindings.learn(RED, ONE, M, A, 5.0)
    bindings.learn(RED, ONE, M, A, 6.0, configured=True)
    (binding,) = bindings.all()
    assert binding.state is State.CONFIGURED
    assert bindings.due(1e6).expired == []
    assert bindings.due(1e6 + 60).probe == []
    assert len(bindings) == 1


# Withdrawal, and what comes too late.


def test_a_withdrawn_mac_leaves_with_all_addresses(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 5.0)
    bindings.learn(RED, TWO, M, A, 5.0)
    bindings.learn(RED, THREE, N, A, 5.0)
    news = bindings.withdraw(RED, M, A)
    assert news.outcome is Outcome.WITHDRAWN
    assert {binding.address for binding in news.changed} == {ONE, TWO}
    assert places(bindings) == {(RED, THREE): (N, A)}
    assert bindings.withdraw(RED, M, A) == (Outcome.UNKNOWN, [])


def test_a_late_withdrawal_from_the_old_place_deletes_nothing(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 5.0)
    bindings.learn(RED, ONE, M, B, 6.0)
    for sequence in (None, 0, 1, 99):
        assert bindings.withdraw(RED, M, A, sequence=sequence) == (Outcome.STALE, [])
    assert places(bindings) == {(RED, ONE): (M, B)}


def test_a_withdrawal_with_an_old_sequence_deletes_nothing(bindings: Bindings) -> None:
    """From the same vswitch: the guest left and came back, and the news of both crossed."""
    bindings.learn(RED, ONE, M, A, 5.0, sequence=8)
    assert bindings.withdraw(RED, M, A, sequence=7) == (Outcome.STALE, [])
    assert places(bindings) == {(RED, ONE): (M, A)}
    assert bindings.withdraw(RED, M, A, sequence=8).outcome is Outcome.WITHDRAWN


def test_older_news_changes_nothing(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 5.0, sequence=8)
    assert bindings.learn(RED, ONE, M, B, 6.0, sequence=7) == (Outcome.STALE, [])
    assert bindings.learn(RED, TWO, M, B, 6.0, sequence=7) == (Outcome.STALE, [])
    assert bindings.arrived(RED, M, B, 6.0, sequence=7) == (Outcome.STALE, [])
    assert places(bindings) == {(RED, ONE): (M, A)}
    assert bindings.all()[0].heard == 5.0


def test_newer_news_carries_its_sequence_to_all_addresses(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 5.0, sequence=3)
    bindings.learn(RED, TWO, M, A, 5.0, sequence=8)
    assert {binding.sequence for binding in bindings.all()} == {8}
    bindings.arrived(RED, M, B, 6.0, sequence=20)
    assert {(binding.sequence, binding.vtep) for binding in bindings.all()} == {(20, B)}
    bindings.arrived(RED, M, B, 6.0, sequence=21)
    assert {binding.sequence for binding in bindings.all()} == {21}


def test_the_guests_own_word_counts_as_the_newest(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 5.0, sequence=8)
    assert bindings.learn(RED, ONE, M, B, 6.0).outcome is Outcome.MOVED
    assert bindings.learn(RED, ONE, M, A, 7.0, sequence=8).outcome is Outcome.STALE
    assert bindings.learn(RED, ONE, M, A, 7.0, sequence=9).outcome is Outcome.MOVED


def wander(bindings: Bindings) -> None:
    """Have M move by itself, by ARP and RARP, and end at B."""
    for _ in range(20):
        bindings.learn(RED, ONE, M, B, 6.0)
        bindings.learn(RED, TWO, M, A, 6.0)
        bindings.arrived(RED, M, B, 6.0)


def test_a_guest_that_moves_by_itself_does_not_outrun_whoever_counts(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 5.0, sequence=8)
    for sequence in (9, 10, 11):
        wander(bindings)
        assert bindings.learn(RED, ONE, M, C, 7.0, sequence=sequence - 1).outcome is Outcome.STALE
        assert bindings.learn(RED, ONE, M, C, 7.0, sequence=sequence).outcome is Outcome.MOVED
        assert {(one.vtep, one.sequence) for one in bindings.all()} == {(C, sequence)}
    wander(bindings)
    assert bindings.withdraw(RED, M, B, sequence=12).outcome is Outcome.WITHDRAWN


def test_nor_does_one_that_goes_and_comes_back_in_between(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 5.0, sequence=8)
    for _ in range(5):
        wander(bindings)
        for binding in bindings.of_mac(RED, M):
            bindings.forget(binding)
        bindings.learn(RED, ONE, M, A, 6.5)
    assert bindings.learn(RED, ONE, M, C, 7.0, sequence=8).outcome is Outcome.STALE
    assert bindings.learn(RED, ONE, M, C, 7.0, sequence=9).outcome is Outcome.MOVED


@pytest.mark.parametrize("sequence", [None, 8])
def test_late_news_does_not_bring_back_what_has_left(
    bindings: Bindings, sequence: int | None
) -> None:
    bindings.learn(RED, ONE, M, A, 5.0, sequence=8)
    bindings.withdraw(RED, M, A, sequence=sequence)
    assert bindings.learn(RED, ONE, M, A, 6.0, sequence=7) == (Outcome.STALE, [])
    assert len(bindings) == 0
    assert bindings.learn(RED, ONE, M, A, 7.0, sequence=9).outcome is Outcome.LEARNT


def test_a_withdrawals_own_sequence_is_remembered(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 5.0, sequence=8)
    bindings.withdraw(RED, M, A, sequence=12)
    assert bindings.learn(RED, ONE, M, A, 6.0, sequence=11).outcome is Outcome.STALE
    assert bindings.learn(RED, ONE, M, A, 6.0, sequence=12).outcome is Outcome.LEARNT


def test_a_guest_that_returns_goes_on_from_its_old_sequence(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 5.0, sequence=8)
    bindings.withdraw(RED, M, A)
    bindings.learn(RED, ONE, M, B, 6.0)
    assert bindings.learn(RED, ONE, M, A, 7.0, sequence=7).outcome is Outcome.STALE
    assert places(bindings) == {(RED, ONE): (M, B)}


def test_one_segments_sequences_are_not_anothers(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 5.0, sequence=8)
    assert bindings.learn(BLUE, ONE, M, A, 5.0, sequence=1).outcome is Outcome.LEARNT


# Bounds.


def test_a_full_table_refuses_new_addresses_and_serves_the_known(bindings: Bindings) -> None:
    for number in range(10):
        bindings.learn(RED, v4(f"1.1.2.{number}"), Mac(mac(100 + number)), A, 5.0)
    before = places(bindings)
    assert bindings.learn(RED, ONE, M, A, 6.0) == (Outcome.FULL, [])
    assert bindings.learn(RED, ONE, Mac(mac(100)), B, 6.0) == (Outcome.FULL, [])
    assert places(bindings) == before
    # Neither a move nor a change of hands needs room.
    assert bindings.arrived(RED, Mac(mac(100)), B, 7.0).outcome is Outcome.MOVED
    assert bindings.learn(RED, v4("1.1.2.1"), M, B, 7.0).outcome is Outcome.REBOUND
    assert len(bindings) == 10
    bindings.withdraw(RED, M, B)
    assert bindings.learn(RED, ONE, M, A, 8.0).outcome is Outcome.LEARNT


def test_one_mac_may_not_take_the_table_for_itself() -> None:
    bindings = Bindings()
    addresses = [b"\x0a\0" + number.to_bytes(2, "big") for number in range(MAX_PER_MAC + 1)]
    for address in addresses[:-1]:
        assert bindings.learn(RED, address, M, A, 5.0).outcome is Outcome.LEARNT
    assert bindings.learn(RED, addresses[-1], M, A, 5.0) == (Outcome.FULL, [])
    bindings.learn(RED, addresses[-1], N, A, 5.0)
    assert bindings.learn(RED, addresses[-1], M, A, 5.0) == (Outcome.FULL, [])
    assert bindings.get(RED, addresses[-1]) in bindings.of_mac(RED, N)
    # What it has is served, and it may move with all of it.
    assert bindings.learn(RED, addresses[0], M, A, 6.0).outcome is Outcome.CONFIRMED
    assert len(bindings.arrived(RED, M, B, 7.0).changed) == MAX_PER_MAC


def test_sequences_of_those_that_left_are_remembered_up_to_a_bound() -> None:
    bindings = Bindings()
    for number in range(MAX_REMEMBERED + 1):
        passing = Mac(b"\x02" + number.to_bytes(5, "big"))
        bindings.learn(RED, ONE, passing, A, 5.0, sequence=5)
        bindings.withdraw(RED, passing, A)
    last = Mac(b"\x02" + MAX_REMEMBERED.to_bytes(5, "big"))
    first = Mac(b"\x02" + bytes(5))
    assert bindings.learn(RED, ONE, last, A, 6.0, sequence=4).outcome is Outcome.STALE
    assert bindings.learn(RED, ONE, first, A, 6.0, sequence=4).outcome is Outcome.LEARNT


def test_forgetting_is_of_this_binding_and_no_later_one(bindings: Bindings) -> None:
    old = bindings.learn(RED, ONE, M, A, 5.0).changed[0]
    bindings.learn(RED, ONE, N, A, 6.0)
    bindings.forget(old)
    assert places(bindings) == {(RED, ONE): (N, A)}
    bindings.forget(bindings.all()[0])
    assert len(bindings) == 0


def test_a_withdrawal_of_what_is_gone_already_is_remembered_too(bindings: Bindings) -> None:
    """The guest's binding had expired when its withdrawal came; older news comes later still."""
    bindings.learn(RED, ONE, M, A, 5.0, sequence=8)
    bindings.withdraw(RED, M, A)
    assert bindings.withdraw(RED, M, A, sequence=12) == (Outcome.UNKNOWN, [])
    assert bindings.learn(RED, ONE, M, A, 6.0, sequence=11).outcome is Outcome.STALE
    assert len(bindings) == 0
