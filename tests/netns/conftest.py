"""Labs for the tests with real TAPs, daemons and kernels.

Each lab has a name of its own, so that a test never meets what another one left. Whoever runs these
tests outside of `tools/test` must be root.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tools.fabric import topology
from tools.fabric.lab import Lab
from tools.fabric.topology import Topology


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here needs namespaces."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.netns)


@pytest.fixture(scope="session", autouse=True)
def _is_root() -> None:
    if os.geteuid() != 0:
        pytest.fail("these tests make network namespaces: run them by tools/test, or as root")


MakeLab = Callable[..., Lab]


def seed(name: str, **changes: Any) -> Topology:
    """Return the seed topology under another name, with other values where given."""
    read = topology.read(topology.SEED).model_dump(mode="json")
    return Topology.model_validate({**read, "lab": {"name": name}, **changes})


UNDERLAY6 = {
    "underlay": {"subnet": "2001:db8:99::/64", "leaf": "2001:db8:99::1"},
    "host": [
        {"name": "A", "address": "2001:db8:99::a"},
        {"name": "B", "address": "2001:db8:99::b"},
    ],
}
"""What makes the seed a fabric whose underlay is of IPv6."""


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """The seed fabric, up, for all tests of a module, which leave it as they found it."""
    name = request.module.__name__.rpartition("test_")[2].replace("_", "")[:8]
    yield from up(Lab(seed(name)))


@pytest.fixture
def make_lab() -> Iterator[MakeLab]:
    """Bring up labs of a test's own; they are taken down after it."""
    labs: list[Lab] = []

    def make(made: Topology) -> Lab:
        labs.append(Lab(made))
        labs[-1].up()
        return labs[-1]

    yield make
    for one in labs:
        one.down()


def up(made: Lab) -> Iterator[Lab]:
    """Have a lab up, for a fixture to yield from; it is taken down after it."""
    made.down()
    try:
        made.up()
        yield made
    finally:
        made.down()
