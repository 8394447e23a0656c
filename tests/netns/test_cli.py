"""The command lines against live daemons: tables for people, JSON for programs, exit statuses."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import tomli_w

from tools.fabric.lab import Lab

from .commands import counters

REPOSITORY = Path(__file__).parents[2]


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command line as a user does."""
    return subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        cwd=REPOSITORY,
    )


def socket_of(lab: Lab, daemon: str) -> Path:
    return lab.leaf.socket if daemon == "leaf" else lab.vswitches["A"].socket


@pytest.mark.parametrize(
    ("daemon", "table", "words"),
    [
        ("vswitch", "status", ["10.99.0.11", "00:00:de:ad:be:ef"]),
        ("vswitch", "guests", ["H1", "active", "00:00:01:01:01:01", "1.1.1.1"]),
        ("vswitch", "segments", ["red", "rewrite"]),
        ("vswitch", "macs", ["00:00:01:01:01:02", "gateway", "local"]),
        ("vswitch", "counters", ["activations"]),
        ("leaf", "status", ["10.99.0.1", "A=10.99.0.11"]),
        ("leaf", "bindings", ["1.1.1.1", "reachable", "00:00:01:01:01:04"]),
        ("leaf", "segments", ["1.1.1.254/24", "tenant"]),
        ("leaf", "routes", ["1.1.1.4/32", "routed", "glean", "martian"]),
        ("leaf", "counters", ["rarp", "announced"]),
    ],
)
def test_show(lab: Lab, daemon: str, table: str, words: list[str]) -> None:
    where = ("--socket", socket_of(lab, daemon))
    for_people = run(daemon, "show", table, *where)
    assert for_people.returncode == 0, for_people.stderr
    for_programs = run(daemon, "show", table, "--json", *where)
    json.loads(for_programs.stdout)
    for word in words:
        assert word in for_people.stdout and word in for_programs.stdout


def test_trace_tells_each_step_and_sends_nothing(lab: Lab) -> None:
    before = counters(lab, "A")
    where = ("--socket", socket_of(lab, "vswitch"))
    frame = ("--dst", "00:00:01:01:01:99", "--dst-ip", "1.1.1.99", "--src-ip", "1.1.1.1")
    told = run("vswitch", "trace", "H1", *frame, *where)
    assert told.returncode == 0, told.stderr
    assert "are the addresses inside the guest's" in told.stdout
    assert "miss_rewritten" in told.stdout and "00:00:de:ad:be:ef" in told.stdout
    in_hex = json.loads(run("vswitch", "trace", "H1", *frame, "--json", *where).stdout)["frame"]
    again = json.loads(run("vswitch", "trace", "H1", "--hex", in_hex, "--json", *where).stdout)
    assert again["verdict"]["reason"] == "miss_rewritten"
    now = counters(lab, "A")["frames"]["miss_rewritten"]
    assert now == before["frames"]["miss_rewritten"]


def test_trace_of_the_leaf_follows_the_arp_rules(lab: Lab) -> None:
    told = run(
        *("leaf", "trace", "--vtep", "10.99.0.11", "--vni", "100", "--arp"),
        *("--src", "00:00:01:01:01:01", "--dst", "ff:ff:ff:ff:ff:ff"),
        *("--src-ip", "1.1.1.1", "--dst-ip", "1.1.1.4"),
        *("--socket", socket_of(lab, "leaf")),
    )
    assert told.returncode == 0, told.stderr
    assert "is the target behind the asker's vswitch" in told.stdout
    assert "remote" in told.stdout and "00:00:de:ad:be:ef" in told.stdout


def test_a_failure_exits_1_and_wrong_usage_2(lab: Lab, tmp_path: Path) -> None:
    where = ("--socket", socket_of(lab, "vswitch"))
    failed = run("vswitch", "activate", "nobody", *where)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: no guest 'nobody' is attached here; attached: H1")
    nobody_there = run("vswitch", "show", "--socket", tmp_path / "none.sock")
    assert nobody_there.returncode == 1
    assert "is it running, and is this its socket" in nobody_there.stderr
    assert run("vswitch", "show", "weather").returncode == 2
    assert run("vswitch", "detach").returncode == 2


@pytest.mark.parametrize("daemon", ["vswitch", "leaf"])
def test_check_names_file_key_and_expectation(lab: Lab, daemon: str, tmp_path: Path) -> None:
    good = lab.directory / ("A.toml" if daemon == "vswitch" else "leaf.toml")
    assert run(daemon, "check", good).returncode == 0
    bad = tmp_path / "bad.toml"
    table = tomllib.loads(good.read_text())
    table["segment"][0] |= {"vni": "many", "colour": "red"}
    bad.write_text(tomli_w.dumps(table))
    said = run(daemon, "check", bad)
    assert said.returncode == 1
    lines = said.stderr.splitlines()
    assert any(f"{bad}: segment[0].vni: Input should be a valid integer" in s for s in lines)
    assert any(f"{bad}: segment[0].colour: unknown key" in s for s in lines)
    assert "bad.toml: cannot be read" in run(daemon, "check", tmp_path / "no" / "bad.toml").stderr


def test_a_guest_is_attached_and_detached_by_hand(lab: Lab) -> None:
    where = ("--socket", socket_of(lab, "vswitch"))
    made = run(
        *("vswitch", "attach", "byhand", "--segment", "red", "--device", "byhand0"),
        *("--mac", "02:00:00:00:00:0a", "--address", "1.1.1.10", "--json", *where),
    )
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["state"] == "active"
    twice = run(
        *("vswitch", "stage", "byhand", "--segment", "red", "--device", "byhand0"),
        *("--mac", "02:00:00:00:00:0a", *where),
    )
    assert twice.returncode == 1 and "attached already" in twice.stderr
    gone = run("vswitch", "detach", "byhand", *where)
    assert gone.returncode == 0 and "absent" in gone.stdout


def test_the_lab_says_where_everything_is(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text(
        tomli_w.dumps(lab.topology.model_dump(mode="json", by_alias=True, exclude_none=True))
    )
    status = run("tools.fabric", "status", "--json", "-t", file)
    rows = {row["node"]: row for row in json.loads(status.stdout)}
    assert (rows["H1"]["address"], rows["H1"]["address6"]) == ("1.1.1.1", "2001:db8:1::1")
    assert rows["H1"]["at"] == "A" and rows["leaf"]["state"] == "running"
    drawn = run("tools.fabric", "graph", "-t", file).stdout
    on_a = drawn.index("H1 1.1.1.1 2001:db8:1::1 on red")
    assert drawn.index("A 10.99.0.11") < on_a < drawn.index("B 10.99")
    assert '"A" -- "H1"' in run("tools.fabric", "graph", "--dot", "-t", file).stdout
    inside = run("tools.fabric", "exec", "-t", file, "H1", "ping", "-c", "1", "1.1.1.4")
    assert inside.returncode == 0 and "1 received" in inside.stdout
    refused = run("tools.fabric", "move", "H1", "Z", "-t", file)
    assert refused.returncode == 1 and "no host 'Z'" in refused.stdout + refused.stderr
