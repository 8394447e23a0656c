"""Bindings in time: who is silent is asked, and who does not answer is forgotten.

Time is an argument, so an hour passes in a line. `run` does what the leaf's one timer does.
"""

from __future__ import annotations

from random import Random

import pytest

from leaf.bindings import MAX_DUE, Bindings, Outcome, State, Timers
from tests.frames import mac, v4
from vswitch.wire.ethernet import Mac
from vswitch.wire.vxlan import Vni, Vtep

RED = Vni(10)
A, B = Vtep("192.0.2.11"), Vtep("192.0.2.12")
M, N = Mac(mac(1)), Mac(mac(2))
ONE, TWO = v4("1.1.1.1"), v4("1.1.1.2")


@pytest.fixture
def bindings() -> Bindings:
    return Bindings(Timers(confirm_after=60.0, probe_interval=1.0, probes=3))


def run(bindings: Bindings, until: float) -> list[tuple[float, str, bytes]]:
    """Call `due` at every deadline up to `until`; return what happened when."""
    happened: list[tuple[float, str, bytes]] = []
    for _ in range(100_000):
        at = bindings.deadline()
        if at is None or at > until:
            return happened
        due = bindings.due(at)
        happened += [(at, "probe", binding.address) for binding in due.probe]
        happened += [(at, "expired", binding.address) for binding in due.expired]
    raise AssertionError("the deadline does not move on")


def test_a_silent_binding_is_probed_three_times_a_second_apart_and_then_gone(
    bindings: Bindings,
) -> None:
    bindings.learn(RED, ONE, M, A, 100.0)
    assert bindings.deadline() == 160.0
    assert run(bindings, 1e6) == [
        (160.0, "probe", ONE),
        (161.0, "probe", ONE),
        (162.0, "probe", ONE),
        (163.0, "expired", ONE),
    ]
    assert len(bindings) == 0
    assert bindings.of_mac(RED, M) == []
    assert bindings.deadline() is None


def test_the_configured_numbers_are_used() -> None:
    bindings = Bindings(Timers(confirm_after=5.0, probe_interval=0.5, probes=1))
    bindings.learn(RED, ONE, M, A, 0.0)
    assert run(bindings, 1e6) == [(5.0, "probe", ONE), (5.5, "expired", ONE)]


def test_before_its_time_nothing_is_due(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 100.0)
    assert bindings.due(159.99) == ([], [])
    assert bindings.all()[0].state is State.REACHABLE


@pytest.mark.parametrize("answered_at", [160.5, 161.5, 162.9])
def test_an_answer_in_between_starts_anew(bindings: Bindings, answered_at: float) -> None:
    bindings.learn(RED, ONE, M, A, 100.0)
    run(bindings, answered_at)
    assert bindings.all()[0].state is State.PROBING
    assert bindings.learn(RED, ONE, M, A, answered_at).outcome is Outcome.CONFIRMED
    assert bindings.all()[0].state is State.REACHABLE
    happened = run(bindings, 1e6)
    assert [at for at, _, _ in happened] == [answered_at + 60 + step for step in range(4)]


def test_who_speaks_now_and_then_is_never_probed(bindings: Bindings) -> None:
    for at in range(0, 3600, 50):
        assert run(bindings, float(at)) == []
        bindings.learn(RED, ONE, M, A, float(at))


def test_a_move_counts_as_an_answer_for_every_address(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 100.0)
    bindings.learn(RED, TWO, M, A, 100.0)
    run(bindings, 161.5)
    bindings.arrived(RED, M, B, 161.7)
    assert {binding.state for binding in bindings.all()} == {State.REACHABLE}
    assert [at for at, what, _ in run(bindings, 1e6) if what == "expired"] == [224.7, 224.7]


def test_each_address_is_asked_for_by_itself(bindings: Bindings) -> None:
    """A guest may drop one of its addresses and keep the other."""
    bindings.learn(RED, ONE, M, A, 100.0)
    bindings.learn(RED, TWO, M, A, 100.0)
    run(bindings, 160.0)
    bindings.learn(RED, TWO, M, A, 160.1)
    run(bindings, 164.0)
    assert [binding.address for binding in bindings.all()] == [TWO]


def test_a_configured_binding_is_never_forgotten(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 100.0, configured=True)
    assert run(bindings, 1e6) == []
    assert len(bindings) == 1


def test_a_configured_binding_that_has_moved_is_never_forgotten_either(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 100.0, configured=True)
    bindings.arrived(RED, M, B, 101.0)
    bindings.learn(RED, ONE, M, B, 102.0)
    assert run(bindings, 1e6) == []
    assert len(bindings) == 1


def test_a_doubt_is_settled_at_once(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 100.0)
    bindings.probe_now(bindings.all()[0], 110.0)
    assert bindings.deadline() == 110.0
    happened = run(bindings, 120.0)
    assert [at for at, _, _ in happened] == [110.0, 111.0, 112.0, 113.0]
    assert happened[-1][1] == "expired"


def test_a_doubt_that_is_answered_costs_nothing(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 100.0)
    bindings.probe_now(bindings.all()[0], 110.0)
    run(bindings, 110.0)
    bindings.learn(RED, ONE, M, A, 110.1)
    assert run(bindings, 170.0) == []
    assert run(bindings, 170.1)[0][:2] == (170.1, "probe")


def test_a_doubt_about_what_is_doubted_already_does_not_start_anew(bindings: Bindings) -> None:
    """Else whoever repeats the doubt would keep a dead binding alive for ever."""
    bindings.learn(RED, ONE, M, A, 100.0)
    for at in (110.0, 110.5, 111.5, 112.5):
        bindings.probe_now(bindings.all()[0], at)
        run(bindings, at)
    assert run(bindings, 113.0) == [(113.0, "expired", ONE)]


def test_a_successor_is_not_hurried_by_its_predecessors_timer(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 100.0)
    run(bindings, 162.5)
    bindings.learn(RED, ONE, N, B, 162.6)
    assert run(bindings, 222.5) == []
    assert run(bindings, 222.7) == [(222.6, "probe", ONE)]


def test_a_withdrawn_binding_is_not_probed(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 100.0)
    bindings.withdraw(RED, M, A)
    assert run(bindings, 1e6) == []


def test_one_turn_is_bounded_and_the_rest_comes_in_the_next(bindings: Bindings) -> None:
    count = MAX_DUE + 100
    for number in range(count):
        address = b"\x0a\0" + number.to_bytes(2, "big")
        bindings.learn(RED, address, Mac(b"\x02\0\0\0" + number.to_bytes(2, "big")), A, 0.0)
    first = bindings.due(60.0)
    assert len(first.probe) == MAX_DUE
    deadline = bindings.deadline()
    assert deadline is not None and deadline <= 60.0
    second = bindings.due(60.0)
    assert len(second.probe) == 100
    assert not {b.address for b in first.probe} & {b.address for b in second.probe}


def heap_len(bindings: Bindings) -> int:
    """How many timers are kept. There is no public way to ask, and none is needed but here."""
    return len(bindings._due)


def test_a_mac_that_flaps_between_two_places_does_not_grow_the_table(bindings: Bindings) -> None:
    for number in range(20_000):
        bindings.learn(RED, ONE, M, (A, B)[number % 2], number / 1000)
    assert len(bindings) == 1
    assert heap_len(bindings) <= 1 + 2 + 1024


def test_an_address_that_flaps_between_two_macs_does_not_grow_the_heap(bindings: Bindings) -> None:
    """Each change of hands makes a new binding with a new timer; the old one's timer is waste."""
    for number in range(20_000):
        bindings.learn(RED, ONE, (M, N)[number % 2], A, number / 1000)
    assert len(bindings) == 1
    assert heap_len(bindings) <= 1 + 2 + 1024
    # And cleaning up has not lost the timer that counts.
    assert run(bindings, 1e6)[-1][1:] == ("expired", ONE)


def test_doubts_do_not_grow_the_heap(bindings: Bindings) -> None:
    bindings.learn(RED, ONE, M, A, 0.0)
    for number in range(20_000):
        at = number / 1000
        bindings.probe_now(bindings.all()[0], at)
        bindings.learn(RED, ONE, M, A, at)
    assert heap_len(bindings) <= 1 + 2 + 1024
    assert len(bindings) == 1


def test_at_every_deadline_there_is_an_end_to_what_is_due(bindings: Bindings) -> None:
    """A long random life; in the end, when all are silent, everybody is gone."""
    chance = Random(7)
    now = 0.0
    for _ in range(3000):
        now += chance.random()
        run(bindings, now)
        address = v4(f"1.1.1.{chance.randrange(1, 30)}")
        bindings.learn(RED, address, Mac(mac(chance.randrange(8))), chance.choice((A, B)), now)
    run(bindings, now + 200.0)
    assert len(bindings) == 0
    assert bindings.deadline() is None
