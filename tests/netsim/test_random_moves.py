"""Random moves among three hosts under constant traffic, some caches fresh and some stale.

Long histories come from a fixed seed; short ones from hypothesis, which makes one that fails as
short as it can. In both, guests confirm what they know, ask anew, probe for their own address or
say that they are there, in either family, and afterwards everybody can talk in both.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.netsim.families import FAMILIES, Family
from tests.netsim.scenario import PLACES, Rack
from vswitch.switch import Reason

HOSTS = "ABC"
MOVES = 50
WAITS = (0.0, 0.01, 0.3, 2.0, 70.0)
"""Seconds; after the last of them the leaf asks whether its bindings are still right."""
VERBS = ("confirm", "ask", "announce", "probe", "wait")


class Step(NamedTuple):
    """Something that a guest does, or that is done to it; what a verb does not need is ignored."""

    verb: str
    guest: int
    family: Family
    peer: int = 0
    host: str = "A"
    wait: float = 0.0


def take(rack: Rack, step: Step) -> None:
    """Carry a step out."""
    world = rack.world
    half = rack.guests[step.guest].machine.halves[step.family]
    match step.verb:
        case "move":
            if step.host != world.place[half.name]:
                world.move(half, step.host)
        case "confirm" | "ask":
            known = sorted(half.cache)
            address = known[step.peer % len(known)]
            half.ask(address, half.cache[address] if step.verb == "confirm" else None)
        case "announce":
            half.announce()
        case "probe":
            half.probe()
        case "wait":
            world.advance(step.wait)
    world.run()


def check(rack: Rack) -> None:
    """What holds after any history; more is checked by the world itself."""
    world = rack.world
    assert rack.talk() == []
    assert world.astray() == []
    assert not any(half.conflicts for guest in rack.guests for half in (guest, guest.other))
    for vswitch in world.vswitches.values():
        assert vswitch.counts[Reason.UPLINK_MISS] == 0
    assert world.bound() == world.places()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_after_every_move_every_pair_can_talk(seed: int) -> None:
    chance = Random(seed)
    rack = Rack(HOSTS)
    rack.settle()
    numbers = range(len(PLACES))
    for _ in range(MOVES):
        mover = chance.choice(numbers)
        hosts = [host for host in HOSTS if host != rack.world.place[rack.guests[mover].name]]
        take(rack, Step("move", mover, chance.choice(FAMILIES), host=chance.choice(hosts)))
        check(rack)
        for guest in numbers:
            verb, family = chance.choice(VERBS), chance.choice(FAMILIES)
            take(rack, Step(verb, guest, family, chance.choice(numbers), "A", chance.choice(WAITS)))
    check(rack)


steps = st.builds(
    Step,
    st.sampled_from(["move", "move", "move", *VERBS]),
    st.integers(0, len(PLACES) - 1),
    st.sampled_from(FAMILIES),
    st.integers(0, 9),
    st.sampled_from(HOSTS),
    st.sampled_from(WAITS),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(steps, min_size=1, max_size=8))
def test_after_any_history_every_pair_can_talk(history: list[Step]) -> None:
    rack = Rack(HOSTS)
    rack.settle()
    for step in history:
        take(rack, step)
    check(rack)
