"""Who finds an address in use, and who does not trip over its own: Linux's duplicate address
detection (RFC 4862 section 5.4) and arping's (RFC 5227), for addresses of the file and of SLAAC."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tools.fabric import topology
from tools.fabric.lab import GUEST_LINK, Lab
from tools.fabric.namespace import Address
from tools.fabric.topology import Topology

from .commands import arping, counters, ping, wait_until
from .conftest import up

SHARED = "00:00:de:ad:be:ef"
OWN = {
    "H1": ("1.1.1.1", "2001:db8:1::1"),
    "H2": ("1.1.1.2", "2001:db8:1:0:200:1ff:fe01:102"),
}
"""H1 has its addresses from the file; H2 makes its IPv6 address itself, of its MAC."""
each_kind = pytest.mark.parametrize(
    "guest", [pytest.param("H1", id="static"), pytest.param("H2", id="slaac")]
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """H1 and H2 on A; H3 and H4 on B, which may use any addresses."""
    made = topology.read(topology.SEED).model_dump(mode="json")
    made["lab"]["name"] = "dad"
    made["guest"] = made["guest"][:4]
    made["guest"][1]["address6"] = "auto"
    for guest in made["guest"][2:]:
        guest["address"], guest["address6"] = None, "auto"
    yield from up(Lab(Topology.model_validate(made)))


def entry(lab: Lab, guest: str, address: str) -> Address | None:
    """What a guest's kernel has of an address."""
    entries = lab.node(guest).addresses(GUEST_LINK)
    return next((one for one in entries if one.address == address), None)


def is_in_use(lab: Lab, guest: str, address: str) -> bool:
    found = entry(lab, guest, address)
    assert found is None or not found.duplicate, "its own address is a duplicate"
    return found is not None and not found.tentative


@contextmanager
def also_at(lab: Lab, guest: str, address: str) -> Iterator[None]:
    """Give a guest an address by hand, as long as this lasts."""
    lab.node(guest).add_address(GUEST_LINK, address, 128)
    try:
        yield
    finally:
        lab.node(guest).run(["ip", "address", "del", f"{address}/128", "dev", GUEST_LINK])


def reboot(lab: Lab, guest: str) -> None:
    """The link goes down and up, and the guest begins anew on it."""
    lab.node(guest).link_set(GUEST_LINK, state="down")
    assert lab.up() == []


def recreate(lab: Lab, guest: str) -> None:
    """The guest dies where it is and boots at home, with the MAC that it had."""
    lab.node(guest).remove()
    assert f"guest {guest}: attached at A" in lab.up()


def go_away(lab: Lab, guest: str) -> None:
    lab.move(guest, "B")


def go_home(lab: Lab, guest: str) -> None:
    lab.move(guest, "A")


HISTORIES = {
    "reboot": (reboot,),
    "move": (go_away, go_home),
    "reboot_away_from_home": (go_away, reboot, go_home),
    "die_away_from_home": (go_away, recreate),
    "recreate": (recreate,),
}


@each_kind
@pytest.mark.parametrize("history", HISTORIES)
def test_a_guests_own_address_is_no_duplicate(lab: Lab, guest: str, history: str) -> None:
    address, address6 = OWN[guest]
    for event in HISTORIES[history]:
        event(lab, guest)
        wait_until(lambda: is_in_use(lab, guest, address6), f"{address6}'s use")
        found = arping(lab, guest, address, "-D")
        assert (found.macs, found.status) == ([], 0), found.text
        for gateway in ("1.1.1.254", "2001:db8:1::fe"):
            assert ping(lab, guest, gateway, count=1).received == 1


@each_kind
@pytest.mark.parametrize("place", ["at home", "after a move"])
def test_a_duplicate_on_another_host_is_found(lab: Lab, guest: str, place: str) -> None:
    address, address6 = OWN[guest]
    asker = "H4"
    if place == "after a move":
        lab.move(guest, "B")
        lab.move(asker, "A")
    try:
        found = arping(lab, asker, address, "-D")
        assert (found.macs, found.status) == ([SHARED], 1), found.text
        with also_at(lab, asker, address6):
            wait_until(
                lambda: (one := entry(lab, asker, address6)) is not None and one.duplicate,
                f"the detection of {address6}",
            )
        assert ping(lab, guest, "2001:db8:1::fe", count=1).received == 1
    finally:
        if place == "after a move":
            lab.move(guest, "A")
            lab.move(asker, "B")


def test_so_is_one_on_the_same_host(lab: Lab) -> None:
    """The vswitch delivers the question; the leaf has no part in it."""
    with also_at(lab, "H4", "2001:db8:1::44"):
        wait_until(lambda: is_in_use(lab, "H4", "2001:db8:1::44"), "its use")
        with also_at(lab, "H3", "2001:db8:1::44"):
            wait_until(
                lambda: (one := entry(lab, "H3", "2001:db8:1::44")) is not None and one.duplicate,
                "its detection",
            )


def test_a_guest_does_not_make_itself_an_address_that_another_has_by_now(lab: Lab) -> None:
    """H2 is off; H4, on another host, takes its address meanwhile, and then H2 boots."""
    address6 = OWN["H2"][1]
    lab.node("H2").link_set(GUEST_LINK, state="down")
    try:
        with also_at(lab, "H4", address6):
            wait_until(lambda: is_in_use(lab, "H4", address6), "its use by H4")
            assert ping(lab, "H4", "2001:db8:1::fe", "-I", address6).received == 3
            before = counters(lab, "leaf")["nd"]["conflict"]
            lab.node("H2").link_set(GUEST_LINK, state="up")
            conflicts = lambda: counters(lab, "leaf")["nd"]["conflict"] - before
            wait_until(conflicts, "the question for it")
            # Linux removes an address with a lifetime where it is a duplicate.
            wait_until(lambda: entry(lab, "H2", address6) is None, "its removal")
            time.sleep(2.0)  # The outside world: it must not come back.
            assert entry(lab, "H2", address6) is None
            assert ping(lab, "H4", "2001:db8:1::fe", "-I", address6).received == 3
    finally:
        reboot(lab, "H2")
    assert is_in_use(lab, "H2", address6)
