"""When an activation is announced again, and what calls the repetition off."""

from __future__ import annotations

import pytest

from tests.frames import mac
from tests.unit.topology import RED, attachment
from vswitch.attachment import Attachment, AttachmentError, Attachments, State
from vswitch.phy.port import PortId

NOW = 100.0
REPEATS = (0.05, 0.2, 0.45, 0.8)
"""As MEASURED of QEMU, written out here so that a slip in the product is seen."""


def guest(name: str = "alice", number: int = 1, state: State = State.ACTIVE) -> Attachment:
    return attachment(name, PortId(number), RED, mac(number), state=state)


def due(table: Attachments, now: float) -> list[str]:
    return [one.guest for one in table.due_announcements(now)]


def moments(table: Attachments) -> list[float]:
    """Every moment at which something is due, as a shell that follows the deadline sees them."""
    seen = []
    while (deadline := table.deadline()) is not None:
        seen += [round(deadline - NOW, 6)] * len(due(table, deadline))
    return seen


@pytest.fixture
def table() -> Attachments:
    return Attachments()


def test_four_repetitions_at_the_spacing_of_qemu(table: Attachments) -> None:
    table.add(guest(), NOW)
    assert moments(table) == list(REPEATS)


def test_activating_a_staged_guest_starts_them(table: Attachments) -> None:
    table.add(guest(state=State.STAGED), NOW - 60)
    assert table.deadline() is None
    table.activate("alice", NOW)
    assert moments(table) == list(REPEATS)


def test_nothing_is_due_a_moment_too_early(table: Attachments) -> None:
    table.add(guest(), NOW)
    assert due(table, NOW) == []
    assert due(table, NOW + 0.049) == []
    assert due(table, NOW + 0.05) == ["alice"]
    assert due(table, NOW + 0.05) == []
    assert table.deadline() == NOW + 0.2


def test_a_late_tick_gets_all_that_was_missed(table: Attachments) -> None:
    table.add(guest(), NOW)
    assert due(table, NOW + 0.5) == ["alice"] * 3
    assert due(table, NOW + 5) == ["alice"]
    assert table.deadline() is None


def test_they_end_with_the_guest(table: Attachments) -> None:
    table.add(guest(), NOW)
    table.detach("alice")
    assert due(table, NOW + 10) == []
    assert table.deadline() is None


def test_a_guest_that_is_leaving_is_not_announced(table: Attachments) -> None:
    """It would draw traffic back to the place that it leaves."""
    table.add(guest(), NOW)
    table.suspend("alice", NOW + 0.01)
    assert due(table, NOW + 10) == []
    assert table.deadline() is None


def test_they_do_not_come_back_for_a_staged_successor(table: Attachments) -> None:
    table.add(guest(), NOW, 5)
    table.detach("alice", 5)
    table.add(guest(state=State.STAGED), NOW, 5)
    assert due(table, NOW + 10) == []


@pytest.mark.parametrize("sequence", [None, 1], ids=["newer", "equal"])
def test_a_further_activation_starts_them_anew(table: Attachments, sequence: int | None) -> None:
    """Four from the later one, and none left from the earlier, whatever the sequence says."""
    table.add(guest(), NOW - 0.1, 1)
    table.activate("alice", NOW, sequence)
    assert moments(table) == list(REPEATS)


def test_a_guest_that_came_back_has_only_its_own(table: Attachments) -> None:
    table.add(guest(), NOW - 0.1, 1)
    table.detach("alice", 1)
    table.add(guest(), NOW, 1)
    assert moments(table) == list(REPEATS)


def test_a_refused_activation_does_not_disturb_them(table: Attachments) -> None:
    table.add(guest(), NOW, 5)
    with pytest.raises(AttachmentError):
        table.activate("alice", NOW + 0.01, 4)
    assert moments(table) == list(REPEATS)


def test_the_guests_do_not_disturb_each_other(table: Attachments) -> None:
    table.add(guest("alice", 1), NOW)
    table.add(guest("bob", 2), NOW + 0.1)
    assert table.deadline() == NOW + 0.05
    assert due(table, NOW + 0.05) == ["alice"]
    assert table.deadline() == pytest.approx(NOW + 0.15)
    assert due(table, NOW + 0.15) == ["bob"]
    table.detach("alice")
    assert due(table, NOW + 10) == ["bob"] * 3
