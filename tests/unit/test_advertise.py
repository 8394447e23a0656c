"""When router advertisements go to whole segments, where there are many of them."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from leaf.advertise import INITIAL, MAX_DUE, PAUSE, Advertiser
from vswitch.wire.vxlan import Vni

START = 100.0


def turns(advertiser: Advertiser, until: float) -> list[tuple[float, list[Vni]]]:
    """Every turn up to a moment, as a shell that follows the deadline takes them."""
    seen = []
    while (at := advertiser.deadline()) is not None and at <= until:
        seen.append((at, advertiser.due(at)))
    return seen


def of_segments(count: int) -> Advertiser:
    advertiser = Advertiser()
    advertiser.set_segments({Vni(vni): "said" for vni in range(1, count + 1)}, START)
    return advertiser


def test_a_few_segments_are_told_at_once() -> None:
    ((at, told),) = turns(of_segments(MAX_DUE), START + 10)
    assert (at, len(told)) == (START, MAX_DUE)


def test_many_segments_are_told_a_few_at_a_time() -> None:
    seen = turns(of_segments(400), START + 10)
    assert max(len(told) for _, told in seen) == MAX_DUE
    assert all(b[0] - a[0] >= PAUSE * 0.99 for a, b in pairwise(seen))
    assert Counter(vni for _, told in seen for vni in told) == {Vni(n): 1 for n in range(1, 401)}
    assert seen[-1][0] <= START + 1.0


def test_they_stay_spread_and_each_is_told_three_times_at_first() -> None:
    seen = turns(of_segments(400), START + 60)
    assert max(len(told) for _, told in seen) == MAX_DUE
    times: dict[Vni, list[float]] = {}
    for at, told in seen:
        for vni in told:
            times.setdefault(vni, []).append(at)
    assert {len(each) for each in times.values()} == {INITIAL}
    assert all(15.99 < b - a < 16.5 for each in times.values() for a, b in pairwise(each))


def test_a_turn_that_comes_too_early_tells_nobody() -> None:
    """The leaf's turns come for bindings and gleaning too."""
    advertiser = of_segments(MAX_DUE + 1)
    assert len(advertiser.due(START)) == MAX_DUE
    assert advertiser.deadline() == START + PAUSE
    assert advertiser.due(START + PAUSE / 2) == []
    assert len(advertiser.due(START + PAUSE)) == 1


def test_a_change_is_not_late_for_what_was_told_long_ago() -> None:
    advertiser = of_segments(MAX_DUE + 1)
    turns(advertiser, START + 1)
    advertiser.set_segments({Vni(1): "something else"}, START + 5)
    assert advertiser.deadline() == START + 5
    assert advertiser.due(START + 5) == [Vni(1)]
