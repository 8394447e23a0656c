"""Verbs that meet each other, and devices that vanish meanwhile: no guest is ever stuck.

Devices are opened, parked and closed in threads, so two verbs on one guest could slip into each
other. Whatever the order they come in, each is answered, and the guest can be attached afterwards.
"""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from tools.fabric.lab import GUEST_LINK, Lab
from vswitch.phy import tap
from vswitch.service.client import Client, ClientError

from .commands import ping, wait_until


def _body(lab: Lab, guest: str) -> dict[str, Any]:
    entry = lab.guest(guest)
    return {
        "name": guest,
        "segment": entry.segment,
        "device": GUEST_LINK,
        "netns": f"{lab.name}-{guest}",
        "multi-queue": True,
        "macs": [entry.mac.hex(":")],
        "addresses": [str(entry.address)],
    }


def _refused(client: Client, method: str, url: str, body: Any = None) -> str:
    """Carry out a verb; return why it was refused, or nothing."""
    try:
        client.delete(url) if method == "DELETE" else client.post(url, body)
    except ClientError as error:
        return str(error)
    return ""


def test_verbs_at_the_same_time_leave_no_guest_stuck(lab: Lab) -> None:
    refusals: list[str] = []

    def storm(seed: int) -> None:
        rng = random.Random(seed)
        client = lab.vswitches["A"].client()
        calls = [
            ("POST", "/v1/guests", _body(lab, "H1")),
            ("POST", "/v1/guests", {**_body(lab, "H1"), "state": "staged"}),
            ("POST", "/v1/guests/H1/activate", None),
            ("DELETE", "/v1/guests/H1", None),
        ]
        for _ in range(25):
            refusals.append(_refused(client, *rng.choice(calls)))
        client.close()

    threads = [threading.Thread(target=storm, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    strange = {
        said
        for said in refusals
        if said and "attached already" not in said and "no guest 'H1'" not in said
    }
    assert strange == set()
    lab.up()
    wait_until(lambda: ping(lab, "H1", "1.1.1.4", count=1).received == 1, "recovery")
    assert "unexpected" not in lab.vswitches["A"].log.read_text()


def test_a_device_that_vanishes_during_its_detach_is_no_obstacle(lab: Lab) -> None:
    client = lab.vswitches["B"].client()
    for _ in range(8):
        remove = threading.Thread(target=lab.node("H6").remove_link, args=(GUEST_LINK,))
        remove.start()
        assert _refused(client, "DELETE", "/v1/guests/H6") in ("",) or "H6" not in lab.places()
        remove.join()
        wait_until(lambda: "H6" not in lab.places(), "the guest's end")
        assert "guest H6: attached at B" in lab.up()
    client.close()
    assert ping(lab, "H6", "2.2.2.5").received == 3


def test_two_guests_cannot_have_one_device(lab: Lab) -> None:
    client = lab.vswitches["A"].client()
    body = {**_body(lab, "H1"), "name": "evil", "macs": ["02:00:00:00:00:66"], "addresses": []}
    assert "belongs to guest 'H1'" in _refused(client, "POST", "/v1/guests", body)
    client.close()


def test_a_namespace_that_was_deleted_comes_back(lab: Lab) -> None:
    """The vswitch's descriptor keeps the old one alive, so only the lab can know."""
    lab.node("H5").remove()
    assert "guest H5: attached at A" in lab.up()
    assert ping(lab, "H5", "2.2.2.6").received == 3


def test_a_packet_port_leaves_with_its_link(lab: Lab) -> None:
    host = lab.node("A")
    tap.create_persistent("qemu1", host.name, multi_queue=False)
    host.link_up("qemu1")
    client = lab.vswitches["A"].client()
    body = {
        "name": "vm",
        "segment": "red",
        "device": "qemu1",
        "netns": host.name,
        "kind": "packet",
        "macs": ["02:00:00:00:00:07"],
    }
    client.post("/v1/guests", body)
    host.remove_link("qemu1")
    wait_until(lambda: "vm" not in lab.places(), "the port's end")
    client.close()


@pytest.mark.parametrize("name", ["a/b", "a b", "tap%d", "", "x" * 16])
def test_a_name_that_no_device_can_have_is_refused(lab: Lab, name: str) -> None:
    client = lab.vswitches["A"].client()
    body = {"name": "x", "segment": "red", "macs": ["02:00:00:00:00:08"], "device": name}
    assert "device" in _refused(client, "POST", "/v1/guests", body)
    client.close()
