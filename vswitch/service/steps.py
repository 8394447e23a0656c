"""The steps of a decision, for `trace`.

A decision module lists its rules in the order in which it asks them, each with the reasons that
can end the decision there. `explain` tells a verdict's way through that list, so what `trace`
prints cannot drift from what the decision does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Step(NamedTuple):
    """One rule of a decision: what is asked, and the reasons that can end it there."""

    question: str
    reasons: tuple[str, ...]


def explain(steps: Iterable[Step], reason: str) -> list[dict[str, str]]:
    """Tell the way through `steps` to the one that gave the verdict's `reason`."""
    told = []
    for step in steps:
        decided = reason in step.reasons
        told.append({"step": step.question, "finding": reason if decided else "go on"})
        if decided:
            break
    return told
