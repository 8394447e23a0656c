"""When router advertisements go to whole segments, where there are many of them."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from leaf.advertise import INITIAL, MAX_DUE, PAUSE, Schedule
from vswitch.wire.vxlan import Vni

START = 100.0


def all_turns(schedule: Schedule, until: float) -> list[tuple[float, list[Vni]]]:
    """Every turn up to a moment, as a shell that follows the deadline takes them."""
    seen = []
    while (at := schedule.deadline()) is not None and at <= until:
        seen.append((at, schedule.due(at)))
    return seen


def of_segments(count: int) -> Schedule:
    schedule = Schedule()
    schedule.set_segments({Vni(vni): "said" for vni in range(1, count + 1)}, START)
    return schedule


def test_a_few_segments_are_told_at_once() -> None:
    ((at, told),) = all_turns(of_segments(MAX_DUE), START + 10)
    assert (at, len(told)) == (START, MAX_DUE)


def test_many_segments_are_told_a_few_at_a_time() -> None:
    seen = all_turns(of_segments(400), START + 10)
    assert max(len(told) for _, told in seen) == MAX_DUE
    assert all(b[0] - a[0] >= PAUSE * 0.99 for a, b in pairwise(seen))
    assert Counter(vni for _, told in seen for vni in told) == {Vni(n): 1 for n in range(1, 401)}
    assert seen[-1][0] <= START + 1.0


def test_they_stay_spread_and_each_is_told_three_times_at_first() -> None:
    seen = all_turns(of_segments(400), START + 60)
    assert max(len(told) for _, told in seen) == MAX_DUE
    times: dict[Vni, list[float]] = {}
    for at, told in seen:
        for vni in told:
            times.setdefault(vni, []).append(at)
    assert {len(each) for each in times.values()} == {INITIAL}
    assert all(15.99 < b - a < 16.5 for each in times.values() for a, b in pairwise(each))


def test_a_turn_that_comes_too_early_tells_nobody() -> None:
    """The leaf's turns come for bindings and gleaning too."""
    schedule = of_segments(MAX_DUE + 1)
    assert len(schedule.due(START)) == MAX_DUE
    assert schedule.deadline() == START + PAUSE
    assert schedule.due(START + PAUSE / 2) == []
    assert len(schedule.due(START + PAUSE)) == 1


def test_a_change_is_not_late_for_what_was_told_long_ago() -> None:
    schedule = of_segments(MAX_DUE + 1)
    all_turns(schedule, START + 1)
    schedule.set_segments({Vni(1): "something else"}, START + 5)
    assert schedule.deadline() == START + 5
    assert schedule.due(START + 5) == [Vni(1)]
