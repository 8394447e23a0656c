"""Scenarios are told once and run in both families."""

from __future__ import annotations

import pytest

from tests.netsim.families import FAMILIES, Family


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    """The family in which the guests of a test talk; the other is there beside it."""
    made: Family = request.param
    return made
