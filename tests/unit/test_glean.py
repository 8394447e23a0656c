"""Gleaning: how often an address is asked for, what is held meanwhile, and for how long not."""

from __future__ import annotations

import pytest

from leaf.glean import (
    MAX_ASKED,
    MAX_HELD,
    MAX_HELD_LEN,
    MAX_NEGATIVE,
    NEGATIVE_FOR,
    Due,
    Failed,
    Gleaner,
    Key,
    Outcome,
)
from leaf.punt import Punt
from vswitch.wire.vxlan import Vni, Vtep

A = Vtep("192.0.2.11")


def key(number: int, segment: int = 10) -> Key:
    return (Vni(segment), number.to_bytes(4, "big"))


def held(number: int, length: int = 60) -> Punt:
    return Punt(A, bytes([number]) * length, (A, "the guest"))


K, L = key(1), key(2)


@pytest.fixture
def gleaner() -> Gleaner:
    return Gleaner()


def test_the_first_packet_asks_and_later_ones_wait_with_it(gleaner: Gleaner) -> None:
    assert gleaner.want(K, 10.0, held(1)) is Outcome.ASKED
    assert gleaner.want(K, 10.1, held(2)) is Outcome.HELD
    assert gleaner.want(L, 10.2, held(3)) is Outcome.ASKED
    assert len(gleaner) == 2
    assert gleaner.resolved(K) == [held(1), held(2)]
    assert len(gleaner) == 1


def test_a_question_without_a_packet_holds_nothing(gleaner: Gleaner) -> None:
    assert gleaner.want(K, 10.0) is Outcome.ASKED
    assert gleaner.want(K, 10.0) is Outcome.HELD
    assert gleaner.resolved(K) == []


def test_what_was_not_asked_for_has_nothing_to_release(gleaner: Gleaner) -> None:
    assert gleaner.resolved(K) is None
    gleaner.want(K, 10.0, held(1))
    gleaner.resolved(K)
    assert gleaner.resolved(K) is None


def test_a_bounded_few_are_held(gleaner: Gleaner) -> None:
    outcomes = [gleaner.want(K, 10.0, held(number)) for number in range(MAX_HELD + 2)]
    assert outcomes == [
        Outcome.ASKED,
        *[Outcome.HELD] * (MAX_HELD - 1),
        Outcome.OVERFLOW,
        Outcome.OVERFLOW,
    ]
    assert gleaner.resolved(K) == [held(number) for number in range(MAX_HELD)]


def test_a_long_packet_asks_but_is_not_held(gleaner: Gleaner) -> None:
    assert gleaner.want(K, 10.0, held(1, MAX_HELD_LEN + 1)) is Outcome.ASKED
    assert gleaner.want(K, 10.0, held(2, MAX_HELD_LEN + 1)) is Outcome.OVERFLOW
    assert gleaner.want(K, 10.0, held(3, MAX_HELD_LEN)) is Outcome.HELD
    assert gleaner.resolved(K) == [held(3, MAX_HELD_LEN)]


def test_three_questions_a_second_apart_and_then_it_is_given_up(gleaner: Gleaner) -> None:
    gleaner.want(K, 10.0, held(1))
    assert gleaner.deadline() == 11.0
    assert gleaner.due(10.9) == Due([], [])
    assert gleaner.due(11.0) == Due([K], [])
    assert gleaner.due(11.5) == Due([], [])
    assert gleaner.due(12.0) == Due([K], [])
    assert gleaner.due(13.0) == Due([], [Failed(K, [held(1)])])
    assert len(gleaner) == 0
    assert gleaner.deadline() is None


def test_an_answer_ends_the_asking(gleaner: Gleaner) -> None:
    gleaner.want(K, 10.0, held(1))
    gleaner.due(11.0)
    gleaner.resolved(K)
    assert gleaner.deadline() is None
    assert gleaner.due(100.0) == Due([], [])
    assert not gleaner.is_negative(K, 100.0)


def test_each_address_has_its_own_clock(gleaner: Gleaner) -> None:
    gleaner.want(K, 10.0)
    gleaner.want(L, 10.4)
    assert gleaner.due(11.0) == Due([K], [])
    assert gleaner.deadline() == 11.4
    assert gleaner.due(11.4) == Due([L], [])
    assert gleaner.deadline() == 12.0


def give_up(gleaner: Gleaner, now: float, *keys: Key) -> float:
    """Ask for addresses that nobody has; return when they were given up."""
    for one in keys:
        gleaner.want(one, now)
    for step in (1, 2, 3):
        gleaner.due(now + step)
    return now + 3


def test_an_unanswered_address_is_not_asked_for_again_for_a_while(gleaner: Gleaner) -> None:
    since = give_up(gleaner, 10.0, K)
    assert gleaner.negative == 1
    assert gleaner.is_negative(K, since)
    assert gleaner.want(K, since + NEGATIVE_FOR - 0.1, held(1)) is Outcome.NEGATIVE
    assert len(gleaner) == 0
    assert not gleaner.is_negative(K, since + NEGATIVE_FOR)
    assert gleaner.want(K, since + NEGATIVE_FOR, held(1)) is Outcome.ASKED
    assert gleaner.negative == 0


def test_an_answer_that_comes_late_ends_the_silence(gleaner: Gleaner) -> None:
    since = give_up(gleaner, 10.0, K)
    assert gleaner.resolved(K) is None
    assert not gleaner.is_negative(K, since)
    assert gleaner.want(K, since, held(1)) is Outcome.ASKED


def test_an_address_that_is_asked_for_is_not_negative(gleaner: Gleaner) -> None:
    gleaner.want(K, 10.0)
    assert not gleaner.is_negative(K, 10.0)


def test_what_was_policed_left_nothing_behind(gleaner: Gleaner) -> None:
    gleaner.want(K, 10.0)
    assert gleaner.want(L, 10.0, held(1), lambda: False) is Outcome.POLICED
    assert gleaner.resolved(L) is None
    assert len(gleaner) == 1


def test_a_rate_is_used_only_where_an_address_would_be_asked_for(gleaner: Gleaner) -> None:
    def never() -> bool:
        raise AssertionError

    since = give_up(gleaner, 10.0, K)
    for number in range(SHARE):
        gleaner.want(key(100 + number), since)
    assert gleaner.want(K, since, held(1), never) is Outcome.NEGATIVE
    assert gleaner.want(key(100), since, held(1), never) is Outcome.HELD
    assert gleaner.want(L, since, held(1), never) is Outcome.FULL


SHARE = MAX_ASKED // 2
"""As many may be asked for in one segment, if it is the only one."""


def test_so_many_addresses_are_asked_for_in_a_segment_and_no_more(gleaner: Gleaner) -> None:
    for number in range(SHARE):
        assert gleaner.want(key(number), 10.0) is Outcome.ASKED
    assert gleaner.want(key(SHARE), 10.0, held(1)) is Outcome.FULL
    gleaner.resolved(key(0))
    assert gleaner.want(key(SHARE), 10.0, held(1)) is Outcome.ASKED
    for step in (1, 2, 3):
        gleaner.due(10.0 + step)
    assert len(gleaner) == 0 and not gleaner._of_segment


def test_one_segment_leaves_places_for_others(gleaner: Gleaner) -> None:
    segments = range(20)
    for segment in segments:
        for number in range(MAX_ASKED):
            gleaner.want(key(number, segment), 10.0)
    assert len(gleaner) <= MAX_ASKED
    assert gleaner._of_segment[Vni(0)] == SHARE
    assert gleaner._of_segment[Vni(1)] == SHARE // 2
    # Where three scan at the same time, all have the same, and there is as much again.
    gleaner = Gleaner()
    for number in range(MAX_ASKED):
        for segment in range(3):
            gleaner.want(key(number, segment), 10.0)
    assert [gleaner._of_segment[Vni(segment)] for segment in range(3)] == [MAX_ASKED // 4] * 3
    assert gleaner.want(key(1, 9), 10.0) is Outcome.ASKED


def test_so_many_are_remembered_as_unanswered_and_the_oldest_goes_first(gleaner: Gleaner) -> None:
    now, asked = 10.0, 0
    while asked <= MAX_NEGATIVE:
        batch = [key(number) for number in range(asked, min(asked + SHARE, MAX_NEGATIVE + 1))]
        now = give_up(gleaner, now, *batch)
        asked += len(batch)
    assert gleaner.negative == MAX_NEGATIVE
    # All were remembered at some time in the first few seconds, so only room can be the reason.
    given_up = 13.0
    assert not gleaner.is_negative(key(0), given_up)
    assert gleaner.is_negative(key(1), given_up)
    assert gleaner.is_negative(key(MAX_NEGATIVE), now)
