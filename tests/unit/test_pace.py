"""When a daemon's next round may begin."""

from __future__ import annotations

import pytest

from vswitch.service.pace import LOOK_EVERY, PACE, SCARCE, SPARE, Pace


class World:
    """A pace, a clock, and how long processors were idle."""

    def __init__(self, is_real_time: bool = True) -> None:
        self.pace = Pace()
        self.pace.set_real_time(is_real_time)
        self.now, self.idle = 1000.0, 5000.0
        self.look(0.0)

    def look(self, spare: float) -> None:
        """Have so many processors been idle since the last look."""
        self.now += 2 * LOOK_EVERY
        self.idle += spare * 2 * LOOK_EVERY
        self.pace.look(self.now, self.idle)

    def rest(self) -> float:
        """Return what a long round is followed by."""
        return self.pace.after(10.0, 11.0) - 11.0


def test_rounds_begin_at_least_a_pace_apart() -> None:
    world = World()
    for _ in range(10):
        world.look(1.0)
    for length in (0.0, PACE / 2, PACE):
        assert world.pace.after(10.0, 10.0 + length) == 10.0 + PACE
    assert world.pace.after(10.0, 10.0 + 2 * PACE) == 10.0 + 2 * PACE


def test_at_first_a_round_is_followed_by_a_whole_rest() -> None:
    assert World().rest() == pytest.approx(PACE)


def test_the_rest_shrinks_while_processors_are_idle_and_grows_while_none_is() -> None:
    world, rests = World(), []
    for spare in (SPARE + 0.1,) * 5 + (SCARCE - 0.1,) * 5:
        world.look(spare)
        rests.append(world.rest() / PACE)
    assert rests == pytest.approx([0.75, 0.5, 0.25, 0, 0, 0.25, 0.5, 0.75, 1, 1], abs=1e-6)


def test_in_between_it_stays() -> None:
    world = World()
    world.look(SPARE + 0.1)
    before = world.rest()
    for _ in range(5):
        world.look((SCARCE + SPARE) / 2)
    assert world.rest() == before < PACE


def test_it_is_looked_at_now_and_then() -> None:
    world = World()
    assert not world.pace.wants_to_look(world.now + LOOK_EVERY / 2)
    assert world.pace.wants_to_look(world.now + LOOK_EVERY * 1.5)


def test_without_real_time_priority_there_is_no_pace() -> None:
    world = World(is_real_time=False)
    assert world.pace.after(10.0, 10.1) == 10.1
    assert not world.pace.wants_to_look(world.now + 1)
    world.pace.set_real_time(True)
    assert world.rest() == pytest.approx(PACE)
    world.look(1.0)
    world.pace.set_real_time(True)  # Said again and again; what was found out stays.
    assert world.rest() == pytest.approx(0.75 * PACE)
    world.pace.set_real_time(False)
    assert world.pace.after(10.0, 10.1) == 10.1
