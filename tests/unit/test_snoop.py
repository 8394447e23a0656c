"""The table of leases that were seen on their way: its bounds, and who may change what."""

from __future__ import annotations

import pytest

from leaf.bindings import MAX_DUE, MAX_PER_MAC
from leaf.snoop import Outcome, Snooped
from leaf.topology import Segment
from tests.frames import mac, v4, v6
from tests.unit.leaf_world import ONE, TWO, topology
from vswitch.wire.ethernet import Mac

FIRST, SECOND = Mac(mac(1)), Mac(mac(2))


@pytest.fixture
def one() -> Segment:
    return topology(ipv6=True).segments[0]


def address(number: int) -> bytes:
    return v6(f"2001:db8:1::1:{number:x}")


def test_an_address_that_is_given_to_another_is_the_others(one: Segment) -> None:
    table = Snooped()
    assert table.given(one, v4("1.1.1.5"), FIRST, 10, 0.0) is Outcome.BOUND
    assert table.given(one, v4("1.1.1.5"), SECOND, 20, 1.0) is Outcome.BOUND
    table.returned(ONE, v4("1.1.1.5"), FIRST)
    assert [lease.client.mac for lease in table.all()] == [SECOND]
    assert table.due(10.0) == []
    (ended,) = table.due(21.0)
    assert ended.client.mac == SECOND
    assert table.deadline() is None


def test_a_full_table_takes_in_nothing_new_but_renews(one: Segment) -> None:
    table = Snooped(capacity=2)
    assert table.given(one, address(1), FIRST, 10, 0.0) is Outcome.BOUND
    assert table.given(one, address(2), FIRST, 10, 0.0) is Outcome.BOUND
    assert table.given(one, address(3), FIRST, 10, 0.0) is Outcome.FULL
    assert table.given(one, address(2), FIRST, 10, 5.0) is Outcome.RENEWED
    assert table.given(one, address(2), SECOND, 10, 5.0) is Outcome.BOUND
    table.returned(ONE, address(1), FIRST)
    assert table.given(one, address(3), FIRST, 10, 5.0) is Outcome.BOUND


def test_a_guest_has_its_share_and_no_more(one: Segment) -> None:
    table = Snooped()
    for number in range(MAX_PER_MAC):
        assert table.given(one, address(number + 1), FIRST, 10, 0.0) is Outcome.BOUND
    assert table.given(one, address(9999), FIRST, 10, 0.0) is Outcome.FULL
    assert table.given(one, address(1), FIRST, 20, 0.0) is Outcome.RENEWED
    assert table.given(one, address(9999), SECOND, 10, 0.0) is Outcome.BOUND
    table.due(10.0)
    assert table.given(one, address(9999), FIRST, 10, 11.0) is Outcome.BOUND


def test_what_ends_at_once_ends_in_turns(one: Segment) -> None:
    table = Snooped()
    for number in range(MAX_DUE + 10):
        table.given(one, address(number + 1), Mac(mac(number)), 10, 0.0)
    assert len(table.due(10.0)) == MAX_DUE
    assert table.deadline() == 10.0
    assert len(table.due(10.0)) == 10
    assert len(table) == 0


def test_renewals_do_not_grow_the_table(one: Segment) -> None:
    table = Snooped()
    for now in range(5000):
        table.given(one, address(1), FIRST, 10, float(now))
    assert len(table._due) <= 2 * 1 + 1024
    assert [lease.expires for lease in table.all()] == [4999 + 10.0]
    assert len(table.due(5009.0)) == 1


def test_only_the_leases_of_relayed_segments_are_kept(one: Segment) -> None:
    table = Snooped()
    table.given(one, address(1), FIRST, 10, 0.0)
    table.retain({ONE, TWO})
    assert len(table) == 1
    table.retain({TWO})
    assert len(table) == 0
    assert table.due(10.0) == []
