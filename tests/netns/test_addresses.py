"""Who has which addresses in a lab, how guests came by theirs, and who is to say nothing at all."""

from __future__ import annotations

import re
import socket
from typing import Any

import pytest

from tools.fabric import topology
from tools.fabric.lab import GUEST_LINK, UNDERLAY_LINK, Lab
from tools.fabric.process import LabError
from tools.fabric.topology import Topology

from .commands import ping, wait_until
from .conftest import MakeLab

ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT = 133, 134
MADE_BY_H1 = "2001:db8:1:0:200:1ff:fe01:101"
"""Of the prefix and the MAC 00:00:01:01:01:01 (RFC 4291 appendix A)."""


def _changed(name: str, **of_guests: dict[str, Any]) -> Topology:
    """The seed with only these guests, each with other values where given."""
    seed = topology.read(topology.SEED).model_dump(mode="json")
    guests = [
        {**guest, **of_guests[guest["name"]]}
        for guest in seed["guest"]
        if guest["name"] in of_guests
    ]
    return Topology.model_validate({**seed, "lab": {"name": name}, "guest": guests})


def _ipv6(lab: Lab, node: str, link: str = GUEST_LINK) -> list[str]:
    return sorted(one.address for one in lab.node(node).addresses(link) if ":" in one.address)


def _routes(lab: Lab, guest: str) -> str:
    return lab.node(guest).run(["ip", "-6", "route", "show", "default"]).stdout


def _listed(lab: Lab, host: str, guest: str) -> list[str]:
    client = lab.vswitches[host].client()
    try:
        rows = {row["guest"]: row for row in client.get("/v1/guests")}
    finally:
        client.close()
    return sorted(rows[guest]["addresses"])


def test_a_guest_has_what_the_file_gives_it_and_may_use_it_at_once(lab: Lab) -> None:
    for guest in lab.topology.guest:
        entries = lab.node(guest.name).addresses(GUEST_LINK)
        assert not any(entry.tentative or entry.duplicate for entry in entries)
        given = [entry.address for entry in entries if not entry.address.startswith("fe80:")]
        assert given == [str(guest.address), str(guest.address6)]
        assert _listed(lab, guest.host, guest.name) == sorted(given)


def _solicit_router(lab: Lab, guest: str) -> bytes:
    """Ask for a router as an application may (RFC 4861 section 4.1), and return the answer."""
    link = GUEST_LINK.encode()
    kind, protocol = socket.SOCK_RAW, socket.IPPROTO_ICMPV6
    with lab.node(guest).socket(socket.AF_INET6, kind, protocol) as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link)
        wire.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        wire.settimeout(5)
        wire.sendto(bytes([ROUTER_SOLICITATION]) + bytes(7), ("ff02::2", 0))
        while (answer := wire.recv(2048))[0] != ROUTER_ADVERTISEMENT:
            pass
    return answer


def test_its_default_route_is_the_files_and_not_an_advertisements(lab: Lab) -> None:
    assert _solicit_router(lab, "H1")
    assert ping(lab, "H1", "2001:db8:2::6").received == 3
    assert re.fullmatch(r"default via 2001:db8:1::fe dev eth0 [^\n]*\n", _routes(lab, "H1"))
    assert len(_ipv6(lab, "H1")) == len(["the file's", "link-local"])


def test_only_guests_speak_ipv6(lab: Lab) -> None:
    for node in ("leaf", "A", "B"):
        assert _ipv6(lab, node, UNDERLAY_LINK) == []
    assert _ipv6(lab, "spine", "br0") == []


def test_status_and_a_move_know_both_families(lab: Lab) -> None:
    rows = {row["node"]: row for row in lab.status()}
    assert (rows["H5"]["address"], rows["H5"]["address6"]) == ("2.2.2.5", "2001:db8:2::5")
    assert rows["A"]["address6"] is None
    lab.move("H5", "B")
    try:
        assert _listed(lab, "B", "H5") == ["2.2.2.5", "2001:db8:2::5"]
        assert ping(lab, "H5", "2001:db8:1::4").received == 3
    finally:
        lab.move("H5", "A")


def test_a_guest_whose_link_was_down_gets_its_address_back(lab: Lab) -> None:
    """Linux drops a link's IPv6 addresses with the link."""
    lab.node("H6").link_set(GUEST_LINK, state="down")
    assert _ipv6(lab, "H6") == []
    assert lab.up() == []
    assert ping(lab, "H6", "2001:db8:2::5").received == 3
    assert "2001:db8:2::fe" in _routes(lab, "H6")


def test_a_guest_makes_its_own_address_and_moves_with_it(make_lab: MakeLab) -> None:
    lab = make_lab(_changed("slaac", H1={"address6": "auto"}, H2={}, H4={}))
    own = lambda: {row["node"]: row for row in lab.status()}["H1"]["address6"]
    wait_until(lambda: own() == MADE_BY_H1, "an address by SLAAC")
    assert _listed(lab, "A", "H1") == ["1.1.1.1"]
    assert re.match(r"default via fe80::\S+ dev eth0 proto ra ", _routes(lab, "H1"))
    for guest in ("H2", "H4"):
        assert ping(lab, guest, MADE_BY_H1).received == 3
    lab.move("H1", "B")
    for guest in ("H2", "H4"):
        assert ping(lab, guest, MADE_BY_H1).received == 3
    assert lab.up() == []


def test_an_address_that_somebody_else_has_is_named(make_lab: MakeLab) -> None:
    """H1 may use any IPv6 address, so it can take that of a guest that is still to come."""
    lab = make_lab(_changed("taken", H1={"address6": "auto"}))
    lab.node("H1").add_address(GUEST_LINK, "2001:db8:1::2", 64)

    def is_in_use() -> bool:
        entries = {entry.address: entry for entry in lab.node("H1").addresses(GUEST_LINK)}
        return not entries["2001:db8:1::2"].tentative

    wait_until(is_in_use, "the address's use")
    later = Lab(_changed("taken", H1={"address6": "auto"}, H2={}))
    with pytest.raises(LabError, match="guest 'H2': somebody else has 2001:db8:1::2"):
        later.up()


def test_guests_without_ipv6_are_silent(make_lab: MakeLab) -> None:
    lab = make_lab(_changed("ipv4", H1={"address6": None}, H4={"address6": None}))
    assert _ipv6(lab, "H1") == []
    assert ping(lab, "H1", "1.1.1.4").received == 3
    assert {row["node"]: row for row in lab.status()}["H1"]["address6"] is None
