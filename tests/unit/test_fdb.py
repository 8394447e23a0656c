"""The MAC table: static entries are stronger than learnt ones, and the bound is kept."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.frames import mac
from vswitch.fdb import AGE, Fdb
from vswitch.wire.ethernet import Mac

A, B, C, D = (Mac(mac(number)) for number in range(4))
NOW = 100.0


@pytest.fixture
def fdb() -> Fdb[str]:
    return Fdb(max_learnt=2)


def test_what_was_added_is_found_until_it_is_removed(fdb: Fdb[str]) -> None:
    fdb.add(A, "port 1")
    fdb.add(B, "port 2")
    assert fdb.verdicts == {A: "port 1", B: "port 2"}
    assert len(fdb) == 2
    fdb.remove(A)
    assert fdb.verdicts == {B: "port 2"}


def test_adding_again_replaces(fdb: Fdb[str]) -> None:
    fdb.add(A, "port 1")
    fdb.add(A, "port 2")
    assert fdb.verdicts == {A: "port 2"}


def test_removing_what_is_not_there_is_no_error(fdb: Fdb[str]) -> None:
    fdb.remove(A)
    assert len(fdb) == 0


def test_a_learnt_mac_is_found_and_its_time_known(fdb: Fdb[str]) -> None:
    assert fdb.learn(A, "uplink", NOW)
    assert fdb.verdicts == {A: "uplink"}
    assert fdb.learnt == {A: NOW}


def test_a_static_mac_is_not_learnt_over(fdb: Fdb[str]) -> None:
    fdb.add(A, "port 1")
    assert not fdb.learn(A, "uplink", NOW)
    assert fdb.verdicts == {A: "port 1"}
    assert fdb.learnt == {}
    assert fdb.refused == 0  # It was not for want of room.


def test_a_static_mac_takes_a_learnt_ones_place_for_good(fdb: Fdb[str]) -> None:
    fdb.learn(A, "uplink", NOW)
    fdb.add(A, "port 1")
    assert fdb.learnt == {}
    assert fdb.expire(NOW + 10 * AGE) == 0
    assert fdb.verdicts == {A: "port 1"}


def test_removing_a_static_mac_does_not_touch_a_learnt_one(fdb: Fdb[str]) -> None:
    fdb.learn(A, "uplink", NOW)
    fdb.remove(A)
    assert fdb.verdicts == {A: "uplink"}


def test_a_full_table_refuses_and_counts(fdb: Fdb[str]) -> None:
    assert fdb.learn(A, "uplink", NOW)
    assert fdb.learn(B, "uplink", NOW)
    assert not fdb.learn(C, "uplink", NOW)
    assert not fdb.learn(D, "uplink", NOW)
    assert set(fdb.verdicts) == {A, B}
    assert fdb.refused == 2


def test_the_bound_is_on_what_is_learnt_only(fdb: Fdb[str]) -> None:
    fdb.learn(A, "uplink", NOW)
    fdb.learn(B, "uplink", NOW)
    fdb.add(C, "port 3")
    fdb.add(D, "port 4")
    assert set(fdb.verdicts) == {A, B, C, D}


def test_room_that_has_become_free_is_used(fdb: Fdb[str]) -> None:
    fdb.learn(A, "uplink", NOW)
    fdb.learn(B, "uplink", NOW + 1)
    assert fdb.expire(NOW + AGE) == 1
    assert fdb.learn(C, "uplink", NOW + AGE)
    assert set(fdb.verdicts) == {B, C}


def test_ageing_goes_by_when_a_mac_was_last_heard(fdb: Fdb[str]) -> None:
    """A was learnt first but heard last: an order by arrival would forget the wrong one."""
    fdb.learn(A, "uplink", NOW)
    fdb.learn(B, "uplink", NOW + 10)
    fdb.learn(A, "uplink", NOW + 20)
    assert fdb.deadline() == NOW + 10 + AGE
    assert fdb.expire(NOW + 10 + AGE) == 1
    assert fdb.verdicts == {A: "uplink"}
    assert fdb.deadline() == NOW + 20 + AGE


def test_nothing_learnt_means_no_deadline(fdb: Fdb[str]) -> None:
    fdb.add(A, "port 1")
    assert fdb.deadline() is None
    assert fdb.expire(float("inf")) == 0


def test_what_learnt_returns_is_a_copy(fdb: Fdb[str]) -> None:
    fdb.learn(A, "uplink", NOW)
    fdb.learnt.clear()
    assert fdb.learnt == {A: NOW}


@given(heard=st.floats(0, 1e7))
@example(heard=212.7003359539504)
def test_at_its_own_deadline_there_is_something_to_forget(heard: float) -> None:
    """Else the timer would fire, find nothing to do, and be set to the same moment again.

    Floats round: (heard + AGE) - heard may be a little less than AGE.
    """
    fdb: Fdb[str] = Fdb()
    fdb.learn(A, "uplink", heard)
    deadline = fdb.deadline()
    assert deadline is not None
    assert fdb.expire(deadline) == 1
