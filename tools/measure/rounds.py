"""The alternation: every system in every topology, once in each round, within a bound of wall time.

A system that does not come up, or whose guests do not reach each other, is noted with its reason
and the run goes on; it is tried again in the next round. A round is started only when the longest
one so far would still end within the budget: fewer rounds are better than a run that nobody waits
for, and each has every system in it. Only the first round is broken off, and then the run has
failed.

Between two systems nothing of ours runs, and what keeps the processors busy then is noted: figures
taken beside other work say little, and the reader has to know.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .load import Measured, measure
from .rig import Shape, System
from .usage import others


class Plan(NamedTuple):
    """How much is measured."""

    rounds: int
    seconds: float
    """Of each load."""
    budget: float
    """Seconds of wall time for all rounds, less one load that hangs until its timeout."""


FULL = Plan(rounds=3, seconds=2.0, budget=465.0)
QUICK = Plan(rounds=1, seconds=1.0, budget=110.0)

Build = Callable[[Shape], System]
Say = Callable[[str], None]
Key = tuple[str, Shape]


class Outcome(NamedTuple):
    """What all rounds together gave."""

    rounds: dict[Key, list[dict[str, float]]]
    """By system and topology, the figures of each round that there was."""
    failures: list[str]
    others: list[float]
    """Processors that were busy with something else, before each turn of a system."""
    complete: int
    """Rounds that were run."""


def once(system: System, seconds: float) -> Measured:
    """Bring a system up, check it, measure it, take it down."""
    # Whatever goes wrong concerns this system only, and the others are still to be measured.
    try:
        system.up()
        system.check()
        got = measure(system, seconds)
    except Exception as error:
        got = Measured({}, [f"did not come up: {_text(error)}"])
    finally:
        # Not only after an Exception: an interrupted run, too, leaves nothing behind.
        trouble = _down(system)
    return got._replace(failures=[*got.failures, *trouble])


def _down(system: System) -> list[str]:
    try:
        system.down()
    except Exception as error:
        return [f"did not go down: {_text(error)}"]
    return []


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def run(plan: Plan, builds: Sequence[Build], shapes: Sequence[Shape], say: Say) -> Outcome:
    """Measure every system in every topology, round by round."""
    outcome = Outcome({}, [], [], 0)
    began, longest = time.monotonic(), 0.0
    turns = [(build, shape) for shape in shapes for build in builds]
    for number in range(1, plan.rounds + 1):
        started = time.monotonic()
        if started - began + longest > plan.budget:
            say(f"no time for round {number}: all have {plan.budget:.0f} s")
            break
        for build, shape in turns:
            system = build(shape)
            if time.monotonic() - began > plan.budget:
                outcome.failures.append(f"{system}: no time left in round {number}")
                continue
            outcome.others.append(others())
            turn = time.monotonic()
            got = once(system, plan.seconds)
            say(f"round {number}/{plan.rounds}: {system}: {time.monotonic() - turn:.0f} s")
            for failure in got.failures:
                outcome.failures.append(f"{system}: {failure}")
                say(f"  {failure}")
            if got.figures:
                outcome.rounds.setdefault((system.name, shape), []).append(got.figures)
        longest = max(longest, time.monotonic() - started)
        outcome = outcome._replace(complete=number)
    return outcome
