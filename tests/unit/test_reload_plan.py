"""What a reload changes, as data: all that is needed, nothing more, in an order that works."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from typer.testing import CliRunner

from vswitch.__main__ import app
from vswitch.config import Change, Config, Plan, doubts, plan
from vswitch.service import settings

BASE: dict[str, Any] = {
    "vswitch": {
        "vtep": "192.0.2.100",
        "leaves": ["192.0.2.1"],
        "shared-mac": "00:00:de:ad:be:ef",
    },
    "segment": [{"name": "red", "vni": 10}, {"name": "blue", "vni": 20}],
    "guest": [
        {"name": "alice", "segment": "red", "device": "tap1", "macs": ["02:00:00:00:00:01"]},
        {"name": "bob", "segment": "red", "device": "tap2", "macs": ["02:00:00:00:00:02"]},
        {"name": "dave", "segment": "blue", "device": "tap4", "macs": ["02:00:00:00:00:04"]},
    ],
}
CAROL = {"name": "carol", "segment": "red", "device": "tap3", "macs": ["02:00:00:00:00:03"]}
GREEN = {"name": "green", "vni": 30}
EVE = {"name": "eve", "segment": "green", "device": "tap5", "macs": ["02:00:00:00:00:05"]}


def config(table: dict[str, Any]) -> Config:
    return settings.check(table, Config, "test")


def planned(edit: Any, base: dict[str, Any] = BASE) -> Plan:
    """The plan for what `edit` does to the base."""
    table = deepcopy(base)
    edit(table)
    return plan(config(base), config(table))


def test_no_change_is_an_empty_plan() -> None:
    assert planned(lambda table: None) == Plan([], [])


def test_the_order_of_a_file_is_no_change() -> None:
    def reverse(table: dict[str, Any]) -> None:
        table["segment"].reverse()
        table["guest"].reverse()

    assert planned(reverse) == Plan([], [])


def test_writing_a_default_out_is_no_change() -> None:
    def write_out(table: dict[str, Any]) -> None:
        table["segment"][0]["miss"] = "rewrite"
        table["vswitch"]["udp-port"] = 4789
        table["log"] = {"level": "info"}

    assert planned(write_out) == Plan([], [])


@pytest.mark.parametrize(
    ("edit", "changes"),
    [
        pytest.param(
            lambda table: table["guest"].append(CAROL), [Change("attach", "carol")], id="new_guest"
        ),
        pytest.param(
            lambda table: table["guest"].pop(1), [Change("detach", "bob")], id="guest_gone"
        ),
        pytest.param(
            lambda table: table["guest"][1].update(macs=["02:00:00:00:00:22"]),
            [Change("detach", "bob"), Change("attach", "bob")],
            id="other_mac",
        ),
        pytest.param(
            lambda table: table["guest"][1].update(addresses=["10.0.0.2"]),
            [Change("detach", "bob"), Change("attach", "bob")],
            id="other_addresses",
        ),
        pytest.param(
            lambda table: table["guest"][1].update(segment="blue"),
            [Change("detach", "bob"), Change("attach", "bob")],
            id="guest_in_another_segment",
        ),
        pytest.param(
            lambda table: table["guest"][1].update(name="robert"),
            [Change("detach", "bob"), Change("attach", "robert")],
            id="guest_renamed",
        ),
        pytest.param(
            lambda table: table["segment"].append(GREEN),
            [Change("add segment", "green", "vni 30")],
            id="new_segment",
        ),
        pytest.param(
            lambda table: table["segment"][0].update(miss="drop"),
            [Change("set miss", "red", "rewrite -> drop")],
            id="other_miss",
        ),
        pytest.param(
            lambda table: table["segment"][1].update(vni=21),
            [
                Change("detach", "dave"),
                Change("remove segment", "blue", "and detach its guests"),
                Change("add segment", "blue", "vni 21"),
                Change("attach", "dave"),
            ],
            id="other_vni",
        ),
        pytest.param(
            lambda table: table["segment"][1].update({"spoof-guard": False}),
            [Change("set guard", "blue", "off")],
            id="other_guard",
        ),
        # The new segment is made with the new policy, so it needs no step of its own.
        pytest.param(
            lambda table: table["segment"][1].update(vni=21, miss="flood"),
            [
                Change("detach", "dave"),
                Change("remove segment", "blue", "and detach its guests"),
                Change("add segment", "blue", "vni 21"),
                Change("attach", "dave"),
            ],
            id="other_vni_and_miss",
        ),
        pytest.param(
            lambda table: (table["segment"].pop(1), table["guest"].pop(2)),
            [Change("detach", "dave"), Change("remove segment", "blue", "and detach its guests")],
            id="segment_gone",
        ),
        pytest.param(
            lambda table: table["vswitch"].update(leaves=["192.0.2.1", "192.0.2.2"]),
            [Change("set leaves", "192.0.2.1, 192.0.2.2")],
            id="other_leaves",
        ),
        pytest.param(
            lambda table: table.update(log={"level": "debug"}),
            [Change("log level", "debug")],
            id="log_level",
        ),
    ],
)
def test_a_change_is_planned_and_names_nobody_else(edit: Any, changes: list[Change]) -> None:
    assert planned(edit) == Plan(changes, [])


def test_the_steps_come_in_an_order_in_which_each_can_be_done() -> None:
    """Guests leave before their segment does; segments are there before their guests come; and a
    VNI is free before another segment takes it."""

    def edit(table: dict[str, Any]) -> None:
        table["segment"] = [{"name": "red", "vni": 20, "miss": "rewrite"}, {**GREEN, "vni": 10}]
        table["guest"] = [*table["guest"][:2], EVE]
        table["vswitch"]["leaves"] = ["192.0.2.9"]
        table["log"] = {"level": "error"}

    assert planned(edit).changes == [
        Change("detach", "alice"),
        Change("detach", "bob"),
        Change("detach", "dave"),
        Change("remove segment", "red", "and detach its guests"),
        Change("remove segment", "blue", "and detach its guests"),
        Change("add segment", "red", "vni 20"),
        Change("add segment", "green", "vni 10"),
        Change("set leaves", "192.0.2.9"),
        Change("attach", "alice"),
        Change("attach", "bob"),
        Change("attach", "eve"),
        Change("log level", "error"),
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "other"),
        ("vtep", "192.0.2.101"),
        ("udp-port", 8472),
        ("shared-mac", "00:00:de:ad:be:00"),
        ("source-ports", 4),
    ],
)
def test_what_needs_a_restart_is_named_and_not_planned(key: str, value: object) -> None:
    told = planned(lambda table: table["vswitch"].update({key: value}))
    assert told == Plan([], [f"vswitch.{key}"])


def test_another_socket_needs_a_restart() -> None:
    told = planned(lambda table: table.update(api={"socket": "/run/other.sock"}))
    assert told == Plan([], ["api.socket"])


def test_a_restart_does_not_keep_the_rest_from_being_planned() -> None:
    def edit(table: dict[str, Any]) -> None:
        table["vswitch"].update({"udp-port": 8472, "vtep": "192.0.2.101"})
        table["guest"].append(CAROL)

    assert planned(edit) == Plan([Change("attach", "carol")], ["vswitch.vtep", "vswitch.udp-port"])


def test_every_setting_is_either_planned_or_needs_a_restart() -> None:
    """A setting that is added one day and forgotten in `plan` would be ignored in silence."""
    edits: dict[str, Any] = {
        "name": "other",
        "vtep": "192.0.2.101",
        "udp_port": 8472,
        "leaves": ["192.0.2.9"],
        "shared_mac": "00:00:de:ad:be:00",
        "source_ports": 4,
        "offload": "off",
        "too_big": "fragment",
    }
    assert set(edits) == set(type(config(BASE).vswitch).model_fields)
    for key, value in edits.items():
        alias = key.replace("_", "-")
        told = planned(lambda table, k=alias, v=value: table["vswitch"].update({k: v}))
        assert told != Plan([], []), key


# What is doubtful.


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param({}, ["red"], id="guard_without_gateway"),
        pytest.param({"gateway": ["1.1.1.254"]}, [], id="gateway"),
        pytest.param({"spoof-guard": False}, [], id="no_guard"),
    ],
)
def test_a_guard_that_does_not_know_the_gateway_is_doubtful(
    changed: dict[str, Any], expected: list[str]
) -> None:
    table = deepcopy(BASE)
    table["segment"][0].update(changed)
    table["segment"][1]["gateway"] = ["2001:db8::fe"]
    said = doubts(config(table))
    assert len(said) == len(expected)
    assert all(f"segment {name!r}" in line for name, line in zip(expected, said, strict=True))


def test_check_warns_and_says_where(tmp_path: Path) -> None:
    file = tmp_path / "vswitch.toml"
    file.write_text(tomli_w.dumps(BASE))
    said = CliRunner().invoke(app, ["check", str(file)])
    assert said.exit_code == 0
    assert f"warning: {file}: segment 'red' has a spoof-guard and no `gateway`" in said.stderr
    assert "2 segments, 3 guests" in said.stdout
