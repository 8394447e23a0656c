"""Attachments: the states of a guest's life, and news that arrives late or twice.

Announcements have a file of their own, `test_announcements.py`.
"""

from __future__ import annotations

import pytest

from tests.frames import BROADCAST, mac
from tests.unit.topology import BLUE, RED, attachment
from vswitch.attachment import (
    MAX_ADDRESSES,
    MAX_ATTACHMENTS,
    MAX_MACS,
    MAX_REMEMBERED,
    Attachment,
    AttachmentError,
    Attachments,
    StaleSequence,
    State,
    UnknownGuest,
)
from vswitch.phy.port import PortId

NOW = 100.0
PORT = PortId(1)


def guest(name: str = "alice", port: int = 1, number: int = 1, **more: object) -> Attachment:
    segment = more.pop("segment", RED)
    return attachment(name, PortId(port), segment, mac(number), **more)  # type: ignore[arg-type]


def snapshot(table: Attachments) -> list[tuple[object, ...]]:
    """All that can be seen of a table, to show that a refused verb changed nothing."""
    seen: list[tuple[object, ...]] = [
        (one.guest, one.port, one.state, one.sequence, one.since) for one in table.all()
    ]
    return [*seen, (len(table), table.deadline())]


@pytest.fixture
def table() -> Attachments:
    return Attachments()


# States.


def test_a_cold_start_is_active_at_once(table: Attachments) -> None:
    table.add(guest(), NOW)
    found = table.get("alice")
    assert (found.state, found.since, found.sequence) == (State.ACTIVE, NOW, 1)
    assert table.of_port(PORT) is found
    assert table.all() == [found]
    assert len(table) == 1


def test_a_staged_guest_becomes_active_when_told(table: Attachments) -> None:
    table.add(guest(state=State.STAGED), NOW)
    assert (table.get("alice").state, table.get("alice").since) == (State.STAGED, NOW)
    activated = table.activate("alice", NOW + 5)
    assert activated is table.get("alice")
    assert (activated.state, activated.since) == (State.ACTIVE, NOW + 5)


def test_a_guest_that_is_detached_is_gone(table: Attachments) -> None:
    table.add(guest(), NOW)
    assert table.detach("alice").guest == "alice"
    assert (len(table), table.all(), table.of_port(PORT)) == (0, [], None)


def test_a_staged_guest_can_be_called_off(table: Attachments) -> None:
    table.add(guest(state=State.STAGED), NOW)
    table.detach("alice")
    assert len(table) == 0
    with pytest.raises(UnknownGuest):
        table.activate("alice", NOW)


def test_a_guest_can_come_back(table: Attachments) -> None:
    table.add(guest(port=1), NOW)
    table.detach("alice")
    table.add(guest(port=2), NOW)
    assert table.of_port(PortId(2)) is table.get("alice")
    assert table.of_port(PortId(1)) is None


def test_a_guest_that_is_leaving_is_still_known_and_may_stay_after_all(table: Attachments) -> None:
    table.add(guest(), NOW, 5)
    leaving = table.suspend("alice", NOW + 1)
    assert (leaving.state, leaving.since, leaving.sequence) == (State.DEPARTING, NOW + 1, 5)
    assert table.of_port(PORT) is leaving
    assert table.activate("alice", NOW + 2).state is State.ACTIVE


def test_a_guest_that_is_leaving_leaves(table: Attachments) -> None:
    table.add(guest(), NOW, 5)
    table.suspend("alice", NOW, 6)
    assert table.detach("alice", 6).guest == "alice"
    assert len(table) == 0


def test_the_mac_of_a_guest_that_is_leaving_is_free(table: Attachments) -> None:
    """Its successor on another port need not wait until the old port is closed."""
    table.add(guest("alice", 1, 7), NOW)
    table.suspend("alice", NOW)
    table.add(guest("alice-moved", 2, 7), NOW)
    before = snapshot(table)
    with pytest.raises(AttachmentError, match="is active at guest 'alice-moved'"):
        table.activate("alice", NOW + 1)
    assert snapshot(table) == before


def test_what_a_guest_says_makes_it_active_but_is_no_newer_news(table: Attachments) -> None:
    table.add(guest(state=State.STAGED), NOW, 5)
    said = table.heard("alice", NOW + 1)
    assert (said.state, said.since, said.sequence) == (State.ACTIVE, NOW + 1, 5)
    table.add(guest("bob", 2, 1, state=State.STAGED), NOW)
    with pytest.raises(AttachmentError, match="is active at guest 'alice'"):
        table.heard("bob", NOW)


@pytest.mark.parametrize("verb", ["get", "activate", "heard", "suspend", "detach"])
def test_an_unknown_guest_is_named_together_with_the_known(table: Attachments, verb: str) -> None:
    table.add(guest("alice", 1, 1), NOW)
    table.add(guest("bob", 2, 2), NOW)
    arguments = ("nobody",) if verb in ("get", "detach") else ("nobody", NOW)
    with pytest.raises(UnknownGuest, match=r"'nobody'.*alice, bob"):
        getattr(table, verb)(*arguments)


def test_with_nobody_attached_the_error_says_none(table: Attachments) -> None:
    with pytest.raises(UnknownGuest, match="attached: none"):
        table.get("alice")


# What cannot be taken in.


def test_a_guest_is_attached_once(table: Attachments) -> None:
    table.add(guest(port=1), NOW)
    before = snapshot(table)
    with pytest.raises(AttachmentError, match="attached already; detach it first"):
        table.add(guest(port=2, number=2), NOW + 1)
    assert snapshot(table) == before
    assert table.of_port(PortId(2)) is None


@pytest.mark.parametrize("count", [0, MAX_MACS + 1])
def test_the_number_of_macs_is_bounded(table: Attachments, count: int) -> None:
    macs = [mac(number) for number in range(count)]
    with pytest.raises(AttachmentError, match=f"1 to {MAX_MACS} MAC"):
        table.add(attachment("alice", PORT, RED, *macs), NOW)
    assert len(table) == 0


def test_as_many_macs_and_addresses_as_are_allowed_are_taken(table: Attachments) -> None:
    macs = [mac(number) for number in range(MAX_MACS)]
    addresses = tuple(number.to_bytes(4, "big") for number in range(MAX_ADDRESSES))
    table.add(attachment("alice", PORT, RED, *macs, addresses=addresses), NOW)
    assert len(table) == 1


def test_the_number_of_addresses_is_bounded(table: Attachments) -> None:
    addresses = tuple(number.to_bytes(4, "big") for number in range(MAX_ADDRESSES + 1))
    with pytest.raises(AttachmentError, match=f"{MAX_ADDRESSES} addresses at most"):
        table.add(guest(addresses=addresses), NOW)
    assert len(table) == 0


def test_a_group_address_is_no_guest(table: Attachments) -> None:
    with pytest.raises(AttachmentError, match="group address"):
        table.add(attachment("alice", PORT, RED, mac(1), BROADCAST), NOW)
    assert len(table) == 0


def test_a_full_table_refuses_one_more(table: Attachments) -> None:
    for number in range(MAX_ATTACHMENTS):
        table.add(guest(f"g{number}", number + 1, number, state=State.STAGED), NOW)
    one_more = guest("late", MAX_ATTACHMENTS + 1, MAX_ATTACHMENTS, state=State.STAGED)
    with pytest.raises(AttachmentError, match=f"full with {MAX_ATTACHMENTS}"):
        table.add(one_more, NOW)
    table.detach("g0")
    table.add(one_more, NOW)
    assert len(table) == MAX_ATTACHMENTS


def test_check_says_the_same_as_add_and_changes_nothing(table: Attachments) -> None:
    table.check(guest())
    assert len(table) == 0
    table.add(guest(), NOW)
    with pytest.raises(AttachmentError, match="attached already"):
        table.check(guest())


# One MAC, one active owner in a segment.


def test_an_active_mac_cannot_be_attached_again(table: Attachments) -> None:
    table.add(guest("alice", 1, 7), NOW)
    with pytest.raises(AttachmentError, match="02:00:00:00:00:07 is active at guest 'alice'"):
        table.add(guest("bob", 2, 7), NOW)
    assert len(table) == 1


def test_the_same_mac_may_live_in_another_segment(table: Attachments) -> None:
    table.add(guest("alice", 1, 7), NOW)
    table.add(guest("bob", 2, 7, segment=BLUE), NOW)
    assert len(table) == 2


def test_a_guest_may_be_staged_beside_the_active_owner_but_not_activated(
    table: Attachments,
) -> None:
    """A migration between two ports of one host: both are there, one runs."""
    table.add(guest("alice", 1, 7), NOW)
    table.add(guest("alice-moving", 2, 7, state=State.STAGED), NOW)
    before = snapshot(table)
    with pytest.raises(AttachmentError, match="is active at guest 'alice'"):
        table.activate("alice-moving", NOW + 1)
    assert snapshot(table) == before
    table.detach("alice")
    assert table.activate("alice-moving", NOW + 2).state is State.ACTIVE


# Sequences: late news changes nothing.


def test_without_a_sequence_each_verb_counts_as_the_newest(table: Attachments) -> None:
    table.add(guest(state=State.STAGED), NOW)
    assert table.get("alice").sequence == 1
    assert table.activate("alice", NOW).sequence == 2
    table.detach("alice")
    table.add(guest(), NOW)
    assert table.get("alice").sequence == 4


def test_a_verb_sets_the_sequence_that_it_carries(table: Attachments) -> None:
    table.add(guest(state=State.STAGED), NOW, 10)
    assert table.get("alice").sequence == 10
    table.activate("alice", NOW, 20)
    assert table.get("alice").sequence == 20
    assert table.activate("alice", NOW).sequence == 21


def test_an_older_activation_changes_nothing(table: Attachments) -> None:
    table.add(guest(state=State.STAGED), NOW, 10)
    before = snapshot(table)
    with pytest.raises(StaleSequence, match="sequence 9 is older than 10"):
        table.activate("alice", NOW + 1, 9)
    assert snapshot(table) == before


def test_an_older_withdrawal_does_not_delete_newer_state(table: Attachments) -> None:
    table.add(guest(), NOW, 10)
    before = snapshot(table)
    with pytest.raises(StaleSequence):
        table.detach("alice", 9)
    assert snapshot(table) == before
    assert table.of_port(PORT) is table.get("alice")


def test_an_older_suspension_changes_nothing(table: Attachments) -> None:
    table.add(guest(), NOW, 10)
    before = snapshot(table)
    with pytest.raises(StaleSequence):
        table.suspend("alice", NOW + 1, 9)
    assert snapshot(table) == before


def test_an_older_arrival_after_the_departure_changes_nothing(table: Attachments) -> None:
    """The guest has moved on; the news that it came here was held up on the way."""
    table.add(guest(), NOW, 10)
    table.detach("alice", 12)
    with pytest.raises(StaleSequence, match="sequence 11 is older than 12"):
        table.add(guest(), NOW, 11)
    assert len(table) == 0
    assert table.of_port(PORT) is None
    table.add(guest(), NOW, 13)
    assert table.get("alice").sequence == 13


def test_the_departure_is_remembered_without_a_sequence_of_its_own(table: Attachments) -> None:
    table.add(guest(), NOW, 10)
    table.detach("alice")
    with pytest.raises(StaleSequence):
        table.add(guest(), NOW, 10)


def test_an_equal_sequence_is_the_same_news_and_allowed(table: Attachments) -> None:
    """Whoever did not hear the answer asks again."""
    table.add(guest(state=State.STAGED), NOW, 10)
    assert table.activate("alice", NOW, 10).sequence == 10
    assert table.activate("alice", NOW, 10).state is State.ACTIVE
    table.detach("alice", 10)
    table.add(guest(), NOW, 10)
    assert table.get("alice").sequence == 10


def test_sequences_of_different_guests_have_nothing_to_do_with_each_other(
    table: Attachments,
) -> None:
    table.add(guest("alice", 1, 1), NOW, 100)
    table.add(guest("bob", 2, 2), NOW, 1)
    assert table.detach("bob", 2).guest == "bob"


def test_a_refused_arrival_does_not_wipe_the_memory_of_the_departure(table: Attachments) -> None:
    table.add(guest(), NOW, 10)
    table.detach("alice", 12)
    with pytest.raises(AttachmentError):
        table.add(attachment("alice", PORT, RED), NOW, 20)
    with pytest.raises(StaleSequence):
        table.add(guest(), NOW, 11)


def test_the_longest_gone_is_forgotten_first(table: Attachments) -> None:
    for number in range(MAX_REMEMBERED + 1):
        table.add(guest(f"g{number}", state=State.STAGED), NOW, 10)
        table.detach(f"g{number}", 10)
    with pytest.raises(StaleSequence):
        table.add(guest("g1"), NOW, 9)
    table.add(guest("g0"), NOW, 9)
    assert table.get("g0").sequence == 9


def test_who_comes_and_goes_again_counts_as_gone_lately(table: Attachments) -> None:
    for number in range(MAX_REMEMBERED):
        table.add(guest(f"g{number}", state=State.STAGED), NOW, 10)
        table.detach(f"g{number}", 10)
    table.add(guest("g0"), NOW, 11)
    table.detach("g0", 11)
    table.add(guest("one-more"), NOW, 10)
    table.detach("one-more", 10)
    with pytest.raises(StaleSequence):
        table.add(guest("g0"), NOW, 10)
    table.add(guest("g1"), NOW, 9)
